"""Runs that are killed, as the commands in processes of their own: the same command makes what it would have made."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, Result, contents
from tests.rottrain import killed

Run = Callable[..., Result]
At = tuple[str, str, int]
"""When a run is killed: before the event of a file, as often as that; see tests.rottrain.killed."""


def start(*arguments: object, at: At | None = None) -> subprocess.CompletedProcess[str]:
    """Run rottrain in a process of its own, killed at some point."""
    program = ["rottrain"] if at is None else [killed.__name__, *map(str, at)]
    return subprocess.run(
        [sys.executable, "-m", *program, *map(str, arguments)],
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )


def kill(*arguments: object, at: At) -> None:
    """Run rottrain and have it killed there."""
    done = start(*arguments, at=at)
    assert done.returncode == -signal.SIGKILL, done.stderr


def finish(*arguments: object) -> str:
    """Run rottrain to its end; what it said."""
    done = start(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


STEPS = 5
"""Two more than an epoch: the run ends in mid-epoch."""
USUAL = ("--recipe", "paper", "--batch-size", 4, "--max-steps", STEPS, "--lr", 1e-2)


@pytest.fixture
def sft(embedded: Path, tiny_folder: Path) -> tuple[object, ...]:
    return ("sft", "--mode", "cot", "--shards", embedded, "--model", tiny_folder, *USUAL, "--trainable", "lm-head")


@pytest.fixture
def stage2(embedded: Path, tiny_folder: Path, stage1_checkpoint: Path) -> tuple[object, ...]:
    """LoRA from student rollouts, with dropout."""
    return ("stage2", "--shards", embedded, "--model", tiny_folder, "--from", stage1_checkpoint, *USUAL)


AFTER_THE_LAST_STATE = ("open", "out/.history.jsonl.tmp", 1)


@pytest.mark.parametrize("command", ["sft", "stage2"])
def test_a_run_killed_after_the_state_of_its_last_step_takes_no_further_step(
    command: str, request: pytest.FixtureRequest, run_rottrain: Run, tmp_path: Path
) -> None:
    arguments = request.getfixturevalue(command)
    assert run_rottrain(*arguments, "--out", tmp_path / "straight" / "out").code == 0
    options = (*arguments, "--out", tmp_path / "out", "--save-steps", STEPS)
    kill(*options, at=AFTER_THE_LAST_STATE)
    assert (tmp_path / "out" / f"checkpoint-{STEPS}" / "COMPLETE").exists()
    assert "step" not in finish(*options)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight" / "out")
