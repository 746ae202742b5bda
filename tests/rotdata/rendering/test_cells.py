"""What a latent of cells is said to show is what is drawn in it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.encoders.patches import latent_pictures
from rotdata.rendering.cells import EMPTY, SEVERAL, characters_of, fold, shown, unfold
from rotdata.rendering.strips import StripStyle, render, renderer

MARK = "\u0301"
PIECES = ["a", "7", "W", "+", "=", " ", "<<", ">>", "\r\n", "\r", "\n", "\t", "\u200b", "\x07", MARK, "é"]
TEXTS = st.lists(st.sampled_from(PIECES)).map("".join)
STYLES = st.builds(
    StripStyle,
    cells=st.sampled_from([4, 8]),
    lines=st.sampled_from([1, 2]),
    align_steps=st.booleans(),
    align_numbers=st.booleans(),
    line_break=st.sampled_from([" ", "", "|", " // "]),
)


@given(TEXTS, STYLES)
def test_each_latent_looks_like_the_characters_that_it_is_said_to_show(text: str, style: StripStyle) -> None:
    strip = renderer(style).render(text)
    told_KS = shown(text, style)
    assert told_KS.shape == (strip.num_latents, style.cells_a_latent)
    assert strip.pixels.shape == (32, 32 * strip.num_latents)
    plain = renderer(StripStyle(cells=style.cells, lines=style.lines))
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


def test_a_latent_of_two_lines_is_read_before_the_next() -> None:
    style, text = StripStyle(cells=6, lines=2), "<<12*3=36>> <<36-4=32>> 7"
    strip = render(text, style)
    assert strip.spans.tolist() == [0, 12, 24, 25]
    assert style.font_size_px == StripStyle(cells=6).font_size_px
    for k in range(2):
        latent = strip.pixels[:, 32 * k : 32 * (k + 1)]
        for line, half in enumerate((latent[:16], latent[16:])):
            stretch = text[12 * k + 6 * line :][:6]
            np.testing.assert_array_equal(half, render(stretch, style).pixels[:16])
    assert (strip.pixels[16:, 64:] == 255).all()


def test_steps_begin_a_latent_of_two_lines_too() -> None:
    style = StripStyle(cells=6, lines=2, align_steps=True)
    text = "<<7+5=12>>\n<<12*31=372>>\n1"
    strip = render(text, style)
    assert [text[a:b] for a, b in pairwise(strip.spans.tolist())] == ["<<7+5=12>>\n", "<<12*31=372>>"[:12], ">\n", "1"]


@pytest.mark.parametrize("fitting", range(1, 5))
def test_as_much_text_as_fits_latents_of_two_lines(fitting: int) -> None:
    draw = renderer(StripStyle(cells=4, lines=2))
    assert draw.fit("x" * 100, fitting) == 8 * fitting
    assert draw.count_latents("x" * 8 * fitting) == fitting == draw.count_latents("x" * (8 * fitting - 7))


def test_what_is_folded_can_be_unfolded() -> None:
    line = np.random.default_rng(0).integers(0, 256, (16, 5 * 64), dtype=np.uint8)
    assert fold(line, 2, 32).shape == (32, 5 * 32)
    np.testing.assert_array_equal(unfold(fold(line, 2, 32), 2), line)
