"""The Ray engine, on a real local Ray of two workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from rotdata import pipeline, runs
from rotdata.cluster import RayWork
from rotdata.embedding import EmbedJob, EmbedSettings, EmbedShards
from rotdata.encoders import LazyEncoder, Placement
from rotdata.errors import ShardError
from rotdata.models import find_model
from rotdata.runs import WorkerDied
from rotdata.shards import Manifest
from tests.helpers import Result, contents

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[None]:
    import ray.data

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def local(toy_strips: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    """What the local engine makes with one thread."""
    threads = torch.get_num_threads()
    try:
        pipeline.embed(toy_strips, encoder(tiny_folder), tmp_path / "local")
    finally:
        torch.set_num_threads(threads)
    return tmp_path / "local"


def encoder(folder: Path) -> LazyEncoder:
    return LazyEncoder(find_model(str(folder)), Placement(), threads=1)


def test_the_cluster_makes_the_bytes_of_the_local_engine_and_resumes(
    two_workers: None,
    toy_strips: Path,
    tiny_folder: Path,
    local: Path,
    tmp_path: Path,
    run_rotdata: Callable[..., Result],
) -> None:
    out = tmp_path / "out"
    options = ("--model", tiny_folder, "--device", "cpu", "--dtype", "float32", "--threads", 1)
    command = ("embed", toy_strips, *options, "--engine", "ray", "--num-proc", 2, "--out", out)
    result = run_rotdata(*command)
    assert result.code == 0, result.err
    assert contents(out) == contents(local)
    first, *_ = sorted(out.glob("*.parquet"))
    first.unlink()
    assert run_rotdata(*command).code == 0
    assert contents(out) == contents(local)


def test_errors_and_stops_reach_the_run(
    two_workers: None, toy_strips: Path, tiny_folder: Path, local: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    manifest = pipeline.plan_embed(toy_strips, encoder(tiny_folder))
    origin = Manifest.load(toy_strips)

    def work(strips: Path) -> RayWork[EmbedJob]:
        def job(index: int) -> EmbedJob:
            return EmbedJob(index, origin.shards[index], out / manifest.shard_file(index))

        maker: Any = EmbedShards(strips=strips, encoder=encoder(tiny_folder), settings=EmbedSettings())
        return RayWork(maker=maker, job=job, actors=1)

    with pytest.raises(ShardError, match="can't be read"):
        list(work(tmp_path / "nowhere")([0, 1, 2], lambda: False))
    assert list(work(toy_strips)([], lambda: False)) == []
    runs.run(out, manifest, work(toy_strips), verb="embed")
    assert contents(out) == contents(local)


def nothing_yet(jobs: Iterator[int], stopped: Callable[[], bool]) -> Iterator[tuple[int, None]]:
    for job in jobs:
        yield job, None


def test_nothing_is_begun_once_asked_to_stop(two_workers: None) -> None:
    found: list[int] = []
    work: Any = RayWork(maker=nothing_yet, job=lambda index: index, actors=1)
    for index, _ in work(list(range(300)), lambda: bool(found)):
        found.append(index)
    assert found[0] == 0
    assert len(found) < 300


def first_fails(jobs: Iterator[int], stopped: Callable[[], bool]) -> Iterator[tuple[int, None]]:
    for job in jobs:
        if job == 0:
            raise ShardError("shard 0 can't be made")
        time.sleep(1)
        yield job, None


def test_what_others_have_in_hand_when_one_fails_is_kept(two_workers: None) -> None:
    work: Any = RayWork(maker=first_fails, job=lambda index: index, actors=2)
    found: list[int] = []
    with pytest.raises(ShardError, match="shard 0"):
        found.extend(index for index, _ in work(list(range(100)), lambda: False))
    assert 0 < len(found) < 99


def kills_its_actor(jobs: Iterator[int], stopped: Callable[[], bool]) -> Iterator[tuple[int, None]]:
    for _ in jobs:
        os._exit(1)
    yield 0, None


def test_a_shard_that_kills_its_actors_is_given_up(two_workers: None) -> None:
    work: Any = RayWork(maker=kills_its_actor, job=lambda index: index, actors=1)
    with pytest.raises(WorkerDied, match="shard 0 ended its worker 3 times"):
        list(work([0], lambda: False))


def test_a_run_says_that_no_host_can_hold_an_actor(
    two_workers: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Any = RayWork(maker=nothing_yet, job=lambda index: index, actors=1, gpus=1)
    work._look_for_room(ray)
    assert "1 CPU, 1 GPU" in capsys.readouterr().err
    RayWork(maker=nothing_yet, job=lambda index: index, actors=1)._look_for_room(ray)
    assert not capsys.readouterr().err


def await_reader(fifo: Path, run: subprocess.Popen[bytes]) -> int:
    """The writing end of a named pipe, once the run has come to read it."""
    while run.poll() is None:
        with suppress(OSError):  # nobody reads it yet
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        time.sleep(0.05)
    raise AssertionError(run.communicate())


def test_sigterm_finishes_the_shards_in_hand_and_the_command_resumes(
    two_workers: None,
    toy_strips: Path,
    tiny_folder: Path,
    local: Path,
    tmp_path: Path,
    run_rotdata: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strips = Path(shutil.copytree(toy_strips, tmp_path / "strips"))
    _, second, _ = sorted(strips.glob("*.parquet"))
    content = second.read_bytes()
    second.unlink()
    os.mkfifo(second)  # the run has this shard in hand until it is told what is in it
    options = f"--model {tiny_folder} --device cpu --dtype float32 --threads 1 --engine ray --num-proc 1 --out out"
    arguments = ["embed", "strips", *options.split()]  # a relative --out
    command = [sys.executable, "-m", "rotdata", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as run:
        assert run.stderr
        with open(await_reader(second, run), "wb") as pipe:
            run.terminate()
            assert any(b"begins no further shard" in line for line in run.stderr)
            pipe.write(content)
        _, said = run.communicate()
    assert run.returncode == 130, said
    assert b"stopped after 2 of 3 shards; the same command resumes" in said
    second.unlink()
    second.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert run_rotdata(*arguments).code == 0
    assert contents(tmp_path / "out") == contents(local)
