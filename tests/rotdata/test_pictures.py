"""What is drawn of a latent alone, for feedback, is what the strip shows there."""

from __future__ import annotations

import unicodedata
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from rotdata.pictures import Pictures
from rotdata.rendering.strips import StripStyle, renderer
from tests.squares import WIDE


@given(
    st.text(st.sampled_from(WIDE[:9] + "ab1=<m  \n\r\t\u200b\u26a1\N{CRAB}\u0301\u0323"), max_size=40),
    st.integers(1, 8),
    st.booleans(),
)
@example("m" * 5 + WIDE[:4], 6, False)
@example("m" * 3 + WIDE[:4] + "\n1 <<1", 3, True)
def test_a_latent_alone_has_the_pixels_that_it_has_within_the_strip(
    squares_file: Path, text: str, cells: int, aligned: bool
) -> None:
    draw = renderer(StripStyle(cells=cells, align_steps=aligned, fallback=(str(squares_file),)))
    strip = draw.render(text)
    fingerprint: dict[str, Any] = dict(draw.fingerprint)
    fingerprint["style"] = fingerprint["style"] | {"fallback": [str(squares_file)]}  # it is not installed
    pictures = Pictures("tiny", style=fingerprint, encoder={})
    for k, (start, stop) in enumerate(pairwise(strip.spans.tolist())):
        shown = text[start:stop]
        if shown and unicodedata.combining(shown[0]):
            continue  # a mark at the very start of a step, which alone has nothing to stand over
        assert aligned or pictures.fits(shown)  # a space that has no room before a step may be one too many
        np.testing.assert_array_equal(pictures._picture(shown), strip.pixels[:, 32 * k : 32 * (k + 1)])
