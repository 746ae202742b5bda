"""The Ray engine, on a real local Ray of two workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
