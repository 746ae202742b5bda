"""The calls of rottrain's front door train and evaluate as the commands do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import rottrain
from rotdata.corpora import Row, Source
from rotdata.errors import CheckpointError, OutputOccupied, UsageError
from rottrain.model import checkpoints
from tests.helpers import Result

Run = Callable[..., Result]


def assert_same_weights(one: Path, other: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert files
    assert files == sorted(path.relative_to(other) for path in other.rglob("*.safetensors"))
    for file in files:
        torch.testing.assert_close(load_file(other / file), load_file(one / file), rtol=0, atol=0)


def test_both_stages_learn_what_the_commands_learn(
    run_rottrain: Run, embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    common = ("--shards", embedded, "--model", tiny_folder, "--max-steps", 2, "--batch-size", 4)
    assert run_rottrain("stage1", *common, "--out", tmp_path / "one").code == 0
    assert run_rottrain("stage2", *common, "--from", tmp_path / "one", "--out", tmp_path / "two").code == 0
    given: dict[str, Any] = {"model": str(tiny_folder), "max_steps": 2, "batch_size": 4}
    first = rottrain.stage1(shards=embedded, out=tmp_path / "own-one", **given)
    second = rottrain.stage2(
        shards=str(embedded), start=str(tmp_path / "own-one"), out=str(tmp_path / "own-two"), **given
    )
    assert (first.steps, second.steps, second.checkpoint) == (2, 2, str(tmp_path / "own-two"))
    assert_same_weights(tmp_path / "one", tmp_path / "own-one")
    assert_same_weights(tmp_path / "two", tmp_path / "own-two")
    recipe = checkpoints.load_config(tmp_path / "own-two").run["recipe"]
    assert recipe == checkpoints.load_config(tmp_path / "two").run["recipe"]


def test_words_are_taught_by_the_same_call_and_a_file_is_read(
    embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("lr: 3e-4\nbatch_size: 2\n")
    outcome = rottrain.sft(
        embedded, tmp_path / "out", mode="cot", model=str(tiny_folder), recipe="paper", config=str(file), max_steps=1,
        batch_size=4, limit=5,
    )  # fmt: skip
    assert outcome.steps == 1
    config = checkpoints.load_config(tmp_path / "out")
    assert (config.mode, config.run["limit"]) == ("cot", 5)
    chosen = {name: config.run["recipe"][name] for name in ("lr", "batch_size", "trainable")}
    assert chosen == {"lr": 3e-4, "batch_size": 4, "trainable": "lora"}


def test_an_option_that_is_none_is_refused_by_name(embedded: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown keys max_stepps for Stage1Config"):
        rottrain.stage1(embedded, tmp_path / "out", max_stepps=5)
    assert not (tmp_path / "out").exists()


def test_a_corpus_in_gives_the_result_that_the_command_prints(
    run_rottrain: Run, stage2_checkpoint: Path, short_rows: Path
) -> None:
    said = run_rottrain("eval", stage2_checkpoint, short_rows, "--corpus", "generic", "--budget", 3, "--json")
    [expected] = json.loads(said.out)
    rot = rottrain.RoT.from_pretrained(stage2_checkpoint)
    records = [json.loads(line) for line in short_rows.read_text().splitlines()]
    asked: dict[str, Any] = {
        "file": (short_rows, {"corpus": "generic"}),
        "source": (Source(location=str(short_rows), corpus="generic", split="test"), {}),
        "records": (records, {}),
        "rows": ([Row(each["id"], each["question"], each["cot"], each["answer"]) for each in records], {}),
    }
    for source, reading in asked.values():
        result = rottrain.evaluate(rot, source, budget=3, **reading)
        found = {name: getattr(result, name) for name in ("corpus", "n", "accuracy", "reasoning_tokens", "budget")}
        assert found == {name: expected[name] for name in found}
    by_name = rottrain.evaluate(str(stage2_checkpoint), records, mode="no-cot")
    assert (by_name.mode, by_name.n, by_name.budget) == ("no-cot", 10, None)


def test_what_is_no_checkpoint_is_refused_with_what_to_do(tiny_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="no folder owner/name here, and no checkpoint on the Hub: .*be fetched"):
        rottrain.RoT.from_pretrained("owner/name")
    with pytest.raises(CheckpointError, match="holds a model, not a checkpoint: name the folder"):
        rottrain.RoT.from_pretrained(tiny_folder)


class StopAt(TrainerCallback):
    """Ends a run after a step, as stopping early would; notes what validation said."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.accuracies: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        control.should_training_stop = state.global_step >= self.step

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **rest: Any) -> None:
        self.accuracies += [logs[name] for name in logs if name == "validation_accuracy"]


def twice(parts: Any, batch: Any) -> Any:
    assert batch["targets_BKD"].shape[0] == 4
    return 2 * parts["loss"]


def test_a_callback_ends_a_run_whose_checkpoint_is_finished(embedded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": str(tiny_folder), "batch_size": 4, "max_steps": 5, "validation_rows": 2}
    stop = StopAt(2)
    outcome = rottrain.stage1(embedded, tmp_path / "out", callbacks=[stop], validation_steps=4, **given)
    assert outcome.steps == 2
    assert outcome.validation is not None
    assert (outcome.validation["step"], len(stop.accuracies)) == (2, 1)
    assert checkpoints.load_config(tmp_path / "out").result["steps"] == 2
    with pytest.raises(UsageError, match="callbacks are transformers.TrainerCallback objects, got 5"):
        rottrain.stage1(embedded, tmp_path / "none", callbacks=[5], **given)


def test_a_loss_of_one_s_own_is_learnt_from_and_belongs_to_the_run(
    embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": str(tiny_folder), "batch_size": 4, "max_steps": 1, "warmup_steps": 0}
    usual = rottrain.stage1(embedded, tmp_path / "usual", **given)
    own = rottrain.stage1(embedded, tmp_path / "own", loss=twice, **given)
    assert own.loss == pytest.approx(2 * usual.loss, rel=1e-6)
    assert re.fullmatch(
        r"tests\.rottrain\.test_api\.twice@[0-9a-f]{64}",
        checkpoints.load_config(tmp_path / "own").run["recipe"]["loss"],
    )
    with pytest.raises(OutputOccupied, match="another recipe"):
        rottrain.stage1(embedded, tmp_path / "own", **given)
    with pytest.raises(UsageError, match="a loss is one number with a gradient, .*; got 3.0"):
        rottrain.stage1(embedded, tmp_path / "none", loss=lambda parts, batch: 3.0, **given)
    second = rottrain.stage2(embedded, tmp_path / "own", tmp_path / "two", **given)
    assert second.steps == 1
