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
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Generic, TypeVar

import pyarrow as pa
from tqdm import tqdm

from rotdata import shards
from rotdata.errors import Interrupted, OutputOccupied, RotError, ShardError, UsageError
from rotdata.output import replaceable

Job = TypeVar("Job")


_STOP_CHECK_S = 0.2
_MOST_PARTS = 99_999
_PART = re.compile(r"part-(\d{5})-of-(\d{5})")

_SMALLER = "a smaller --rows-per-shard makes smaller ones"


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
    halved: int = 0
    """Calls of the tower that were made in halves for lack of memory."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A shard on disk."""

    entry: shards.ShardEntry
    rejects: list[Refused]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Rows of a shard in hand that are past its slowest step."""

    shard: int
    rows: int
    """More of them than was said before."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a run did."""

    shards_made: int = 0
    """This time, those of an earlier run aside."""
    seconds: float = 0.0


Found = tuple[int, Written] | Progress
"""A shard by its index, or how far one is."""
Stopped = Callable[[], bool]
Work = Callable[[list[int], Stopped], Iterator[Found]]
"""Makes shards of the indices given, in any order, and ends early once asked to stop."""
Maker = Callable[[Iterator[Job], Stopped], Iterator[Found]]
"""Makes a shard of each job, and ends early once asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Mode:
    """How a run treats what it finds in its folder."""

    overwrite: bool = False
    """Remove what an earlier run made, instead of going on with it or refusing the folder."""
    retry_rejects: bool = False
    """Make shards again that refused rows."""
    part: tuple[int, int] | None = None
    """(i, n): make the i-th of n parts of the shards, in a folder of its own within the folder; see `merge`."""

    def __post_init__(self) -> None:
        """Raise UsageError for a part that there can't be."""
        if self.part is not None and not 1 <= self.part[0] <= self.part[1] <= _MOST_PARTS:
            raise UsageError(f"--shard I/N is 1/N to N/N, of at most {_MOST_PARTS} parts, got {self.part}")


RESUME = Mode()


def write(file: Path, made: Made) -> Written:
    """Write a shard whole or not at all."""
    stored = shards.write_shard(file.parent, file.name, made.table)
    entry = shards.ShardEntry(
        file=file.name,
        rows=made.table.num_rows,
        rejected=len(made.rejects),
        latents=made.latents,
        truncated=made.truncated,
        added=made.added,
        rounding=made.rounding,
        halved=made.halved,
        **asdict(stored),
    )
    return Written(entry=entry, rejects=made.rejects)


def place(out: Path, manifest: shards.Manifest, mode: Mode) -> Path:
    """The folder that a run writes: `out`, or that of its part, which the manifest then says. Raises OutputOccupied."""
    if mode.part is None:
        return out
    if shards.manifest_file(out).exists():
        raise OutputOccupied(
            f"{out} holds a whole run, merged already perhaps: leave --shard out, or choose another --out"
        )
    manifest.part = list(mode.part)
    return _folder(out, mode)


def earlier(out: Path, mode: Mode = RESUME) -> shards.Manifest | None:
    """What an earlier run has left for this one to go on with; None where there is nothing, or nothing readable."""
    try:
        return None if mode.overwrite else shards.Manifest.load(_folder(out, mode))
    except ShardError:  # the run itself will say so
        return None


def _folder(out: Path, mode: Mode) -> Path:
    """Where a run writes."""
    if mode.part is None:
        return out
    index, count = mode.part
    return out / f"part-{index:05d}-of-{count:05d}"


def merge(out: Path) -> shards.Manifest:
    """Join the parts in `out` into what one undivided run would have left there; interrupted, it goes on if run again.

    Raises ShardError for a part that is missing or not finished, UsageError for parts that do not belong together,
    OutputOccupied while one of them is written.
    """
    if not out.is_dir():
        raise UsageError(f"{out} is no folder: give the --out that the parts have in common")
    with shards.locked(out), ExitStack() as held:
        folders = sorted(path for path in out.iterdir() if _PART.fullmatch(path.name))
        for folder in folders:
            held.enter_context(shards.locked(folder))
        merged = shards.manifest_file(out).exists()
        if not folders and not merged:
            raise UsageError(f"{out} holds no parts: they are made with --shard 1/N to N/N")
        parts = {folder: shards.Manifest.load(folder) for folder in folders if shards.manifest_file(folder).exists()}
        whole = shards.Manifest.load(out) if merged else _joined(out, list(parts.values()))
        for folder, part in parts.items():
            if differences := replace(part, part=None).differences(replace(whole, part=None)):
                raise UsageError(f"{folder} is a part of another run; they differ in {'; '.join(differences[:5])}")
        if not merged:
            _move_up(out, parts)
            rejects = [reject for folder in parts for reject in shards.read_rejects(folder)]
            shards.write_rejects(out, sorted(rejects, key=lambda reject: reject["shard"]))
            whole.save(out)
        for folder in folders:
            shards.remove_leftovers(folder)
            shards.rejects_file(folder).unlink(missing_ok=True)
            shards.manifest_file(folder).unlink(missing_ok=True)
            folder.rmdir()
    return whole


def _joined(out: Path, parts: list[shards.Manifest]) -> shards.Manifest:
    """One manifest of all the parts'. Raises ShardError if they are not all there."""
    count = max(part.part[1] if part.part else 0 for part in parts)
    there = {part.part[0] for part in parts if part.part and part.part[1] == count}
    if missing := [index for index in range(1, count + 1) if index not in there]:
        listed = ", ".join(f"{index}/{count}" for index in missing[:10])
        raise ShardError(f"{out} lacks {len(missing)} parts: make them with --shard {listed}")
    if len(parts) != count:
        raise UsageError(f"{out} holds parts of different numbers: keep those of {count}, and remove the others")
    if open_ := [part.part for part in parts if not part.finished]:
        listed = ", ".join(f"{part[0]}/{part[1]}" for part in open_ if part)
        raise ShardError(f"{len(open_)} parts in {out} are not finished: run --shard {listed} again")
    entries = {index: entry for part in parts for index, entry in part.shards.items()}
    return replace(parts[0], part=None, shards=entries)


def _move_up(out: Path, parts: dict[Path, shards.Manifest]) -> None:
    """Move the parts' shards, as far as that is not done yet."""
    for folder, part in parts.items():
        for entry in part.entries:
            here = next((path for path in (folder / entry.file, out / entry.file) if path.exists()), None)
            size = here.stat().st_size if here else 0
            if here is None or size != entry.bytes:
                asked = f"{part.part[0]}/{part.part[1]}" if part.part else "that part"
                raise ShardError(
                    f"{folder / entry.file} has {size} bytes instead of {entry.bytes}: run --shard {asked} again"
                )
            if here.parent == folder:
                here.replace(replaceable(out / entry.file))


def run(out: Path, manifest: shards.Manifest, work: Work, *, mode: Mode = RESUME, verb: str) -> Ran:
    """Make the shards that `out` lacks.

    Raises OutputOccupied, Interrupted when asked to stop, FolderUnwritable for a full disk or a folder that is read
    only. What is whole by then is kept.
    """
    started = time.monotonic()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with shards.locked(out), _stop_requests() as stopped:
            _open_folder(out, manifest, mode)
            before = len(manifest.shards)
            try:
                _make(out, manifest, work, stopped, verb)
            except BaseException:
                shards.remove_leftovers(out)
                raise
    except OSError as error:
        if problem := shards.unwritable(out, error.errno, too_large=_SMALLER):
            raise problem from error
        raise
    return Ran(shards_made=len(manifest.shards) - before, seconds=time.monotonic() - started)


def _make(out: Path, manifest: shards.Manifest, work: Work, stopped: Stopped, verb: str) -> None:
    rejects = [reject for reject in shards.read_rejects(out) if reject["shard"] in manifest.shards]
    pending = [index for index in manifest.planned if index not in manifest.shards]
    rows = manifest.plan.rows_in * len(manifest.planned) // manifest.plan.num_shards  # of a part: about as many
    in_hand: Counter[int] = Counter()
    with tqdm(total=rows, initial=manifest.rows_done, unit="row", desc=verb, disable=None) as bar:
        for found in work(pending, stopped):
            if isinstance(found, Progress):
                in_hand[found.shard] += found.rows
                bar.update(found.rows)
                continue
            index, written = found
            refused = [{"shard": index, "id": each.id, "reason": each.reason} for each in written.rejects]
            rejects = sorted(rejects + refused, key=lambda reject: reject["shard"])
            shards.write_rejects(out, rejects)
            manifest.shards[index] = replace(written.entry, rejects_sha256=shards.rejects_sha256(refused))
            manifest.save(out)
            del in_hand[index]
            bar.update(manifest.rows_done + in_hand.total() - bar.n)
    if stopped() and not manifest.finished:
        done, planned = len(manifest.shards), len(manifest.planned)
        raise Interrupted(f"stopped after {done} of {planned} shards; the same command resumes {out}")


def here(maker: Maker[Job], job: Callable[[int], Job]) -> Work:
    """Work done in this process; `job` says of a shard's index what the maker is to be told."""

    def work(pending: list[int], stopped: Stopped) -> Iterator[Found]:
        return maker(map(job, pending), stopped)

    return work


@dataclass(frozen=True, kw_only=True)
class Workers(Generic[Job]):
    """Work done by several processes, which end with this one however it ends."""

    makers: Sequence[Maker[Job]]
    """One a process; sent by pickling."""
    job: Callable[[int], Job]
    """What a process is told of shard `index`; called in this process, in order."""
    ahead: int = 1
    """Jobs that a process is given beyond the one that it must give back first."""

    def __call__(self, pending: list[int], stopped: Stopped) -> Iterator[Found]:
        """Shards as they come. Raises WorkerDied, and what a process raised."""
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        halt = context.Event()
        todo = iter(pending)
        team: dict[Connection, BaseProcess] = {}
        try:
            for maker in self.makers:
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, maker, halt.is_set), daemon=True)
                process.start()
                theirs.close()
                team[ours] = process
            for _ in range(1 + self.ahead):
                for connection in team:
                    self._hand_out(connection, todo, halt.is_set)
            busy = set(team)
            while busy:
                for ready in wait(list(busy), timeout=_STOP_CHECK_S):
                    assert isinstance(ready, Connection)
                    found = self._hear(ready, todo, halt.is_set)
                    if found is None:
                        busy.discard(ready)
                    else:
                        yield found
                if stopped():
                    halt.set()
        finally:
            for worker in team.values():
                if worker.is_alive():
                    worker.kill()
                worker.join()

    def _hear(self, connection: Connection, todo: Iterator[int], stopped: Stopped) -> Found | None:
        """What a process has to say; for a shard it gets its next job."""
        found = _receive(connection)
        if isinstance(found, tuple):
            self._hand_out(connection, todo, stopped)
        return found

    def _hand_out(self, connection: Connection, todo: Iterator[int], stopped: Stopped) -> None:
        """Send the next job, or that there is none."""
        index = None if stopped() else next(todo, None)
        with suppress(OSError):  # a process that is gone shows when its answer is read
            connection.send(None if index is None else self.job(index))


def _receive(connection: Connection) -> Found | None:
    """A shard that a process has written, or how far one is; None if it is at its end."""
    try:
        found = connection.recv()
    except (EOFError, OSError) as error:
        raise WorkerDied(
            "a worker process died, out of memory perhaps: the same command resumes, with a smaller --num-proc "
            "or --rows-per-shard if it dies again"
        ) from error
    if isinstance(found, Exception):
        raise found
    assert found is None or isinstance(found, (tuple, Progress))
    return found


def _work(connection: Connection, maker: Maker[Job], stopped: Stopped) -> None:
    """A worker process: jobs in, shards out, None or an error at the end."""
    _become_worker()
    try:
        for found in maker(iter(connection.recv, None), stopped):
            connection.send(found)
    except Exception as error:  # noqa: BLE001 -- the parent raises it
        with suppress(OSError):
            connection.send(error)
    else:
        connection.send(None)


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


def _open_folder(out: Path, manifest: shards.Manifest, mode: Mode) -> None:
    """Take over the finished shards of an earlier run of the same thing, or refuse the folder."""
    ours = shards.manifest_file(out).exists()
    if not ours and any(not shards.is_leftover(path) for path in out.iterdir()):
        if any(_PART.fullmatch(path.name) for path in out.iterdir()):
            raise OutputOccupied(f"{out} holds parts of a run: join them with `rotdata merge {out}`")
        raise OutputOccupied(f"{out} holds files but no {shards.MANIFEST}: choose an empty or new folder for --out")
    shards.remove_leftovers(out)
    if ours and mode.overwrite:
        shards.clear(out)
    elif ours:
        earlier = shards.Manifest.load(out)
        if differences := manifest.differences(earlier):
            raise OutputOccupied(
                f"{out} holds another run; this run and that differ in {'; '.join(differences[:5])}: "
                "choose another --out, or --overwrite"
            )
        refused = shards.rejects_by_shard(shards.read_rejects(out))
        manifest.shards = {
            index: entry
            for index, entry in earlier.shards.items()
            if not (mode.retry_rejects and entry.rejected)
            and shards.rejects_sha256(refused[index]) == entry.rejects_sha256
            and shards.intact(out, entry)
        }
    manifest.save(out)


@contextmanager
def _stop_requests() -> Iterator[Stopped]:
    """Turn the first SIGTERM or SIGINT into a request to stop after the shards in hand; a second one stops at once."""
    requested = False

    def request(number: int, frame: FrameType | None) -> None:
        nonlocal requested
        if requested:
            signal.default_int_handler(number, frame)
        requested = True
        with suppress(OSError):  # not print: the signal may have come amid another one
            os.write(2, b"\nstopping once the shards in hand are finished; to stop at once, ask again\n")

    try:
        previous = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        previous = {}
    try:
        yield lambda: requested
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
