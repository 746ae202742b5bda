"""Runs that are killed, as the commands in processes of their own: the same command makes what it would have made."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rottrain.config import SftConfig
from rottrain.training.stages import RUN, run_sft
from rottrain.training.states import complete_states
from tests.helpers import REPOSITORY, Result, assert_refused, contents
from tests.rottrain import killed

Run = Callable[..., Result]
At = tuple[str, str, int]
"""When a run is killed: before the event of a file, as often as that; see tests.rottrain.killed."""


def start(
    *arguments: object, at: At | None = None, at_most: int = resource.RLIM_INFINITY
) -> subprocess.CompletedProcess[str]:
    """Run rottrain in a process of its own, killed at some point, with files of at most so many bytes."""
    program = ["rottrain"] if at is None else [killed.__name__, *map(str, at)]
    return subprocess.run(
        [sys.executable, "-m", *program, *map(str, arguments)],
        cwd=REPOSITORY,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (at_most, resource.RLIM_INFINITY)),
        check=False,
        capture_output=True,
        text=True,
        timeout=280,
    )


def as_result(done: subprocess.CompletedProcess[str]) -> Result:
    """What a process left behind."""
    return Result(done.returncode, done.stdout, done.stderr)


def kill(*arguments: object, at: At) -> None:
    """Run rottrain and have it killed there."""
    done = start(*arguments, at=at)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def finish(run_rottrain: Run) -> Callable[..., str]:
    """Run rottrain to its end, in this process, which is quicker; what it said."""

    def finish(*arguments: object) -> str:
        result = run_rottrain(*arguments)
        assert result.code == 0, result.err
        return result.err

    return finish


Finish = Callable[..., str]


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
    command: str, request: pytest.FixtureRequest, finish: Finish, tmp_path: Path
) -> None:
    arguments = request.getfixturevalue(command)
    finish(*arguments, "--out", tmp_path / "straight" / "out")
    options = (*arguments, "--out", tmp_path / "out", "--save-steps", STEPS)
    kill(*options, at=AFTER_THE_LAST_STATE)
    assert (tmp_path / "out" / f"checkpoint-{STEPS}" / "COMPLETE").exists()
    assert "step" not in finish(*options)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight" / "out")


# Damaged states.


@pytest.fixture(scope="module")
def crashed(embedded: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    """A run's command, its --out aside; its folder when it was killed with states of steps 2 and 4; what it makes."""
    folder = tmp_path_factory.mktemp("crashed")
    command = ("sft", "--mode", "cot", "--shards", embedded, "--model", tiny_folder, *USUAL, "--trainable", "lm-head")
    rest = ("--scheduler", "cosine", "--validation-rows", 2, "--validation-steps", 2, "--save-steps", 2)
    kill(*command, *rest, "--out", folder / "out", at=("open", f"checkpoint-{STEPS}/.history.jsonl.tmp", 1))
    config = SftConfig.paper(
        mode="cot", batch_size=4, max_steps=STEPS, lr=1e-2, trainable="lm-head", scheduler="cosine", validation_rows=2,
        validation_steps=2,
    )  # fmt: skip
    run_sft([str(embedded)], str(tiny_folder), folder / "straight", config)
    return (*command, *rest), folder / "out", folder / "straight"


def lose(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    """Change the last bit but one of a file."""
    content = bytearray(file.read_bytes())
    content[-1] ^= 2
    file.write_bytes(content)


def garble(file: Path) -> None:
    file.write_text('{"run": 5}')


DAMAGES = [
    ("optimizer.pt", lose),
    ("scheduler.pt", lose),
    ("rng_state.pth", lose),
    ("best.safetensors", lose),
    ("trained.safetensors", flip),
    ("optimizer.pt", flip),
    ("trainer_state.json", flip),
    ("history.jsonl", flip),
    ("COMPLETE", garble),
    ("COMPLETE", flip),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_state_is_named_and_an_older_whole_one_gone_on_from(
    crashed: Any, run_rottrain: Run, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    command, stopped, straight = crashed
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    damage(out / "checkpoint-4" / name)
    result = run_rottrain(*command, "--out", out)
    assert result.code == 0, result.err
    assert "warning: " in result.err
    assert name in result.err
    assert "going on from checkpoint-2" in result.err
    assert contents(out) == contents(straight)


def test_a_process_does_so_too_and_refuses_if_no_state_is_whole(crashed: Any, tmp_path: Path) -> None:
    command, stopped, straight = crashed
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    lose(out / "checkpoint-4" / "optimizer.pt")
    done = start(*command, "--out", out)
    assert (done.returncode, contents(out)) == (0, contents(straight))
    assert "checkpoint-4 is damaged, optimizer.pt is missing; going on from checkpoint-2" in done.stderr

    other = Path(shutil.copytree(stopped, tmp_path / "other"))
    for state in complete_states(other):
        flip(state / "trained.safetensors")
    before = contents(other)
    assert_refused(as_result(start(*command, "--out", other)), 1, f"no state in {other} will do, {other}/checkpoint-4")
    assert contents(other) == {name: content for name, content in before.items() if "checkpoint-5" not in name}


def test_a_state_that_is_named_and_damaged_is_refused(crashed: Any, run_rottrain: Run, tmp_path: Path) -> None:
    command, stopped, _ = crashed
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    flip(out / "checkpoint-2" / "scheduler.pt")
    result = run_rottrain(*command, "--out", out, "--resume", out / "checkpoint-2")
    assert_refused(result, 1, "checkpoint-2 is damaged, scheduler.pt is not what was written: name another state")


def test_a_state_of_another_run_is_refused(crashed: Any, run_rottrain: Run, tmp_path: Path) -> None:
    command, stopped, _ = crashed
    other = (*command, "--lr", 1e-3, "--out", tmp_path / "out", "--resume", stopped / "checkpoint-4")
    assert_refused(run_rottrain(*other), 1, "checkpoint-4 is a state of another run")


def test_a_state_of_another_number_of_processes_is_refused(crashed: Any, run_rottrain: Run, tmp_path: Path) -> None:
    command, stopped, _ = crashed
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    for state in complete_states(out):
        file = state / "COMPLETE"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"processes": 2}))
    assert_refused(run_rottrain(*command, "--out", out), 1, "was saved by a run in 2 processes, not 1")


def test_a_state_is_no_longer_complete_before_its_files_are_removed(
    crashed: Any, finish: Finish, tmp_path: Path
) -> None:
    command, _, straight = crashed
    options = (*command, "--out", tmp_path / "out", "--save-steps", 1)
    kill(*options, at=("os.remove", "*.pt", 1))
    assert [state.name for state in complete_states(tmp_path / "out")] == ["checkpoint-2", "checkpoint-3"]
    assert list((tmp_path / "out" / "checkpoint-1").glob("*.pt"))
    finish(*options)
    assert contents(tmp_path / "out") == contents(straight)


BROKEN = {
    b"": "can't be read",
    b"\xff": "can't be read",
    b"[" * 5000: "can't be read",
    b"[]": "the file should be an object, got []",
    b"5": "the file should be an object, got 5",
    b"{}": "stage should be stage1 or stage2 or sft, got nothing",
    b'{"stage": 5}': "model should be a text, got nothing",
}


@pytest.mark.parametrize("content", BROKEN)
def test_a_broken_request_is_named(crashed: Any, run_rottrain: Run, tmp_path: Path, content: bytes) -> None:
    command, stopped, _ = crashed
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    (out / RUN).write_bytes(content)
    before = contents(out)
    refused = run_rottrain(*command, "--out", out)
    assert_refused(refused, 1, BROKEN[content])
    assert f"error: {out / RUN}" in refused.err
    assert contents(out) == before


@pytest.mark.parametrize("name", ["stage", "model", "shards", "limit", "start", "recipe"])
def test_a_value_of_a_wrong_type_in_a_request_is_named(
    crashed: Any, run_rottrain: Run, tmp_path: Path, name: str
) -> None:
    command, stopped, _ = crashed
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    asked = json.loads((out / RUN).read_text())
    for value in (True, -1, 0.5, [[1]], [], {"\x1b[31m": 1}):
        (out / RUN).write_text(json.dumps(asked | {name: value}))
        refused = run_rottrain(*command, "--out", out)
        if refused.code == 2:
            assert_refused(refused, 2, f"holds a run with another {name}")
        else:
            assert_refused(refused, 1, f"{out / RUN}: {name}")
        assert "\x1b" not in refused.err


# Full disks, and kills at the very start.


def test_what_a_kill_at_the_very_start_leaves_is_no_obstacle(
    sft: tuple[object, ...], finish: Finish, tmp_path: Path
) -> None:
    options = (*sft, "--max-steps", 1, "--out", tmp_path / "out")
    kill(*options, at=("os.rename", "out/.run.json.tmp", 1))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".run.json.tmp"]
    finish(*options)
    assert not [name for name in contents(tmp_path / "out") if name.startswith(".")]


def test_foreign_files_beside_a_leftover_are_left_alone(
    sft: tuple[object, ...], run_rottrain: Run, tmp_path: Path
) -> None:
    (tmp_path / ".run.json.tmp").write_text("{")
    (tmp_path / "thesis.tex").write_text("\\title{}")
    before = contents(tmp_path)
    assert_refused(run_rottrain(*sft, "--out", tmp_path), 2, "holds files that are no training run")
    assert contents(tmp_path) == before


def test_a_disk_that_is_full_at_the_very_start_is_an_error_and_no_obstacle(
    sft: tuple[object, ...], finish: Finish, small_disk: Path
) -> None:
    options = (*sft, "--max-steps", 1, "--out", small_disk / "out")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    said = as_result(start(*options))
    assert_refused(said, 1, "out can't be written (No space left on device): free some space, and run the same command")
    filler.unlink()
    finish(*options)


ROOM = {"weights": 100_000, "optimizer": 400_000, "checkpoint": 1_000_000}
"""Bytes that a file may have: of 295,000 of a state's weights, 590,000 of its optimizer, and 7,400,000 of the model."""


@pytest.mark.parametrize("what", ROOM)
def test_a_file_that_may_not_grow_is_an_error_and_the_same_command_goes_on(
    crashed: Any, finish: Finish, tmp_path: Path, what: str
) -> None:
    command, stopped, straight = crashed
    out = tmp_path / "out"
    if what == "checkpoint":
        shutil.copytree(stopped, out)
    said = as_result(start(*command, "--out", out, at_most=ROOM[what]))
    assert_refused(said, 1, "out can't be written (File too large): files are limited to that size here (ulimit -f)")
    assert not (out / "config.json").exists()
    finish(*command, "--out", out)
    assert contents(out) == contents(straight)


def test_a_disk_that_is_full_when_a_state_is_saved_is_an_error_and_the_same_command_goes_on(
    crashed: Any, finish: Finish, small_disk: Path
) -> None:
    command, stopped, straight = crashed
    out = Path(shutil.copytree(stopped, small_disk / "out"))
    shutil.rmtree(out / "checkpoint-4")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 400_000))  # the weights, and not the optimizer
    said = as_result(start(*command, "--out", out))
    assert_refused(said, 1, "out can't be written (No space left on device): free some space")
    assert [state.name for state in complete_states(out)] == ["checkpoint-2"]
    filler.unlink()
    finish(*command, "--out", out)
    assert contents(out) == contents(straight)


def test_an_export_that_was_killed_is_made_by_the_same_command(
    stage2_checkpoint: Path, finish: Finish, tmp_path: Path
) -> None:
    finish("export", stage2_checkpoint, "--out", tmp_path / "straight")
    kill("export", stage2_checkpoint, "--out", tmp_path / "out", at=("os.rename", "out/.README.md.tmp", 1))
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    finish("export", stage2_checkpoint, "--out", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")
