"""Training and evaluation in two processes on one machine: what one process does, with twice the batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rottrain.model.checkpoints import HEAD
from rottrain.training.states import complete_states
from tests.helpers import REPOSITORY, Result, contents, write_jsonl
from tests.rottrain import held
from tests.rottrain.samples import SUMS

pytestmark = pytest.mark.slow
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


STEPS = 4


@pytest.fixture(scope="module")
def stage1(embedded: Path, tiny_folder: Path) -> tuple[object, ...]:
    """Arguments of rottrain, batches and --out aside."""
    recipe = ("--recipe", "paper", "--rollout", "teacher", "--lr", 1e-3, "--align-weight", 0.1, "--log-steps", 1)
    steps = ("--limit", 8, "--max-steps", STEPS)
    return ("stage1", "--shards", embedded, "--model", tiny_folder, *recipe, *steps, "--json")


def launch(*arguments: object, program: str = "rottrain") -> Any:
    """Two processes of a program."""
    return subprocess.Popen(
        [*TWO, "-m", program, *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object) -> Result:
    """What two processes of rottrain leave behind."""
    process = launch(*arguments)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return Result(0, out, err)


def losses(result: Result) -> list[str]:
    """The lines of a training that tell its losses."""
    return [line for line in result.err.splitlines() if line.startswith("step ")]


@pytest.fixture(scope="module")
def two(stage1: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A checkpoint of two processes, and what they said."""
    out = tmp_path_factory.mktemp("two") / "out"
    return out, run(*stage1, "--batch-size", 2, "--out", out)


def test_two_processes_do_what_one_does_with_twice_the_batch(
    two: tuple[Path, Result], stage1: tuple[object, ...], run_rottrain: Callable[..., Result], tmp_path: Path
) -> None:
    out, said = two
    alone = run_rottrain(*stage1, "--batch-size", 4, "--out", tmp_path / "one")
    assert alone.code == 0, alone.err
    assert json.loads(alone.out)["loss"] == pytest.approx(json.loads(said.out)["loss"], abs=1e-5)
    assert losses(alone) == losses(said)
    assert len(losses(said)) == STEPS
    left, right = load_file(tmp_path / "one" / HEAD), load_file(out / HEAD)
    apart = torch.cat([(left[name] - right[name]).abs().flatten() for name in left]) > 1e-5
    assert apart.float().mean() < 1e-3  # where a gradient is nearly nothing, Adam makes much of its rounding


def test_two_processes_stop_together_and_resume_to_the_same_weights(
    two: tuple[Path, Result], stage1: tuple[object, ...], tmp_path: Path
) -> None:
    out, options = tmp_path / "out", (*stage1, "--batch-size", 2, "--out", tmp_path / "out")
    with launch(*options, "--save-steps", 1, program=held.__name__) as process:
        while len(complete_states(out)) < held.STEP - 1:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)
    assert process.returncode != 0
    [*_, state] = complete_states(out)
    assert state.name == f"checkpoint-{held.STEP}"
    run(*options)
    assert contents(out) == contents(two[0])


def test_two_processes_evaluate_as_one_does(
    picture_checkpoint: Path, run_rottrain: Callable[..., Result], tmp_path: Path
) -> None:
    rows = write_jsonl(tmp_path / "sums.jsonl", SUMS[:7])
    sampled = ("--budget", 6, "--votes", 2, "--max-answer-tokens", 3)
    asked = ("eval", picture_checkpoint, rows, "--corpus", "generic", *sampled, "--json")
    found, logs = [], []
    for name, program in (("one", run_rottrain), ("two", run)):
        log = tmp_path / f"{name}.parquet"
        [result] = json.loads(program(*asked, "--row-log", log).out)
        found.append({key: value for key, value in result.items() if key not in ("seconds_per_question", "timings")})
        logs.append(pq.read_table(log, columns=["id", "thought", "reply", "votes", "correct"]).to_pylist())
    assert found[0] == found[1]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 7
