"""Training and evaluation in two processes on one machine: what one process does, with twice the batch."""

from __future__ import annotations

import json
import os
import re
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

from rottrain.model.checkpoints import HEAD, LANGUAGE
from rottrain.training.states import complete_states
from tests.helpers import REPOSITORY, Result, contents, write_jsonl
from tests.rottrain import held, sharded
from tests.rottrain.samples import SUMS

pytestmark = pytest.mark.slow
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


ACCELERATE = (
    sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--num_processes", "2",
    "--main_process_port", "0",
)  # fmt: skip

STEPS = 4


@pytest.fixture(scope="module")
def stage1(embedded: Path, tiny_folder: Path) -> tuple[object, ...]:
    """Arguments of rottrain, batches and --out aside."""
    recipe = ("--recipe", "paper", "--rollout", "teacher", "--lr", 1e-3, "--align-weight", 0.1, "--log-steps", 1)
    steps = ("--limit", 8, "--max-steps", STEPS)
    return ("stage1", "--shards", embedded, "--model", tiny_folder, *recipe, *steps, "--json")


def launch(*arguments: object, program: str = "rottrain", launcher: tuple[str, ...] = TWO) -> Any:
    """Two processes of a program."""
    return subprocess.Popen(
        [*launcher, "-m", program, *map(str, arguments)],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object, **launched: Any) -> Result:
    """What two processes of rottrain leave behind."""
    process = launch(*arguments, **launched)
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


def test_accelerate_launches_what_torchrun_does(
    two: tuple[Path, Result], stage1: tuple[object, ...], tmp_path: Path
) -> None:
    run(*stage1, "--batch-size", 2, "--out", tmp_path / "out", launcher=(*ACCELERATE, "--multi_gpu"))
    assert contents(tmp_path / "out") == contents(two[0])


def test_fsdp_that_accelerate_does_not_give_is_refused(stage1: tuple[object, ...], tmp_path: Path) -> None:
    process = launch(
        *stage1, "--batch-size", 2, "--out", tmp_path / "out",
        launcher=(*ACCELERATE, "--use_fsdp", "--fsdp_version", "2"),
    )  # fmt: skip
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "error: accelerate has FSDP for GPUs alone" in err


def test_muon_is_refused_where_matrices_are_cut(stage1: tuple[object, ...], tmp_path: Path) -> None:
    process = launch(*stage1, "--optimizer", "muon", "--out", tmp_path / "out", program=sharded.__name__)
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "error: muon takes steps of whole matrices" in err


def test_weights_cut_by_fsdp_learn_what_whole_ones_do_and_resume(
    stage1: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (*stage1, "--batch-size", 2, "--trainable", "full", "--validation-rows", 2, "--validation-steps", 2)
    whole = run(*options, "--out", tmp_path / "whole")
    cut = run(*options, "--out", tmp_path / "cut", program=sharded.__name__)
    told = [[line for line in losses(each) if " of " in line] for each in (whole, cut)]
    numbers = [[float(number) for line in lines for number in re.findall(r"\d+\.\d+", line)] for lines in told]
    assert numbers[1] == pytest.approx(numbers[0], rel=2e-3)  # gradients are summed in another order
    assert len(told[1]) == STEPS
    left, right = (load_file(tmp_path / name / LANGUAGE) for name in ("whole", "cut"))
    assert {name: value.shape for name, value in left.items()} == {name: value.shape for name, value in right.items()}
    again = (*options, "--save-steps", 1, "--out", tmp_path / "again")
    monkeypatch.setenv(sharded.HELD, "1")
    with launch(*again, program=sharded.__name__) as process:
        while len(complete_states(tmp_path / "again")) < held.STEP - 1:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=100)
    [*_, state] = complete_states(tmp_path / "again")
    assert state.name == f"checkpoint-{held.STEP}"
    monkeypatch.delenv(sharded.HELD)
    run(*again, program=sharded.__name__)
    assert contents(tmp_path / "again") == contents(tmp_path / "cut")


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
