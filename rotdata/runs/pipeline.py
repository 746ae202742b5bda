"""Render and embed: corpus -> strip shards -> embedding shards, as resumable runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from rotdata import corpora, shards
from rotdata.encoders import LazyEncoder, default_device, patches_that_fit, placement
from rotdata.encoders.models import HUB_MODELS, find_model
from rotdata.errors import ShardMismatch, UsageError
from rotdata.rendering.fallback import remedy, with_fallback
from rotdata.rendering.png import encode_png
from rotdata.rendering.strips import MissingGlyph, Renderer, Strip, StripStyle, renderer
from rotdata.runs import resumable
from rotdata.runs.cluster import RayWork
from rotdata.runs.embedding import IN_FLIGHT, EmbedJob, EmbedSettings, EmbedShards

if TYPE_CHECKING:
    from rotdata.encoders import Encoder, Kernel, Precision

DEFAULT_ROWS_PER_SHARD = 1000
DEFAULT_MAX_LATENTS = 4096
DEFAULT_MAX_BOXES = 0.1
ANY_BOXES = 1.0

TooLong = Literal["reject", "truncate", "split"]
Fallback = Literal["auto", "none"]
Engine = Literal["local", "ray"]

_NAMED = 5  # characters without a glyph that a reject names
_AS_THEY_ARE = EmbedSettings()
_NOTHING = resumable.Ran()


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
    shards_made: int
    """Of these, by this run."""
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


def render(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    source: corpora.Source,
    style: StripStyle,
    out: Path,
    *,
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
    max_latents: int = DEFAULT_MAX_LATENTS,
    too_long: TooLong = "reject",
    max_boxes: float | None = None,
    fallback: Fallback = "auto",
    num_proc: int = 1,
    mode: resumable.Mode = resumable.RESUME,
) -> Summary:
    """Draw every row of `source` into strip shards in `out`. Raises SourceError, OutputOccupied, Interrupted, ...

    A row with a greater share of boxes than `max_boxes` is rejected: a tenth, or as an earlier run in `out` has it.
    With the fallback "auto" fonts are chosen for what a style that names none lacks of the corpus, or are those of an
    earlier run. The bytes do not depend on `num_proc`.
    """
    if num_proc < 1:
        raise UsageError(f"--num-proc counts processes and is at least 1, got {num_proc}")
    source = corpora.resolve(source)
    earlier = resumable.earlier(out, mode)
    if earlier is not None:
        if max_boxes is None:
            max_boxes = earlier.settings.get("max_boxes", ANY_BOXES)
        if fallback == "auto" and not style.fallback:
            style, fallback = replace(style, fallback=earlier.style["style"].get("fallback", ())), "none"
    style, manifest = _plan(
        source,
        style,
        rows_per_shard=rows_per_shard,
        max_latents=max_latents,
        too_long=too_long,
        max_boxes=DEFAULT_MAX_BOXES if max_boxes is None else max_boxes,
        fallback=fallback,
    )
    out = resumable.place(out, manifest, mode)
    most_boxes = manifest.settings.get("max_boxes", ANY_BOXES)
    batches = enumerate(_batches(corpora.read(source), rows_per_shard))

    def job(shard: int) -> _RenderJob:
        rows = next((batch for index, batch in batches if index == shard), [])
        return _RenderJob(shard, out / manifest.shard_file(shard), rows, style, max_latents, too_long, most_boxes)

    workers = resumable.Workers(makers=[_render_shards] * num_proc, job=job)
    work = workers if num_proc > 1 else resumable.here(_render_shards, job)
    ran = resumable.run(out, manifest, work, mode=mode, verb="render")
    return summarise(shards.Manifest.load(out), ran)


def most_latents(style: StripStyle) -> int:
    """Latents that a strip may have if nobody says: those of a whole square, or a line's 4096."""
    return DEFAULT_MAX_LATENTS if style.layout == "line" else (style.square_px // style.height_px) ** 2


def plan_render(
    source: corpora.Source,
    style: StripStyle,
    *,
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
    max_latents: int = DEFAULT_MAX_LATENTS,
    too_long: TooLong = "reject",
    max_boxes: float = DEFAULT_MAX_BOXES,
    fallback: Fallback = "auto",
) -> shards.Manifest:
    """What `render` would make, without drawing: one pass over the corpus. `source` is resolved."""
    return _plan(
        source,
        style,
        rows_per_shard=rows_per_shard,
        max_latents=max_latents,
        too_long=too_long,
        max_boxes=max_boxes,
        fallback=fallback,
    )[1]


def _plan(
    source: corpora.Source,
    style: StripStyle,
    *,
    rows_per_shard: int,
    max_latents: int,
    too_long: TooLong,
    max_boxes: float,
    fallback: Fallback,
) -> tuple[StripStyle, shards.Manifest]:
    """What is made, and in which style, the fallback fonts chosen."""
    if rows_per_shard < 1 or max_latents < 1:
        raise UsageError(f"rows per shard and max latents are at least 1, got {rows_per_shard} and {max_latents}")
    if not 0 <= max_boxes <= ANY_BOXES:
        raise UsageError(f"--max-boxes is a share of a row's characters, from 0 to 1, got {max_boxes:g}")
    renderer(style)  # what is wrong with it is better said before the corpus is read
    survey = corpora.survey(source)
    if fallback == "auto":
        style = with_fallback(style, survey.characters)
    draw = renderer(style)
    rows_in = survey.rows + survey.rejects
    stand_ins = draw.stand_ins(survey.characters)
    settings: dict[str, Any] = {"max_latents": max_latents, "too_long": too_long}
    if stand_ins["missing"] and max_boxes < ANY_BOXES:
        settings["max_boxes"] = float(max_boxes)  # where there are none, it decides nothing
    return style, shards.Manifest(
        kind="strips",
        corpus=source.corpus,
        split=source.split,
        source=corpora.describe(source),
        style=draw.fingerprint,
        settings=settings,
        plan=shards.Plan(
            rows_in=rows_in, rows_per_shard=rows_per_shard, num_shards=max(1, -(-rows_in // rows_per_shard))
        ),
        survey={
            "duplicates": survey.duplicates,
            "duplicate_ids": survey.duplicate_ids,
            **stand_ins,
        },
    )


def embed(
    strips: Path,
    encoder: Encoder,
    out: Path,
    *,
    settings: EmbedSettings = _AS_THEY_ARE,
    team: Sequence[Encoder] = (),
    engine: Engine = "local",
    mode: resumable.Mode = resumable.RESUME,
) -> Summary:
    """Embed the strip shards in `strips` into embedding shards in `out`, one for one.

    With a `team`, each of its encoders works in a process of its own, which it is sent to; they have `encoder`'s
    identity, and `encoder` itself does nothing. With the engine `ray` they are actors of a Ray cluster, all like the
    first of them.

    Raises ShardMismatch for strips of another factor than the encoder's, ShardError, OutputOccupied, Interrupted.
    """
    manifest = plan_embed(strips, encoder, settings)
    if out.resolve() == strips.resolve():
        raise UsageError(f"--out is the folder of the strips itself, {strips}: choose another, it keeps its strips")
    out = resumable.place(out, manifest, mode)
    origin = shards.Manifest.load(strips)

    def job(shard: int) -> EmbedJob:
        return EmbedJob(shard, origin.shards[shard], out / manifest.shard_file(shard))

    makers = [EmbedShards(strips=strips, encoder=each, settings=settings) for each in team or (encoder,)]
    if engine == "ray":
        on_gpu = makers[0].encoder.device.startswith("cuda")
        work: resumable.Work = RayWork(maker=makers[0], job=job, actors=len(makers), gpus=int(on_gpu))
    elif team:
        work = resumable.Workers(makers=makers, job=job, ahead=IN_FLIGHT)
    else:
        work = resumable.here(makers[0], job)
    ran = resumable.run(out, manifest, work, mode=mode, verb="embed")
    return summarise(shards.Manifest.load(out), ran)


def plan_embed(strips: Path, encoder: Encoder, settings: EmbedSettings = _AS_THEY_ARE) -> shards.Manifest:
    """What `embed` would make, without encoding. Raises as it does."""
    origin = shards.Manifest.load(strips)
    if origin.kind != "strips" or not origin.finished or origin.part:
        raise UsageError(f"{strips} is no finished folder of strips: make or finish it with `rotdata render`")
    style = origin.style["style"]
    if settings.context == "latent" and not (
        style["cells"] and style["layout"] == "line" and not style["padding_px"]
        and not style["begin_mark"] and not style["end_mark"]
    ):  # fmt: skip
        raise UsageError(
            f"the glyphs in {strips} straddle latents, or stand beside marks or padding, so a latent is not the "
            "picture of its own characters: render with --cells, 6 say, without padding and marks, or embed with "
            "--context strip"
        )
    if settings.context == "strip" and style.get("lines", 1) > 1:
        raise UsageError(
            f"each latent in {strips} holds {style['lines']} lines of text, so beside each other they are no line that "
            "could be read: embed with --context latent"
        )
    height, factor = style["height_px"], encoder.geometry.factor_px
    if height != factor:
        raise ShardMismatch(
            f"the strips in {strips} are {height} px high, {encoder.identity.model} needs {factor}: "
            f"render them with --height {factor}"
        )
    return shards.Manifest(
        kind="embeddings",
        corpus=origin.corpus,
        split=origin.split,
        source=origin.source | {"strips": origin.fingerprint},
        style=origin.style,
        settings=origin.settings | settings.as_json(),
        plan=replace(origin.plan, rows_in=origin.total("rows")),
        encoder=encoder.identity.as_json(),
        survey=origin.survey,
    )


@dataclass(frozen=True, slots=True)
class _RenderJob:
    """All that a process needs to make one strip shard."""

    shard: int
    file: Path
    rows: list[corpora.Row | corpora.Reject]
    style: StripStyle
    max_latents: int
    too_long: TooLong
    max_boxes: float


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A row and its strip, which shows all of the row's CoT or its beginning."""

    row: corpora.Row
    strip: Strip


def _render_shards(jobs: Iterator[_RenderJob], stopped: resumable.Stopped) -> Iterator[tuple[int, resumable.Written]]:
    """Shard after shard."""
    for job in jobs:
        yield job.shard, _render_shard(job)
        if stopped():
            return


def _render_shard(job: _RenderJob) -> resumable.Written:
    """Draw and write one shard."""
    draw = renderer(job.style)
    rejects: list[resumable.Refused] = []
    drawn: list[_Drawn] = []
    truncated = added = 0
    for row in job.rows:
        if isinstance(row, corpora.Reject):
            rejects.append(resumable.Refused(id=row.id, reason=row.reason))
            continue
        try:
            made = _draw(row, draw, job.max_latents, job.too_long)
            _check_boxes(made, draw, job.max_boxes)
        except (MissingGlyph, _Unfit) as error:
            rejects.append(resumable.Refused(id=row.id, reason=str(error)))
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
    made_shard = resumable.Made(table=table, latents=latents, rejects=rejects, truncated=truncated, added=added)
    return resumable.write(job.file, made_shard)


class _Unfit(Exception):
    """Why a row of too many latents or boxes is no strip."""


def _draw(row: corpora.Row, draw: Renderer, max_latents: int, too_long: TooLong) -> list[_Drawn]:
    """The row with its strip, or its parts; what may be far too long is measured first.

    Raises MissingGlyph, _Unfit.
    """
    if len(row.cot) <= 4 * max_latents:
        strip = draw.render(row.cot)
        if strip.num_latents <= max_latents:
            return [_Drawn(row, strip)]
    count = draw.count_latents(row.cot)
    if count <= max_latents:
        return [_Drawn(row, draw.render(row.cot))]
    if too_long == "reject":
        raise _Unfit(f"{count} latents, --max-latents is {max_latents}: --too-long truncate or split would keep it")
    if too_long == "truncate":
        return [_Drawn(row, draw.render(row.cot[: _fit(row.cot, draw, max_latents)]))]
    parts = list(_parts(row.cot, draw, max_latents))
    rows = [replace(row, id=f"{row.id}-part{i}of{len(parts)}", cot=part) for i, part in enumerate(parts, start=1)]
    return [_Drawn(part, draw.render(part.cot)) for part in rows]


def _check_boxes(made: Sequence[_Drawn], draw: Renderer, max_boxes: float) -> None:
    """Refuse a row that shows more boxes than it may. Raises _Unfit."""
    if not any(each.strip.boxed for each in made):
        return
    shown = "".join(each.row.cot[: int(each.strip.spans[-1])] for each in made)
    boxes = draw.boxes(shown)
    if boxes.total() > max_boxes * len(shown):
        named = ", ".join(f"U+{ord(character):04X}" for character, _ in boxes.most_common(_NAMED))
        raise _Unfit(
            f"{boxes.total()} of {len(shown)} characters have no glyph ({named}), --max-boxes is {max_boxes:g}: "
            f"{remedy(boxes)}"
        )


def _fit(text: str, draw: Renderer, max_latents: int) -> int:
    """How many characters fit, at least one."""
    count = draw.fit(text, max_latents)
    if not count:
        raise _Unfit(f"not even its first character fits --max-latents {max_latents}")
    return count


def _parts(text: str, draw: Renderer, max_latents: int) -> Iterator[str]:
    """Stretches of `text` that fit, broken after a space where there is one; joined they are `text` again."""
    while text:
        count = _fit(text, draw, max_latents)
        if count < len(text):
            count = text.rfind(" ", 0, count) + 1 or count
        yield text[:count]
        text = text[count:]


def _batches(rows: Iterator[corpora.Row | corpora.Reject], size: int) -> Iterator[list[corpora.Row | corpora.Reject]]:
    while batch := list(islice(rows, size)):
        yield batch


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What an earlier run in a folder has chosen, and the same command goes on with."""

    dtype: Precision | None = None
    kernel: Kernel | None = None
    model: str | None = None
    revision: str | None = None
    patches_per_call: int | None = None


def chosen(out: Path) -> Chosen:
    """The choices of the embeddings in `out`, if there are any."""
    earlier = resumable.earlier(out)
    if earlier is None or earlier.encoder is None:
        return Chosen()
    return Chosen(
        dtype=earlier.encoder["dtype"],
        kernel=earlier.settings.get("attention", "grouped"),
        model=earlier.encoder["model"],
        revision=earlier.encoder["revision"],
        patches_per_call=earlier.settings["patches_per_call"],
    )


def pick_encoder(
    out: Path,
    model: str,
    *,
    device: str | None = None,
    dtype: Precision | Literal["auto"] = "auto",
    patches_per_call: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
) -> tuple[LazyEncoder, int]:
    """The encoder of a run in `out` and its patches a call.

    Each is as asked, else as an earlier run there has chosen, which is not asked with `overwrite`, else what is best
    here. Raises UnknownModel.
    """
    before = Chosen() if overwrite else chosen(out)
    same = before.model in {model, HUB_MODELS.get(model.lower())}
    folder = find_model(model, revision=before.revision if same else None)
    precision = before.dtype or dtype if dtype == "auto" else dtype
    where = placement(device or default_device(), dtype=precision, kernel=before.kernel)
    encoder = LazyEncoder(folder, where, threads)
    return encoder, patches_per_call or before.patches_per_call or patches_that_fit(encoder)


def summarise(manifest: shards.Manifest, ran: resumable.Ran = _NOTHING) -> Summary:
    """The finished shards of a folder in numbers, after a run or at rest."""
    return Summary(
        rows_in=manifest.plan.rows_in if manifest.part is None else manifest.rows_done,
        rows_out=manifest.total("rows"),
        rows_rejected=manifest.total("rejected"),
        rows_truncated=manifest.total("truncated"),
        rows_added=manifest.total("added"),
        latents=manifest.total("latents"),
        shards=len(manifest.shards),
        shards_made=ran.shards_made,
        seconds=round(ran.seconds, 3),
        bytes=manifest.total("bytes"),
        rounding=max((entry.rounding for entry in manifest.shards.values()), default=0.0),
        **manifest.survey,
    )
