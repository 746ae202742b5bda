"""Full-width characters in cells: two each, never of two latents, and a latent is the picture of its own text."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.rendering.cells import EMPTY, REST, SEVERAL, is_wide, shown
from rotdata.rendering.fallback import EAST_ASIAN, fonts_for
from rotdata.rendering.strips import StripStyle, renderer
from tests.squares import WIDE

any_line = st.text(st.sampled_from(WIDE[:9] + "ab1=m ⚡\N{CRAB}"), max_size=30)
any_text = st.text(st.sampled_from(WIDE[:9] + "ab1=<m  \n\r\t\u200b⚡\N{CRAB}\u0301\u0323"), max_size=40)
any_cells = st.integers(1, 8)


def style_of(squares_file: Path, cells: int, **more: object) -> StripStyle:
    return StripStyle(cells=cells, fallback=(str(squares_file),), **more)  # type: ignore[arg-type]


def cell_of(text: str, cells: int) -> list[int]:
    """The oracle: the cell that each character of a text without marks and line breaks begins in."""
    found, free = [], 0
    for character in text:
        size = 2 if is_wide(character) and cells > 1 else 1
        if free // cells != (free + size - 1) // cells:
            free += 1
        found.append(free)
        free += size
    return found


@pytest.mark.parametrize(
    ("cells", "text", "latents"),
    [
        (6, "数学計", ["数学計"]),
        (6, "a数学計b", ["a数学", "計b"]),
        (3, "数学a計", ["数", "学a", "計"]),
        (2, "数a学", ["数", "a", "学"]),
        (1, "数a", ["数", "a"]),
        (4, "⚡\N{CRAB}⚡", ["⚡\N{CRAB}", "⚡"]),  # of a shipped font, and a box
        (4, "abc数\u0301d", ["abc", "数\u0301d"]),
    ],
)
def test_a_full_width_character_takes_two_cells_of_one_latent(
    squares_file: Path, cells: int, text: str, latents: list[str]
) -> None:
    strip = renderer(style_of(squares_file, cells)).render(text)
    assert [text[start:stop] for start, stop in pairwise(strip.spans.tolist())] == latents


@given(any_line, any_cells)
def test_spans_are_those_of_cells_dealt_out_one_by_one(squares_file: Path, text: str, cells: int) -> None:
    strip = renderer(style_of(squares_file, cells)).render(text)
    shown = Counter(cell // cells for cell in cell_of(text, cells))
    assert np.diff(strip.spans).tolist() == [shown[latent] for latent in range(strip.num_latents)]


@given(any_line, any_cells)
def test_ink_stays_in_a_character_s_own_cells(squares_file: Path, text: str, cells: int) -> None:
    draw = renderer(style_of(squares_file, cells))
    pixels = draw.render(text).pixels
    inked = {*np.flatnonzero((pixels < 255).any(axis=0)).tolist()}
    for character, cell in zip(text, cell_of(text, cells), strict=True):
        size = 2 if is_wide(character) and cells > 1 else 1
        own = range(cell * 32 // cells, (cell + size) * 32 // cells)
        assert bool(inked.intersection(own)) == (character != " ")
        inked.difference_update(own)
    assert not inked


def test_without_fallback_fonts_every_character_has_one_cell_as_ever() -> None:
    strip = renderer(StripStyle(cells=4)).render("⚡数⚡数1")
    assert np.diff(strip.spans).tolist() == [4, 1]


@given(any_text, st.sampled_from([2, 4, 8]), st.booleans())
def test_each_latent_looks_like_the_characters_that_it_is_said_to_show(
    squares_file: Path, text: str, cells: int, aligned: bool
) -> None:
    style = style_of(squares_file, cells, align_steps=aligned)
    strip = renderer(style).render(text)
    told_KS = shown(text, style)
    assert told_KS.shape == (strip.num_latents, cells)
    for k, points in enumerate(told_KS):
        if SEVERAL not in points:
            said = "".join(" " if point == EMPTY else chr(point) for point in points)
            alone = renderer(style_of(squares_file, cells)).render(said)
            np.testing.assert_array_equal(alone.pixels, strip.pixels[:, 32 * k : 32 * (k + 1)])


def test_the_second_cell_of_a_character_is_neither_empty_nor_a_space(squares_file: Path) -> None:
    [points] = shown("a数学", style_of(squares_file, 6))
    assert points.tolist() == [ord("a"), ord("数"), REST, ord("学"), REST, EMPTY]


@given(any_text, any_cells, st.integers(1, 5), st.booleans())
def test_as_many_characters_as_fit_a_number_of_latents(
    squares_file: Path, text: str, cells: int, latents: int, aligned: bool
) -> None:
    draw = renderer(style_of(squares_file, cells, align_steps=aligned))
    count = draw.fit(text, latents)
    assert draw.count_latents(text[:count]) <= latents
    assert count == len(text) or draw.count_latents(text[: count + 1]) > latents
    assert draw.count_latents(text) == draw.render(text).num_latents


@given(st.text(st.sampled_from(WIDE[:9] + "ab1="), max_size=60), st.integers(1, 6))
def test_the_rows_of_a_square_are_lines_of_their_text(squares_file: Path, text: str, cells: int) -> None:
    draw = renderer(style_of(squares_file, cells, layout="square", square_px=128))
    strip = draw.render(text)
    borders = strip.spans[::4].tolist()
    assert (borders[0], borders[-1]) == (0, len(text))
    for row, (start, stop) in zip(np.split(strip.pixels, len(borders) - 1), pairwise(borders), strict=True):
        alone = renderer(style_of(squares_file, cells)).render(text[start:stop]).pixels
        np.testing.assert_array_equal(row[:, : alone.shape[1]], alone)
        assert (row[:, alone.shape[1] :] == 255).all()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=30), st.integers(1, 8), st.booleans())
def test_other_text_is_drawn_as_ever(squares_file: Path, text: str, cells: int, aligned: bool) -> None:
    plain, other = StripStyle(cells=cells, align_steps=aligned), style_of(squares_file, cells, align_steps=aligned)
    np.testing.assert_array_equal(renderer(other).render(text).pixels, renderer(plain).render(text).pixels)
    np.testing.assert_array_equal(renderer(other).render(text).spans, renderer(plain).render(text).spans)


def test_characters_of_an_installed_font_are_told_apart_in_cells() -> None:
    names = fonts_for(Counter(EAST_ASIAN))
    if not names:
        pytest.skip("no font for Chinese, Japanese and Korean is installed")
    draw = renderer(StripStyle(cells=4, fallback=names))
    pixels = [draw.render(character).pixels.tobytes() for character in sorted(set(EAST_ASIAN))]
    assert len(set(pixels)) == len(pixels)
    strip = draw.render(EAST_ASIAN)
    assert np.diff(strip.spans).tolist() == [2] * (len(EAST_ASIAN) // 2)
