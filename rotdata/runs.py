"""Resumable runs over a plan of shards: what is done is kept, what is missing is made, in this process or in several.

A run fixes its plan in the manifest and enters each shard once its file is on disk. The same command run again skips
what manifest and file agree on, so a run can be stopped anywhere and loses the shards in hand at most.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

import pyarrow as pa
from tqdm import tqdm

from rotdata import shards
from rotdata.errors import Interrupted, OutputOccupied, RotError

Job = TypeVar("Job")


class WorkerDied(RotError):
    """A worker process ended without a word."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A row that a shard does not hold, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Made:
    """The contents of one shard."""

    table: pa.Table
    latents: int
    rejects: list[Refused] = field(default_factory=list)
    truncated: int = 0
    """Rows of which only the beginning was drawn."""
    added: int = 0
    """Rows beyond one a source row, since some were split."""
    rounding: float = 0.0
    """Of embeddings: what storing them changed, relative."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A shard on disk."""

    entry: shards.ShardEntry
    rejects: list[Refused]


Stopped = Callable[[], bool]
Work = Callable[[list[int], Stopped], Iterator[tuple[int, Written]]]
"""Makes shards of the indices given, in any order, and ends early once asked to stop."""


def write(out: Path, file: str, made: Made) -> Written:
    """Write a shard whole or not at all."""
    stored = shards.write_shard(out, file, made.table)
    entry = shards.ShardEntry(
        file=file,
        rows=made.table.num_rows,
        rejected=len(made.rejects),
        latents=made.latents,
        bytes=stored.bytes,
        sha256=stored.sha256,
        row_groups=stored.row_groups,
        truncated=made.truncated,
        added=made.added,
        rounding=made.rounding,
    )
    return Written(entry=entry, rejects=made.rejects)


def run(out: Path, manifest: shards.Manifest, work: Work, *, overwrite: bool, verb: str) -> float:
    """Make the shards that `out` lacks; the seconds it took. Raises OutputOccupied, Interrupted when asked to stop."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with shards.locked(out), _stop_requests() as stopped:
        _open_folder(out, manifest, overwrite=overwrite)
        rejects = [reject for reject in shards.read_rejects(out) if reject["shard"] in manifest.shards]
        pending = [index for index in range(manifest.plan.num_shards) if index not in manifest.shards]
        bar = tqdm(total=manifest.plan.rows_in, initial=manifest.rows_done, unit="row", desc=verb, disable=None)
        with bar:
            for index, written in work(pending, stopped):
                refused = [{"shard": index, "id": each.id, "reason": each.reason} for each in written.rejects]
                rejects = sorted(rejects + refused, key=lambda reject: reject["shard"])
                shards.write_rejects(out, rejects)
                manifest.shards[index] = replace(written.entry, rejects_sha256=shards.rejects_sha256(refused))
                manifest.save(out)
                bar.update(manifest.rows_done - bar.n)
        if stopped() and not manifest.finished:
            done, planned = len(manifest.shards), manifest.plan.num_shards
            raise Interrupted(f"stopped after {done} of {planned} shards; the same command resumes {out}")
    return time.monotonic() - started


def here(make: Callable[[int], Written]) -> Work:
    """Work done in this process, shard after shard."""

    def work(pending: list[int], stopped: Stopped) -> Iterator[tuple[int, Written]]:
        for index in pending:
            yield index, make(index)
            if stopped():
                return

    return work


@dataclass(frozen=True, kw_only=True)
class Pool(Generic[Job]):
    """Work done by several processes, which end with this one however it ends."""

    num_proc: int
    job: Callable[[int], Job]
    """What a process is told of shard `index`; called in this process, in order."""
    make: Callable[[Job], Written]
    """What it does then; a function of a module, since it is sent by name."""

    def __call__(self, pending: list[int], stopped: Stopped) -> Iterator[tuple[int, Written]]:
        """Shards in their order. At most two jobs a process are held at once. Raises WorkerDied."""
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        waiting: deque[tuple[int, Future[Written]]] = deque()
        todo = iter(pending)
        with ProcessPoolExecutor(self.num_proc, mp_context=context, initializer=_become_worker) as pool:
            try:
                while True:
                    room = 0 if stopped() else 2 * self.num_proc - len(waiting)
                    for index in islice(todo, room):
                        waiting.append((index, pool.submit(self.make, self.job(index))))
                    if not waiting:
                        return
                    index, future = waiting.popleft()
                    yield index, future.result()
            except BrokenProcessPool as error:
                raise WorkerDied(
                    "a worker process died, out of memory perhaps: the same command resumes, with a smaller --num-proc "
                    "or --rows-per-shard if it dies again"
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)


def _become_worker() -> None:
    """Leave signals to the parent, which lets shards in hand be finished, and end when it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _open_folder(out: Path, manifest: shards.Manifest, *, overwrite: bool) -> None:
    """Take over the finished shards of an earlier run of the same thing, or refuse the folder."""
    ours = (out / shards.MANIFEST).exists()
    if not ours and any(not _is_leftover(path) for path in out.iterdir()):
        raise OutputOccupied(f"{out} holds files but no {shards.MANIFEST}: choose an empty or new folder for --out")
    for leftover in filter(_is_leftover, out.iterdir()):
        leftover.unlink()
    if ours and overwrite:
        _clear(out)
    elif ours:
        earlier = shards.Manifest.load(out)
        if differences := manifest.differences(earlier):
            raise OutputOccupied(
                f"{out} holds another run; this run and that differ in {'; '.join(differences[:5])}: "
                "choose another --out, or --overwrite"
            )
        refused = defaultdict(list)
        for reject in shards.read_rejects(out):
            refused[reject["shard"]].append(reject)
        manifest.shards = {
            index: entry
            for index, entry in earlier.shards.items()
            if shards.rejects_sha256(refused[index]) == entry.rejects_sha256 and shards.intact(out, entry)
        }
    manifest.save(out)


def _clear(out: Path) -> None:
    """Remove what an earlier run made: the manifest last, so that an interrupted removal is still recognised."""
    for path in out.iterdir():
        if re.search(r"-\d{5}-of-\d{5}\.parquet$", path.name):
            path.unlink()
    (out / shards.REJECTS).unlink(missing_ok=True)
    (out / shards.MANIFEST).unlink()


def _is_leftover(path: Path) -> bool:
    """Whether a file is what a killed run left half written."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


@contextmanager
def _stop_requests() -> Iterator[Stopped]:
    """Turn the first SIGTERM or SIGINT into a request to stop after the shard in hand; a second one stops at once."""
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            signal.default_int_handler(number, frame)
        requested = True

    try:
        previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        previous = {}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
