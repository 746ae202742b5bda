"""The front door: what the commands do, as one call each, with the same defaults. docs/api.md shows it by example."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rotdata import corpora, hub, renumbering, shards
from rotdata.corpora.chains import Chain
from rotdata.encoders import Precision, check_device
from rotdata.errors import UsageError
from rotdata.rendering.style import StripStyle
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.runs.pipeline import DEFAULT_ROWS_PER_SHARD, Fallback, Summary, TooLong
from rotdata.runs.resumable import Mode
from rotdata.shards.targets import TargetSettings

_PLAIN = StripStyle()


def render_corpus(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    source: str | Path | corpora.Source | corpora.Rows,
    out: str | Path,
    *,
    style: StripStyle = _PLAIN,
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD,
    max_latents: int | None = None,
    too_long: TooLong = "reject",
    max_boxes: float | None = None,
    fallback: Fallback = "auto",
    num_proc: int = 1,
    overwrite: bool = False,
    **reading: Any,
) -> Summary:
    """Draw every row of a corpus into a folder of strips, as `rotdata render` does; the same call resumes.

    `source` is a file, a folder, a Hub dataset, `toy`, or rows in memory: mappings or `rotdata.Row`s from a list, a
    generator or a `datasets.Dataset`. A row with a greater share of boxes, characters without a glyph, than
    `max_boxes`, by default a tenth, is rejected; with the fallback "auto", fonts of this machine draw what a style that
    names none lacks of the corpus. `reading` are further fields of `rotdata.Source`: corpus, split, limit, fields.
    Raises SourceError, OutputOccupied, UsageError, Interrupted.
    """
    with corpora.opened(source, **reading) as rows:
        return pipeline.render(
            rows,
            style,
            Path(out),
            rows_per_shard=rows_per_shard,
            max_latents=pipeline.most_latents(style) if max_latents is None else max_latents,
            too_long=too_long,
            max_boxes=max_boxes,
            fallback=fallback,
            num_proc=num_proc,
            mode=Mode(overwrite=overwrite),
        )


def renumber(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    source: str | Path | corpora.Source | corpora.Rows,
    out: str | Path,
    *,
    times: int = 1,
    seed: int = 0,
    chain: Chain = "own",
    largest: int | None = None,
    hold_out: float = 0.0,
    held_out: str | Path | None = None,
    left_out: str | Path | None = None,
    **reading: Any,
) -> renumbering.Summary:
    """Write a corpus' rows with other numbers into a file, as `rotdata renumber` does.

    The share `hold_out` of the wordings goes into the file `held_out`. `source` and `reading` are as in
    `render_corpus`. Raises SourceError, UsageError.
    """
    settings = renumbering.Renumbering(times=times, seed=seed, chain=chain, largest=largest, hold_out=hold_out)
    if bool(hold_out) is not (held_out is not None):
        raise UsageError("hold_out is the share of the wordings that goes into the file held_out: give both or neither")
    apart, why = (None if file is None else Path(file) for file in (held_out, left_out))
    with corpora.opened(source, **reading) as rows:
        return renumbering.renumber(rows, Path(out), settings, held_out=apart, left_out=why)


def embed(
    strips: str | Path,
    out: str | Path,
    *,
    model: str = "tiny",
    dtype: Precision | Literal["auto"] = "auto",
    device: str | None = None,
    patches_per_call: int | None = None,
    overwrite: bool = False,
    context: Literal["strip", "latent"] = "strip",
    **targets: Any,
) -> Summary:
    """Embed a folder of strips into a folder of embeddings, as `rotdata embed` does; the same call resumes.

    With the context "latent" every latent is encoded alone, of strips in cells. `targets` are fields of TargetSettings:
    store ("float16", "float32", "int8"), pool, max_latents, longer. Raises
    ShardMismatch for strips of another height than the model's, UnknownModel, ShardError, OutputOccupied, Interrupted.
    """
    if device is not None:
        check_device(device)
    encoder, patches = pipeline.pick_encoder(
        Path(out), model, device=device, dtype=dtype, patches_per_call=patches_per_call, overwrite=overwrite
    )
    settings = EmbedSettings(
        targets=TargetSettings(**targets), patches_per_call=patches, kernel=encoder.where.kernel, context=context
    )
    return pipeline.embed(Path(strips), encoder, Path(out), settings=settings, mode=Mode(overwrite=overwrite))


def open_shards(name: str | Path) -> shards.Shards:
    """A finished folder of embeddings, or a dataset of the Hub, read where it is.

    A dataset is `OWNER/NAME[@REVISION][/CONFIG[/SPLIT]]`. Raises UsageError, ShardError, HubError.
    """
    return shards.Shards(shards.EmbeddingShards(hub.locate(str(name))))
