"""Training and evaluation in two processes on one machine: what one process does, with twice the batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from rottrain.checkpoints import HEAD
from rottrain.loop import complete_states
from tests.helpers import contents

pytestmark = pytest.mark.slow
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ONE = (sys.executable,)


@pytest.fixture
def command(embedded: Path, tiny_folder: Path) -> tuple[object, ...]:
    recipe = ("--recipe", "paper", "--rollout", "teacher", "--lr", 1e-3, "--align-weight", 0.1, "--log-steps", 1)
    return ("-m", "rottrain", "stage1", "--shards", embedded, "--model", tiny_folder, *recipe, "--json")


def launch(program: tuple[str, ...], *arguments: object) -> Any:
    return subprocess.Popen(
        [*program, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: tuple[str, ...], *arguments: object) -> tuple[dict[str, Any], list[str]]:
    """A training command's result, and the losses that it said."""
    process = launch(program, *arguments)
    result, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    return json.loads(result), [line for line in said.splitlines() if line.startswith("step ")]


def test_two_processes_do_what_one_does_with_twice_the_batch(command: tuple[object, ...], tmp_path: Path) -> None:
    limit = ("--limit", 8, "--max-steps", 3)
    one, one_said = run(ONE, *command, *limit, "--batch-size", 4, "--out", tmp_path / "one")
    two, two_said = run(TWO, *command, *limit, "--batch-size", 2, "--out", tmp_path / "two")
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
    assert one_said == two_said
    assert len(one_said) == 3
    left, right = (load_file(tmp_path / name / HEAD) for name in ("one", "two"))
    apart = torch.cat([(left[name] - right[name]).abs().flatten() for name in left]) > 1e-5
    assert apart.float().mean() < 1e-3  # where a gradient is nearly nothing, Adam makes much of its rounding


def test_two_processes_stop_together_and_resume_to_the_same_weights(
    command: tuple[object, ...], tmp_path: Path
) -> None:
    options = (*command, "--limit", 8, "--max-steps", 60, "--batch-size", 2)
    out, whole = tmp_path / "out", tmp_path / "whole"
    with launch(TWO, *options, "--save-steps", 1, "--out", out) as process:
        while not complete_states(out):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)
    assert process.returncode != 0
    [*_, state] = complete_states(out)
    assert state.name != "checkpoint-60"
    run(TWO, *options, "--out", out)
    run(TWO, *options, "--out", whole)
    assert contents(out) == contents(whole)


def test_two_processes_evaluate_as_one_does(stage2_checkpoint: Path, short_rows: Path, tmp_path: Path) -> None:
    asked = ("-m", "rottrain", "eval", stage2_checkpoint, short_rows, "--limit", 7, "--budget", 2, "--json")
    found, logs = [], []
    for name, program in (("one", ONE), ("two", TWO)):
        log = tmp_path / f"{name}.parquet"
        process = launch(program, *asked, "--max-answer-tokens", 3, "--row-log", log)
        out, said = process.communicate(timeout=200)
        assert process.returncode == 0, said
        [result] = json.loads(out)
        found.append({key: value for key, value in result.items() if key not in ("seconds_per_question", "timings")})
        logs.append(pq.read_table(log, columns=["id", "reply", "correct"]).to_pylist())
    assert found[0] == found[1]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 7
