"""Draws the golden pictures anew: strips that an eye has judged, with the borders of their latents marked below.

`make golden` writes them; a test compares them with what the renderer draws. Look at each one before it is committed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rotdata.rendering.strips import StripStyle, render

FOLDER = Path(__file__).parent / "golden"
PICTURES = {
    "gsm8k": ("Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips.", StripStyle()),
    "equations": ("<<7+5=12>> <<12*3=36>> <<36-4=32>>", StripStyle()),
    "mono": ("<<7+5=12>> <<12*3=36>> <<36-4=32>>", StripStyle(font="DejaVu Sans Mono")),
    "condensed": ("The just fjord: Typography, rf fj Tj", StripStyle(font="DejaVu Sans Condensed")),
    "maths": (r"$\frac{\pi}{2}$ ∑ ∫ √2 ≤ ⎛x⎞ α≠β", StripStyle(font="DejaVu Math TeX Gyre")),
    "accents": ("cafe\u0301 naïve x\u0302 Ẵ", StripStyle()),
    "foreign": ("שלום 数 🦀 \u202eabc \x00", StripStyle()),
    "cells": (
        "<<7+5=12>> Wide iIl %mW e\u0301",
        StripStyle(font="DejaVu Sans Mono", font_size_px=17, cells=3, padding_px=0),
    ),
    "lines": ("<<12*3=36>> <<36-4=32>> Wide %mW e\u0301 end", StripStyle(cells=6, lines=2)),
    "kerned": ("AVATAR To We, kerned by Typography", StripStyle(kerning="pairs", letter_spacing_px=1)),
    "marked": ("3+4=7", StripStyle(begin_mark="<think> ", end_mark=" </think>", font="DejaVu Sans Mono")),
    "square": (
        "Natalia sold 48/2 = 24 clips in May.\nNatalia sold 48+24 = 72 clips, Donaudampfschifffahrtsgesellschaft.",
        StripStyle(layout="square", square_px=256, font_size_px=18),
    ),
    "inverted": ("small, white on black", StripStyle(font_size_px=14, foreground=255, background=0)),
}


def draw(name: str) -> NDArray[np.uint8]:
    """A golden picture: the strip, and below it one row of alternating greys, a stretch for each latent."""
    text, style = PICTURES[name]
    pixels = render(text, style).pixels
    latents = np.arange(pixels.shape[1]) // style.height_px
    return np.vstack([pixels, np.where(latents % 2, 96, 192).astype(np.uint8)[None].repeat(2, axis=0)])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in PICTURES:
        Image.fromarray(draw(each)).save(FOLDER / f"{each}.png", optimize=True)
        print(FOLDER / f"{each}.png")
