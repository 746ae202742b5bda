"""The course of a training as lines of a file."""

from __future__ import annotations

import json
from pathlib import Path

from rottrain.training.history import HISTORY, Losses, write_history


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


def test_losses_are_means_over_windows_of_steps_whatever_was_saved_between(tmp_path: Path) -> None:
    whole, first, second = Losses(), Losses(), Losses()
    for step in (1, 1, 2, 3, 4, 5):  # the first step has two batches
        whole.note(step, {"loss": step, "answer": 1.0})
        (first if step < 4 else second).note(step, {"loss": step, "answer": 1.0})
    assert whole.means(2) == [
        {"step": 2, "loss": round(4 / 3, 6), "answer": 1.0},
        {"step": 4, "loss": 3.5, "answer": 1.0},
        {"step": 5, "loss": 5.0, "answer": 1.0},
    ]
    assert whole.latest(2) == {"loss": 5.0, "answer": 1.0}
    assert whole.latest(10)["loss"] == 16 / 6
    first.save(tmp_path)
    resumed = Losses()
    resumed.load(tmp_path)
    for step in (4, 5):
        resumed.note(step, {"loss": step, "answer": 1.0})
    assert resumed.means(2) == whole.means(2)


def test_validations_stand_among_the_losses_by_step(tmp_path: Path) -> None:
    losses = Losses()
    for step in (1, 2):
        losses.note(step, {"loss": step})
    write_history(tmp_path, losses, [{"step": 1, "validation_accuracy": 0.5}], every=1)
    assert lines_of(tmp_path) == [
        {"loss": 1, "step": 1},
        {"step": 1, "validation_accuracy": 0.5},
        {"loss": 2, "step": 2},
    ]


def test_a_checkpoint_has_its_history(stage1_checkpoint: Path) -> None:
    [line] = lines_of(stage1_checkpoint)
    assert line["step"] == 2
    assert line["loss"] > 0
    assert line.keys() >= {"alignment", "answer"}
