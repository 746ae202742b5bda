"""Make the damaged shards of a folder again, and check a folder against what would be made today.

All that a folder was made with stands in its manifest, so neither needs the options of the command that made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rotdata import corpora, shards
from rotdata.encoders.patches import ResizeLimits, latent_pictures, reference_resize
from rotdata.errors import ShardMismatch, UsageError
from rotdata.rendering.png import decode_png
from rotdata.rendering.strips import Renderer, renderer_as, style_of
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards.targets import TargetSettings, restore, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from rotdata.encoders import LazyEncoder

TOLERANCE = {"float32": 1e-3, "float16": 1e-3, "int8": 2e-2}
"""How far stored latents may be from latents encoded anew, root mean square relative to the latter, in fp32."""
_HALF_TOLERANCE = 3e-2
"""The same where the tower computes in bf16, whose rounding depends on what shares a call."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """Rows of a folder against the same rows made anew."""

    rows: int
    largest_error: float
    """Of embeddings, root mean square, relative; of strips 0, since every pixel is compared."""
    tolerance: float
    mismatches: list[shards.Mismatch]


def repair(folder: Path, origin: str | None, encoder: LazyEncoder | None = None) -> pipeline.Summary:
    """Make again what is missing or damaged in `folder`, and nothing else.

    `origin` is the corpus of strips, or the folder of strips of embeddings, which need an `encoder` too. Raises
    ShardError if the manifest itself is damaged, and what `pipeline.render` and `pipeline.embed` raise: a corpus,
    font, or tower that is not the one of the manifest is refused with what differs.
    """
    manifest = shards.Manifest.load(folder)
    if manifest.part is not None:
        raise UsageError(f"{folder} is a part: run the command that made it again, it mends what is damaged")
    if manifest.kind == "embeddings":
        if origin is None or encoder is None:
            raise UsageError(f"{folder} holds embeddings: name the folder of their strips with --from")
        return pipeline.embed(Path(origin), encoder, folder, settings=settings_of(manifest))
    source = source_of(manifest, origin)
    settings = manifest.settings
    return pipeline.render(
        source,
        style_of(manifest.style),
        folder,
        rows_per_shard=manifest.plan.rows_per_shard,
        max_latents=settings["max_latents"],
        too_long=settings["too_long"],
        max_boxes=settings.get("max_boxes", pipeline.ANY_BOXES),
        fallback="none",  # beyond the style's own
    )


def source_of(manifest: shards.Manifest, location: str | None) -> corpora.Source:
    """The corpus of strips, as the manifest has it. Raises UsageError if its place has to be named."""
    made_of = manifest.source
    location = location or (_toy(made_of) if "generator" in made_of else made_of.get("hub"))
    if location is None:
        raise UsageError(f"the strips were made from files ({', '.join(made_of['files'])}): name them with --from")
    fields = corpora.Fields(**dict(zip(("question", "cot", "answer", "id"), made_of.get("fields", ()), strict=False)))
    return corpora.Source(
        location=location,
        corpus=manifest.corpus,
        split=manifest.split,
        fields=fields,
        **{name: made_of[name] for name in _SOURCE_OPTIONS if made_of.get(name) is not None},
    )


def _toy(made_of: Mapping[str, Any]) -> str:
    """Toy problems as a source names them."""
    return f"toy:{'-'.join(map(str, made_of['steps']))}" if "steps" in made_of else "toy"


_SOURCE_OPTIONS = ("limit", "seed", "calc", "latex", "asymptote", "config", "revision")


def settings_of(manifest: shards.Manifest) -> EmbedSettings:
    """What `EmbedSettings.as_json` wrote."""
    stored = manifest.settings
    limits = stored.get("resize")
    return EmbedSettings(
        targets=TargetSettings(
            store=stored["store"],
            pool=stored.get("pool", 1),
            max_latents=stored.get("max_stored_latents"),
            longer=stored.get("longer", "reject"),
        ),
        resize=ResizeLimits(min_pixels=limits[0], max_pixels=limits[1]) if limits else None,
        patches_per_call=stored["patches_per_call"],
        kernel=stored.get("attention", "grouped"),
        context=stored.get("context", "strip"),
    )


def check_rows(folder: Path, count: int, encoder: LazyEncoder | None = None) -> Checked:
    """Draw, and for embeddings encode, `count` rows anew, spread evenly over the folder.

    Pixels are compared exactly, latents within TOLERANCE. Raises ShardMismatch if fonts or tower here are others than
    the manifest's: then nothing could be said.
    """
    manifest = shards.Manifest.load(folder)
    draw = renderer_as(manifest.style)
    if draw is None:
        raise ShardMismatch(
            f"the fonts, Pillow or FreeType here draw otherwise than those of {folder}: check it where it was made"
        )
    if manifest.kind == "strips":
        return _check_strips(folder, manifest, draw, count)
    if encoder is None:
        raise UsageError(f"{folder} holds embeddings: their model is needed to encode rows again")
    if not encoder.identity.fits(manifest.encoder or {}):
        ours, theirs = encoder.identity.tower.beside(manifest.encoder or {})
        raise ShardMismatch(
            f"{folder} was made by a tower {theirs[:12]}, {encoder.identity.model} has {ours[:12]}: name the model "
            "that made it with --model"
        )
    return _check_embeddings(folder, manifest, draw, encoder, count)


def _check_strips(folder: Path, manifest: shards.Manifest, draw: Renderer, count: int) -> Checked:
    found, rows = [], 0
    for row in shards.sample(folder, manifest, count, ("id", "cot", "image", "spans")):
        rows += 1
        pixels = draw.render(row["cot"][: row["spans"][-1]]).pixels
        if not np.array_equal(pixels, decode_png(row["image"]["bytes"])):
            found.append(shards.Mismatch(str(row["id"]), "its pixels are not those of its text"))
    return Checked(rows=rows, largest_error=0.0, tolerance=0.0, mismatches=found)


def _check_embeddings(
    folder: Path, manifest: shards.Manifest, draw: Renderer, encoder: LazyEncoder, count: int
) -> Checked:
    settings = settings_of(manifest)
    half = encoder.identity.dtype == "bfloat16"
    tolerance = max(TOLERANCE[settings.targets.store], _HALF_TOLERANCE if half else 0.0)
    found, largest, rows = [], 0.0, 0
    for row_id, stored, anew in _encoded_again(folder, manifest, draw, encoder, count):
        rows += 1
        if stored.shape != anew.shape:
            found.append(shards.Mismatch(row_id, f"{len(stored)} latents, encoded anew {len(anew)}"))
            continue
        error = float(np.linalg.norm(stored - anew) / max(float(np.linalg.norm(anew)), 1e-12))
        largest = max(largest, error)
        if not error <= tolerance:
            found.append(shards.Mismatch(row_id, f"its latents are {error:.2e} from those encoded anew"))
    return Checked(rows=rows, largest_error=round(largest, 8), tolerance=tolerance, mismatches=found)


def _encoded_again(
    folder: Path, manifest: shards.Manifest, draw: Renderer, encoder: LazyEncoder, count: int
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Id, stored latents and latents encoded anew, of sampled rows."""
    settings = settings_of(manifest)
    columns = ["id", "cot", "embedding", *(["scale"] if settings.targets.store == "int8" else [])]
    for row in shards.sample(folder, manifest, count, columns):
        pixels = _drawn(draw, row["cot"], manifest)
        if settings.resize:
            pixels = reference_resize(pixels, encoder.geometry, settings.resize)
        pictures = latent_pictures(pixels) if settings.context == "latent" else [pixels]
        latents = np.concatenate(encoder.launch(pictures)())
        anew, _ = shorten(latents, None, settings.targets)
        stored = _as_stored(row["embedding"], manifest)
        if "scale" in row:
            stored = restore(stored, np.array(row["scale"], dtype=np.float32))
        yield row["id"], stored.astype(np.float32), anew


def _as_stored(latents: Sequence[Any], manifest: shards.Manifest) -> NDArray[Any]:
    """A row's latents as they stand in its shard, [K, D]."""
    if manifest.context == "latent":
        return np.frombuffer(b"".join(latents), manifest.store).reshape(len(latents), -1)
    return np.array(latents, manifest.store)


def _drawn(draw: Renderer, text: str, manifest: shards.Manifest) -> NDArray[np.uint8]:
    """The row's picture: of the beginning of its text where long ones were cut."""
    most = manifest.settings["max_latents"]
    if manifest.settings["too_long"] == "truncate" and draw.count_latents(text) > most:
        text = text[: draw.fit(text, most)]
    return draw.render(text).pixels
