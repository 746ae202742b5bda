"""`python -m bench.legibility [STRIPS]`: what density costs in legibility, as a Markdown table of fonts and sizes.

GSM8K where ROT_DATA names its folder, else the toy corpus; 60 strips a line of the table unless told otherwise.
Intervals are bootstrapped over strips.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from bench.common import gsm8k_texts
from rotdata.legibility import Reading, judge, read_strip
from rotdata.rendering.cells import unfold
from rotdata.rendering.strips import Strip, StripStyle, font_size_for_cells, renderer

STRIPS = 60
SIZES_PX = (6, 7, 8, 10, 12, 14, 16, 20, 24)
FONTS = ("DejaVu Sans", "DejaVu Sans Condensed", "DejaVu Sans Mono")
CELLS = (2, 3, 4, 5, 6)
TWO_LINES = (4, 5, 6)
"""Cells a line, where a latent has two."""


def styles() -> list[tuple[str, StripStyle]]:
    """Every line of the table: what it is called, and its style."""
    proportional = [
        (f"{font}, {size} px", StripStyle(font=font, font_size_px=size)) for font in FONTS for size in SIZES_PX
    ]
    cells = []
    for count in CELLS:
        size = font_size_for_cells("mono", count, 32)
        style = StripStyle(font="mono", font_size_px=size, cells=count, padding_px=0)
        cells.append((f"DejaVu Sans Mono, {size} px, {count} cells a latent", style))
    for count in TWO_LINES:
        style = StripStyle(cells=count, lines=2)
        cells.append((f"DejaVu Sans Mono, {style.font_size_px} px, two lines of {count} cells a latent", style))
    return proportional + cells


def row(name: str, texts: Sequence[str], strips: Sequence[Strip], readings: Sequence[Reading]) -> str:
    """A line of the table."""
    latents = np.array([strip.num_latents for strip in strips])
    errors = np.array([reading.errors for reading in readings])
    characters = np.array([reading.characters for reading in readings])
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(texts), (2000, len(texts)))
    rates = errors[drawn].sum(axis=1) / characters[drawn].sum(axis=1)
    low, high = np.quantile(rates, (0.025, 0.975))
    density = sum(map(len, texts)) / latents.sum()
    rate = judge(readings).rate
    return f"| {name} | {latents.mean():.1f} | {density:.2f} | {rate:.2%} ({low:.2%} to {high:.2%}) |"


def main(count: int) -> None:
    """Print the table."""
    corpus, texts = gsm8k_texts(count)
    print(f"{len(texts)} chains of thought of {corpus}\n")
    print("| font | latents a row | characters a latent | character error rate (95% interval) |")
    print("|---|---|---|---|")
    for name, style in styles():
        strips = [renderer(style).render(text) for text in texts]
        lines = [unfold(strip.pixels, style.lines) for strip in strips]
        readings = [read_strip("", text, line) for text, line in zip(texts, lines, strict=True)]
        print(row(name, texts, strips, readings), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STRIPS)
