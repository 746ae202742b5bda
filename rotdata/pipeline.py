"""Render and embed as resumable plans of shards: corpus -> strip shards -> embedding shards.

A run fixes its plan in the manifest, makes one shard after the other, and records each one once its file is on disk.
The same command run again skips what manifest and file agree on, so a run can be stopped anywhere and loses one shard
at most.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from rotdata import corpora, shards
from rotdata.errors import Interrupted, OutputOccupied, ShardMismatch, UsageError
from rotdata.patches import calls
from rotdata.strips import MissingGlyph, Renderer, Strip, StripStyle, decode_png, encode_png, renderer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rotdata.encoders import Encoder

DEFAULT_ROWS_PER_SHARD = 1000
DEFAULT_MAX_LATENTS = 4096
DEFAULT_PATCHES_PER_CALL = 8192


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run has made, this time or before."""

    rows_in: int
    rows_out: int
    rows_rejected: int
    latents: int
    shards: int
    seconds: float
    bytes: int
    boxed: str = ""
    """Characters that stand as boxes in the shards of this run."""
    substituted: str = ""
    """Characters that a fallback font drew in the shards of this run."""


@dataclass(frozen=True, kw_only=True)
class _Made:
    """The contents of one shard."""

    table: pa.Table
    rejects: list[corpora.Reject]
    latents: int


def render(
    source: corpora.Source,
    style: StripStyle,
    out: Path,
    *,
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
    max_latents: int = DEFAULT_MAX_LATENTS,
    overwrite: bool = False,
) -> Summary:
    """Draw every row of `source` into strip shards in `out`. Raises SourceError, OutputOccupied, Interrupted, ..."""
    if rows_per_shard < 1 or max_latents < 1:
        raise UsageError(f"rows per shard and max latents are at least 1, got {rows_per_shard} and {max_latents}")
    draw = renderer(style)
    rows_in = sum(1 for _ in corpora.read(source))
    manifest = shards.Manifest(
        kind="strips",
        corpus=source.corpus,
        split=source.split,
        source=corpora.describe(source),
        style=draw.fingerprint,
        settings={"max_latents": max_latents},
        plan=shards.Plan(
            rows_in=rows_in, rows_per_shard=rows_per_shard, num_shards=max(1, -(-rows_in // rows_per_shard))
        ),
    )
    batches = enumerate(_batches(corpora.read(source), rows_per_shard))
    characters: dict[str, set[str]] = {"boxed": set(), "substituted": set()}

    def make(shard: int) -> _Made:
        rows = next((batch for index, batch in batches if index == shard), [])
        return _render_shard(rows, draw, max_latents, characters)

    seconds = _run(out, manifest, make, overwrite=overwrite, verb="render")
    drawn = {name: "".join(sorted(found)) for name, found in characters.items()}
    return _summarise(shards.Manifest.load(out), seconds, **drawn)


def embed(
    strips: Path,
    encoder: Encoder,
    out: Path,
    *,
    store: shards.Store = "float16",
    patches_per_call: int = DEFAULT_PATCHES_PER_CALL,
    overwrite: bool = False,
) -> Summary:
    """Embed the strip shards in `strips` into embedding shards in `out`, one for one.

    Raises ShardMismatch for strips of another factor than the encoder's, ShardError, OutputOccupied, Interrupted.
    """
    origin = shards.Manifest.load(strips)
    if out.resolve() == strips.resolve():
        raise UsageError(f"--out is the folder of the strips itself, {strips}: choose another, it keeps its strips")
    if origin.kind != "strips" or not origin.finished:
        raise UsageError(f"{strips} is no finished folder of strips: make or finish it with `rotdata render`")
    height, factor = origin.style["style"]["height_px"], encoder.geometry.factor_px
    if height != factor:
        raise ShardMismatch(
            f"the strips in {strips} are {height} px high, {encoder.identity.model} needs {factor}: "
            f"render them with --height {factor}"
        )
    manifest = shards.Manifest(
        kind="embeddings",
        corpus=origin.corpus,
        split=origin.split,
        source=origin.source | {"strips": origin.fingerprint},
        style=origin.style,
        settings=origin.settings | {"patches_per_call": patches_per_call, "store": store},
        plan=replace(origin.plan, rows_in=origin.total("rows")),
        encoder=encoder.identity.as_json(),
    )
    schema = shards.embedding_schema(encoder.identity.width, store)

    def make(shard: int) -> _Made:
        return _embed_shard(shards.read_table(strips, origin.shards[shard]), encoder, schema, patches_per_call)

    seconds = _run(out, manifest, make, overwrite=overwrite, verb="embed")
    return _summarise(shards.Manifest.load(out), seconds)


def _render_shard(
    rows: Sequence[corpora.Row | corpora.Reject], draw: Renderer, max_latents: int, characters: dict[str, set[str]]
) -> _Made:
    """Strips of one shard's rows; characters without a glyph of their own are noted in `characters`."""
    rejects: list[corpora.Reject] = []
    kept: list[tuple[corpora.Row, Strip]] = []
    for row in rows:
        if isinstance(row, corpora.Reject):
            rejects.append(row)
            continue
        drawn = _draw(row, draw, max_latents)
        if isinstance(drawn, corpora.Reject):
            rejects.append(drawn)
        else:
            kept.append((row, drawn))
            characters["boxed"].update(drawn.boxed)
            characters["substituted"].update(drawn.substituted)
    table = pa.table(
        {
            "id": [row.id for row, _ in kept],
            "question": [row.question for row, _ in kept],
            "cot": [row.cot for row, _ in kept],
            "answer": [row.answer for row, _ in kept],
            "image": [{"bytes": encode_png(strip.pixels), "path": None} for _, strip in kept],
            "width": [strip.pixels.shape[1] for _, strip in kept],
            "num_latents": [strip.num_latents for _, strip in kept],
            "spans": [strip.spans for _, strip in kept],
        },
        schema=shards.strip_schema(),
    )
    return _Made(table=table, rejects=rejects, latents=sum(strip.num_latents for _, strip in kept))


def _draw(row: corpora.Row, draw: Renderer, max_latents: int) -> Strip | corpora.Reject:
    """The strip of a row, or why it has none. What is far too long is measured first, not drawn."""
    height = draw.style.height_px
    try:
        if len(row.cot) > 4 * max_latents and draw.width_px(row.cot) > max_latents * height:
            num_latents = draw.width_px(row.cot) // height
        else:
            strip = draw.render(row.cot)
            num_latents = strip.num_latents
    except MissingGlyph as error:
        return corpora.Reject(row.id, str(error))
    if num_latents > max_latents:
        return corpora.Reject(row.id, f"{num_latents} latents, --max-latents is {max_latents}")
    return strip


def _embed_shard(table: pa.Table, encoder: Encoder, schema: pa.Schema, patches_per_call: int) -> _Made:
    """Latents of one strip shard's pictures, every picture in one of a few calls of the tower."""
    pictures = [decode_png(image["bytes"]) for image in table.column("image").to_pylist()]
    merge = encoder.geometry.merge
    latents: list[NDArray[np.floating[Any]] | None] = [None] * len(pictures)
    sizes = [picture.shape[1] // encoder.geometry.factor_px * merge**2 for picture in pictures]
    stored = schema.field("embedding").type.value_type.value_type.to_pandas_dtype()
    rejects = []
    for call in calls(sizes, patches_per_call):
        for index, embedded in zip(call, encoder.encode([pictures[i] for i in call]), strict=True):
            with np.errstate(over="ignore"):  # what float16 can't hold becomes infinite, and is caught here
                cast = embedded.astype(stored, copy=False)
            latents[index] = cast if np.isfinite(cast).all() else None
    ids = table.column("id").to_pylist()
    for index, values in enumerate(latents):
        if values is None:
            rejects.append(corpora.Reject(ids[index], f"its embedding is not finite in {np.dtype(stored).name}"))
    kept = [index for index, values in enumerate(latents) if values is not None]
    columns = table.select(["id", "question", "cot", "answer", "num_latents", "spans"]).take(
        pa.array(kept, type=pa.int64())
    )
    column = shards.embedding_column([values for values in latents if values is not None], schema)
    whole = columns.append_column(schema.field("embedding"), column).cast(schema)
    return _Made(table=whole, rejects=rejects, latents=sum(columns.column("num_latents").to_pylist()))


def _batches(rows: Iterator[corpora.Row | corpora.Reject], size: int) -> Iterator[list[corpora.Row | corpora.Reject]]:
    while batch := list(islice(rows, size)):
        yield batch


def _run(out: Path, manifest: shards.Manifest, make: Callable[[int], _Made], *, overwrite: bool, verb: str) -> float:
    """Make the shards that `out` lacks, one after the other; the seconds it took.

    Raises Interrupted when asked to stop.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with shards.locked(out), _stop_requests() as stopped:
        _open_folder(out, manifest, overwrite=overwrite)
        rejects = [reject for reject in shards.read_rejects(out) if reject["shard"] in manifest.shards]
        done = manifest.total("rows") + manifest.total("rejected")
        with tqdm(total=manifest.plan.rows_in, initial=done, unit="row", desc=verb, disable=None) as bar:
            for index in range(manifest.plan.num_shards):
                if index in manifest.shards:
                    continue
                made = make(index)
                file = manifest.shard_file(index)
                size, digest = shards.write_shard(out, file, made.table)
                rejects += [{"shard": index, "id": reject.id, "reason": reject.reason} for reject in made.rejects]
                rejects.sort(key=lambda reject: reject["shard"])
                shards.write_rejects(out, rejects)
                manifest.shards[index] = shards.ShardEntry(
                    file=file,
                    rows=made.table.num_rows,
                    rejected=len(made.rejects),
                    latents=made.latents,
                    bytes=size,
                    sha256=digest,
                )
                manifest.save(out)
                bar.update(made.table.num_rows + len(made.rejects))
                if stopped():
                    raise Interrupted(f"stopped after shard {index}; the same command resumes {out}")
    return time.monotonic() - started


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
        refused = Counter(reject["shard"] for reject in shards.read_rejects(out))
        manifest.shards = {
            index: entry
            for index, entry in earlier.shards.items()
            if refused[index] == entry.rejected and shards.intact(out, entry)
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
def _stop_requests() -> Iterator[Callable[[], bool]]:
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


def _summarise(manifest: shards.Manifest, seconds: float, **characters: str) -> Summary:
    return Summary(
        rows_in=manifest.plan.rows_in,
        rows_out=manifest.total("rows"),
        rows_rejected=manifest.total("rejected"),
        latents=manifest.total("latents"),
        shards=len(manifest.shards),
        seconds=round(seconds, 3),
        bytes=manifest.total("bytes"),
        **characters,
    )
