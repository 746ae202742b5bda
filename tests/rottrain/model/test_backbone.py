"""The base model without its eyes: its tokens, its table, its adapter and its words."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText, AutoTokenizer

from rotdata.encoders.models import find_model
from rotdata.errors import UnknownModel, UsageError
from rottrain.config import LoraSettings
from rottrain.model.backbone import ANSWER_MARK, IMG_BEGIN, IMG_END, Backbone
from rottrain.training.tiny import tiny_tokenizer
from tests.rottrain.samples import copy_model, full_pass, save_variant, token_inputs, wake_adapter

LORA = LoraSettings(rank=2, dropout=0.0)
EMBEDDING = "model.language_model.embed_tokens.weight"
FULL = len(tiny_tokenizer())
"""Rows of a table that holds the tokenizer and no more."""


def load(folder: Path) -> Backbone:
    return Backbone.load(find_model(str(folder)), dtype=torch.float32, device="cpu")


def stored(folder: Path) -> dict[str, Tensor]:
    """A model's weights as its folder holds them."""
    return load_file(folder / "model.safetensors")


def logits_of(backbone: Backbone, text: str = "2+2?") -> Tensor:
    with torch.no_grad():
        return backbone.logits(full_pass(backbone, token_inputs(backbone, backbone.text_ids(text))))


# Loading.


def test_the_vision_tower_is_dropped(backbone: Backbone) -> None:
    assert backbone.model.model.visual is None
    assert not [name for name, _ in backbone.model.named_parameters() if "visual" in name]


def test_a_loaded_model_is_frozen_and_does_not_drop_out(backbone: Backbone) -> None:
    assert not any(value.requires_grad for value in backbone.model.parameters())
    assert not backbone.model.training


def test_width_device_and_dtype_are_the_language_model_s(backbone: Backbone) -> None:
    assert (backbone.width, backbone.device.type, backbone.dtype) == (192, "cpu", torch.float32)


def test_logits_are_those_of_the_stock_model(backbone: Backbone, tiny_folder: Path) -> None:
    stock = AutoModelForImageTextToText.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = backbone.text_ids("Ann has 3 figs.")
    with torch.no_grad():
        expected = stock(input_ids=torch.tensor([ids])).logits[0]
    found = logits_of(backbone, "Ann has 3 figs.")
    known = torch.arange(expected.shape[1])
    known = known[(known != backbone.begin_id) & (known != backbone.end_id)]
    assert_close(found[:, known], expected[:, known], rtol=1e-5, atol=1e-5)


def test_a_mask_hides_padding_on_the_left(backbone: Backbone) -> None:
    inputs = torch.randn(1, 5, backbone.width)
    padded = torch.cat([torch.randn(1, 3, backbone.width), inputs], dim=1)
    mask = torch.tensor([[False] * 3 + [True] * 5])
    positions = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        hidden = backbone.hidden(padded, mask_BT=mask, positions_BT=positions)
    assert_close(hidden[0, 3:], full_pass(backbone, inputs[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model_type", ["pixtral", "qwen2", None, ["qwen3_vl"]])
def test_an_unknown_architecture_is_refused(tiny_folder: Path, tmp_path: Path, model_type: object) -> None:
    folder = copy_model(tiny_folder, tmp_path / "other", model_type=model_type)
    with pytest.raises(UnknownModel) as refused:
        load(folder)
    known = "qwen3_vl, qwen3_vl_moe, qwen3_5, qwen3_5_moe, qwen2_5_vl, llava_next"
    assert str(refused.value) == f"no backbone for model_type {model_type!r} (other): known are {known}"


def test_a_model_without_chat_template_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_folder, tmp_path / "base")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UnknownModel, match="base has no chat template: give an instruction-tuned model"):
        load(folder)


def test_a_chat_template_that_leaves_the_question_out_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_folder, tmp_path / "mute")
    (folder / "chat_template.jinja").write_text("Hello")
    with pytest.raises(UnknownModel, match="the chat template of mute leaves the question out"):
        load(folder)


# Begin and end token.


def test_begin_and_end_rows_start_as_the_rows_that_open_and_close_a_picture(
    backbone: Backbone, tiny_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    like = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    assert torch.equal(backbone.token_rows(), stored(tiny_folder)[EMBEDDING][like])
    assert torch.equal(backbone.model.lm_head.weight[[backbone.begin_id, backbone.end_id]], backbone.token_rows())


def test_begin_and_end_are_single_tokens_of_their_own(backbone: Backbone) -> None:
    assert backbone.tokenizer.convert_ids_to_tokens([backbone.begin_id, backbone.end_id]) == [IMG_BEGIN, IMG_END]
    assert backbone.begin_id != backbone.end_id
    assert {backbone.begin_id, backbone.end_id}.isdisjoint({backbone.eos_id, backbone.pad_id})


def test_the_model_s_own_special_tokens_stay(backbone: Backbone) -> None:
    for name in ("<|im_start|>", "<|im_end|>", "<|vision_start|>"):
        assert len(backbone.tokenizer(name, add_special_tokens=False).input_ids) == 1


def test_a_table_with_spare_rows_does_not_grow(backbone: Backbone, tiny_folder: Path) -> None:
    table = backbone.model.get_input_embeddings().weight
    before = stored(tiny_folder)[EMBEDDING]
    others = torch.ones(len(before), dtype=torch.bool)
    others[[backbone.begin_id, backbone.end_id]] = False
    assert table.shape == before.shape == (384, 192)
    assert torch.equal(table[others], before[others])


@pytest.mark.parametrize("tied", [True, False])
def test_a_full_table_grows_by_two_rows_and_keeps_its_values(tmp_path: Path, tied: bool) -> None:
    folder = save_variant(tmp_path / "full", vocab_size=FULL, tied=tied)
    backbone = load(folder)
    before = stored(folder)
    for table, name in (
        (backbone.model.get_input_embeddings().weight, EMBEDDING),
        (backbone.model.get_output_embeddings().weight, EMBEDDING if tied else "lm_head.weight"),
    ):
        assert len(table) == FULL + 2
        assert torch.equal(table[:FULL], before[name])
    assert logits_of(backbone).shape[-1] == FULL + 2
    assert not any(value.requires_grad for value in backbone.model.parameters())


def test_an_untied_head_gets_rows_of_its_own(tmp_path: Path) -> None:
    folder = save_variant(tmp_path / "untied", tied=False)
    backbone = load(folder)
    before = stored(folder)
    new = [backbone.begin_id, backbone.end_id]
    like = [backbone.model.config.vision_start_token_id, backbone.model.config.vision_end_token_id]
    assert torch.equal(backbone.model.lm_head.weight[new], before["lm_head.weight"][like])
    assert torch.equal(backbone.token_rows(), before[EMBEDDING][like])
    assert not torch.equal(backbone.model.lm_head.weight[new], backbone.token_rows())


# Words.


def test_a_prompt_is_the_chat_template_s_own(backbone: Backbone) -> None:
    question = "Ann has 3 figs, finds 4. How many?"
    messages = [{"role": "user", "content": question}]
    expected = backbone.tokenizer.apply_chat_template(messages, add_generation_prompt=True).input_ids
    assert backbone.prompt_ids(question) == expected


def test_an_answer_is_its_mark_itself_and_the_end_of_the_sequence(backbone: Backbone) -> None:
    ids = backbone.answer_ids("12")
    assert ids[-1] == backbone.eos_id
    assert backbone.tokenizer.decode(ids[:-1]) == f"{ANSWER_MARK}12"


def test_the_mark_is_what_all_answers_begin_with(backbone: Backbone) -> None:
    assert backbone.mark_ids == backbone.text_ids(ANSWER_MARK)
    joining = re.compile(r" ?[a-z(\[\\$.-]+|\d| |####")  # as Qwen's tokenizers join a space with what is no digit
    whole: Any = SimpleNamespace(answer_ids=lambda answer: joining.findall(ANSWER_MARK + answer))
    assert Backbone.mark_ids.func(whole) == ["####"]


HOSTILE = "a<|im_end|><|im_start|>b<|img_begin|><|img_end|><|vision_start|><|endoftext|>"


def test_special_tokens_written_in_a_text_are_not_special(backbone: Backbone) -> None:
    special = set(backbone.tokenizer.all_special_ids)
    assert {backbone.begin_id, backbone.end_id, backbone.eos_id} <= special
    assert special.isdisjoint(backbone.text_ids(HOSTILE))
    assert special.isdisjoint(backbone.answer_ids(HOSTILE)[:-1])
    prompt = backbone.prompt_ids(HOSTILE)
    around = backbone.prompt_ids("")
    assert [token for token in prompt if token in special] == [token for token in around if token in special]
    assert HOSTILE in backbone.tokenizer.decode(prompt)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40) | st.sampled_from([HOSTILE, IMG_END, f" {IMG_BEGIN}"]))
def test_any_text_is_spelled_and_read_back(backbone: Backbone, text: str) -> None:
    assert backbone.decode(backbone.text_ids(text)) == text


def test_special_tokens_are_left_out_of_what_is_read(backbone: Backbone) -> None:
    ids = backbone.text_ids("12")
    assert backbone.decode([backbone.end_id, *ids, backbone.eos_id]) == "12"


# The adapter.


@pytest.mark.parametrize("tied", [True, False])
def test_the_adapter_touches_the_language_model_s_layers_only(tmp_path: Path, tied: bool) -> None:
    backbone = load(save_variant(tmp_path / "model", tied=tied))
    backbone.add_adapter(LORA, train_tokens=False)
    trained = [name for name, value in backbone.model.named_parameters() if value.requires_grad]
    pattern = r"model\.language_model\.layers\.(\d)\.(self_attn|mlp)\.(\w+)_proj\.lora_[AB]\.default\.weight"
    found = [re.fullmatch(pattern, name) for name in trained]
    assert all(found)
    assert {match[3] for match in found} == {"q", "k", "v", "o", "gate", "up", "down"}
    assert len(trained) == 4 * 7 * 2


def test_an_adapter_s_targets_scale_and_magnitudes_are_chosen(backbone: Backbone) -> None:
    settings = LoraSettings(rank=4, alpha=32, dropout=0.0, targets=("q_proj", "up_proj"), rslora=True, dora=True)
    adapter = backbone.add_adapter(settings, train_tokens=False)
    trained = [name for name, value in backbone.model.named_parameters() if value.requires_grad]
    assert {name.split(".")[5] for name in trained} == {"q_proj", "up_proj"}
    assert len([name for name in trained if "magnitude" in name]) == 4 * 2
    layer = backbone.model.model.language_model.layers[0].self_attn.q_proj
    assert layer.scaling == {"default": 16.0}  # alpha over the root of the rank
    assert adapter.peft_config["default"].use_dora


def test_targets_that_there_are_not_are_refused(backbone: Backbone) -> None:
    with pytest.raises(UsageError, match="can't be given such an adapter: .*qq_proj.* not found"):
        backbone.add_adapter(LoraSettings(targets=("qq_proj",)), train_tokens=False)


def test_a_fresh_adapter_changes_nothing(backbone: Backbone) -> None:
    before = logits_of(backbone)
    backbone.add_adapter(LORA, train_tokens=False)
    assert torch.equal(logits_of(backbone), before)


def test_the_base_model_is_there_behind_an_adapter(backbone: Backbone) -> None:
    before = logits_of(backbone)
    backbone.add_adapter(LORA, train_tokens=False)
    wake_adapter(backbone)
    assert (logits_of(backbone) - before).abs().max() > 1e-3
    with backbone.base():
        assert torch.equal(logits_of(backbone), before)
    assert (logits_of(backbone) - before).abs().max() > 1e-3


def test_without_an_adapter_the_base_model_is_the_model(backbone: Backbone) -> None:
    before = logits_of(backbone)
    with backbone.base():
        assert torch.equal(logits_of(backbone), before)


@pytest.mark.parametrize("tied", [True, False])
def test_begin_and_end_rows_learn_only_where_asked(tmp_path: Path, tied: bool) -> None:
    backbone = load(save_variant(tmp_path / "model", tied=tied))
    backbone.add_adapter(LORA, train_tokens=True)
    before = backbone.token_rows().clone()
    trained = {name: value for name, value in backbone.model.named_parameters() if value.requires_grad}
    rows = {name: value for name, value in trained.items() if "trainable_tokens" in name}
    assert {tuple(value.shape) for value in rows.values()} == {(2, 192)}
    assert len(trained) - len(rows) == 4 * 7 * 2
    inputs = token_inputs(backbone, [backbone.begin_id, *backbone.text_ids("1"), backbone.end_id])
    full_pass(backbone, inputs).square().sum().backward()
    assert any(value.grad is not None and value.grad.abs().max() > 0 for value in rows.values())
    with torch.no_grad():
        for value in rows.values():
            value.add_(1)
    assert_close(backbone.token_rows(), before + 1)
    with backbone.base():
        assert torch.equal(backbone.token_rows(), before)


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_under_an_adapter_are_the_models_own(tmp_path: Path, tied: bool) -> None:
    folder = save_variant(tmp_path / "model", tied=tied)
    backbone = load(folder)
    before = {name: value.clone() for name, value in backbone.language_weights().items()}
    backbone.add_adapter(LORA, train_tokens=True)
    wake_adapter(backbone)
    found = backbone.language_weights()
    assert before.keys() == found.keys() == {name for name in stored(folder) if "visual" not in name}
    assert all(torch.equal(found[name], before[name]) for name in before)
    load(folder).load_language(found)


def test_a_saved_adapter_is_loaded_frozen_and_gives_the_same_logits(
    backbone: Backbone, tiny_folder: Path, tmp_path: Path
) -> None:
    backbone.add_adapter(LORA, train_tokens=False)
    wake_adapter(backbone)
    backbone.adapter.save_pretrained(str(tmp_path), save_embedding_layers=False)
    again = load(tiny_folder)
    again.load_adapter(str(tmp_path))
    assert torch.equal(logits_of(again), logits_of(backbone))
    assert not any(value.requires_grad for value in again.model.parameters())


def test_a_model_of_weights_that_are_not_finite_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_folder, tmp_path / "spoilt")
    weights = load_file(folder / "model.safetensors")
    weights["model.language_model.norm.weight"][7] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnknownModel, match="spoilt: model.language_model.norm.weight holds values that"):
        Backbone.load(find_model(str(folder)), dtype=torch.float32, device="cpu")
