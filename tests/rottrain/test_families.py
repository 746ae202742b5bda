"""Every backbone, as a tiny random model: it reads what the stock model reads, however padded and cached."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText

from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.encoders.models import FAMILIES, find_model
from rotdata.errors import UnknownModel, UsageError
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rottrain.config import HeadConfig, LoraSettings, Stage1Config, Stage2Config
from rottrain.generation import rollout
from rottrain.generation.generate import RoT, at_once
from rottrain.model import checkpoints
from rottrain.model.architectures import ARCHITECTURES
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner
from rottrain.training.stages import run_stage1, run_stage2
from tests import families
from tests.rottrain.naive import (
    CLOSE,
    assert_same_step,
    loss_and_gradients,
    naive_answer,
    naive_own_step,
    naive_student,
    naive_teacher,
)
from tests.rottrain.samples import (
    QUESTIONS,
    as_batch,
    full_pass,
    random_examples,
    random_head,
    token_inputs,
    wake_adapter,
)

HYBRID = 1e-4
"""Tolerance of gradients through linear attention, which normalises small vectors, always in fp32."""
MIXTURES = [name for name in families.BUILT if name.endswith("moe")]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each family. Read only."""
    parent = tmp_path_factory.mktemp("families")
    return {name: families.save(name, parent / name) for name in families.BUILT}


@pytest.fixture(params=families.BUILT)
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """The folder of one family."""
    return folders[request.param]


def load(folder: Path) -> Backbone:
    return Backbone.load(find_model(str(folder)), dtype=torch.float32, device="cpu")


def stored(folder: Path, table: str) -> Tensor:
    """The embedding table or the output head as the folder holds it, which LLaVA names otherwise."""
    [found] = [
        value for name, value in load_file(folder / "model.safetensors").items() if name.endswith(f"{table}.weight")
    ]
    return found


@pytest.fixture
def backbone(folder: Path) -> Backbone:
    """One family's model, loaded anew for each test."""
    return load(folder)


@pytest.fixture
def head(backbone: Backbone) -> ProjectionHead:
    return random_head(backbone.width)


def lora_of(name: str) -> LoraSettings:
    """A small adapter, of experts too where there are any."""
    return LoraSettings(rank=2, dropout=0.0, experts="adapted" if name in MIXTURES else "frozen")


def adapted(backbone: Backbone, head: ProjectionHead, **recipe: object) -> Learner:
    """A learner whose adapter does something, all that it can learn at work."""
    backbone.add_adapter(lora_of(backbone.folder.name), train_tokens=False)
    wake_adapter(backbone)
    return Learner(backbone, head.requires_grad_(requires_grad=False), Stage2Config.paper(align_weight=5.0, **recipe))


def test_every_family_that_can_be_embedded_for_can_be_trained() -> None:
    assert ARCHITECTURES.keys() == FAMILIES.keys() == families.BUILT.keys()


# The whole line.


@pytest.fixture(params=families.BUILT)
def stage1(
    request: pytest.FixtureRequest, folders: dict[str, Path], short_rows: Path, tmp_path: Path
) -> tuple[Path, Path, Path]:
    """A family's folder, shards of its own tower, and what stage 1 made of them with rollouts of every kind."""
    folder = find_model(str(folders[request.param]))
    strips, embedded, out = (tmp_path / name for name in ("strips", "embedded", "stage1"))
    pipeline.render(
        Source(location=str(short_rows), corpus="generic"), StripStyle(height_px=folder.factor_px()), strips
    )
    pipeline.embed(strips, load_encoder(folder, dtype="float32", device="cpu"), embedded)
    config = Stage1Config.paper(
        rollout="teacher, jacobi:1@0.3, student@0.6",
        trainable="full",
        batch_size=4,
        max_steps=3,
        lr=1e-2,
        head=HeadConfig(hidden=16),
    )
    run_stage1(embedded, str(folder.path), out, config)
    return folder.path, embedded, out


def test_a_family_is_embedded_for_trained_kept_and_asked(stage1: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folder, embedded, start = stage1
    common = {"rollout": "jacobi:1, student@0.5", "batch_size": 4, "max_steps": 2, "lr": 3e-2, "train_head": True}
    common |= {"train_tokens": True, "halt_weight": 1.0, "lora": lora_of(folder.name)}
    for trainable, more in (("lora", {}), ("full", {"precision": "mixed", "gradient_checkpointing": True})):
        config = Stage2Config.paper(trainable=trainable, **common, **more)
        out = tmp_path / trainable
        outcome = run_stage2(embedded, str(folder), start, out, config)
        assert outcome.steps == 2
        assert checkpoints.load_config(out).learnt == ["language", "adapter"][: 2 if trainable == "lora" else 1]
        asked = {"budget": 3, "max_answer_tokens": 4}
        before, after = (RoT.from_pretrained(each) for each in (start, out))
        together = after.generate(QUESTIONS, **asked)
        shorter = [made.latents_KD[:count] for made, count in zip(together, (3, 1, 2, 3), strict=True)]
        given = after.answer(QUESTIONS, shorter, max_answer_tokens=4)
        for question, made, latents, answered in zip(QUESTIONS, together, shorter, given, strict=True):
            [alone] = after.generate([question], **asked | {"budget": len(latents)})
            assert_close(made.latents_KD[: len(latents)], alone.latents_KD, **CLOSE)
            assert answered.reply == alone.reply
            assert len(latents) < 3 or made.reply == alone.reply
        untrained = before.generate(QUESTIONS, **asked)
        assert (together[0].latents_KD - untrained[0].latents_KD).abs().max() > 1e-3
        assert all(1 <= made.reasoning_tokens <= 3 for made in after.generate(QUESTIONS, stop=0.5, **asked))
        assert [made.reasoning_tokens for made in at_once(after.base, QUESTIONS, max_tokens=2)] == [0] * len(QUESTIONS)


# Loading.


def test_the_tower_is_not_read(folder: Path, tmp_path: Path) -> None:
    backbone = load(folder)
    weights = load_file(folder / "model.safetensors")
    tower = {name for name in weights if "visual" in name or "vision_tower" in name or "projector" in name}
    kept = dict(backbone.model.named_parameters()).keys()
    assert tower
    assert tower.isdisjoint(kept)
    shutil.copytree(folder, tmp_path / "blind")
    save_file({name: weights[name] for name in weights.keys() - tower}, tmp_path / "blind" / "model.safetensors")
    for name, value in load(tmp_path / "blind").model.named_parameters():
        assert torch.equal(value, dict(backbone.model.named_parameters())[name])


def test_a_missing_weight_of_the_language_model_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.endswith("layers.1.self_attn.q_proj.weight"))
    del weights[lost]
    save_file(weights, tmp_path / "broken" / "model.safetensors")
    with pytest.raises(UnknownModel, match="broken lacks 1 weights of its language model .model.language_model"):
        load(tmp_path / "broken")


@torch.no_grad()
def test_logits_are_those_of_the_stock_model(folder: Path, backbone: Backbone) -> None:
    stock = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    ids = backbone.prompt_ids("Ann has 3 figs.")
    expected = stock(input_ids=torch.tensor([ids])).logits[0]
    found = backbone.logits(full_pass(backbone, token_inputs(backbone, ids)))
    known = torch.arange(expected.shape[1])
    known = known[(known != backbone.begin_id) & (known != backbone.end_id)]
    assert_close(found[:, known], expected[:, known], **CLOSE)


def test_begin_and_end_rows_start_as_the_familys_brackets(folder: Path, backbone: Backbone) -> None:
    architecture = ARCHITECTURES[backbone.folder.config()["model_type"]]
    like = backbone.tokenizer.convert_tokens_to_ids(list(architecture.brackets))
    new = [backbone.begin_id, backbone.end_id]
    assert torch.equal(backbone.token_rows(), stored(folder, "embed_tokens")[like])
    assert not torch.equal(*backbone.token_rows())
    assert torch.equal(backbone.model.lm_head.weight[new], stored(folder, "lm_head")[like])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", families.BUILT)
def test_a_full_table_grows_and_its_new_rows_can_be_trained(name: str, tied: bool, tmp_path: Path) -> None:
    size = len(families.tokenizer_of(name))
    backbone = load(families.save(name, tmp_path / name, tie_word_embeddings=tied, vocab_size=size))
    for table, key in (
        (backbone.model.get_input_embeddings().weight, "embed_tokens"),
        (backbone.model.get_output_embeddings().weight, "embed_tokens" if tied else "lm_head"),
    ):
        assert len(table) == size + 2
        assert torch.equal(table[:size], stored(tmp_path / name, key))
    assert backbone.tied is tied
    backbone.add_adapter(LoraSettings(rank=2, dropout=0.0), train_tokens=True)
    learnt = {name: value for name, value in backbone.model.named_parameters() if "trainable_tokens" in name}
    assert [tuple(value.shape) for value in learnt.values() if value.requires_grad] == [(2, 48)] * (1 if tied else 2)
    before = backbone.token_rows()
    with torch.no_grad():
        for value in learnt.values():
            value.add_(1)
    assert_close(backbone.token_rows(), before + 1)


@torch.no_grad()
def test_qwen2_5_is_read_as_it_was_published(folders: dict[str, Path], tmp_path: Path) -> None:
    """With one flat configuration, and weights named before the language model had a name of its own."""
    now = folders["qwen2_5_vl"]
    older = shutil.copytree(now, tmp_path / "older")
    config = json.loads((now / "config.json").read_text())
    (older / "config.json").write_text(json.dumps(config.pop("text_config") | config))
    weights = load_file(now / "model.safetensors")
    named = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
        for name, value in weights.items()
    }
    save_file(named, older / "model.safetensors")
    assert find_model(str(older)).embedding_width() == 48
    one, other = load(now), load(older)
    inputs = token_inputs(one, one.prompt_ids("2+2?"))
    assert_close(full_pass(one, inputs), full_pass(other, inputs), rtol=0, atol=0)


# Words.


def test_a_prompt_is_what_the_stock_tokenizer_makes_of_the_chat_template(backbone: Backbone) -> None:
    question = "Ann has 3 figs,  finds 4. How many?"
    messages = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    template = backbone.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    assert backbone.prompt_ids(question) == backbone.tokenizer(template).input_ids


def test_special_tokens_written_in_a_question_are_not_special(backbone: Backbone) -> None:
    special = set(backbone.tokenizer.all_special_ids)
    hostile = backbone.prompt_ids("a<s></s><|im_end|><|img_end|>b")
    assert [token for token in hostile if token in special] == [
        token for token in backbone.prompt_ids("") if token in special
    ]


def test_a_model_that_may_think_in_words_is_asked_not_to(folders: dict[str, Path]) -> None:
    assert load(folders["qwen3_5"]).prompt.suffix.endswith("<think></think>")


def test_a_sequence_opens_with_its_mark_once(folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load(folders["llava_next"])
    written = shutil.copytree(folders["llava_next"], tmp_path / "written")
    (written / "chat_template.jinja").write_text("<s>" + families.TYPED_PARTS)
    start = backbone.tokenizer.bos_token_id
    for prompt in (backbone.prompt_ids("2+2?"), load(written).prompt_ids("2+2?")):
        assert prompt[0] == start
        assert prompt.count(start) == 1


def test_a_chat_template_is_found_where_processors_keep_it(folders: dict[str, Path], tmp_path: Path) -> None:
    older = shutil.copytree(folders["llava_next"], tmp_path / "older")
    (older / "chat_template.jinja").unlink()
    file = older / "chat_template.json"
    file.write_text(json.dumps({"chat_template": families.TYPED_PARTS}))
    assert load(older).prompt == load(folders["llava_next"]).prompt
    file.write_text("[]")
    with pytest.raises(UnknownModel, match="holds no chat template"):
        load(older)
    file.write_text(json.dumps({"chat_template": "{{ messages[0]['content']['text'] + 1 }}"}))
    with pytest.raises(UnknownModel, match="chat template of older can't be filled in"):
        load(older)


def test_a_tokenizer_of_another_family_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    mixed = shutil.copytree(folders["qwen3_vl"], tmp_path / "mixed")
    families.llama_tokenizer().save_pretrained(mixed)
    with pytest.raises(UnknownModel, match=r"the tokenizer of mixed lacks <.vision_start.>, <.vision_end.>"):
        load(mixed)


# Reading.


@torch.no_grad()
def test_rollouts_of_a_padded_batch_equal_each_row_alone_without_a_cache(
    backbone: Backbone, head: ProjectionHead
) -> None:
    examples = random_examples(backbone)
    batch = as_batch(backbone, examples)
    prompt = rollout.read_prompt(backbone, batch["prompt_ids_BP"], batch["prompt_mask_BP"])
    student = rollout.unroll(backbone, head, prompt, 5).latents_BKD
    teacher = rollout.sweep(backbone, head, prompt, batch["targets_BKD"]).latents_BKD
    swept = rollout.iterate(backbone, head, prompt, batch["targets_BKD"], 3)
    logits, _ = rollout.answer_pass(backbone, prompt, batch, batch["targets_BKD"])
    for row, example in enumerate(examples):
        expected = naive_student(backbone, head, example)
        assert_close(student[row, : len(expected)], expected, **CLOSE)
        assert_close(swept[row, : min(3, len(expected))], expected[:3], **CLOSE)
        forced = naive_teacher(backbone, head, example)
        assert_close(teacher[row, : len(forced)], forced, **CLOSE)
        answer, _ = naive_answer(backbone, example, torch.from_numpy(example.targets_KD))
        assert_close(logits[row, : len(answer)], answer, **CLOSE)


@torch.no_grad()
def test_the_attention_of_a_gpu_gives_the_same_latents_of_rows_that_stop(
    backbone: Backbone, head: ProjectionHead
) -> None:
    batch = as_batch(backbone, random_examples(backbone))
    found = []
    for attention in ("eager", "sdpa"):
        backbone.model.model.language_model.set_attn_implementation(attention)
        with torch.no_grad():
            prompt = rollout.read_prompt(backbone, batch["prompt_ids_BP"], batch["prompt_mask_BP"])
            stops_B = torch.arange(len(prompt.hidden_BD)) % 2 == 0
            made = rollout.unroll(backbone, head, prompt, 4, stop=lambda _, stops_B=stops_B: stops_B)
            mask = made.mask_after(prompt, 0)
            said = backbone.hidden(
                made.fed_BKD[:, -1:], mask_BT=mask, positions_BT=mask.sum(dim=1, keepdim=True) - 1, cache=made.cache
            )
        found.append((made.latents_BKD[~stops_B], made.latents_BKD[:, 0], said))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_attention_is_shown_of_the_layers_that_have_any(backbone: Backbone) -> None:
    weights = backbone.attention(torch.randn(1, 5, backbone.width))
    assert weights.shape == (1 if backbone.folder.name.startswith("qwen3_5") else 2, 1, 5, 5)
    assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert (weights.triu(1) == 0).all()


@torch.no_grad()
def test_positions_may_have_gaps(backbone: Backbone) -> None:
    inputs = torch.randn(1, 6, backbone.width)
    positions = torch.tensor([[0, 1, 2, 5, 6, 7]])
    cache = backbone.new_cache()
    first = backbone.hidden(inputs[:, :4], positions_BT=positions[:, :4], cache=cache)
    rest = backbone.hidden(inputs[:, 4:], positions_BT=positions[:, 4:], cache=cache)
    whole = backbone.hidden(inputs, positions_BT=positions)
    assert_close(torch.cat([first, rest], dim=1), whole, **CLOSE)
    assert (whole - backbone.hidden(inputs)).abs().max() > 1e-3


@torch.no_grad()
def test_what_was_read_after_a_rows_last_latent_leaves_no_trace(backbone: Backbone, head: ProjectionHead) -> None:
    examples = random_examples(backbone)
    batch = as_batch(backbone, examples)
    prompt = rollout.read_prompt(backbone, batch["prompt_ids_BP"], batch["prompt_mask_BP"])
    counts = [2, 4, 1, 3]
    step = iter(range(1, 5))

    def stop(_: Tensor) -> Tensor:
        now = next(step)
        return torch.tensor([count == now for count in counts])

    thought = rollout.unroll(backbone, head, prompt, 4, stop=stop)
    assert thought.counts_B.tolist() == counts
    end = token_inputs(backbone, [backbone.end_id] * 4)[:, None]
    fed = torch.cat([thought.latents_BKD[:, -1:], end], dim=1)
    mask = thought.mask_after(prompt, 1)
    positions = (mask.long().cumsum(dim=1) - 1)[:, -2:]
    hidden = backbone.hidden(fed, mask_BT=mask, positions_BT=positions, cache=thought.cache)[:, -1]
    for row, (example, count) in enumerate(zip(examples, counts, strict=True)):
        latents = thought.latents_BKD[row, :count]
        opening = token_inputs(backbone, [*example.prompt_ids, backbone.begin_id])
        assert_close(hidden[row], full_pass(backbone, torch.cat([opening, latents, end[row]]))[-1], **CLOSE)


# Steps: loss and gradients.


def test_a_step_of_an_adapter_equals_the_naive_loop(backbone: Backbone, head: ProjectionHead) -> None:
    within = HYBRID if "qwen3_5" in backbone.folder.name else 1e-5
    assert_same_step(adapted(backbone, head), random_examples(backbone), naive_student, within=within)


def test_a_recurrent_state_passes_no_gradient_on_where_that_is_not_asked(folders: dict[str, Path]) -> None:
    backbone = load(folders["qwen3_5"])
    learner = adapted(backbone, random_head(backbone.width), cache_gradient=False)
    assert_same_step(learner, random_examples(backbone), naive_own_step, within=HYBRID)


@pytest.mark.parametrize(("trainable", "rollouts"), [("lora", "jacobi:1"), ("full", "student")])
def test_recomputing_changes_neither_loss_nor_gradient(folder: Path, trainable: str, rollouts: str) -> None:
    results, kept = [], []
    for again in (False, True):
        torch.manual_seed(0)
        backbone = load(folder)
        if trainable == "lora":
            backbone.add_adapter(lora_of(folder.name), train_tokens=True)
            wake_adapter(backbone)
        else:
            backbone.train_language(head_only=False)
        if again:
            backbone.recompute_gradients()
        config = Stage2Config.paper(trainable=trainable, rollout=rollouts, align_weight=5.0)
        learner = Learner(backbone, random_head(backbone.width), config).train()
        sizes: dict[int, int] = {}

        def note(saved: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
            loss = learner(**as_batch(backbone, random_examples(backbone)))["loss"]
        results.append(loss_and_gradients(learner, loss))
        kept.append(sum(sizes.values()))
    assert_close(*results, **CLOSE)
    assert kept[1] < kept[0]


# Adapters.


def test_the_adapter_touches_the_projections_of_the_language_model_only(backbone: Backbone) -> None:
    name = backbone.folder.config()["model_type"]
    backbone.add_adapter(LoraSettings(rank=2, dropout=0.0), train_tokens=False)
    trained = [key for key, value in backbone.model.named_parameters() if value.requires_grad]
    pattern = r"model\.language_model\.layers\.\d\.(.+)\.lora_[AB]\.default\.weight"
    found = {match[1] for match in (re.fullmatch(pattern, key) for key in trained)}
    expected = {f"self_attn.{each}_proj" for each in "qkvo"}
    if name != "qwen3_vl_moe":
        within = "mlp.shared_expert" if name in MIXTURES else "mlp"
        expected |= {f"{within}.{each}_proj" for each in ("gate", "up", "down")}
    if name.startswith("qwen3_5"):
        expected |= {f"linear_attn.{each}" for each in ("in_proj_qkv", "in_proj_z", "out_proj")}
    assert found == expected


@pytest.mark.parametrize("name", MIXTURES)
def test_experts_are_adapted_where_asked_and_routers_never(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    backbone = load(folders[name])
    before = backbone.logits(full_pass(backbone, token_inputs(backbone, backbone.text_ids("2+2?"))))
    backbone.add_adapter(LoraSettings(rank=2, dropout=0.0, experts="adapted"), train_tokens=False)
    trained = [key for key, value in backbone.model.named_parameters() if value.requires_grad]
    assert sum("mlp.experts" in key for key in trained) == 2 * 2 * 2  # layers, parameters, A and B
    assert not any("mlp.gate." in key for key in trained)
    wake_adapter(backbone)
    changed = backbone.logits(full_pass(backbone, token_inputs(backbone, backbone.text_ids("2+2?"))))
    assert (changed - before).abs().max() > 1e-3
    changed.sum().backward()
    gradients = {
        key: value.grad for key, value in backbone.model.named_parameters() if "mlp.experts" in key and "lora" in key
    }
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients.values())
    backbone.adapter.save_pretrained(str(tmp_path), save_embedding_layers=False)
    again = load(folders[name])
    again.load_adapter(str(tmp_path))
    inputs = token_inputs(again, again.text_ids("2+2?"))
    assert_close(again.logits(full_pass(again, inputs)), changed, **CLOSE)
    again.merge_adapter()
    assert_close(again.logits(full_pass(again, inputs)), changed, **CLOSE)


def test_a_model_without_experts_has_none_to_adapt(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="qwen3_5 has no experts to adapt"):
        load(folders["qwen3_5"]).add_adapter(LoraSettings(dropout=0.0, experts="adapted"), train_tokens=False)


def test_all_of_the_language_model_learns_and_nothing_else(backbone: Backbone) -> None:
    backbone.train_language(head_only=False)
    trained = {name for name, value in backbone.model.named_parameters() if value.requires_grad}
    others = {name for name, _ in backbone.model.named_parameters()} - trained
    assert others <= {"model.image_newline"}
    assert trained == backbone.language_weights().keys()
    if backbone.folder.name in MIXTURES:
        assert any("mlp.gate.weight" in name for name in trained)
