"""Kills at any moment, full disks and folders that can't be written: nothing is lost, and the same command goes on."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rotdata.corpora import Source
from rotdata.errors import FolderUnwritable
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.shards import MANIFEST, Manifest
from tests.helpers import REPOSITORY, StandInEncoder, contents

STYLE = StripStyle()
LONG = Source(location="toy", corpus="toy", limit=400)

CHILDREN = """
import os, sys
import torch
from pathlib import Path
from rotdata.runs import pipeline
from rotdata.corpora import Source
from rotdata.encoders import LazyEncoder, Placement
from rotdata.encoders.models import find_model
from rotdata.rendering.strips import StripStyle

torch.set_num_threads(1)
strips, model, out = map(Path, sys.argv[1:4])
encoder = LazyEncoder(find_model(str(model)), Placement())
encoder.geometry, encoder.identity

def render():
    pipeline.render(Source(location="toy", corpus="toy", limit=400), StripStyle(), out / "strips", rows_per_shard=8)

def embed():
    pipeline.embed(strips, encoder, out / "embedded")

for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            {"render": render, "embed": embed}[line.strip()]()
        finally:
            os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""
"""Runs a step for each line on stdin, in a child that begins with everything imported."""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_ends_in_the_same_bytes(tiny_folder: Path, tmp_path: Path) -> None:
    pipeline.render(LONG, STYLE, tmp_path / "whole" / "strips", rows_per_shard=8)
    undisturbed = tmp_path / "whole"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILDREN, undisturbed / "strips", tiny_folder]
    rng = random.Random(0)
    kills = {"render": 0, "embed": 0}

    @contextmanager
    def children(out: Path) -> Iterator[Callable[..., bool]]:
        """Run a step in a child; whether it was killed."""
        with subprocess.Popen(
            [*command, out],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdin
            assert process.stdout
            writing, reading = process.stdin, process.stdout

            def run(step: str, kill_after_s: float | None = None) -> bool:
                writing.write(f"{step}\n")
                writing.flush()
                child = int(reading.readline())
                if kill_after_s is not None:
                    time.sleep(kill_after_s)
                    os.kill(child, signal.SIGKILL)
                return os.WIFSIGNALED(int(reading.readline()))

            yield run
            writing.close()

    with children(undisturbed) as run:
        assert not run("embed")
    out = tmp_path / "killed"
    with children(out) as run:
        for step, folder in (("render", "strips"), ("embed", "embedded")):
            while kills[step] < 12:
                killed = run(step, rng.uniform(0.005, 0.25))
                kills[step] += killed
                if (out / folder / MANIFEST).exists() and Manifest.load(out / folder).finished:
                    assert contents(out / folder) == contents(undisturbed / folder)
                    shutil.rmtree(out / folder)
            assert not run(step)
            assert contents(out / folder) == contents(undisturbed / folder)
    assert sum(kills.values()) >= 20


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process grows beyond that: a disk that fills up, as far as the process can tell."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)


def test_a_file_that_may_not_grow_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    pipeline.render(LONG, STYLE, tmp_path / "whole", rows_per_shard=50)
    with files_of_at_most(20_000), pytest.raises(FolderUnwritable, match=r"File too large.*ulimit -f"):
        pipeline.render(LONG, STYLE, tmp_path / "out", rows_per_shard=50)
    assert not [name for name in contents(tmp_path / "out") if name.endswith(".tmp")]
    pipeline.render(LONG, STYLE, tmp_path / "out", rows_per_shard=50)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def fill(disk: Path, like: Path) -> Path:
    """Leave on a disk about half of the room that a folder takes."""
    pages = sum(-(-path.stat().st_size // 4096) for path in like.iterdir())
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - 4096 * pages // 2))
    return filler


def test_a_full_disk_is_an_error_with_a_remedy_and_what_is_whole_stays(small_disk: Path, tmp_path: Path) -> None:
    pipeline.render(LONG, STYLE, tmp_path / "whole", rows_per_shard=20)
    out = small_disk / "out"
    filler = fill(small_disk, tmp_path / "whole")
    with pytest.raises(
        FolderUnwritable, match="No space left on device.*free some space, and run the same command again"
    ):
        pipeline.render(LONG, STYLE, out, rows_per_shard=20)
    found = Manifest.load(out)
    assert 0 < len(found.shards) < found.plan.num_shards
    assert not [name for name in contents(out) if name.endswith(".tmp")]
    filler.unlink()
    pipeline.render(LONG, STYLE, out, rows_per_shard=20)
    assert contents(out) == contents(tmp_path / "whole")


def test_embedding_onto_a_full_disk_keeps_what_is_whole(small_disk: Path, tmp_path: Path) -> None:
    pipeline.render(LONG, STYLE, tmp_path / "strips", rows_per_shard=20)
    encoder = StandInEncoder(width=64)
    pipeline.embed(tmp_path / "strips", encoder, tmp_path / "whole")
    filler = fill(small_disk, tmp_path / "whole")
    with pytest.raises(FolderUnwritable, match="No space left on device"):
        pipeline.embed(tmp_path / "strips", encoder, small_disk / "out")
    assert 0 < len(Manifest.load(small_disk / "out").shards) < 20
    filler.unlink()
    pipeline.embed(tmp_path / "strips", encoder, small_disk / "out")
    assert contents(small_disk / "out") == contents(tmp_path / "whole")


def test_a_folder_that_is_read_only_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=256k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a tmpfs can't be mounted here")
    try:
        with pytest.raises(FolderUnwritable, match="Read-only file system.*choose an --out that can be written"):
            pipeline.render(LONG, STYLE, tmp_path / "out")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
