"""`python -m tests.fresh_embeds STRIPS OUT N [OPTIONS OF EMBED]`: N fresh processes of `rotdata embed`, on busy cores.

It prints how often each different set of shards came out; all are the same. The test of it takes a few processes; the
fault that it was written for showed in two of 24 with 600 rows of GSM8K in shards of 40.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import contents, run_installed


@contextmanager
def busy_cores() -> Iterator[None]:
    """Have as many processes as there are cores compute, until the end."""
    spawning = multiprocessing.get_context("spawn")
    team = [spawning.Process(target=_compute, daemon=True) for _ in range(os.cpu_count() or 1)]
    for each in team:
        each.start()
    try:
        yield
    finally:
        for each in team:
            each.kill()
            each.join()


def _compute() -> None:
    while True:
        sum(range(10_000))


def embed_afresh(strips: Path, out: Path, count: int, options: Sequence[object]) -> Counter[tuple[bytes, ...]]:
    """How often each different set of shards came out of that many processes."""
    found: Counter[tuple[bytes, ...]] = Counter()
    with busy_cores():
        for _ in range(count):
            result = run_installed("rotdata", "embed", strips, "--out", out, *options, OMP_NUM_THREADS="2")
            assert result.code == 0, result.err
            found[tuple(data for _, data in sorted(contents(out).items()))] += 1
            shutil.rmtree(out)
    return found


if __name__ == "__main__":
    found = embed_afresh(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    print(f"{len(found)} different sets of shards, {', '.join(map(str, found.values()))} times")
