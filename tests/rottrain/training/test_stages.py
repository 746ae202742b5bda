"""Runs of both stages: what learns, what stays, how a stopped run goes on, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.errors import (
    CheckpointError,
    Interrupted,
    OutputOccupied,
    ShardMismatch,
    TrainingError,
    UnknownModel,
    UsageError,
)
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.shards import Manifest
from rottrain.config import HeadConfig, LoraSettings, SftConfig, Stage1Config, Stage2Config
from rottrain.generation.generate import RoT
from rottrain.model import checkpoints, precision
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import ADAPTER, CONFIG, HEAD, TOKEN_ROWS, load_config
from rottrain.model.head import ProjectionHead
from rottrain.model.precision import load_backbone
from rottrain.model.verification import verify
from rottrain.training import stages
from rottrain.training.history import HISTORY
from rottrain.training.objective import Learner
from rottrain.training.stages import RUN, Outcome, Running, plan_stage1, run_sft, run_stage1, run_stage2
from rottrain.training.states import complete_states
from rottrain.training.tiny import tiny_tokenizer
from rottrain.training.trackers import TRACE, as_markdown
from rottrain.training.trainer import StageTrainer
from tests.helpers import contents, write_jsonl
from tests.rottrain.samples import as_batch, copy_model, random_examples, random_head, save_variant, terminate
from tests.tinymodel import save_tiny

HEAD_16 = HeadConfig(hidden=16)
Run = Callable[..., Outcome]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def first(embedded: Path, tiny_folder: Path) -> Run:
    """Stage 1 on the toy shards: two epochs of three steps."""

    def run(
        out: Path,
        *,
        weights: Sequence[float] | None = None,
        resume: str = "auto",
        limit: int | None = None,
        workers: int = 0,
        report_to: str = "none",
        **recipe: Any,
    ) -> Outcome:
        defaults = {"rollout": "teacher", "batch_size": 4, "epochs": 2, "lr": 1e-2, "head": HEAD_16, "log_steps": 1}
        config = Stage1Config.paper(**defaults | recipe)
        shards = embedded if weights is None else [f"{embedded}:{weight}" for weight in weights]
        running = Running(resume=resume, limit=limit, workers=workers, report_to=report_to)
        return run_stage1(shards, str(tiny_folder), out, config, running)

    return run


@pytest.fixture
def second(embedded: Path, tiny_folder: Path, stage1_checkpoint: Path) -> Run:
    """Stage 2 on the toy shards, with dropout: two epochs of three steps."""

    def run(
        out: Path, *, start: Path = stage1_checkpoint, model: Path = tiny_folder, shards: Path = embedded, **recipe: Any
    ) -> Outcome:
        lora = LoraSettings(rank=2, dropout=0.2)
        defaults = {"rollout": "teacher", "batch_size": 4, "epochs": 2, "lr": 1e-2, "lora": lora, "log_steps": 1}
        return run_stage2(shards, str(model), start, out, Stage2Config.paper(**defaults | recipe))

    return run


class Crash(Exception):
    """Something that ends a process without warning."""


def crash() -> None:
    raise Crash


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[float]]]:
    """(step, a number for each of its rows) of every batch computed while the test runs."""
    seen: list[tuple[int, list[float]]] = []
    compute_loss = StageTrainer.compute_loss

    def noting(self: StageTrainer, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        seen.append((self.state.global_step + 1, inputs["targets_BKD"].double().sum(dim=(1, 2)).tolist()))
        return compute_loss(self, model, inputs, *arguments, **options)

    monkeypatch.setattr(StageTrainer, "compute_loss", noting)
    return seen


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Backbone]:
    """The backbones that runs have loaded and trained with."""
    backbones: list[Backbone] = []

    def note(*arguments: Any, **options: Any) -> Backbone:
        backbones.append(load_backbone(*arguments, **options))
        return backbones[-1]

    monkeypatch.setattr(stages, "load_backbone", note)
    return backbones


def base_weights(backbone: Backbone) -> dict[str, Tensor]:
    """The language model's own weights, an adapter's left out."""
    return {
        name.replace(".base_layer", ""): value
        for name, value in backbone.model.state_dict().items()
        if "lora_" not in name
    }


def assert_equal_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    assert [name for name in left if not torch.equal(left[name], right[name])] == []


def test_a_plan_says_what_a_run_takes_and_does_nothing(embedded: Path, tiny_folder: Path, backbone: Backbone) -> None:
    config = Stage1Config.paper(
        head=HEAD_16, batch_size=4, accumulate=2, epochs=3, validation_rows=1, rollout="teacher"
    )
    plan = plan_stage1(embedded, str(tiny_folder), config)
    assert (plan.rows, plan.validation_rows, plan.steps) == (9, 1, 6)
    head = ProjectionHead(width_in=192, width_out=192, hidden=16, activation="swiglu")
    own = sum(value.numel() for value in head.parameters())
    assert plan.trainable_parameters == own - 193  # the halt's 192 weights and bias learn nothing
    language = sum(value.numel() for value in backbone.model.parameters())
    assert 0 < plan.parameters - language - own < 300_000  # the probe
    assert plan.memory_gib["optimizer"] == pytest.approx(2 * plan.memory_gib["gradients"], abs=2e-3)
    assert plan.memory_gib["activations"] > 0
    assert plan.eta_seconds == pytest.approx(plan.step_seconds * 2 * 6, abs=0.1)
    whole = plan_stage1(embedded, str(tiny_folder), replace(config, trainable="full", max_steps=7))
    assert whole.steps == 7
    assert whole.trainable_parameters == language + own - 193
    assert whole.memory_gib["activations"] > plan.memory_gib["activations"]
    muon = plan_stage1(embedded, str(tiny_folder), replace(config, trainable="full", max_steps=7, optimizer="muon"))
    assert muon.memory_gib["optimizer"] < 0.9 * whole.memory_gib["optimizer"]
    twice = replace(config, trainable="full", max_steps=7, gradient_checkpointing=True)
    assert plan_stage1(embedded, str(tiny_folder), twice).memory_gib["activations"] < whole.memory_gib["activations"]


def test_an_adapter_is_not_continued_as_another(first: Run, second: Run, tmp_path: Path) -> None:
    first(tmp_path / "one", trainable="lora", lora=LoraSettings(rank=3), max_steps=1)
    with pytest.raises(UsageError, match="which has rank 3, alpha 32, .* not rank 2, alpha 32"):
        second(tmp_path / "two", start=tmp_path / "one")


def test_an_adapter_s_settings_are_found_again(second: Run, tmp_path: Path) -> None:
    lora = LoraSettings(rank=2, alpha=8, dropout=0.0, targets=("q_proj",), rslora=True, dora=True)
    second(tmp_path / "two", lora=lora, max_steps=2)
    kept = json.loads((tmp_path / "two" / ADAPTER / "adapter_config.json").read_text())
    assert (kept["use_rslora"], kept["use_dora"], kept["lora_alpha"]) == (True, True, 8)
    assert not verify(tmp_path / "two").mismatches
    [answered] = RoT.from_pretrained(tmp_path / "two").generate(["3+4?"], budget=2)
    assert len(answered.latents_KD) == 2
    with pytest.raises(OutputOccupied, match="another recipe"):
        second(tmp_path / "two", lora=replace(lora, dora=False), max_steps=2)


# How the language model is computed.


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch.compile looks at it
@pytest.mark.parametrize(
    "computed",
    [{"attn": "sdpa"}, {"torch_compile": True, "trainer": {"torch_compile_backend": "eager"}}],
    ids=["sdpa", "compiled"],
)
def test_attention_and_compiling_change_how_and_not_what_is_computed(
    second: Run, tmp_path: Path, computed: dict[str, Any]
) -> None:
    lora = LoraSettings(rank=2, dropout=0.0)
    usual = second(tmp_path / "usual", lora=lora, max_steps=2)
    other = second(tmp_path / "other", lora=lora, max_steps=2, **computed)
    assert other.loss == pytest.approx(usual.loss, abs=1e-4)
    assert load_config(tmp_path / "other").run["recipe"].items() >= computed.items()


@pytest.mark.parametrize(
    ("asked", "module", "message"),
    [
        ({"attn": "flash_attention_2"}, "flash_attn", "attention can't be flash_attention_2 here: .*[Ff]lash"),
        ({"liger": True}, "liger_kernel", "Liger kernels can't be used: .*liger-kernel"),
        ({"load_in_4bit": True, "trainable": "lora"}, "bitsandbytes", r"pip install '.*\[quantization\]'"),
    ],
)
def test_what_is_not_installed_is_said(
    second: Run, out: Path, asked: dict[str, Any], module: str, message: str
) -> None:
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed")
    with pytest.raises(UsageError, match=message):
        second(out, max_steps=1, **asked)


def test_an_adapter_learns_on_a_model_in_four_bits(
    second: Run, tmp_path: Path, loaded: list[Backbone], embedded: Path, tiny_folder: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    lora = LoraSettings(rank=2, dropout=0.0)
    outcome = second(tmp_path / "two", lora=lora, max_steps=2, load_in_4bit=True)
    usual = second(tmp_path / "usual", lora=lora, max_steps=2)
    assert outcome.loss == pytest.approx(usual.loss, rel=0.2)
    assert outcome.loss != usual.loss
    assert {str(value.dtype) for name, value in loaded[0].model.named_parameters() if "base_layer" in name} == {
        "torch.uint8"
    }
    [answered] = RoT.from_pretrained(tmp_path / "two").generate(["3+4?"], budget=2)
    assert len(answered.latents_KD) == 2
    with pytest.raises(UsageError, match="an adapter is not added to weights in 4 bits"):
        run_stage1(
            embedded,
            str(tiny_folder),
            tmp_path / "one",
            Stage1Config.paper(rollout="teacher", load_in_4bit=True, head=HEAD_16, max_steps=1),
            start=_adapted(tmp_path / "words", embedded, tiny_folder),
        )


def _adapted(out: Path, shards: Path, model: Path) -> Path:
    """A checkpoint in words that is an adapter."""
    run_sft(shards, str(model), out, SftConfig.paper(mode="no-cot", max_steps=1, lora=LoraSettings(rank=2)))
    return out


# What learns.


def test_a_few_steps_of_stage_1_lower_the_loss(first: Run, tmp_path: Path) -> None:
    short, long = first(tmp_path / "short", max_steps=1), first(tmp_path / "long", max_steps=12)
    assert (short.steps, long.steps) == (1, 12)
    assert long.loss < 0.8 * short.loss


def test_a_few_steps_of_stage_2_lower_the_loss(second: Run, tmp_path: Path) -> None:
    short, long = second(tmp_path / "short", max_steps=1), second(tmp_path / "long", max_steps=8)
    assert long.loss < 0.8 * short.loss


def test_stage_1_changes_the_head_and_nothing_else(
    first: Run, tmp_path: Path, loaded: list[Backbone], backbone: Backbone
) -> None:
    first(tmp_path / "one", max_steps=1)
    first(tmp_path / "two", max_steps=2)
    one, two = (load_file(tmp_path / name / HEAD) for name in ("one", "two"))
    fixed = {"mean_D", "deviation_D", "halt.weight", "halt.bias"}  # no scaling and no halt loss were asked for
    assert {name for name in one if torch.equal(one[name], two[name])} == fixed
    assert_equal_weights(base_weights(loaded[1]), base_weights(backbone))
    assert loaded[1].adapter is None


FULL = {"scaling": "dimension", "glyph_weight": 0.5, "halt_weight": 0.5, "input_noise": 0.2, "budget": 4}


@pytest.mark.parametrize("trainable", ["lora", "full", "lm-head"])
def test_what_stage_1_trains_of_the_language_model_is_kept_and_stage_2_goes_on_from_it(
    first: Run, second: Run, tmp_path: Path, loaded: list[Backbone], backbone: Backbone, trainable: str
) -> None:
    options = FULL | {"rollout": "jacobi:0-2", "validation_rows": 2, "trainable": trainable, "max_steps": 2}
    lora = LoraSettings(rank=2, dropout=0.0)
    outcome = first(tmp_path / "one", **options, lora=lora)
    assert outcome.validation is not None
    assert {"accuracy", "alignment_free", "alignment_forced", "glyphs_free", "halt"} <= outcome.validation.keys()
    config = checkpoints.load_config(tmp_path / "one")
    assert config.learnt == (["adapter"] if trainable == "lora" else ["language"])
    assert config.budget == 4
    assert checkpoints.load_probe(tmp_path / "one", config) is not None
    found = RoT.from_pretrained(tmp_path / "one")
    assert_equal_weights(found.backbone.model.state_dict(), loaded[0].model.state_dict())
    assert_equal_weights(
        base_weights(found.base) if trainable != "lora" else base_weights(backbone), base_weights(backbone)
    )
    assert torch.equal(found.head.deviation_D, checkpoints.load_head(tmp_path / "one", config).deviation_D)
    assert not torch.equal(found.head.mean_D, torch.zeros_like(found.head.mean_D))

    second(
        tmp_path / "two", start=tmp_path / "one", trainable=trainable, lora=lora, train_head=True, lr=1e-6, max_steps=1
    )
    again = RoT.from_pretrained(tmp_path / "two")
    for name, value in found.backbone.model.state_dict().items():
        assert_close(again.backbone.model.state_dict()[name], value, atol=1e-4, rtol=1e-4)
    assert torch.equal(again.head.mean_D, found.head.mean_D)
    assert not torch.equal(again.head.leave.weight, found.head.leave.weight)


def test_an_adapter_of_stage_1_becomes_part_of_the_weights_that_stage_2_trains(
    first: Run, second: Run, tmp_path: Path, backbone: Backbone
) -> None:
    lora = LoraSettings(rank=2, dropout=0.0)
    first(tmp_path / "one", trainable="lora", lora=lora, max_steps=4)
    second(tmp_path / "two", start=tmp_path / "one", trainable="full", lr=1e-7, max_steps=1)
    one, two = (RoT.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert two.config.learnt == ["language"]
    questions = ["1+2?", "7+8?"]
    latents = [[made.latents_KD for made in rot.generate(questions, budget=3)] for rot in (one, two)]
    for left, right in zip(*latents, strict=True):
        assert_close(left, right, atol=1e-3, rtol=1e-3)
    assert (
        RoT(backbone, one.head, one.config).generate(questions, budget=3)[0].latents_KD - latents[0][0]
    ).abs().max() > 1e-2


def test_the_best_weights_are_kept(first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    weights: list[Tensor] = []

    def judged(learner: Learner, examples: Any) -> dict[str, float]:
        seen.append([0.5, 1.0, 0.25, 0.5][len(seen)])
        weights.append(learner.head.leave.weight.detach().clone())
        return {
            "accuracy": seen[-1],
            "alignment_free": 1.0,
            "cosine": 0.0,
            "rank": 9.0,
            "rank_true": 9.0,
            "saturation": 1.0,
        }

    monkeypatch.setattr(stages, "validate", judged)
    outcome = first(tmp_path / "out", validation_rows=2, validation_steps=1, max_steps=4)
    assert outcome.validation == {
        "accuracy": 1.0,
        "alignment_free": 1.0,
        "cosine": 0.0,
        "rank": 9.0,
        "rank_true": 9.0,
        "saturation": 1.0,
        "step": 2,
    }
    kept = load_file(tmp_path / "out" / HEAD)["leave.weight"]
    assert torch.equal(kept, weights[1])
    assert not torch.equal(kept, weights[3])
    assert sorted(contents(tmp_path / "out")) == [
        "config.json",
        "glyph_probe.safetensors",
        HEAD,
        HISTORY,
        "recipe.yaml",
        TOKEN_ROWS,
    ]


def test_sweeps_are_drawn_by_step_and_phases_follow_the_run(
    backbone: Backbone, head: ProjectionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = Learner(backbone, head, Stage1Config.paper(rollout="teacher, jacobi:2-5@0.5, student@0.8"))
    drawn: list[int] = []
    monkeypatch.setattr(
        "rottrain.generation.rollout.iterate", lambda _b, _h, _p, start, sweeps: drawn.append(sweeps) or start
    )
    batch: Any = as_batch(backbone, random_examples(backbone))
    losses = []
    for step in range(10):
        learner.step, learner.progress = step, step / 10
        losses.append(learner(**batch)["alignment"].item())
    assert drawn[:5] == [0] * 5
    assert len(drawn) == 8
    assert set(drawn[5:]) <= {2, 3, 4, 5}
    assert losses[8] == losses[9] != losses[0]  # the student's


def test_rows_of_a_loss_that_is_not_finite_are_named(first: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rottrain.training.objective.alignment_loss", lambda *_, **__: torch.tensor(float("inf")))
    with pytest.raises(TrainingError, match="not-finite.json"):
        first(out)
    saved = json.loads((out / "not-finite.json").read_text())
    assert (saved["step"], saved["loss"], len(saved["ids"])) == (1, "inf", 4)
    assert all(id_.startswith("row ") for id_ in saved["ids"])


def test_out_of_memory_says_which_knob_to_turn(first: Run, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("rottrain.training.objective.alignment_loss", refuse)
    with pytest.raises(TrainingError, match="lower --batch-size"):
        first(out)


def test_stage_2_changes_the_adapter_and_nothing_else(
    second: Run, out: Path, loaded: list[Backbone], backbone: Backbone, stage1_checkpoint: Path
) -> None:
    second(out, max_steps=2)
    assert_equal_weights(base_weights(loaded[0]), base_weights(backbone))
    for name in (HEAD, TOKEN_ROWS):
        assert (out / name).read_bytes() == (stage1_checkpoint / name).read_bytes()
    adapter = load_file(out / "adapter" / "adapter_model.safetensors")
    assert not [name for name, value in adapter.items() if not value.any()]


def test_begin_and_end_rows_learn_where_asked_and_are_found_again(
    second: Run, out: Path, loaded: list[Backbone], backbone: Backbone
) -> None:
    second(out, train_tokens=True, max_steps=2)
    assert (loaded[0].token_rows() - backbone.token_rows()).abs().min(dim=1).values.max() > 0
    found = RoT.from_pretrained(out).backbone.token_rows()
    assert torch.equal(found, loaded[0].token_rows())
    assert torch.equal(backbone.token_rows(), load_file(out / TOKEN_ROWS)["token_rows"])  # those of the base model


def test_stage_1_leaves_the_language_model_in_inference_mode(backbone: Backbone, head: ProjectionHead) -> None:
    learner = Learner(backbone, head, Stage1Config.paper()).train()
    assert learner.head.training
    assert not learner.language.training


def test_stage_2_drops_out_only_while_it_trains(backbone: Backbone, head: ProjectionHead) -> None:
    backbone.add_adapter(LoraSettings(rank=2, dropout=0.5), train_tokens=False)
    learner = Learner(backbone, head.requires_grad_(requires_grad=False), Stage2Config.paper(rollout="teacher"))
    with torch.no_grad():
        for name, value in learner.trained().items():
            value.normal_(std=0.1 if "lora_B" in name else 1.0)
        batch = as_batch(backbone, random_examples(backbone))
        trained, evaluated = ([learner.train(mode)(**batch)["loss"] for _ in range(2)] for mode in (True, False))
    assert trained[0] != trained[1]
    assert evaluated[0] == evaluated[1]


def test_every_row_is_seen_once_an_epoch_and_the_order_changes(first: Run, out: Path, steps: list[Any]) -> None:
    first(out)
    epochs = [[row for step, rows in steps if (step > 3) is later for row in rows] for later in (False, True)]
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert len(set(epochs[0])) == 10
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1])


def test_folders_are_mixed_by_weight(first: Run, out: Path, steps: list[Any], embedded: Path) -> None:
    first(out, weights=(1, 0.5), batch_size=5)
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6]
    counts = Counter(row for _, rows in steps for row in rows)
    assert set(counts.values()) == {3}  # twice from the one in two epochs, once from the other
    fingerprint = stages.EmbeddingShards(embedded).manifest.fingerprint
    assert checkpoints.load_config(out).run["shards"] == [[fingerprint, 1.0], [fingerprint, 0.5]]


def test_rows_of_similar_length_share_a_batch(first: Run, tmp_path: Path) -> None:
    def padding(**recipe: Any) -> int:
        shapes: list[tuple[int, ...]] = []
        compute_loss = StageTrainer.compute_loss

        def noting(self: StageTrainer, model: Any, inputs: Any, *rest: Any, **options: Any) -> Any:
            shapes.append(inputs["targets_BKD"].shape)
            return compute_loss(self, model, inputs, *rest, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StageTrainer, "compute_loss", noting)
            first(tmp_path / str(recipe), batch_size=2, epochs=1, **recipe)
        return sum(rows * latents for rows, latents, _ in shapes)

    assert padding(group_by_length=True) < padding(group_by_length=False)


def test_processes_that_read_ahead_change_nothing(first: Run, tmp_path: Path) -> None:
    alone, helped = first(tmp_path / "alone"), first(tmp_path / "helped", workers=2)
    assert alone.loss == helped.loss
    assert contents(tmp_path / "alone") == contents(tmp_path / "helped")


def test_a_limit_keeps_to_the_first_rows(first: Run, out: Path, steps: list[Any]) -> None:
    assert first(out, limit=5).steps == 4
    assert len({row for _, rows in steps for row in rows}) == 5


def test_batches_are_averaged_into_one_step(first: Run, out: Path, steps: list[Any]) -> None:
    assert first(out, accumulate=3).steps == 2
    assert [step for step, _ in steps] == [1, 1, 1, 2, 2, 2]


def test_both_stages_train_in_bfloat16(first: Run, second: Run, tmp_path: Path, loaded: list[Backbone]) -> None:
    first(tmp_path / "one", precision="bfloat16", rollout="student", max_steps=1)
    second(tmp_path / "two", start=tmp_path / "one", precision="bfloat16", rollout="student", max_steps=1)
    assert [backbone.dtype for backbone in loaded] == [torch.bfloat16] * 2
    for file in (tmp_path / "one" / HEAD, tmp_path / "two" / "adapter" / "adapter_model.safetensors"):
        assert {value.dtype for value in load_file(file).values()} == {torch.float32}


def test_mixed_precision_keeps_weights_and_gradients_in_float32(tiny_folder: Path) -> None:
    folder, gradients = find_model(str(tiny_folder)), []
    for kind in ("float32", "mixed"):
        backbone = load_backbone(folder, kind)
        backbone.train_language(head_only=False)
        learner = Learner(backbone, random_head(192), Stage1Config.paper(trainable="full", rollout="jacobi:2"))
        batch: Any = as_batch(backbone, random_examples(backbone))
        learner(**batch)["loss"].backward()
        gradients.append({name: value.grad for name, value in learner.trained().items()})
    exact, mixed = gradients
    assert {value.dtype for value in mixed.values()} == {torch.float32}
    assert not any(torch.equal(mixed[name], value) for name, value in exact.items())
    for name, value in exact.items():  # sweeps without a gradient come first: none may be lost to them
        assert (mixed[name] - value).norm() < 0.15 * value.norm(), name


def test_a_checkpoint_of_mixed_precision_generates(first: Run, out: Path, loaded: list[Backbone]) -> None:
    first(out, precision="mixed", trainable="full", max_steps=1)
    assert {value.dtype for value in load_file(out / "language.safetensors").values()} == {torch.float32}
    assert loaded[0].arithmetic == torch.bfloat16
    usual, mixed = (RoT.from_pretrained(out, precision=kind) for kind in ("auto", "mixed"))
    assert (usual.backbone.arithmetic, mixed.base.arithmetic) == (None, torch.bfloat16)
    one, two = (rot.generate(["2+2?"], budget=3, max_answer_tokens=2)[0].latents_KD for rot in (usual, mixed))
    assert not torch.equal(one, two)
    assert_close(one, two, atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("device", "fast", "trainable", "dtype", "arithmetic"),
    [
        ("cuda", "bfloat16", "full", torch.float32, torch.bfloat16),
        ("cuda", "bfloat16", "lm-head", torch.float32, torch.bfloat16),
        ("cuda", "bfloat16", "lora", torch.bfloat16, None),
        ("cuda", "bfloat16", "head", torch.bfloat16, None),
        ("cuda", "float32", "full", torch.float32, None),
        ("cpu", "bfloat16", "full", torch.float32, torch.bfloat16),
        ("cpu", "bfloat16", "lora", torch.float32, None),
        ("cpu", "float32", "full", torch.float32, None),
    ],
)
def test_automatic_precision_depends_on_device_and_on_what_learns(
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    fast: str,
    trainable: Any,
    dtype: torch.dtype,
    arithmetic: torch.dtype | None,
) -> None:
    monkeypatch.setattr(precision, "default_device", lambda: device)
    monkeypatch.setattr(precision, "default_precision", lambda _: fast)
    monkeypatch.setattr(Backbone, "load", lambda _, **chosen: chosen)
    chosen = load_backbone(find_model(str(tiny_folder)), "auto", trainable=trainable)
    computed = {"attention": "auto", "four_bit": False}
    assert chosen == {"dtype": dtype, "device": device, "arithmetic": arithmetic} | computed


def test_a_model_with_a_full_table_and_its_own_head_goes_through_both_stages(
    short_strips: Path, tmp_path: Path
) -> None:
    model = save_variant(tmp_path / "model", tied=False, vocab_size=len(tiny_tokenizer()))
    pipeline.embed(
        short_strips, load_encoder(find_model(str(model)), dtype="float32", device="cpu"), tmp_path / "embedded"
    )
    recipe = {"rollout": "teacher", "batch_size": 4, "max_steps": 1}
    shards = tmp_path / "embedded"
    run_stage1(shards, str(model), tmp_path / "one", Stage1Config.paper(head=HEAD_16, **recipe))
    config = Stage2Config.paper(train_tokens=True, lora=LoraSettings(rank=2), **recipe)
    run_stage2(shards, str(model), tmp_path / "one", tmp_path / "two", config)
    [made] = RoT.from_pretrained(tmp_path / "two").generate(["2+2?"], budget=2, max_answer_tokens=2)
    assert made.reasoning_tokens == 2


# Stopping and resuming.


def test_a_stopped_run_leaves_a_complete_state_and_exits_130(
    first: Run, out: Path, at_step: Callable[..., None]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    at_step(4, terminate)
    with pytest.raises(Interrupted, match="stopped at step 4 of 6; the same command resumes") as stop:
        first(out)
    assert stop.value.exit_code == 130
    assert [state.name for state in complete_states(out)] == ["checkpoint-4"]
    assert {path.name for path in out.iterdir()} == {RUN, "checkpoint-4"}
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_state_holds_no_frozen_weight(second: Run, out: Path, at_step: Callable[..., None]) -> None:
    at_step(1, terminate)
    with pytest.raises(Interrupted):
        second(out)
    state = out / "checkpoint-1"
    assert [file.name for file in state.glob("*.safetensors")] == ["trained.safetensors"]
    assert all("lora_" in name for name in load_file(state / "trained.safetensors"))
    assert sum(file.stat().st_size for file in state.iterdir()) < 2_000_000


RUNS = {
    "stage1": ("first", {}),
    "stage1-student-accumulated": ("first", {"rollout": "student", "accumulate": 2, "epochs": 3}),
    "stage1-folders": ("first", {"weights": (1, 0.5), "group_by_length": True, "validation_rows": 3}),
    "stage1-mixed": ("first", {"precision": "mixed", "trainable": "full", "rollout": "jacobi:0-1"}),
    "stage1-muon": ("first", {"optimizer": "muon", "trainable": "full", "rollout": "teacher"}),
    "stage2-dropout": ("second", {}),
    "stage2-student-scheduled": (
        "second",
        {"rollout": "student", "scheduler": "cosine", "warmup_steps": 2, "train_tokens": True},
    ),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_stopped_twice_equals_one_that_never_was(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, at_step: Callable[..., None]
) -> None:
    fixture, recipe = RUNS[name]
    run: Run = request.getfixturevalue(fixture)
    straight = run(tmp_path / "straight", **recipe)
    for step in (2, 4):
        at_step(step, terminate)
        with pytest.raises(Interrupted):
            run(tmp_path / "stopped", **recipe)
    resumed = run(tmp_path / "stopped", **recipe)
    assert (resumed.steps, resumed.loss) == (straight.steps, straight.loss)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_a_stop_between_two_validations_leaves_no_trace(
    first: Run, out: Path, tmp_path: Path, at_step: Callable[..., None]
) -> None:
    watched = {"validation_rows": 2, "validation_steps": 2, "max_steps": 4}
    first(tmp_path / "whole", **watched)
    at_step(3, terminate)
    with pytest.raises(Interrupted):
        first(out, **watched)
    first(out, **watched)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_run_that_crashed_goes_on_from_its_last_saved_state(
    first: Run, tmp_path: Path, at_step: Callable[..., None], steps: list[Any]
) -> None:
    straight = first(tmp_path / "straight")
    at_step(6, crash)
    with pytest.raises(Crash):
        first(tmp_path / "crashed", save_steps=2)
    assert [state.name for state in complete_states(tmp_path / "crashed")] == ["checkpoint-2", "checkpoint-4"]
    steps.clear()
    assert first(tmp_path / "crashed").loss == straight.loss
    assert [step for step, _ in steps] == [5, 6]
    assert contents(tmp_path / "crashed") == contents(tmp_path / "straight")


def test_a_state_without_its_complete_file_is_ignored(
    first: Run, tmp_path: Path, at_step: Callable[..., None], steps: list[Any]
) -> None:
    first(tmp_path / "straight")
    at_step(5, crash)
    with pytest.raises(Crash):
        first(tmp_path / "crashed", save_steps=2)
    (tmp_path / "crashed" / "checkpoint-4" / "COMPLETE").unlink()
    (tmp_path / "crashed" / "checkpoint-5").mkdir()
    (tmp_path / "crashed" / "checkpoint-5" / "trained.safetensors").write_bytes(b"half")
    steps.clear()
    first(tmp_path / "crashed")
    assert [step for step, _ in steps] == [3, 4, 5, 6]
    assert contents(tmp_path / "crashed") == contents(tmp_path / "straight")


def test_the_last_two_states_are_kept(first: Run, out: Path, at_step: Callable[..., None]) -> None:
    at_step(5, crash)
    with pytest.raises(Crash):
        first(out, save_steps=1)
    assert {path.name for path in out.iterdir()} == {RUN, "checkpoint-3", "checkpoint-4"}


def test_a_run_that_crashed_after_its_last_step_is_only_finished(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[Any]
) -> None:
    straight = first(tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", lambda *_, **__: crash())
        with pytest.raises(Crash):
            first(tmp_path / "crashed", save_steps=3)
    steps.clear()
    assert first(tmp_path / "crashed").loss == straight.loss
    assert steps == []
    assert contents(tmp_path / "crashed") == contents(tmp_path / "straight")


def test_a_request_to_stop_while_the_checkpoint_is_written_lets_it_be_finished(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first(tmp_path / "straight")
    save = checkpoints.save

    def stopped(*arguments: Any, **options: Any) -> None:
        terminate()
        save(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save", stopped)
    assert first(tmp_path / "stopped").steps == 6
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_resume_never_starts_anew(first: Run, tmp_path: Path, at_step: Callable[..., None], steps: list[Any]) -> None:
    first(tmp_path / "straight")
    at_step(4, terminate)
    with pytest.raises(Interrupted):
        first(tmp_path / "stopped")
    steps.clear()
    first(tmp_path / "stopped", resume="never")
    assert [step for step, _ in steps] == [1, 2, 3, 4, 5, 6]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_resume_takes_the_state_that_it_is_given(
    first: Run, tmp_path: Path, at_step: Callable[..., None], steps: list[Any]
) -> None:
    first(tmp_path / "straight")
    at_step(5, crash)
    with pytest.raises(Crash):
        first(tmp_path / "crashed", save_steps=2)
    steps.clear()
    first(tmp_path / "crashed", resume=str(tmp_path / "crashed" / "checkpoint-2"))
    assert [step for step, _ in steps] == [3, 4, 5, 6]
    assert contents(tmp_path / "crashed") == contents(tmp_path / "straight")


def test_a_state_that_is_not_there_is_an_error_that_lists_those_that_are(
    first: Run, out: Path, at_step: Callable[..., None]
) -> None:
    at_step(2, terminate)
    with pytest.raises(Interrupted):
        first(out)
    with pytest.raises(CheckpointError, match="checkpoint-9 is no complete training state; .* there are: checkpoint-2"):
        first(out, resume=str(out / "checkpoint-9"))


def test_a_state_of_another_stage_is_refused(
    first: Run, second: Run, tmp_path: Path, at_step: Callable[..., None]
) -> None:
    at_step(2, terminate)
    with pytest.raises(Interrupted):
        second(tmp_path / "other")
    with pytest.raises(CheckpointError, match="checkpoint-2 is a state of another run: name another state"):
        first(tmp_path / "out", resume=str(tmp_path / "other" / "checkpoint-2"))


def test_a_finished_run_returns_at_once(first: Run, out: Path, steps: list[Any]) -> None:
    done = first(out, max_steps=2)
    before = contents(out)
    steps.clear()
    again = first(out, max_steps=2)
    assert (again.steps, again.loss, again.checkpoint) == (done.steps, done.loss, str(out))
    assert steps == []
    assert contents(out) == before


def test_what_a_run_killed_while_it_tidied_up_has_left_is_removed(first: Run, out: Path) -> None:
    first(out, max_steps=1)
    before = contents(out)
    (out / RUN).write_text("{}")
    (out / "checkpoint-1").mkdir()
    first(out, max_steps=1)
    assert contents(out) == before
    assert not (out / "checkpoint-1").exists()


# What a folder may hold.


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"lr": 2e-2}, "recipe"),
        ({"seed": 1}, "recipe"),
        ({"head": HeadConfig(hidden=17)}, "recipe"),
        ({"limit": 9}, "limit"),
        ({"limit": 9, "max_steps": 3}, "limit, recipe"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_run_is_refused(
    first: Run, out: Path, at_step: Callable[..., None], finished: bool, changes: dict[str, Any], names: str
) -> None:
    if finished:
        first(out, max_steps=2)
    else:
        at_step(1, terminate)
        with pytest.raises(Interrupted):
            first(out, max_steps=2)
    before = contents(out)
    with pytest.raises(OutputOccupied, match=f"holds a run with another {names}: choose another --out"):
        first(out, **{"max_steps": 2} | changes)
    assert contents(out) == before


def test_saving_and_logging_may_change_between_a_run_and_its_resumption(
    first: Run, out: Path, at_step: Callable[..., None]
) -> None:
    at_step(2, terminate)
    with pytest.raises(Interrupted):
        first(out)
    assert first(out, save_steps=2, log_steps=3).steps == 6


def test_another_stage_in_the_folder_is_refused(first: Run, second: Run, out: Path) -> None:
    first(out, max_steps=1)
    with pytest.raises(OutputOccupied, match="holds a run with another recipe, stage, start"):
        second(out, max_steps=1)


def test_foreign_files_are_refused_and_left_alone(first: Run, out: Path) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("\\title{}")
    with pytest.raises(OutputOccupied, match="holds files that are no training run"):
        first(out)
    assert contents(out) == {"thesis.tex": b"\\title{}"}


# What does not fit.


def test_shards_of_another_width_are_refused_with_both_values(
    toy_embeddings: Path, tiny_folder: Path, out: Path
) -> None:
    with pytest.raises(ShardMismatch) as refusal:
        run_stage1(toy_embeddings, str(tiny_folder), out, Stage1Config.paper())
    for part in ("have D=4 (made by stand-in)", "tiny-random has 192", f"rotdata embed --model {tiny_folder}"):
        assert part in str(refusal.value)
    assert not out.exists()


def test_shards_of_another_tower_are_refused_with_both_values(embedded: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=7)
    earlier = of_an_earlier_release(embedded, tmp_path / "earlier")
    for shards, name in ((embedded, "values"), (earlier, "stored")):
        encoder = stages.EmbeddingShards(embedded).manifest.encoder
        theirs = encoder["tower_values_sha256" if name == "values" else "tower_sha256"]
        ours = getattr(stages.tower_hashes(find_model(str(other))), name)
        with pytest.raises(ShardMismatch) as refusal:
            run_stage1(shards, str(other), tmp_path / "out", Stage1Config.paper())
        assert ours != theirs
        assert f"a vision tower {theirs[:12]} (tiny-random)" in str(refusal.value)
        assert f"has {ours[:12]}: embed the strips again" in str(refusal.value)


def of_an_earlier_release(embedded: Path, out: Path) -> Path:
    """Shards whose manifest does not say the hash of their tower's values."""
    shutil.copytree(embedded, out)
    manifest = Manifest.load(out)
    assert manifest.encoder is not None
    del manifest.encoder["tower_values_sha256"]
    manifest.save(out)
    return out


def test_shards_of_before_towers_were_hashed_by_value_are_trained_on_and_gone_on_with(
    embedded: Path, short_strips: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    earlier = of_an_earlier_release(embedded, tmp_path / "earlier")
    plan_stage1([embedded, earlier], str(tiny_folder), Stage1Config.paper(rollout="teacher"))
    again = pipeline.embed(
        short_strips, load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu"), earlier
    )
    assert again.shards_made == 0


def test_a_model_of_the_same_tower_stored_otherwise_trains_on_the_shards(
    short_strips: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    short, wide = (copy_model(tiny_folder, tmp_path / name) for name in ("short", "wide"))
    weights = {name: value.bfloat16() for name, value in load_file(short / "model.safetensors").items()}
    save_file(weights, short / "model.safetensors", metadata={"format": "pt"})
    save_file(
        {name: value.float() for name, value in weights.items()}, wide / "model.safetensors", metadata={"format": "pt"}
    )
    encoder = load_encoder(find_model(str(short)), dtype="float32", device="cpu")
    pipeline.embed(short_strips, encoder, tmp_path / "shards")
    assert stages.tower_hashes(find_model(str(wide))).stored != encoder.identity.tower_sha256
    planned = plan_stage1(tmp_path / "shards", str(wide), Stage1Config.paper(rollout="teacher"))
    assert planned.rows == 10


def test_stage_2_refuses_shards_of_another_encoding_than_stage_1(
    second: Run, tiny_folder: Path, tmp_path: Path, stage1_checkpoint: Path, embedded: Path
) -> None:
    style = StripStyle(padding_px=8)
    pipeline.render(Source(location="toy", corpus="toy", limit=2), style, tmp_path / "strips")
    pipeline.embed(
        tmp_path / "strips",
        load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu"),
        tmp_path / "shards",
    )
    values = [stages.EmbeddingShards(path).manifest.encoding_fingerprint for path in (embedded, tmp_path / "shards")]
    with pytest.raises(ShardMismatch) as refusal:
        second(tmp_path / "out", shards=tmp_path / "shards")
    assert all(value[:12] in str(refusal.value) for value in values)


def test_folders_of_two_styles_are_not_learnt_together(
    tiny_folder: Path, tmp_path: Path, embedded: Path, out: Path
) -> None:
    pipeline.render(Source(location="toy", corpus="toy", limit=2), StripStyle(padding_px=8), tmp_path / "strips")
    pipeline.embed(
        tmp_path / "strips",
        load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu"),
        tmp_path / "shards",
    )
    with pytest.raises(ShardMismatch, match="latents of two styles can't be learnt together"):
        run_stage1([embedded, tmp_path / "shards"], str(tiny_folder), out, Stage1Config.paper())


def test_shards_without_rows_are_refused(first: Run, tiny_folder: Path, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "cot": "m" * 500, "answer": "7"}])
    pipeline.render(Source(location=str(file), corpus="generic"), StripStyle(), tmp_path / "strips", max_latents=3)
    pipeline.embed(
        tmp_path / "strips",
        load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu"),
        tmp_path / "shards",
    )
    with pytest.raises(ShardMismatch, match="holds no rows to train on"):
        run_stage1(tmp_path / "shards", str(tiny_folder), tmp_path / "out", Stage1Config.paper())


def test_a_limit_below_one_is_refused(first: Run, out: Path) -> None:
    with pytest.raises(UsageError, match="at least 1, got 0"):
        first(out, limit=0)


def test_an_unknown_model_is_refused(embedded: Path, out: Path) -> None:
    with pytest.raises(UnknownModel, match="unknown model 'gpt'"):
        run_stage1(embedded, "gpt", out, Stage1Config.paper())


def test_stage_2_needs_a_stage_1_checkpoint(second: Run, tmp_path: Path, stage2_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished checkpoint in .*absent"):
        second(tmp_path / "out", start=tmp_path / "absent")
    with pytest.raises(CheckpointError, match="is a stage2 checkpoint: stage 2 starts --from one of stage 1"):
        second(tmp_path / "out", start=stage2_checkpoint)


def test_a_stage_1_run_that_is_not_finished_is_no_checkpoint(
    first: Run, second: Run, tmp_path: Path, at_step: Callable[..., None]
) -> None:
    at_step(1, terminate)
    with pytest.raises(Interrupted):
        first(tmp_path / "stopped")
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        second(tmp_path / "out", start=tmp_path / "stopped")


def test_stage_2_refuses_a_damaged_head(second: Run, tmp_path: Path, stage1_checkpoint: Path) -> None:
    damaged = Path(shutil.copytree(stage1_checkpoint, tmp_path / "damaged"))
    (damaged / HEAD).write_bytes((damaged / HEAD).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="head.safetensors is not what was written"):
        second(tmp_path / "out", start=damaged)
    assert not (tmp_path / "out").exists()


def test_stage_2_refuses_another_language_model_behind_the_same_tower(
    second: Run, tmp_path: Path, tiny_folder: Path
) -> None:
    other = copy_model(tiny_folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["model.language_model.embed_tokens.weight"] *= 2
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="was trained on another base model than other"):
        second(tmp_path / "out", model=other)


@pytest.mark.filterwarnings("ignore:An input tensor was not:UserWarning")
def test_a_loss_that_is_not_finite_stops_the_run(first: Run, out: Path) -> None:
    with pytest.raises(TrainingError, match="the loss of step 2 is (nan|inf): lower --lr"):
        first(out, lr=1e30)
    assert not (out / CONFIG).exists()


def test_the_run_s_request_stands_in_its_folder_until_it_is_finished(
    first: Run, out: Path, at_step: Callable[..., None]
) -> None:
    at_step(1, terminate)
    with pytest.raises(Interrupted):
        first(out, limit=9)
    asked = json.loads((out / RUN).read_text())
    first(out, limit=9)
    assert not (out / RUN).exists()
    assert checkpoints.load_config(out).run == asked
    assert (asked["stage"], asked["limit"], asked["recipe"]["head"]) == (
        "stage1",
        9,
        {"hidden": 16, "activation": "swiglu"},
    )


def test_tensorboard_gets_the_figures_of_the_history(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    first(tmp_path / "out", report_to="tensorboard", validation_rows=2, validation_steps=2)
    board = EventAccumulator(str(tmp_path / "board"))
    board.Reload()
    history = [json.loads(line) for line in (tmp_path / "out" / HISTORY).read_text().splitlines()]
    for name in ("loss", "alignment", "answer", "validation_accuracy", "validation_alignment_free"):
        shown = {event.step: event.value for event in board.Scalars(f"train/{name}")}
        assert shown == pytest.approx({line["step"]: line[name] for line in history if name in line}, abs=1e-5)
        assert shown
    tables = board.Tensors(f"{TRACE}/text_summary")
    assert [event.step for event in tables] == [2, 4]
    head, _, *rows = tables[-1].tensor_proto.string_val[0].decode().splitlines()
    assert head == "| id | question | strip | read | answer | said |"
    assert [row.split(" | ")[:2] for row in rows] == [["| row 8", "8+9?"], ["| row 9", "9+10?"]]
    assert [row.split(" | ")[4] for row in rows] == ["&#35;&#35;&#35;&#35; 8", "&#35;&#35;&#35;&#35; 9"]


@pytest.mark.filterwarnings("ignore")  # of a library that the tests can do without
def test_mlflow_gets_figures_and_tables(first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "tracked").as_uri())
    first(tmp_path / "out", report_to="mlflow", validation_rows=2, validation_steps=2, max_steps=2)
    [metric] = (tmp_path / "tracked").rglob("metrics/validation_accuracy")
    assert metric.read_text().split()[2] == "2"
    [table] = (tmp_path / "tracked").rglob(f"artifacts/{TRACE}/2.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["id", "question", "strip", "read", "answer", "said"]
    assert [row[:2] for row in content["data"]] == [["row 8", "8+9?"], ["row 9", "9+10?"]]


def test_what_a_table_shows_is_text() -> None:
    shown = as_markdown([{"a": "x|y\n<b>", "b": "[link](to) `code`"}, {"a": "", "b": "1"}])
    assert shown.splitlines()[2:] == [
        "| x&#124;y &#60;b&#62; | &#91;link&#93;&#40;to&#41; &#96;code&#96; |",
        "|  | 1 |",
    ]


@pytest.mark.parametrize("tracker", ["nobody", "wandb"])
def test_a_tracker_that_is_not_there_is_refused(first: Run, tmp_path: Path, tracker: str) -> None:
    with pytest.raises(UsageError, match=f"{tracker}.*--report-to"):
        first(tmp_path / "out", report_to=tracker)
