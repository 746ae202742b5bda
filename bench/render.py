"""render: strips in memory against the obvious renderer, one core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.common import compare, gsm8k_texts, plain
from rotdata.rendering.fonts import find_font
from rotdata.rendering.strips import Renderer, StripStyle

TEXTS = 2000


def figures() -> Iterator[dict[str, Any]]:
    """The render figure."""
    corpus, texts = gsm8k_texts(TEXTS)
    style = StripStyle()
    ours = Renderer(style)
    font = ImageFont.truetype(str(find_font(style.font).path), style.font_size_px)

    def obvious(text: str) -> np.ndarray:
        """Measure the line, make a canvas of whole factors, draw the text."""
        text = plain(text)
        width = int(font.getlength(text)) + 2 * style.padding_px
        image = Image.new("L", (-(-width // style.height_px) * style.height_px, style.height_px), 255)
        ImageDraw.Draw(image).text((style.padding_px, style.padding_px), text, fill=0, font=font)
        return np.asarray(image)

    yield compare(
        "render",
        lambda: [ours.render(text) for text in texts],
        lambda: [obvious(text) for text in texts],
        units=len(texts),
        unit="strips/s",
        corpus=corpus,
    )
