"""Strip shards -> embedding shards, so that the tower never waits: a shard is read ahead of it, and written behind it.

Three stages a shard, each in threads of its own: read (hash, decode, form calls), launch the calls (in the thread that
asks for the shards), collect and write. What a shard holds does not depend on which shards are made beside it.

Shapes: H picture height, W its width, K its latents, D embedding width.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from rotdata import shards
from rotdata.encoders import CPU_PATCHES_PER_CALL, CallTooLarge, Encoder, Kernel
from rotdata.encoders.patches import GeometryError, ResizeLimits, calls, latent_pictures, reference_resize
from rotdata.errors import UsageError
from rotdata.rendering.png import decode_png
from rotdata.runs import resumable
from rotdata.shards.targets import Context, TargetSettings, TooManyLatents, quantise, restore, shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Collect = Callable[[], list[NDArray[np.float32]]]

_READ_AHEAD = max(1, min(4, (os.cpu_count() or 1) // 4))
"""Shards read, or being read, and waiting for the tower."""
_WRITERS = max(1, min(8, (os.cpu_count() or 1) // 2))
IN_FLIGHT = 2 * _READ_AHEAD + _WRITERS + 2
"""Shards begun and not given back, at most."""
_PATCHES_ALONE = 1024
"""Of one call of latents' own pictures, at most: those that a shard lacks are few, and its last call is filled up."""
_FILLING = b""
"""Name of what fills up a call."""
_BOOK_BYTES = 256 << 20
"""Of latents that a process keeps for shards to come."""


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """What decides the embeddings of a strip beside the encoder."""

    targets: TargetSettings = field(default_factory=TargetSettings)
    resize: ResizeLimits | None = None
    """Scale strips as the stock processor with these limits would; they then have no spans."""
    patches_per_call: int = CPU_PATCHES_PER_CALL
    kernel: Kernel = "grouped"
    """How the encoder computes attention: it decides last bits."""
    context: Context = "strip"
    """What a latent is encoded with: its whole strip, or its own picture alone."""

    def __post_init__(self) -> None:
        """Raise UsageError for latents of their own that would not stay so."""
        targets = self.targets
        if self.context == "latent" and (self.resize or targets.pool > 1 or targets.longer == "resample"):
            raise UsageError(
                "with --context latent every latent is the picture of its own characters: it goes with neither "
                "--resize, --pool nor --longer resample"
            )

    def as_json(self) -> dict[str, Any]:
        """As the manifest's settings hold them."""
        resize = {"resize": [self.resize.min_pixels, self.resize.max_pixels]} if self.resize else {}
        attention = {"attention": self.kernel} if self.kernel != "grouped" else {}
        context = {"context": self.context} if self.context != "strip" else {}
        return {"patches_per_call": self.patches_per_call, **self.targets.as_json(), **resize, **attention, **context}


@dataclass(frozen=True, slots=True)
class EmbedJob:
    """All that there is to know of one shard."""

    shard: int
    entry: shards.ShardEntry
    """Of the strips."""
    file: Path
    """To write."""


@dataclass(frozen=True, kw_only=True)
class EmbedShards:
    """Makes embedding shards of strip shards, with one encoder; may be sent to another process."""

    strips: Path
    encoder: Encoder
    settings: EmbedSettings

    def __call__(self, jobs: Iterator[EmbedJob], stopped: resumable.Stopped) -> Iterator[resumable.Found]:
        """Shards in the order of the jobs, and how far they are; once asked to stop, those that the tower has begun."""
        with ThreadPoolExecutor(_READ_AHEAD) as readers, ThreadPoolExecutor(_WRITERS) as writers:
            written: deque[Future[tuple[int, resumable.Written]]] = deque()
            tower = _Tower(self.encoder, self.settings)
            origin = shards.Manifest.load(self.strips)
            failure: Exception | None = None
            try:
                for read in _ahead(readers, partial(self._read, origin), jobs):
                    encoded = yield from tower.launch(read)
                    written.append(writers.submit(self._write, encoded))
                    while len(written) > _WRITERS or (written and written[0].done()):
                        yield written.popleft().result()
                    if stopped():
                        break
            except Exception as error:  # noqa: BLE001 -- raised below, once what the tower has made is kept
                failure = error
            readers.shutdown(wait=False, cancel_futures=True)
            for each in written:
                try:
                    yield each.result()
                except Exception as error:  # noqa: BLE001 -- the first one is raised
                    failure = failure or error
            if failure:
                raise failure

    def _read(self, origin: shards.Manifest, job: EmbedJob) -> _Read:
        """A strip shard, every different picture of it decoded once."""
        table = shards.read_table(self.strips, origin, job.entry, intact=True)
        pngs = [image["bytes"] for image in table.column("image").to_pylist()]
        failed: dict[bytes, GeometryError] = {}
        pictures: dict[bytes, NDArray[np.uint8]] = {}
        geometry = self.encoder.geometry
        for png in dict.fromkeys(pngs):
            pixels = decode_png(png)
            try:
                pictures[png] = (
                    reference_resize(pixels, geometry, self.settings.resize) if self.settings.resize else pixels
                )
            except GeometryError as error:
                failed[png] = error
        latents_of: dict[bytes, list[bytes]] | None = None
        if self.settings.context == "latent":
            pictures, latents_of = _alone(pictures)
        return _Read(
            job=job,
            table=table.select(["id", "question", "cot", "answer", "spans"]),
            pngs=pngs,
            failed=failed,
            latents_of=latents_of,
            pictures=pictures,
        )

    def _write(self, encoded: _Encoded) -> tuple[int, resumable.Written]:
        """Collect what the tower made of a shard, and write it."""
        read = encoded.read
        latents: dict[bytes, NDArray[np.float32] | GeometryError] = dict(read.failed)
        while encoded.collected:
            call = encoded.collected.popleft()
            latents.update(zip(call.names, call.collect(), strict=True))
        if read.latents_of is not None:
            alone: dict[bytes, Any] = latents
            latents = dict(read.failed) | {
                png: np.concatenate([alone[name] for name in names]) for png, names in read.latents_of.items()
            }
        made = _stored(read, latents, self.settings, self.encoder.identity.width, encoded.halved)
        return read.job.shard, resumable.write(read.job.file, made)


@dataclass(frozen=True, slots=True)
class _Read:
    """A strip shard ready for the tower."""

    job: EmbedJob
    table: pa.Table
    pngs: list[bytes]
    """Of each row."""
    failed: dict[bytes, GeometryError]
    """Pictures that can't be scaled as the stock processor does."""
    latents_of: dict[bytes, list[bytes]] | None
    """Names of the pictures of each strip's latents, where these are encoded alone."""
    pictures: dict[bytes, NDArray[np.uint8]]
    """By their PNG, or by a hash of a latent's own; dropped once they are launched."""


@dataclass(frozen=True, slots=True)
class _Call:
    """Pictures that the tower has been given, and what waits for their latents."""

    names: list[bytes]
    collect: Collect


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A shard that the tower has been given."""

    read: _Read
    collected: deque[_Call]
    """Dropped once their latents are there."""
    halved: int


class _Tower:
    """Calls of the encoder, halved while they do not fit into memory.

    Latents' own pictures go into calls of one size, filled up with blank ones: then a latent's bits depend neither on
    what shares its call nor on its place there, so on no other shard either, and each is encoded once a process.
    """

    def __init__(self, encoder: Encoder, settings: EmbedSettings) -> None:
        self._encoder = encoder
        self._patches_per_call = settings.patches_per_call
        a_latent = encoder.geometry.merge**2
        self._alone = max(1, min(_PATCHES_ALONE, settings.patches_per_call) // a_latent)  # pictures of a call
        self._book = _Book(_BOOK_BYTES // (4 * encoder.identity.width))
        self._largest = math.inf  # values of the largest call worth a try
        self._halved = 0

    def launch(self, read: _Read) -> Generator[resumable.Progress, None, _Encoded]:
        """All calls of a shard; after each, how many rows it was for, or is about as far as."""
        self._halved = 0
        alone = read.latents_of is not None
        blank = np.zeros([self._encoder.geometry.factor_px] * 2, np.uint8)
        collected = deque(self._book.take(read.pictures) if alone else ())
        todo = list(self._calls_alone(read.pictures) if alone else self._calls_of_strips(read.pictures))
        for names, rows in zip(todo, _shares(read, todo), strict=True):
            pictures = [blank if name == _FILLING else read.pictures.pop(name) for name in names]
            for call in self._call(names, pictures):
                if alone:
                    self._book.add(call)
                collected.append(call)
            yield resumable.Progress(shard=read.job.shard, rows=rows)
        return _Encoded(read=read, collected=collected, halved=self._halved)

    def _calls_of_strips(self, pictures: dict[bytes, NDArray[np.uint8]]) -> Iterator[list[bytes]]:
        names = list(pictures)
        sizes = [pictures[name].size // self._encoder.geometry.patch_px**2 for name in names]
        return ([names[i] for i in call] for call in calls(sizes, self._patches_per_call))

    def _calls_alone(self, pictures: Iterable[bytes]) -> Iterator[list[bytes]]:
        names = list(pictures)
        names += [_FILLING] * (-len(names) % self._alone)
        return (names[first : first + self._alone] for first in range(0, len(names), self._alone))

    def _call(self, names: list[bytes], pictures: Sequence[NDArray[np.uint8]]) -> Iterator[_Call]:
        size = sum(pixels.size for pixels in pictures)
        if size <= self._largest or len(pictures) == 1:
            try:
                yield _Call(names, _once(self._encoder.launch(pictures)))
            except CallTooLarge:
                if len(pictures) == 1:
                    raise
                self._largest = size // 2
            else:
                return
        self._halved += 1
        middle = len(pictures) // 2
        for half in (slice(0, middle), slice(middle, None)):
            yield from self._call(names[half], pictures[half])


def _shares(read: _Read, todo: Sequence[Sequence[bytes]]) -> list[int]:
    """How many rows each call of a shard is for; where a row is of many calls, as many for each, all in all no more."""
    if read.latents_of is None:
        rows = Counter(read.pngs)
        return [sum(rows[name] for name in names) for names in todo]
    return [int(rows) for rows in np.diff(np.arange(len(todo) + 1) * len(read.pngs) // max(1, len(todo)))]


class _Book:
    """Calls whose latents' own pictures shards to come may show again; those longest without use are dropped."""

    def __init__(self, most: int) -> None:
        self._most = most  # pictures
        self._kept = self._added = 0
        self._calls: OrderedDict[int, _Call] = OrderedDict()
        self._call_of: dict[bytes, int] = {}

    def take(self, pictures: dict[bytes, NDArray[np.uint8]]) -> list[_Call]:
        """The calls that have some of these pictures, which are taken out."""
        known = [name for name in pictures if name in self._call_of]
        numbers = dict.fromkeys(self._call_of[name] for name in known)
        for name in known:
            del pictures[name]
        for number in numbers:
            self._calls.move_to_end(number)
        return [self._calls[number] for number in numbers]

    def add(self, call: _Call) -> None:
        """Keep a call, while there is room."""
        self._calls[self._added] = call
        self._call_of |= dict.fromkeys(call.names, self._added)
        self._added += 1
        self._kept += len(call.names)
        while self._kept > self._most:
            _, oldest = self._calls.popitem(last=False)
            self._kept -= len(oldest.names)
            for name in oldest.names:
                self._call_of.pop(name, None)


def _once(collect: Collect) -> Collect:
    """The same, for several threads that ask; what it waits for is let go of after the first time."""
    lock = threading.Lock()
    waiting: list[Collect] = [collect]
    found: list[list[NDArray[np.float32]]] = []

    def collected() -> list[NDArray[np.float32]]:
        with lock:
            if waiting:
                found.append(waiting.pop()())
        return found[0]

    return collected


def _alone(strips: dict[bytes, NDArray[np.uint8]]) -> tuple[dict[bytes, NDArray[np.uint8]], dict[bytes, list[bytes]]]:
    """Strips -> the different pictures of their latents, and the names of those that each strip is made of."""
    pictures: dict[bytes, NDArray[np.uint8]] = {}
    latents_of: dict[bytes, list[bytes]] = {}
    for png, pixels in strips.items():
        tiles = latent_pictures(pixels)
        names = [hashlib.blake2b(tile.tobytes(), digest_size=16).digest() for tile in tiles]
        latents_of[png] = names
        for name, tile in zip(names, tiles, strict=True):
            pictures.setdefault(name, tile)
    return pictures, latents_of


def _ahead(pool: ThreadPoolExecutor, work: Callable[[EmbedJob], _Read], jobs: Iterator[EmbedJob]) -> Iterator[_Read]:
    """`work` done for each job in order, `_READ_AHEAD` of them before they are asked for."""
    waiting = deque(pool.submit(work, job) for job in islice(jobs, _READ_AHEAD))
    while waiting:
        done = waiting.popleft().result()
        waiting.extend(pool.submit(work, job) for job in islice(jobs, 1))
        yield done


def _stored(
    read: _Read,
    latents: dict[bytes, NDArray[np.float32] | GeometryError],
    settings: EmbedSettings,
    width: int,
    halved: int,
) -> resumable.Made:
    """The table of a shard's embeddings."""
    targets = settings.targets
    schema = shards.embedding_schema(width, targets.store, settings.context)
    kept: list[dict[str, Any]] = []
    stored: list[NDArray[Any]] = []
    rejects = []
    squared_error = squared = 0.0
    for row, png in zip(read.table.to_pylist(), read.pngs, strict=True):
        spans = None if settings.resize else np.array(row["spans"], dtype=np.int32)
        try:
            values_KD, spans = shorten(_finite(latents[png]), spans, targets)
            values, scale = _as_stored(values_KD, targets)
        except (GeometryError, TooManyLatents, _NotFinite) as error:
            rejects.append(resumable.Refused(id=row["id"], reason=str(error)))
            continue
        error_KD = (values if scale is None else restore(values, scale)) - values_KD
        squared_error += float(np.vdot(error_KD, error_KD))
        squared += float(np.vdot(values_KD, values_KD))
        kept.append(row | {"num_latents": len(values), "spans": spans, **({} if scale is None else {"scale": scale})})
        stored.append(values)
    columns = {
        name: shards.embedding_column(stored, schema) if name == "embedding" else [row[name] for row in kept]
        for name in schema.names
    }
    return resumable.Made(
        table=pa.table(columns, schema=schema),
        latents=sum(map(len, stored)),
        rejects=rejects,
        rounding=round(math.sqrt(squared_error / squared), 8) if squared else 0.0,
        halved=halved,
    )


class _NotFinite(Exception):
    """Latents that the tower or the stored type can't express."""


def _finite(latents: NDArray[np.float32] | GeometryError) -> NDArray[np.float32]:
    """The latents, if they are numbers."""
    if isinstance(latents, GeometryError):
        raise latents
    if not np.isfinite(latents).all():
        raise _NotFinite("its embedding is not finite")
    return latents


def _as_stored(
    latents: NDArray[np.float32], targets: TargetSettings
) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Latents in the stored type, and their scales if that is of eight bits. Raises _NotFinite for an overflow."""
    if targets.store == "int8":
        return quantise(latents)
    with np.errstate(over="ignore"):  # what float16 can't hold becomes infinite, and is caught here
        values = latents.astype(targets.store, copy=False)
    if not np.isfinite(values).all():
        raise _NotFinite(f"its embedding is not finite in {targets.store}: --store float32 or int8 can hold it")
    return values, None
