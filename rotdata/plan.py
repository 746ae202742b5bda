"""What rendering and embedding a corpus will take, before anything is begun: rows, latents, bytes, time, disk.

Rows of files are all measured (nothing is drawn); of a Hub dataset the first ones are, and the rest follows from the
number of rows that the Hub states. Rates and stored bytes come from a probe: a few strips are rendered, encoded and
written on this machine.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from tqdm import tqdm

from rotdata import corpora
from rotdata.corpora.tokens import TokenCounter
from rotdata.encoders.models import ModelFolder
from rotdata.errors import MissingExtra, SourceError, UnknownModel
from rotdata.rendering.fallback import with_fallback
from rotdata.rendering.strips import MissingGlyph, StripStyle, renderer
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards.targets import Store, TargetSettings
from rotdata.stats import Distribution

if TYPE_CHECKING:
    from rotdata.encoders import Encoder

HUB_SAMPLE = 2000
"""Rows of a Hub dataset that are read."""

LARGE_GB = 140
"""Where a warning is due whatever the disk: what the paper's 385k rows take in fp16 without a cap."""

POOLS = (1, 2, 4)
"""Poolings that a plan lists."""

_FIRST_PROBED, _PROBED_STRIPS = 8, 64
_QUICK_S = 1.0
_HEAD = 1000  # rows by which fallback fonts are chosen


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What one way to store embeddings takes."""

    store: str
    pool: int
    """Neighbouring latents that are stored as their mean."""
    latents: int
    gigabytes: float
    shards: int
    measured: bool
    """Whether the bytes follow from a shard written by the probe; otherwise they are the raw values."""


@dataclass(frozen=True, kw_only=True)
class CorpusPlan:
    """What a corpus will take."""

    name: str
    model: str
    rows: int
    rejects: int
    rows_measured: int
    """Rows that the latents below were counted on; fewer than `rows` where these were extrapolated."""
    latents: int
    latents_per_row: Distribution
    latents_histogram: dict[int, int]
    tokens_per_latent: float | None
    tokenizer: str | None
    width: int
    strips_gigabytes: float
    render_s: float
    choices: list[Choice]
    embed_s: float | None
    """None where the model's weights are not on this machine, torch is not installed, or there is no row."""
    device: str | None
    free_gigabytes: float
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The plan, JSON-ready."""
        return asdict(self)


@dataclass(kw_only=True)
class _Measured:
    """What a pass over rows has found."""

    rows: int = 0
    rejects: int = 0
    latents: Counter[int] = field(default_factory=Counter)
    tokens: int = 0
    sample: list[corpora.Row] = field(default_factory=list)


def plan(
    source: corpora.Source,
    style: StripStyle,
    model: ModelFolder,
    out: Path,
    *,
    max_latents: int = pipeline.DEFAULT_MAX_LATENTS,
    rows_per_shard: int = pipeline.DEFAULT_ROWS_PER_SHARD,
    counter: TokenCounter | None = None,
    device: str | None = None,
) -> CorpusPlan:
    """Measure `source` and probe this machine; nothing stays on disk. Raises SourceError, UnknownModel."""
    source = corpora.resolve(source)
    total = _hub_rows(source) if source.revision else None
    head = replace(source, limit=min(source.limit or _HEAD, _HEAD))
    style = with_fallback(style, corpora.survey(head).characters)
    measured = _measure(source, style, max_latents, counter, HUB_SAMPLE if source.revision else None)
    read = measured.rows + measured.rejects
    scale = 1.0 if total is None else max(1.0, min(total, source.limit or total) / max(1, read))
    latents = round(sum(k * count for k, count in measured.latents.items()) * scale)
    rows = round(measured.rows * scale)
    width = model.embedding_width()
    here = _local_encoder(model, device)
    encoder, lacking = (None, here) if isinstance(here, str) else (here, None)
    with tempfile.TemporaryDirectory(prefix="rotdata-plan-") as scratch:
        probe = _probe(measured.sample, style, encoder, Path(scratch))
    shard_count = max(1, -(-round(read * scale) // rows_per_shard))
    choices = [
        _choice(store, pool, measured.latents, scale, width, probe, shard_count)
        for pool in POOLS
        for store in get_args(Store)
    ]
    found = CorpusPlan(
        name=source.name,
        model=model.name,
        rows=rows,
        rejects=round(measured.rejects * scale),
        rows_measured=measured.rows,
        latents=latents,
        latents_per_row=Distribution.of(measured.latents),
        latents_histogram=dict(sorted(measured.latents.items())),
        tokens_per_latent=round(measured.tokens * scale / latents, 4) if counter and latents else None,
        tokenizer=counter.name if counter else None,
        width=width,
        strips_gigabytes=round(probe.strip_bytes_per_row * rows / 1e9, 3),
        render_s=round(probe.render_s_per_row * rows, 1),
        choices=choices,
        embed_s=None if probe.latents_per_s is None else round(latents / probe.latents_per_s, 1),
        device=None if encoder is None else f"{encoder.identity.dtype} on {device or 'the default device'}",
        free_gigabytes=round(shutil.disk_usage(_existing(out)).free / 1e9, 1),
    )
    found.warnings.extend(_warnings(found, out, lacking))
    return found


def histogram_lines(histogram: dict[int, int], *, bins: int = 12, columns: int = 50) -> list[str]:
    """Lines of text that show how latents a row are distributed."""
    if not histogram:
        return []
    width = -(-(max(histogram) + 1) // bins)
    heights = [0] * bins
    for k, count in histogram.items():
        heights[k // width] += count
    tallest = max(heights)
    return [
        f"{i * width:>6} to {(i + 1) * width - 1:>5} {'█' * round(height * columns / tallest):<{columns}} {height}"
        for i, height in enumerate(heights)
    ]


@dataclass(frozen=True, kw_only=True)
class _Probe:
    """What a few rows took on this machine."""

    render_s_per_row: float
    strip_bytes_per_row: float
    latents_per_s: float | None
    bytes_per_latent: dict[str, float]


def _choice(
    store: Store, pool: int, histogram: Counter[int], scale: float, width: int, probe: _Probe, shard_count: int
) -> Choice:
    """Latents and bytes of one way to store embeddings; bytes a latent are the probe's, or those of raw values."""
    latents = round(sum(-(-k // pool) * count for k, count in histogram.items()) * scale)
    per_latent = probe.bytes_per_latent.get(store)
    raw = width * {"float16": 2, "float32": 4, "int8": 1}[store]
    return Choice(
        store=store,
        pool=pool,
        latents=latents,
        gigabytes=round((per_latent or raw) * latents / 1e9, 3),
        shards=shard_count,
        measured=per_latent is not None,
    )


def _measure(
    source: corpora.Source, style: StripStyle, max_latents: int, counter: TokenCounter | None, most: int | None
) -> _Measured:
    """Count the latents of rows without drawing them, and keep some rows, evenly spread, for the probe."""
    draw = renderer(style)
    found = _Measured()
    spacing = 1
    for row in tqdm(islice(corpora.read(source), most), unit="row", desc="plan", disable=None):
        if isinstance(row, corpora.Reject):
            found.rejects += 1
            continue
        try:
            count = draw.count_latents(row.cot)
        except MissingGlyph:
            count = max_latents + 1
        if count > max_latents or draw.boxes(row.cot).total() > pipeline.DEFAULT_MAX_BOXES * len(row.cot):
            found.rejects += 1
            continue
        if found.rows % spacing == 0:
            found.sample.append(row)
            if len(found.sample) == 2 * _PROBED_STRIPS:  # twice as far apart from here on
                found.sample = found.sample[::2]
                spacing *= 2
        found.rows += 1
        found.latents[count] += 1
        if counter:
            found.tokens += counter.count([row.cot])[0]
    return found


def _probe(sample: list[corpora.Row], style: StripStyle, encoder: Encoder | None, scratch: Path) -> _Probe:
    """Render and embed a few rows in a scratch folder, and more of them if that was quick."""
    found = _Probe(render_s_per_row=0, strip_bytes_per_row=0, latents_per_s=None, bytes_per_latent={})
    for count in (_FIRST_PROBED, _PROBED_STRIPS):
        rows = sample[:: max(1, len(sample) // count)][:count]
        if not rows:
            break
        folder = scratch / str(count)
        folder.mkdir()
        file = folder / "rows.jsonl"
        file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        drawn = pipeline.render(corpora.Source(location=str(file), corpus="generic"), style, folder / "strips")
        seconds, sizes = 0.0, {}
        if encoder is not None:
            for store in get_args(Store):
                settings = EmbedSettings(targets=TargetSettings(store=store))
                made = pipeline.embed(folder / "strips", encoder, folder / store, settings=settings)
                seconds += made.seconds / len(get_args(Store))
                sizes[store] = made.bytes / max(1, made.latents)
        found = _Probe(
            render_s_per_row=drawn.seconds / len(rows),
            strip_bytes_per_row=drawn.bytes / len(rows),
            latents_per_s=drawn.latents / seconds if seconds else None,
            bytes_per_latent=sizes,
        )
        if seconds > _QUICK_S:
            break
    return found


def _local_encoder(model: ModelFolder, device: str | None) -> Encoder | str:
    """The model's encoder, or why there is none here; plans download and install nothing."""
    from rotdata.encoders import default_device, default_precision, load_encoder

    try:
        model.weight_files()
        device = device or default_device()
    except UnknownModel:
        return f"the weights of {model.name} are not on this machine"
    except MissingExtra as error:
        return str(error)
    return load_encoder(model, dtype=default_precision(device), device=device)


def _hub_rows(source: corpora.Source) -> int | None:
    """Rows of a Hub dataset's split as the Hub states them; None if it does not."""
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(source.location, source.config, revision=source.revision)
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"the Hub says nothing of dataset {source.location}: {error}") from error
    split = (builder.info.splits or {}).get(source.split)
    return split.num_examples if split else None


def _warnings(found: CorpusPlan, out: Path, lacking: str | None) -> Iterator[str]:
    """What a user should know before he begins; `lacking` is why there was no encoder to try."""
    smallest, default = min(choice.gigabytes for choice in found.choices), found.choices[0]
    if found.strips_gigabytes + default.gigabytes > found.free_gigabytes:
        fits = " (the smallest type fits)" if found.strips_gigabytes + smallest < found.free_gigabytes else ""
        yield (
            f"strips and embeddings need {found.strips_gigabytes + default.gigabytes:.1f} GB, {_existing(out)} has "
            f"{found.free_gigabytes:.1f} GB free{fits}: lower --max-latents, take a smaller font, or a larger disk"
        )
    if default.gigabytes > LARGE_GB:
        yield (
            f"{default.gigabytes:.0f} GB of embeddings are more than {LARGE_GB} GB: a lower --max-latents (the budget "
            "that inference will spend) or a smaller font takes less"
        )
    if lacking is not None:
        yield f"how long embedding takes was not measured: {lacking}"
    if found.rows and found.rows_measured < found.rows:
        yield f"only the first {found.rows_measured} rows were read; the rest follows from the Hub's number of rows"


def _existing(folder: Path) -> Path:
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    return folder
