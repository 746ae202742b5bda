"""What a latent of cells is said to show is what is drawn in it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.encoders.patches import latent_pictures
from rotdata.rendering.cells import EMPTY, SEVERAL, characters_of, shown
from rotdata.rendering.strips import StripStyle, renderer

MARK = "\u0301"
PIECES = ["a", "7", "W", " ", "<<", ">>", "\r\n", "\r", "\n", "\t", "\u200b", "\x07", MARK, "é"]
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join)
STYLES = st.builds(
    StripStyle,
    cells=st.sampled_from([4, 8]),
    align_steps=st.booleans(),
    line_break=st.sampled_from([" ", "", "|", " // "]),
)


@given(TEXTS, STYLES)
def test_each_latent_looks_like_the_characters_that_it_is_said_to_show(text: str, style: StripStyle) -> None:
    strip = renderer(style).render(text)
    told_KS = shown(text, style)
    assert told_KS.shape == (strip.num_latents, style.cells)
    plain = renderer(StripStyle(cells=style.cells))
    for points, picture in zip(told_KS, latent_pictures(strip.pixels), strict=True):
        if SEVERAL in points:
            continue
        alone = plain.render("".join(" " if point == EMPTY else chr(point) for point in points))
        np.testing.assert_array_equal(picture, alone.pixels)


@pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r"])
def test_a_line_break_is_one_character_whatever_it_is_made_of(line_break: str) -> None:
    told_KS = shown(f"1+1=2{line_break}3", StripStyle(cells=6))
    assert [characters_of(points) for points in told_KS] == ["1+1=2 ", "3"]


def test_a_character_and_the_marks_over_it_are_no_one_character() -> None:
    [points] = shown(f"ae{MARK}{MARK}b", StripStyle(cells=4))
    assert points.tolist() == [ord("a"), SEVERAL, ord("b"), EMPTY]


def test_a_space_before_a_step_that_has_no_room_is_not_shown() -> None:
    told_KS = shown("1+1+1+10 <<2", StripStyle(cells=8, align_steps=True))
    assert [characters_of(points) for points in told_KS] == ["1+1+1+10", "<<2"]
