"""embed-book, book-bytes: latents that are pictures of their own, against those of whole strips.

embed-book: rows a second of `embed --context latent` on strips, everything included, against the bare tower on the
whole strips, packed beforehand, whose output is thrown away; beside it, what `embed` makes of whole strips a second.
book-bytes: bytes of the shards of whole strips over those of the same rows with --context latent.

Equations of GSM8K, as GSM8k-Aug has them, where ROT_DATA names its folder, else toy problems; aligned cells of 6, tiny.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.common import compare, timed
from bench.embed_limit import packed, run_tower
from bench.models import stock_tower, tiny
from rotdata.corpora import Source
from rotdata.encoders import CPU_PATCHES_PER_CALL, load_encoder
from rotdata.encoders.patches import calls
from rotdata.rendering.png import decode_png
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline, resumable
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import Manifest, read_table

ROWS = 8000
"""All in one shard: a dictionary holds each different latent of a row group once."""


def figures() -> Iterator[dict[str, Any]]:
    """The embed-book and book-bytes figures."""
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    try:
        corpus, source = _equations()
        style = StripStyle(cells=6, align_steps=True)
        pipeline.render(source, style, folder / "strips", rows_per_shard=ROWS)
        encoder = load_encoder(tiny(), dtype="float32", device="cpu")
        again = resumable.Mode(overwrite=True)
        alone, whole = EmbedSettings(context="latent"), EmbedSettings()
        embed = partial(pipeline.embed, folder / "strips", encoder, mode=again)
        manifest = Manifest.load(folder / "strips")
        table = read_table(folder / "strips", manifest, manifest.shards[0])
        pictures = [decode_png(image["bytes"]) for image in table.column("image").to_pylist()]
        sizes = [pixels.size // encoder.geometry.patch_px**2 for pixels in pictures]
        tower = stock_tower(tiny(), "float32")
        inputs = [
            packed([pictures[i] for i in call], encoder.geometry, "float32")
            for call in calls(sizes, CPU_PATCHES_PER_CALL)
        ]
        figure = compare(
            "embed-book",
            lambda: embed(folder / "latent", settings=alone),
            lambda: run_tower(tower, inputs),
            units=len(pictures),
            unit="rows/s",
            corpus=corpus,
        )
        seconds = timed(lambda: embed(folder / "strip", settings=whole))
        yield figure | {"embed_strip": round(len(pictures) / seconds, 2)}
        strip, latent = (Manifest.load(folder / context).total("bytes") for context in ("strip", "latent"))
        yield {
            "name": "book-bytes",
            "ratio": round(strip / latent, 2),
            "ours": latent,
            "baseline": strip,
            "unit": "bytes",
            "corpus": corpus,
        }
    finally:
        shutil.rmtree(folder)


def _equations() -> tuple[str, Source]:
    """Name and source of chains of thought that are equations alone."""
    if folder := os.environ.get("ROT_DATA"):
        file = str(Path(folder) / "gsm8k_train.jsonl")
        return "gsm8k, equations", Source(location=file, corpus="gsm8k", calc="only", limit=ROWS)
    return "toy (ROT_DATA is not set)", Source(location="toy", corpus="toy", limit=ROWS)
