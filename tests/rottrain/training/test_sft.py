"""Fine-tuning in words: what is taught is what evaluation asks for; runs, checkpoints and their refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from rotdata.errors import CheckpointError, Interrupted, TrainingError
from rotdata.shards import EmbeddingShards
from rottrain.config import LoraSettings, SftConfig, Stage2Config
from rottrain.data.rows import Selection
from rottrain.generation import generate
from rottrain.generation.generate import Generation, RoT
from rottrain.metrics import scoring
from rottrain.model import checkpoints
from rottrain.model.backbone import Backbone
from rottrain.model.trained import load_text_model
from rottrain.training.history import HISTORY
from rottrain.training.sft import TextCollator, TextExample, TextLearner, TextRows, taught_ids
from rottrain.training.stages import Outcome, plan_sft, run_sft, run_stage2
from rottrain.training.validation import validate_text
from tests.helpers import contents
from tests.rottrain.samples import full_pass, terminate, token_inputs

ROW = {"question": "Ann has 3 figs, finds 4.", "cot": "3+4=7\n#### no", "answer": "7"}
Run = Callable[..., Outcome]


@pytest.fixture
def run(embedded: Path, tiny_folder: Path) -> Run:
    """Fine-tuning on the short rows: two epochs of three steps."""

    def run(out: Path, mode: Any = "cot", *, shards: Path = embedded, **recipe: Any) -> Outcome:
        defaults = {"batch_size": 4, "epochs": 2, "lr": 1e-2, "lora": LoraSettings(rank=2), "log_steps": 1}
        return run_sft(shards, str(tiny_folder), out, SftConfig.paper(mode=mode, **defaults | recipe))

    return run


def examples_of(backbone: Backbone, folder: Path, mode: Any = "cot") -> list[TextExample]:
    rows = TextRows([Selection.of(EmbeddingShards(folder))], backbone, mode)
    return [rows[index] for index in range(len(rows))]


# What is taught.


@pytest.mark.parametrize(("mode", "prefill"), [("cot", ""), ("no-cot", "#### ")])
def test_what_is_given_is_what_evaluation_gives(backbone: Backbone, mode: Any, prefill: str) -> None:
    given, taught = taught_ids(backbone, mode, **ROW)
    asked, _ = generate._prompts(backbone, [ROW["question"]], prefill=backbone.text_ids(prefill))
    assert given == asked[0].tolist()
    assert taught[-1] == backbone.eos_id
    said = prefill + backbone.decode(taught)
    assert scoring.extract(said) == "7"
    assert said == (f"{ROW['cot']}\n#### 7" if mode == "cot" else "#### 7")


@pytest.mark.parametrize("mode", ["cot", "no-cot"])
def test_the_loss_is_that_of_one_reply_after_the_other(backbone: Backbone, embedded: Path, mode: Any) -> None:
    examples = examples_of(backbone, embedded, mode)[:4]
    expected = []
    for example in examples:
        ids = [*example.given_ids, *example.taught_ids]
        logits = backbone.logits(full_pass(backbone, token_inputs(backbone, ids)))
        said = torch.tensor(example.taught_ids)
        expected.append(F.cross_entropy(logits[len(example.given_ids) - 1 : -1], said))
    batch: Any = TextCollator(backbone.pad_id)(examples)
    assert batch.pop("ids") == [example.id for example in examples]
    backbone.train_language(head_only=False)
    learner = TextLearner(backbone, SftConfig.paper(mode=mode, trainable="full"))
    loss = learner(**batch)["loss"]
    assert_close(loss, torch.stack(expected).mean(), rtol=1e-5, atol=1e-5)
    loss.backward()
    assert all(value.grad.abs().sum() > 0 for value in learner.trained().values())


def test_embeddings_are_not_read(backbone: Backbone, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddingShards, "read_group", None)
    assert len(examples_of(backbone, embedded)) == 10


# Runs.


def test_it_does_not_matter_which_tower_made_the_latents(run: Run, tmp_path: Path, toy_embeddings: Path) -> None:
    assert run(tmp_path / "out", shards=toy_embeddings, max_steps=1).steps == 1


@pytest.mark.parametrize("mode", ["cot", "no-cot"])
def test_a_few_steps_lower_the_loss(run: Run, tmp_path: Path, mode: str) -> None:
    short, long = (run(tmp_path / str(steps), mode, max_steps=steps, trainable="full") for steps in (1, 8))
    assert long.loss < 0.8 * short.loss


@pytest.mark.parametrize(("trainable", "learnt"), [("lora", "adapter"), ("lm-head", "language")])
def test_a_checkpoint_answers_as_the_trained_model_did(
    run: Run, tmp_path: Path, tiny_folder: Path, embedded: Path, trainable: str, learnt: str
) -> None:
    schedule = {"max_steps": 4, "validation_rows": 3, "validation_steps": 4}
    outcome = run(tmp_path / "out", trainable=trainable, precision="float32", **schedule)
    assert outcome.validation is not None
    backbone, config = load_text_model(tmp_path / "out")
    assert (config.stage, config.mode, config.learnt, config.head) == ("sft", "cot", [learnt], None)
    examples = examples_of(backbone, embedded)[-3:]
    again = validate_text(TextLearner(backbone, SftConfig.paper(mode="cot")), examples, kind="number")
    assert again == {name: value for name, value in outcome.validation.items() if name != "step"}
    base = Backbone.load(backbone.folder, dtype=torch.float32, device="cpu")
    untrained = validate_text(TextLearner(base, SftConfig.paper(mode="cot")), examples, kind="number")
    assert untrained["loss"] > again["loss"] + 0.1
    names = {path.name for path in (tmp_path / "out").iterdir()}
    kept = {"adapter"} if learnt == "adapter" else {"language.safetensors"}
    assert names == {"config.json", HISTORY, "recipe.yaml", "token_rows.safetensors"} | kept


def test_accuracy_is_of_generated_replies(backbone: Backbone, embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = examples_of(backbone, embedded)[:4]
    asked: list[int] = []

    def replies(_: Backbone, questions: list[str], *, batch_size: int, max_tokens: int) -> list[Generation]:
        asked.append(max_tokens)
        texts = [f"so\n#### {example.answer}" for example in examples[:3]] + ["#### wrong"]
        return [
            Generation(question=question, reply=text, reasoning_tokens=2, seconds=0.0)
            for question, text in zip(questions, texts, strict=True)
        ]

    monkeypatch.setattr(generate, "in_words", replies)
    learner = TextLearner(backbone, SftConfig.paper(mode="cot")).train()
    figures = validate_text(learner, examples, kind="number")
    assert (figures["accuracy"], figures["reasoning_tokens"]) == (0.75, 2.0)
    assert asked == [2 * max(len(example.taught_ids) for example in examples)]
    assert learner.training


@pytest.mark.parametrize(
    "recipe",
    [{}, {"trainable": "full", "scheduler": "cosine", "warmup_steps": 2, "accumulate": 2, "epochs": 3}],
    ids=["lora", "full"],
)
def test_a_run_that_was_stopped_equals_one_that_never_was(
    run: Run, tmp_path: Path, at_step: Callable[..., None], recipe: dict[str, Any]
) -> None:
    straight = run(tmp_path / "straight", **recipe)
    at_step(2, terminate)
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", **recipe)
    resumed = run(tmp_path / "stopped", **recipe)
    assert (resumed.steps, resumed.loss) == (straight.steps, straight.loss)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def test_a_plan_says_what_a_run_takes(embedded: Path, tiny_folder: Path, backbone: Backbone) -> None:
    config = SftConfig.paper(mode="cot", trainable="full", batch_size=4, epochs=3, validation_rows=2)
    plan = plan_sft(embedded, str(tiny_folder), config)
    assert (plan.rows, plan.validation_rows, plan.steps) == (8, 2, 6)
    assert plan.trainable_parameters == sum(value.numel() for value in backbone.model.parameters())


# Trust.


def test_rows_of_a_loss_that_is_not_finite_are_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rottrain.training.sft.mean_of_samples", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(TrainingError, match="the loss of step 1 is nan.*not-finite.json"):
        run(tmp_path / "out")


def test_out_of_memory_says_which_knob_to_turn(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr("rottrain.training.sft.mean_of_samples", refuse)
    with pytest.raises(TrainingError, match="4 rows a step are too many .* lower --batch-size"):
        run(tmp_path / "out")


def test_a_run_killed_while_it_saves_leaves_no_checkpoint_and_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    straight = run(tmp_path / "straight")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_save_adapter", kill)
        with pytest.raises(Killed):
            run(tmp_path / "killed", save_steps=3)
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        load_text_model(tmp_path / "killed")
    assert run(tmp_path / "killed").loss == straight.loss
    assert contents(tmp_path / "killed") == contents(tmp_path / "straight")


def test_a_checkpoint_in_words_is_none_of_latents_and_the_other_way_round(
    run: Run, tmp_path: Path, stage1_checkpoint: Path, embedded: Path, tiny_folder: Path
) -> None:
    run(tmp_path / "out", "no-cot", max_steps=1)
    with pytest.raises(CheckpointError, match="in words and has no head: evaluate it with --no-cot-checkpoint"):
        RoT.from_pretrained(tmp_path / "out")
    with pytest.raises(CheckpointError, match="is a sft checkpoint: stage 2 starts --from one of stage 1"):
        run_stage2(embedded, str(tiny_folder), tmp_path / "out", tmp_path / "two", Stage2Config.paper())
    with pytest.raises(CheckpointError, match="is a stage1 checkpoint: one of `rottrain sft` is needed"):
        load_text_model(stage1_checkpoint)
