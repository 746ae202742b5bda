"""Render and embed: corpus -> strip shards -> embedding shards, as resumable runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from rotdata import corpora, runs, shards
from rotdata.errors import ShardMismatch, UsageError
from rotdata.patches import GeometryError, ResizeLimits, calls, reference_resize
from rotdata.png import decode_png, encode_png
from rotdata.strips import MissingGlyph, Renderer, Strip, StripStyle, renderer
from rotdata.targets import TargetSettings, TooManyLatents, quantise, restore, shorten

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rotdata.encoders import Encoder

DEFAULT_ROWS_PER_SHARD = 1000
DEFAULT_MAX_LATENTS = 4096
DEFAULT_PATCHES_PER_CALL = 2048
"""What a CPU's caches like; a GPU wants more at once."""
GPU_PATCHES_PER_CALL = 16_384

TooLong = Literal["reject", "truncate", "split"]

_ALL_LATENTS = TargetSettings()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run has made, this time or before."""

    rows_in: int
    rows_out: int
    rows_rejected: int
    rows_truncated: int
    rows_added: int
    """Rows beyond one a source row, since some were split."""
    latents: int
    shards: int
    seconds: float
    bytes: int
    rounding: float = 0.0
    """Of embeddings: what storing them changed, root mean square, relative; the worst shard's."""
    duplicates: int = 0
    """Rows that repeat an earlier one; they are kept."""
    duplicate_ids: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    """Characters that no allowed font has, and how often the corpus has them: boxes, or their rows are rejected."""
    substituted: dict[str, int] = field(default_factory=dict)
    """Characters that a fallback font draws, and how often the corpus has them."""


def render(
    source: corpora.Source,
    style: StripStyle,
    out: Path,
    *,
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
    max_latents: int = DEFAULT_MAX_LATENTS,
    too_long: TooLong = "reject",
    num_proc: int = 1,
    overwrite: bool = False,
) -> Summary:
    """Draw every row of `source` into strip shards in `out`. Raises SourceError, OutputOccupied, Interrupted, ...

    The bytes do not depend on `num_proc`.
    """
    if num_proc < 1:
        raise UsageError(f"--num-proc counts processes and is at least 1, got {num_proc}")
    source = corpora.resolve(source)
    manifest = plan_render(source, style, rows_per_shard=rows_per_shard, max_latents=max_latents, too_long=too_long)
    batches = enumerate(_batches(corpora.read(source), rows_per_shard))

    def job(shard: int) -> _RenderJob:
        rows = next((batch for index, batch in batches if index == shard), [])
        return _RenderJob(out, manifest.shard_file(shard), rows, style, max_latents, too_long)

    pool = runs.Pool(num_proc=num_proc, job=job, make=_render_shard)
    work = pool if num_proc > 1 else runs.here(lambda shard: _render_shard(job(shard)))
    seconds = runs.run(out, manifest, work, overwrite=overwrite, verb="render")
    return summarise(shards.Manifest.load(out), seconds)


def plan_render(
    source: corpora.Source,
    style: StripStyle,
    *,
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
    max_latents: int = DEFAULT_MAX_LATENTS,
    too_long: TooLong = "reject",
) -> shards.Manifest:
    """What `render` would make, without drawing: one pass over the corpus. `source` is resolved."""
    if rows_per_shard < 1 or max_latents < 1:
        raise UsageError(f"rows per shard and max latents are at least 1, got {rows_per_shard} and {max_latents}")
    draw = renderer(style)
    survey = corpora.survey(source)
    rows_in = survey.rows + survey.rejects
    return shards.Manifest(
        kind="strips",
        corpus=source.corpus,
        split=source.split,
        source=corpora.describe(source),
        style=draw.fingerprint,
        settings={"max_latents": max_latents, "too_long": too_long},
        plan=shards.Plan(
            rows_in=rows_in, rows_per_shard=rows_per_shard, num_shards=max(1, -(-rows_in // rows_per_shard))
        ),
        survey={
            "duplicates": survey.duplicates,
            "duplicate_ids": survey.duplicate_ids,
            **draw.stand_ins(survey.characters),
        },
    )


def embed(
    strips: Path,
    encoder: Encoder,
    out: Path,
    *,
    targets: TargetSettings = _ALL_LATENTS,
    resize: ResizeLimits | None = None,
    patches_per_call: int = DEFAULT_PATCHES_PER_CALL,
    overwrite: bool = False,
) -> Summary:
    """Embed the strip shards in `strips` into embedding shards in `out`, one for one.

    With `resize`, strips are first scaled as the stock processor with those limits would; they then have no spans.

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
        settings=origin.settings
        | {"patches_per_call": patches_per_call, **targets.as_json()}
        | ({"resize": [resize.min_pixels, resize.max_pixels]} if resize else {}),
        plan=replace(origin.plan, rows_in=origin.total("rows")),
        encoder=encoder.identity.as_json(),
        survey=origin.survey,
    )

    def make(shard: int) -> runs.Written:
        table = shards.read_table(strips, origin.shards[shard])
        made = _embed_shard(table, encoder, targets, resize, patches_per_call)
        return runs.write(out, manifest.shard_file(shard), made)

    seconds = runs.run(out, manifest, runs.here(make), overwrite=overwrite, verb="embed")
    return summarise(shards.Manifest.load(out), seconds)


@dataclass(frozen=True, slots=True)
class _RenderJob:
    """All that a process needs to make one strip shard."""

    out: Path
    file: str
    rows: list[corpora.Row | corpora.Reject]
    style: StripStyle
    max_latents: int
    too_long: TooLong


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A row and its strip, which shows all of the row's CoT or its beginning."""

    row: corpora.Row
    strip: Strip


def _render_shard(job: _RenderJob) -> runs.Written:
    """Draw and write one shard."""
    draw = renderer(job.style)
    rejects: list[runs.Refused] = []
    drawn: list[_Drawn] = []
    truncated = added = 0
    for row in job.rows:
        if isinstance(row, corpora.Reject):
            rejects.append(runs.Refused(id=row.id, reason=row.reason))
            continue
        try:
            made = _draw(row, draw, job.max_latents, job.too_long)
        except (MissingGlyph, _TooLong) as error:
            rejects.append(runs.Refused(id=row.id, reason=str(error)))
            continue
        truncated += int(made[-1].strip.spans[-1]) < len(made[-1].row.cot)
        added += len(made) - 1
        drawn += made
    table = pa.table(
        {
            "id": [each.row.id for each in drawn],
            "question": [each.row.question for each in drawn],
            "cot": [each.row.cot for each in drawn],
            "answer": [each.row.answer for each in drawn],
            "image": [{"bytes": encode_png(each.strip.pixels), "path": None} for each in drawn],
            "width": [each.strip.pixels.shape[1] for each in drawn],
            "num_latents": [each.strip.num_latents for each in drawn],
            "spans": [each.strip.spans for each in drawn],
        },
        schema=shards.strip_schema(),
    )
    latents = sum(each.strip.num_latents for each in drawn)
    made_shard = runs.Made(table=table, latents=latents, rejects=rejects, truncated=truncated, added=added)
    return runs.write(job.out, job.file, made_shard)


class _TooLong(Exception):
    """Why a row of too many latents can't be drawn."""


def _draw(row: corpora.Row, draw: Renderer, max_latents: int, too_long: TooLong) -> list[_Drawn]:
    """The row with its strip, or its parts; what may be far too long is measured first.

    Raises MissingGlyph, _TooLong.
    """
    if len(row.cot) <= 4 * max_latents:
        strip = draw.render(row.cot)
        if strip.num_latents <= max_latents:
            return [_Drawn(row, strip)]
    count = draw.count_latents(row.cot)
    if count <= max_latents:
        return [_Drawn(row, draw.render(row.cot))]
    if too_long == "reject":
        raise _TooLong(f"{count} latents, --max-latents is {max_latents}: --too-long truncate or split would keep it")
    if too_long == "truncate":
        return [_Drawn(row, draw.render(row.cot[: _fit(row.cot, draw, max_latents)]))]
    parts = list(_parts(row.cot, draw, max_latents))
    rows = [replace(row, id=f"{row.id}-part{i}of{len(parts)}", cot=part) for i, part in enumerate(parts, start=1)]
    return [_Drawn(part, draw.render(part.cot)) for part in rows]


def _fit(text: str, draw: Renderer, max_latents: int) -> int:
    """How many characters fit, at least one."""
    count = draw.fit(text, max_latents)
    if not count:
        raise _TooLong(f"not even its first character fits --max-latents {max_latents}")
    return count


def _parts(text: str, draw: Renderer, max_latents: int) -> Iterator[str]:
    """Stretches of `text` that fit, broken after a space where there is one; joined they are `text` again."""
    while text:
        count = _fit(text, draw, max_latents)
        if count < len(text):
            count = text.rfind(" ", 0, count) + 1 or count
        yield text[:count]
        text = text[count:]


def _embed_shard(
    table: pa.Table, encoder: Encoder, targets: TargetSettings, resize: ResizeLimits | None, patches_per_call: int
) -> runs.Made:
    """The embeddings of one strip shard, every different picture encoded once."""
    schema = shards.embedding_schema(encoder.identity.width, targets.store)
    rows = table.select(["id", "question", "cot", "answer", "spans"]).to_pylist()
    pngs = [image["bytes"] for image in table.column("image").to_pylist()]
    encoded = _encode_pictures(dict.fromkeys(pngs), encoder, resize, patches_per_call)
    kept: list[dict[str, Any]] = []
    stored: list[NDArray[Any]] = []
    rejects = []
    squared_error = squared = 0.0
    for row, png in zip(rows, pngs, strict=True):
        spans = None if resize else np.array(row["spans"], dtype=np.int32)
        try:
            latents, spans = shorten(_finite(encoded[png]), spans, targets)
            values, scale = _as_stored(latents, targets)
        except (GeometryError, TooManyLatents, _NotFinite) as error:
            rejects.append(runs.Refused(id=row["id"], reason=str(error)))
            continue
        restored = values.astype(np.float32) if scale is None else restore(values, scale)
        squared_error += float(np.square(restored - latents, dtype=np.float64).sum())
        squared += float(np.square(latents, dtype=np.float64).sum())
        kept.append(row | {"num_latents": len(values), "spans": spans, **({} if scale is None else {"scale": scale})})
        stored.append(values)
    columns = {
        name: shards.embedding_column(stored, schema) if name == "embedding" else [row[name] for row in kept]
        for name in schema.names
    }
    return runs.Made(
        table=pa.table(columns, schema=schema),
        latents=sum(map(len, stored)),
        rejects=rejects,
        rounding=round(math.sqrt(squared_error / squared), 8) if squared else 0.0,
    )


class _NotFinite(Exception):
    """Latents that the tower or the stored type can't express."""


def _encode_pictures(
    pngs: Iterable[bytes], encoder: Encoder, resize: ResizeLimits | None, patches_per_call: int
) -> dict[bytes, NDArray[np.float32] | GeometryError]:
    """Latents of each picture, in a few calls of the tower, or why it can't be scaled as the stock processor does."""
    found: dict[bytes, NDArray[np.float32] | GeometryError] = {}
    pictures: dict[bytes, NDArray[np.uint8]] = {}
    for png in pngs:
        pixels = decode_png(png)
        try:
            pictures[png] = reference_resize(pixels, encoder.geometry, resize) if resize else pixels
        except GeometryError as error:
            found[png] = error
    names = list(pictures)
    sizes = [pictures[name].size // encoder.geometry.patch_px**2 for name in names]
    for call in calls(sizes, patches_per_call):
        latents = encoder.encode([pictures[names[i]] for i in call])
        found.update(zip((names[i] for i in call), latents, strict=True))
    return found


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


def _batches(rows: Iterator[corpora.Row | corpora.Reject], size: int) -> Iterator[list[corpora.Row | corpora.Reject]]:
    while batch := list(islice(rows, size)):
        yield batch


def summarise(manifest: shards.Manifest, seconds: float) -> Summary:
    """The finished shards of a folder in numbers."""
    return Summary(
        rows_in=manifest.plan.rows_in,
        rows_out=manifest.total("rows"),
        rows_rejected=manifest.total("rejected"),
        rows_truncated=manifest.total("truncated"),
        rows_added=manifest.total("added"),
        latents=manifest.total("latents"),
        shards=len(manifest.shards),
        seconds=round(seconds, 3),
        bytes=manifest.total("bytes"),
        rounding=max((entry.rounding for entry in manifest.shards.values()), default=0.0),
        **manifest.survey,
    )
