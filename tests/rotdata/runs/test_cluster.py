"""The Ray engine, on a real local Ray of two workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from rotdata.encoders import LazyEncoder, Placement
from rotdata.encoders.models import find_model
from rotdata.errors import ShardError, ShardMismatch
from rotdata.runs import cluster, pipeline
from rotdata.runs.cluster import RayWork
from rotdata.runs.embedding import EmbedJob, EmbedSettings, EmbedShards
from rotdata.runs.resumable import WorkerDied
from rotdata.shards import Manifest
from tests import workers
from tests.helpers import Result, StandInEncoder, contents

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

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # 15 by default: beside other tests they would hardly ever run
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 << 20, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def local(toy_strips: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the local engine makes with one thread."""
    out = tmp_path_factory.mktemp("embedded") / "local"
    threads = torch.get_num_threads()
    try:
        pipeline.embed(toy_strips, LazyEncoder(find_model(str(tiny_folder)), Placement(), threads=1), out)
    finally:
        torch.set_num_threads(threads)
    return out


def counting(maker: Any, *, actors: int = 1) -> Any:
    """Work whose shards are numbers."""
    return RayWork(maker=maker, job=lambda index: index, actors=actors)


def test_the_cluster_makes_the_bytes_of_the_local_engine(
    two_workers: None,
    toy_strips: Path,
    tiny_folder: Path,
    local: Path,
    tmp_path: Path,
    run_rotdata: Callable[..., Result],
) -> None:
    out = tmp_path / "out"
    options = ("--model", tiny_folder, "--device", "cpu", "--dtype", "float32", "--threads", 1)
    result = run_rotdata("embed", toy_strips, *options, "--engine", "ray", "--num-proc", 2, "--out", out)
    assert result.code == 0, result.err
    assert contents(out) == contents(local)


def test_the_cluster_makes_the_bytes_of_latents_of_their_own(
    two_workers: None, toy_cells: Path, toy_alone: Path, tmp_path: Path
) -> None:
    settings = EmbedSettings(context="latent")
    pipeline.embed(
        toy_cells, StandInEncoder(), tmp_path / "out", settings=settings, team=[StandInEncoder()] * 2, engine="ray"
    )
    assert contents(tmp_path / "out") == contents(toy_alone)


def test_a_lost_shard_is_made_again(two_workers: None, toy_strips: Path, toy_embeddings: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(toy_embeddings, tmp_path / "out"))
    first, *_ = sorted(out.glob("*.parquet"))
    first.unlink()
    pipeline.embed(toy_strips, StandInEncoder(), out, engine="ray")
    assert contents(out) == contents(toy_embeddings)


def test_errors_reach_the_run(two_workers: None, toy_strips: Path, tmp_path: Path) -> None:
    origin = Manifest.load(toy_strips)
    maker: Any = EmbedShards(strips=tmp_path / "nowhere", encoder=StandInEncoder(), settings=EmbedSettings())
    work = RayWork(
        maker=maker, job=lambda index: EmbedJob(index, origin.shards[index], tmp_path / f"{index}"), actors=1
    )
    with pytest.raises(ShardError, match="holds no _manifest.json"):
        list(work([0, 1, 2], lambda: False))
    assert list(work([], lambda: False)) == []


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that gets a file "gate" once the cluster is known to begin no further shard."""

    def said(message: str) -> None:
        assert message.startswith("the cluster begins no further shard")
        (tmp_path / "gate").touch()

    monkeypatch.setattr(cluster, "say", said)
    return tmp_path


def test_nothing_is_begun_once_asked_to_stop(two_workers: None, gate: Path) -> None:
    found: list[int] = []
    for index, _ in counting(partial(workers.hold, folder=gate))(list(range(9)), lambda: bool(found)):
        found.append(index)
    assert len(found) in {1, 2}  # two if another one was begun before the stop


def test_what_others_have_in_hand_when_one_fails_is_kept(two_workers: None, gate: Path) -> None:
    found: list[int] = []
    work = counting(partial(workers.fail, folder=gate), actors=2)
    with pytest.raises(ShardMismatch, match="can't be made"):
        found.extend(index for index, _ in work(list(range(30)), lambda: False))
    assert len(found) in {1, 2}  # two if the actor that failed was given another before that was known


def test_a_shard_that_kills_its_actors_is_given_up(two_workers: None) -> None:
    with pytest.raises(WorkerDied, match="shard 0 ended its worker 3 times"):
        list(counting(workers.die_at_work)([0], lambda: False))


def test_a_run_says_that_no_host_can_hold_an_actor(two_workers: None, capsys: pytest.CaptureFixture[str]) -> None:
    RayWork(maker=workers.die, job=lambda index: index, actors=1, gpus=1)._look_for_room(ray)
    assert "1 CPU, 1 GPU" in capsys.readouterr().err
    counting(workers.die)._look_for_room(ray)
    assert not capsys.readouterr().err


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the test, however that ends."""
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE) as run:
        try:
            yield run
        finally:
            run.kill()


def await_reader(pipes: Iterable[Path], run: subprocess.Popen[bytes]) -> tuple[Path, int]:
    """The first of some named pipes that the run comes to read, and its writing end."""
    while run.poll() is None:
        for pipe in pipes:
            with suppress(OSError):  # nobody reads it yet
                return pipe, os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
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
    stored = {file: file.read_bytes() for file in strips.glob("*.parquet")}
    for file in stored:
        file.unlink()
        os.mkfifo(file)  # the run has a shard in hand until it is told what is in it
    options = f"--model {tiny_folder} --device cpu --dtype float32 --threads 1 --engine ray --num-proc 1 --out out"
    arguments = ["embed", "strips", *options.split()]  # a relative --out
    with running([sys.executable, "-m", "rotdata", *arguments], tmp_path) as run:
        assert run.stderr
        in_hand, end = await_reader(stored, run)
        with os.fdopen(end, "wb") as pipe:
            run.terminate()
            assert any(b"begins no further shard" in line for line in run.stderr)
            pipe.write(stored[in_hand])
        _, said = run.communicate()
    assert run.returncode == 130, said
    assert b"stopped after 1 of 3 shards; the same command resumes" in said
    for file, content in stored.items():
        file.unlink()
        file.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert run_rotdata(*arguments).code == 0
    assert contents(tmp_path / "out") == contents(local)
