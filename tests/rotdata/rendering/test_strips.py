"""The renderer against an independent one: Pillow draws glyph after glyph on a canvas larger than the strip."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import unicodedata
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rotdata.errors import UnknownFont, UsageError
from rotdata.rendering import lines
from rotdata.rendering.fonts import find_font, shipped_fonts
from rotdata.rendering.png import decode_png
from rotdata.rendering.strips import MissingGlyph, Renderer, Strip, StripStyle, font_size_for_cells, render, renderer
from tests.squares import NAME, WIDE

MARGIN_PX = 64
SANS = StripStyle()
MATHS = StripStyle(font="DejaVu Math TeX Gyre")
FONTS = [face.name for face in shipped_fonts()]
BREAKS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u202e\u2060\ufeff\u00ad\ufe0f\ufe00\U000e0100\U000e0041"
CONTROLS = "\x00\x01\x07\x08\x1b\x1f\x7f\x80\x9f"
MARKS = "\u0300\u0301\u0302\u0308\u0323\u0338\u20d7\u0489\u034f"
CRAB = "\N{CRAB}"  # in no shipped font
TALL = "\N{N-ARY SUMMATION}\N{INTEGRAL}\N{LEFT CURLY BRACKET UPPER HOOK}\N{TOP HALF INTEGRAL}\N{CONTOUR INTEGRAL}"


@dataclass(frozen=True)
class Picture:
    """What the oracle drew: the canvas, where on it the strip lies, and each source character's edges in the strip."""

    canvas: NDArray[np.uint8]
    rows: slice
    columns: slice
    edges_px: list[tuple[int, int]]

    @property
    def strip(self) -> NDArray[np.uint8]:
        return self.canvas[self.rows, self.columns]


def spelled(text: str, index: int, line_break: str) -> str:
    """What stands for text[index], by the documented rules."""
    character = text[index]
    if character == "\r" and text[index + 1 : index + 2] == "\n":
        return ""
    if character in BREAKS:
        return line_break
    if character == "\t":
        return " "
    if (
        unicodedata.category(character) == "Cf"
        or 0xFE00 <= ord(character) <= 0xFE0F
        or 0xE0100 <= ord(character) <= 0xE01EF
    ):
        return ""
    noncharacter = ord(character) % 0x10000 in (0xFFFE, 0xFFFF)
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cs") or noncharacter else character


@functools.cache
def font_of(path: Path, size_px: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(path), size_px, layout_engine=ImageFont.Layout.BASIC)


def fits(style: StripStyle) -> bool:
    """Whether the font's line, from its ascent to its descent, is no higher than the strip."""
    return sum(font_of(find_font(style.font).path, style.font_size_px).getmetrics()) <= style.height_px


def baseline_px(style: StripStyle) -> int:
    """The font's line, from its ascent to its descent, stands in the middle of the strip."""
    ascent, descent = font_of(find_font(style.font).path, style.font_size_px).getmetrics()
    return (style.height_px - ascent - descent) // 2 + ascent


@functools.cache
def glyph(character: str, style: StripStyle) -> tuple[str, ImageFont.FreeTypeFont, int, tuple[int, int, int, int]]:
    """What is drawn for a character: itself or a box, the font at the largest size that fits, its advance, its ink."""
    paths = [find_font(name).path for name in (style.font, "DejaVu Sans", "DejaVu Math TeX Gyre")]
    coverage = [find_font(str(path)).coverage for path in paths]
    allowed = paths if style.on_missing == "fallback" else paths[:1]
    path = next((path for path, covered in zip(allowed, coverage, strict=False) if ord(character) in covered), None)
    if path is None:
        character = "\N{WHITE SQUARE}"
        path = next(path for path, covered in zip(paths, coverage, strict=True) if ord(character) in covered)
    baseline = baseline_px(style)
    for size_px in range(style.font_size_px, 0, -1):
        font = font_of(path, size_px)
        ink = tuple(map(int, font.getbbox(character, anchor="ls")))
        if baseline + ink[1] >= 0 and baseline + ink[3] <= style.height_px:
            break
    advance = round(font.getlength(character))
    return character, font, advance and max(0, advance + style.letter_spacing_px), ink


@functools.cache
def kern_table(path: str) -> dict[tuple[str, str], int]:
    with TTFont(path) as font:
        return dict(font["kern"].kernTables[0].kernTable) if "kern" in font else {}


@functools.cache
def glyph_names(path: str) -> tuple[dict[int, str], int]:
    with TTFont(path) as font:
        return font.getBestCmap(), font["head"].unitsPerEm


def kern_px(left: tuple[Any, ...], right: tuple[Any, ...]) -> int:
    """How far a glyph moves towards the one before it."""
    path, size = str(left[1].path), left[1].size
    if " " in (left[0], right[0]) or (path, size) != (str(right[1].path), right[1].size):
        return 0
    names, units = glyph_names(path)
    value = kern_table(path).get((names.get(ord(left[0]), ""), names.get(ord(right[0]), "")), 0)
    return max(-left[2], round(value / units * size))


def draw(text: str, style: StripStyle) -> Picture:
    """The oracle: one ImageDraw.text call a character, in order, at the sum of the advances before it."""
    pens: list[int] = []
    glyphs: list[tuple[str, ImageFont.FreeTypeFont, int, tuple[int, int, int, int]]] = []
    starts: list[int] = []
    pen = 0
    pieces = [style.begin_mark, *(spelled(text, index, style.line_break) for index in range(len(text))), style.end_mark]
    for piece in pieces:
        starts.append(pen)
        for character in piece:
            found = glyph(character, style)
            if glyphs and style.kerning == "pairs":
                moved = kern_px(glyphs[-1], found)
                pen += moved
                if starts[-1] + moved == pen:  # the piece begins where its first glyph does
                    starts[-1] = pen
            glyphs.append(found)
            pens.append(pen)
            pen += found[2]
    starts = starts[1:]  # the text's own, and where the end mark begins
    overhang = max((-(start + found[3][0]) for start, found in zip(pens, glyphs, strict=True)), default=0)
    origin = max(style.padding_px, overhang)
    right = max([pen + style.padding_px, *(start + found[3][2] for start, found in zip(pens, glyphs, strict=True))])
    width = max(1, -(-(origin + right) // style.height_px)) * style.height_px
    size = (width + 2 * MARGIN_PX, style.height_px + 2 * MARGIN_PX)
    image = Image.new("L", size, style.background)
    artist = ImageDraw.Draw(image)
    for start, (character, font, _, ink) in zip(pens, glyphs, strict=True):
        if ink[2] > ink[0]:
            where = (MARGIN_PX + origin + start, MARGIN_PX + baseline_px(style))
            artist.text(where, character, fill=style.foreground, font=font, anchor="ls")
    return Picture(
        canvas=np.asarray(image),
        rows=slice(MARGIN_PX, MARGIN_PX + style.height_px),
        columns=slice(MARGIN_PX, MARGIN_PX + width),
        edges_px=[(origin + start, origin + stop) for start, stop in pairwise(starts)],
    )


def assert_drawn_as_by_pillow(strip: Strip, text: str, style: StripStyle) -> None:
    """Same bytes, nothing outside, a whole number of latents, and the spans cut the text where the columns cut it."""
    picture = draw(text, style)
    np.testing.assert_array_equal(strip.pixels, picture.strip, err_msg=ascii(text))
    outside = picture.canvas.copy()
    outside[picture.rows, picture.columns] = style.background
    assert (outside == style.background).all(), f"ink outside the strip of {text!a}"
    assert_spans_cut_at_latents(strip, text, picture.edges_px)


def assert_spans_cut_at_latents(strip: Strip, text: str, edges_px: list[tuple[int, int]]) -> None:
    factor = strip.pixels.shape[0]
    assert strip.pixels.shape[1] == strip.num_latents * factor
    spans = strip.spans.tolist()
    assert spans[0] == 0
    assert spans[-1] == len(text)
    assert spans == sorted(spans)
    last = strip.num_latents - 1
    shown = [""] * strip.num_latents
    for character, (start, stop) in zip(text, edges_px, strict=True):
        shown[min(int((start + stop) / 2 // factor), last)] += character
    assert shown == [text[spans[k] : spans[k + 1]] for k in range(strip.num_latents)]


any_character = st.one_of(
    st.characters(min_codepoint=32, max_codepoint=126),
    st.characters(),
    st.sampled_from(MARKS + INVISIBLE + BREAKS + CONTROLS + TALL + "\t\r\n\ud800\udfff\ufffe\U0001ffff" + CRAB),
    st.characters(min_codepoint=0x590, max_codepoint=0x7FF),
    st.characters(min_codepoint=0x2190, max_codepoint=0x2BFF),
)
any_style = st.builds(
    StripStyle,
    font=st.sampled_from(FONTS),
    font_size_px=st.integers(4, 40),
    height_px=st.sampled_from([8, 16, 28, 32, 56]),
    padding_px=st.integers(0, 40),
    line_break=st.sampled_from([" ", "", " | ", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", CRAB]),
    foreground=st.integers(0, 255),
    background=st.integers(0, 255),
    on_missing=st.sampled_from(["fallback", "box"]),
    letter_spacing_px=st.integers(-4, 6),
    begin_mark=st.sampled_from(["", "<think> ", "\u0301", CRAB]),
    end_mark=st.sampled_from(["", " </think>", "j"]),
).filter(fits)


@given(st.text(any_character, max_size=40))
@example("")
@example("f\u0301")
@example("\u0301f")
@example("\u20d7")
@example("V\u0338")
@example("a\r\nb\n\rc")
@example("\r\r\n\n")
def test_random_text_is_drawn_as_by_pillow_glyph_after_glyph(text: str) -> None:
    assert_drawn_as_by_pillow(render(text, SANS), text, SANS)


@given(st.text(any_character, max_size=20), any_style)
def test_random_text_in_random_style_is_drawn_as_by_pillow(text: str, style: StripStyle) -> None:
    assert_drawn_as_by_pillow(render(text, style), text, style)


@pytest.mark.parametrize("font", FONTS)
def test_every_character_of_every_shipped_font_is_drawn_as_by_pillow(font: str) -> None:
    style = StripStyle(font=font)
    characters = sorted(map(chr, find_font(font).coverage))
    for start in range(0, len(characters), 16):
        text = "jf".join(characters[start : start + 16])
        assert_drawn_as_by_pillow(render(text, style), text, style)


def test_cells_made_anew_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_MAX_CELLS", 5)
    monkeypatch.setattr(lines, "_MAX_WORDS_BYTES", 5000)
    forgetful = Renderer(SANS)
    for text in ("Typography", "quick fjords", "Typography"):
        assert_drawn_as_by_pillow(forgetful.render(text), text, SANS)


def test_what_was_drawn_before_does_not_matter() -> None:
    text = f"jf\u0301 {CRAB} \u2211"
    used = Renderer(SANS)
    for other in (f"{CRAB}{text}", "\n", text[::-1]):
        used.render(other)
    for field in dataclasses.fields(Strip):
        np.testing.assert_array_equal(
            getattr(used.render(text), field.name), getattr(Renderer(SANS).render(text), field.name)
        )


@pytest.mark.parametrize("height", [28, 32])
@pytest.mark.parametrize("length", range(0, 40, 3))
def test_a_strip_is_one_factor_high_and_a_whole_number_wide(height: int, length: int) -> None:
    strip = render("m" * length, StripStyle(height_px=height))
    assert strip.pixels.dtype == np.uint8
    assert strip.pixels.shape == (height, height * strip.num_latents)


def test_a_strip_is_no_wider_than_its_text_needs() -> None:
    advance = round(font_of(find_font("DejaVu").path, 20).getlength("m"))
    for length in range(60):
        assert render("m" * length, SANS).num_latents == max(1, -(-(length * advance + 8) // 32))


def test_pixels_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        render("a", SANS).pixels[0, 0] = 0


def test_text_without_characters_is_one_blank_latent() -> None:
    strip = render("", SANS)
    assert strip.spans.tolist() == [0, 0]
    assert (strip.pixels == 255).all()


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30), st.text(max_size=10))
def test_equal_prefixes_have_equal_pixels(prefix: str, rest: str) -> None:
    short, long = render(prefix, SANS), render(prefix + rest, SANS)
    length_px = round(sum(round(font_of(find_font("DejaVu").path, 20).getlength(c)) for c in prefix))
    reach_px = 20  # as far as the ink of what follows may reach back
    stop = SANS.padding_px + length_px - reach_px
    np.testing.assert_array_equal(short.pixels[:, : max(0, stop)], long.pixels[:, : max(0, stop)])


def test_kerning_and_ligatures_are_off() -> None:
    for pair in ("AV", "To", "fi", "ffl", "VA."):
        advances = [round(font_of(find_font("DejaVu").path, 20).getlength(c)) for c in pair]
        assert draw(pair, SANS).edges_px[-1][1] == SANS.padding_px + sum(advances)
        assert_drawn_as_by_pillow(render(pair, SANS), pair, SANS)


@given(
    st.text(st.one_of(st.sampled_from("AVTWLYvowy.,-r "), any_character), max_size=30),
    st.sampled_from(["DejaVu Sans", "DejaVu Sans Condensed"]),
    st.integers(8, 24),
    st.integers(-3, 3),
)
def test_kerned_text_is_drawn_as_by_pillow_at_the_kerned_pens(text: str, font: str, size: int, spacing: int) -> None:
    style = StripStyle(font=font, font_size_px=size, kerning="pairs", letter_spacing_px=spacing)
    assert_drawn_as_by_pillow(render(text, style), text, style)


def test_kerning_moves_the_letters_of_a_word_only() -> None:
    kerned = StripStyle(kerning="pairs")
    assert draw("AV", kerned).edges_px[-1][1] < draw("AV", SANS).edges_px[-1][1]
    assert draw("A V", kerned).edges_px == draw("A V", SANS).edges_px
    assert_same_strip("A V", "A V", kerned)


def test_kerning_is_refused_where_the_font_has_no_table_for_it() -> None:
    with pytest.raises(UsageError, match="DejaVu Sans Mono has no kern table"):
        render("AV", StripStyle(font="DejaVu Sans Mono", kerning="pairs"))


def test_marks_belong_to_no_span() -> None:
    style = StripStyle(begin_mark="<think> " * 4, end_mark=" </think>" * 4)
    strip = render("abc", style)
    shown = ["abc"[start:stop] for start, stop in pairwise(strip.spans)]
    assert "".join(shown) == "abc"
    assert shown[0] == shown[-1] == ""
    assert_drawn_as_by_pillow(strip, "abc", style)
    whole = render(f"{style.begin_mark}abc{style.end_mark}", SANS)
    np.testing.assert_array_equal(strip.pixels, whole.pixels)


def assert_same_strip(text: str, other: str, style: StripStyle = SANS) -> None:
    np.testing.assert_array_equal(render(text, style).pixels, render(other, style).pixels)


@pytest.mark.parametrize("line_break", list(BREAKS), ids=ascii)
def test_every_line_break_is_drawn_as_the_separator(line_break: str) -> None:
    assert_same_strip(f"a{line_break}b", "a b")
    assert_same_strip(f"a{line_break}b", "a | b", StripStyle(line_break=" | "))


def test_an_end_of_line_of_two_characters_counts_once() -> None:
    assert_same_strip("a\r\nb", "a b")
    assert_same_strip("a\n\rb", "a  b")
    assert render("a\r\nb", SANS).spans.tolist()[-1] == 4


def test_a_character_centred_on_the_very_end_belongs_to_the_last_latent() -> None:
    style = StripStyle(font="DejaVu Sans Mono", padding_px=0)
    strip = render("aaaaaaaa\N{ZERO WIDTH SPACE}", style)  # 8 times 12 px fill 3 latents
    assert strip.spans.tolist() == [0, 3, 5, 9]


def test_a_tab_is_drawn_as_one_space() -> None:
    assert_same_strip("a\tb", "a b")


@pytest.mark.parametrize("character", list(INVISIBLE), ids=ascii)
def test_invisible_characters_take_no_room(character: str) -> None:
    strip = render(f"i{character}l", SANS)
    np.testing.assert_array_equal(strip.pixels, render("il", SANS).pixels)
    assert strip.spans.tolist() == [0, 3]
    assert strip.boxed == strip.substituted == ""


@pytest.mark.parametrize("character", [*CONTROLS, *map(chr, (0xD800, 0xDFFF, 0xFFFE, 0x10FFFF))], ids=ascii)
def test_controls_and_what_is_no_character_are_drawn_as_replacement_characters(character: str) -> None:
    assert_same_strip(f"a{character}b", "a\N{REPLACEMENT CHARACTER}b")


def test_right_to_left_text_keeps_its_logical_order() -> None:
    text = "\N{HEBREW LETTER ALEF}\N{HEBREW LETTER BET}" * 5
    picture = draw(text, SANS)
    assert [start for start, _ in picture.edges_px] == sorted(start for start, _ in picture.edges_px)
    assert_drawn_as_by_pillow(render(text, SANS), text, SANS)


def test_a_combining_mark_is_drawn_over_what_precedes_it() -> None:
    plain, marked = render("xxaxx", SANS).pixels, render("xxa\u0323xx", SANS).pixels
    advance = round(font_of(find_font("DejaVu").path, 20).getlength("x"))
    assert plain.shape == marked.shape
    changed = np.flatnonzero((plain != marked).any(axis=0)) - SANS.padding_px
    assert advance * 2 - 2 <= changed.min() <= changed.max() <= advance * 3 + 2


def test_a_joined_emoji_is_drawn_part_by_part() -> None:
    family = "\N{GRINNING FACE}\N{ZERO WIDTH JOINER}\N{GRINNING FACE}\N{VARIATION SELECTOR-16}"
    assert_same_strip(family, "\N{GRINNING FACE}" * 2)


def test_a_ligature_that_is_a_character_is_drawn_as_itself() -> None:
    strip = render("\N{LATIN SMALL LIGATURE FI}", SANS)
    assert (strip.boxed, strip.substituted) == ("", "")
    assert (strip.pixels != render("fi", SANS).pixels).any()


def test_a_flag_is_its_two_letters() -> None:
    letters = "\N{REGIONAL INDICATOR SYMBOL LETTER D}\N{REGIONAL INDICATOR SYMBOL LETTER E}"
    strip = render(letters, SANS)
    assert strip.boxed == letters  # DejaVu has neither
    assert_same_strip(letters, "\N{WHITE SQUARE}" * 2)


def test_private_use_is_a_glyph_of_the_font_or_a_box() -> None:
    assert render("\U000f0000", SANS).boxed == "\U000f0000"
    own = [chr(code) for code in find_font("DejaVu").coverage if 0xE000 <= code <= 0xF8FF]
    assert own
    assert render(own[0], SANS).boxed == ""


def test_a_character_of_no_font_is_drawn_as_a_box_and_reported() -> None:
    strip = render(f"a{CRAB}b{CRAB}", SANS)
    np.testing.assert_array_equal(strip.pixels, render("a\N{WHITE SQUARE}b\N{WHITE SQUARE}", SANS).pixels)
    assert (strip.boxed, strip.substituted) == (CRAB, "")


def test_a_character_of_a_fallback_font_is_drawn_and_reported() -> None:
    only_maths = min(find_font("DejaVu Math TeX Gyre").coverage - find_font("DejaVu Sans").coverage)
    strip = render(f"a{chr(only_maths)}", SANS)
    assert (strip.boxed, strip.substituted) == ("", chr(only_maths))
    assert_drawn_as_by_pillow(strip, f"a{chr(only_maths)}", SANS)


def test_under_box_no_fallback_font_is_tried() -> None:
    only_sans = "\N{HEBREW LETTER ALEF}"
    style = StripStyle(font="DejaVu Math TeX Gyre", on_missing="box")
    assert render(only_sans, style).boxed == only_sans
    assert render(only_sans, MATHS).substituted == only_sans


def test_under_error_a_missing_character_is_named_with_the_remedy() -> None:
    with pytest.raises(MissingGlyph, match=r"DejaVu Sans has no glyph for U\+1F980 \(CRAB\): use another --font"):
        render(CRAB, StripStyle(on_missing="error"))
    render("plain text", StripStyle(on_missing="error"))


def test_a_separator_without_glyph_is_reported_where_it_is_drawn() -> None:
    style = StripStyle(line_break=CRAB)
    assert render("a\nb", style).boxed == CRAB
    assert render("ab", style).boxed == ""


def test_reports_name_the_characters_of_this_text_alone() -> None:
    renderer(SANS).render(CRAB)
    assert render("abc", SANS).boxed == ""


def test_tall_glyphs_of_the_maths_font_are_not_cropped() -> None:
    full = MATHS.font_size_px
    tall = [c for c in map(chr, sorted(find_font(MATHS.font).coverage)) if glyph(c, MATHS)[1].size < full]
    assert len(tall) > 10
    text = "".join(tall)
    assert_drawn_as_by_pillow(render(text, MATHS), text, MATHS)


def test_ink_that_reaches_over_the_padding_makes_room_for_itself() -> None:
    style = StripStyle(padding_px=0)
    for text in ("j", "f", "\u20d7", "\u0301", "jaf", "a\u0338"):
        assert_drawn_as_by_pillow(render(text, style), text, style)


def test_a_hundred_thousand_characters_become_one_strip() -> None:
    text = "Natalia sold 48/2 = 24 clips in May.\n" * 2703
    strip = render(text, SANS)
    assert len(text) > 100_000
    assert strip.pixels.shape == (32, 32 * strip.num_latents)
    assert (np.diff(strip.spans) >= 0).all()
    assert (strip.spans[0], strip.spans[-1]) == (0, len(text))
    line = draw(text[:37], SANS)
    length = line.edges_px[-1][1] - SANS.padding_px
    last = SANS.padding_px + 2702 * length
    np.testing.assert_array_equal(strip.pixels[:, last : last + length], strip.pixels[:, 4 + length : 4 + 2 * length])


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x24F), max_size=60))
def test_width_is_known_without_drawing(text: str) -> None:
    assert renderer(SANS).count_latents(text) == render(text, SANS).num_latents


# Cells


def cells_of(strip: Strip, cells: int) -> list[NDArray[np.uint8]]:
    """The columns of each cell."""
    count = strip.num_latents * cells
    borders = [i * strip.pixels.shape[0] // cells for i in range(count + 1)]
    return [strip.pixels[:, start:stop] for start, stop in pairwise(borders)]


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 5, 8])
@given(st.text(st.characters(min_codepoint=33, max_codepoint=0x24F), max_size=20))
def test_a_cell_shows_one_character_whatever_stands_beside_it(cells: int, text: str) -> None:
    text = "".join(character for character in text if unicodedata.category(character) not in ("Cc", "Cf", "Mn", "Me"))
    style = StripStyle(cells=cells, padding_px=0)
    strip = render(text, style)
    assert strip.num_latents == max(1, -(-len(text) // cells))
    assert strip.spans.tolist() == [min(k * cells, len(text)) for k in range(strip.num_latents)] + [len(text)]
    for i, (character, cell) in enumerate(zip(text, cells_of(strip, cells), strict=False)):
        lead = i % cells  # the same cell of a latent, since widths may differ between them
        alone = cells_of(render(" " * lead + character, style), cells)[lead]
        np.testing.assert_array_equal(cell, alone)


@pytest.mark.parametrize("character", ["i", "m", "W", "%", "\N{INTEGRAL}", "\N{EM DASH}", CRAB])
@pytest.mark.parametrize("cells", [2, 3, 4, 6])
def test_a_glyph_in_a_cell_is_whole_and_as_large_as_fits(character: str, cells: int) -> None:
    style = StripStyle(cells=cells, padding_px=0)
    cell = cells_of(render(character, style), cells)[0]
    inked = np.argwhere(cell != style.background)
    (top, left), (bottom, right) = inked.min(axis=0), inked.max(axis=0) + 1
    drawn = "\N{WHITE SQUARE}" if character == CRAB else character
    for size in range(style.font_size_px, 3, -1):
        font = font_of(find_font(style.font).path, size)
        ink = tuple(map(int, font.getbbox(drawn, anchor="ls")))
        if ink[2] - ink[0] <= cell.shape[1]:
            break
    image = Image.new("L", (ink[2] - ink[0] + 8, style.height_px), 255)
    ImageDraw.Draw(image).text((4 - ink[0], baseline_px(style)), drawn, fill=0, font=font, anchor="ls")
    alone = np.asarray(image)
    across = np.flatnonzero((alone != 255).any(axis=0))
    np.testing.assert_array_equal(cell[:, left:right], alone[:, across.min() : across.max() + 1])
    assert bottom > top


@pytest.mark.parametrize(("cells", "size"), [(1, 20), (2, 20), (3, 17), (4, 14), (8, 7)])
def test_the_font_size_for_cells_is_the_largest_whose_zero_fits(cells: int, size: int) -> None:
    assert font_size_for_cells("mono", cells, 32) == size
    path = find_font("mono").path
    assert round(font_of(path, size).getlength("0")) <= 32 // cells
    assert size == 20 or round(font_of(path, size + 1).getlength("0")) > 32 // cells


def test_a_combining_mark_is_drawn_in_the_cell_before_it() -> None:
    style = StripStyle(cells=2, padding_px=0)
    plain, marked = cells_of(render("aaaa", style), 2), cells_of(render("aa\u0301aa", style), 2)
    assert render("aa\u0301aa", style).spans.tolist() == [0, 3, 5]
    changed = [i for i, (a, b) in enumerate(zip(plain, marked, strict=True)) if (a != b).any()]
    assert changed == [1]
    assert render("\u0301", style).num_latents == 1  # with nothing before it, it has a cell of its own
    assert (render("\u0301a", style).pixels != render(" a", style).pixels).any()


ALIGNED = StripStyle(cells=6, padding_px=0, align_steps=True)
VISIBLE = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=("Cc", "Cf", "Mn", "Me")))


@given(st.lists(VISIBLE.filter(bool), min_size=1, max_size=5), st.sampled_from("\n\r\u2028"))
def test_aligned_steps_are_drawn_as_each_alone(lines_: list[str], line_break: str) -> None:
    strip = render(line_break.join(lines_), ALIGNED)
    alone = [render(line, ALIGNED).pixels for line in lines_]
    np.testing.assert_array_equal(strip.pixels, np.hstack(alone))
    offsets = np.cumsum([0, *(len(line) + 1 for line in lines_)])
    first = np.cumsum([0, *(pixels.shape[1] // 32 for pixels in alone[:-1])])
    for start, latent in zip(offsets[:-1], first, strict=True):  # the break is the step's that it ends, or of no width
        assert strip.spans[latent] in (start, start - 1) or latent == start == 0


def test_calculator_marks_are_steps_and_a_space_opens_no_latent_for_nothing() -> None:
    text = "<<7+5=12>> <<12*2=24>> <<24-4=20>>"
    strip = render(text, ALIGNED)
    shown = [text[start:stop] for start, stop in pairwise(strip.spans.tolist())]
    assert shown == ["<<7+5=", "12>> ", "<<12*2", "=24>> ", "<<24-4", "=20>>"]
    full = render("<<12+12=24>> <<24-4=20>>", ALIGNED)  # twelve characters fill two latents
    assert full.num_latents == 4
    np.testing.assert_array_equal(full.pixels[:, 64:], render("<<24-4=20>>", ALIGNED).pixels)
    assert render("a<<1+1=2>>", ALIGNED).spans.tolist() == [0, 6, 10]  # within a word it is no step


@pytest.mark.parametrize(
    ("text", "latents"),
    [
        ("<<12+66=78>> <<78-9=69>>", ["<<12", "+66", "=78>> ", "<<78", "-9", "=69>>"]),
        ("<<100*15%=15>> <<15/.5=30>>", ["<<100", "*15%", "=15>> ", "<<15", "/.5", "=30>>"]),
        ("<<(3+4)*5=35>>", ["<<(3", "+4)", "*5", "=35>>"]),
        ("He ate 12 + 6 = $18 in all", ["He ate", " 12 ", "+ 6 ", "= $18 ", "in all"]),
        ("a well-known sum", ["a well", "-known", " sum"]),
    ],
)
def test_numbers_of_calculations_begin_a_latent_with_their_sign(text: str, latents: list[str]) -> None:
    style = dataclasses.replace(ALIGNED, align_numbers=True)
    strip = render(text, style)
    assert [text[start:stop] for start, stop in pairwise(strip.spans.tolist())] == latents


def test_a_visible_line_break_keeps_its_cell_before_an_aligned_step() -> None:
    style = dataclasses.replace(ALIGNED, line_break="|")
    assert render("abcdef\nx", style).num_latents == 3
    np.testing.assert_array_equal(render("abc\nx", style).pixels[:, :32], render("abc|", style).pixels)


@pytest.mark.parametrize("style", [{}, {"cells": 4, "padding_px": 0, "layout": "square"}])
@pytest.mark.parametrize("what", ["align_steps", "align_numbers"])
def test_steps_and_numbers_are_aligned_in_a_line_of_cells_only(style: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match="give cells"):
        StripStyle(**{what: True}, **style)


def test_a_text_is_cut_where_its_aligned_steps_fit() -> None:
    text = "<<7+5=12>> <<12*2=24>> <<24-4=20>>"
    for most in range(1, 7):
        fitting = Renderer(ALIGNED).fit(text, most)
        assert render(text[:fitting], ALIGNED).num_latents <= most
        assert fitting == len(text) or render(text[: fitting + 2], ALIGNED).num_latents > most  # "<" is no step


def test_padding_of_cells_is_whole_latents() -> None:
    padded = render("abcd", StripStyle(cells=2, padding_px=32))
    assert padded.spans.tolist() == [0, 0, 2, 4, 4]
    np.testing.assert_array_equal(padded.pixels[:, 32:-32], render("abcd", StripStyle(cells=2, padding_px=0)).pixels)


def test_cells_made_anew_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "_MAX_CELLS", 3)
    style = StripStyle(cells=3, padding_px=0)
    forgetful = Renderer(style)
    for text in ("Typography", "quick fjords", "Typography"):
        np.testing.assert_array_equal(forgetful.render(text).pixels, render(text, style).pixels)


# Squares

words_and_more = st.lists(st.text(any_character, max_size=12), max_size=30).map(" ".join)


@pytest.mark.parametrize("cells", [None, 2, 3])
@given(words_and_more)
def test_the_rows_of_a_square_are_lines_whose_text_makes_up_the_whole(cells: int | None, text: str) -> None:
    style = StripStyle(layout="square", square_px=256, cells=cells, padding_px=0 if cells else 4)
    line_style = dataclasses.replace(style, layout="line")
    strip = render(text, style)
    assert strip.pixels.shape[1] == 256
    assert strip.pixels.shape[0] >= 256
    assert strip.num_latents * 32 * 32 == strip.pixels.size
    spans = strip.spans.tolist()
    assert (spans[0], spans[-1]) == (0, len(text))
    assert spans == sorted(spans)
    assert strip.num_latents == renderer(style).count_latents(text)
    for row in range(strip.pixels.shape[0] // 32):
        shown = text[spans[row * 8] : spans[row * 8 + 8]]
        pixels = strip.pixels[row * 32 : row * 32 + 32]
        # What a row shows is what a line of its characters shows, a space at its end aside.
        for trimmed in (shown, shown.removesuffix(" "), shown.removesuffix("\n")):
            line = render(trimmed, line_style).pixels
            if line.shape[1] <= 256 and (pixels[:, : line.shape[1]] == line).all():
                assert (pixels[:, line.shape[1] :] == style.background).all()
                break
        else:
            assert any(unicodedata.category(c) in ("Cf", "Mn", "Me", "Cc", "Zl", "Zp") or c in INVISIBLE for c in text)


def test_a_square_breaks_at_spaces_and_long_words_where_they_leave_the_row() -> None:
    style = StripStyle(layout="square", square_px=256)
    strip = render("one two three four five six seven " + "m" * 40, style)
    text = "one two three four five six seven " + "m" * 40
    rows = [text[strip.spans[row * 8] : strip.spans[row * 8 + 8]] for row in range(8)]
    assert rows[:2] == ["one two three four five ", "six seven "]
    assert [len(row) for row in rows[2:5]] == [13, 13, 13]
    assert "".join(rows) == text


def test_a_square_grows_by_rows_where_the_text_needs_them() -> None:
    style = StripStyle(layout="square", square_px=128)
    assert render("a", style).pixels.shape == (128, 128)
    long = render("word " * 100, style)
    assert long.pixels.shape[0] > 128
    assert long.num_latents == long.pixels.shape[0] // 32 * 4


def test_the_square_of_the_paper_is_1024_pixels_wide_and_has_1024_latents() -> None:
    strip = render("Natalia sold 48/2 = 24 clips in May.", StripStyle(layout="square"))
    assert (strip.pixels.shape, strip.num_latents) == ((1024, 1024), 1024)


# Fitting


@pytest.mark.parametrize(
    "style",
    [
        SANS,
        StripStyle(line_break=" | ", begin_mark="<<< ", end_mark=" >>>"),
        StripStyle(cells=3, padding_px=0),
        StripStyle(padding_px=0, letter_spacing_px=2),
    ],
    ids=["plain", "marks", "cells", "spaced"],
)
@given(st.text(st.one_of(st.sampled_from("abc \n"), any_character), max_size=80), st.integers(1, 12))
def test_as_many_characters_as_fit_a_number_of_latents(style: StripStyle, text: str, latents: int) -> None:
    draw_in = renderer(style)
    count = draw_in.fit(text, latents)
    if count:
        assert draw_in.count_latents(text[:count]) <= latents
    if count < len(text):
        assert draw_in.count_latents(text[: count + 1]) > latents or text[count : count + 2] == "\r\n"


@given(words_and_more, st.integers(4, 8))
def test_as_many_characters_as_fit_the_rows_of_a_square(text: str, rows: int) -> None:
    draw_in = renderer(StripStyle(layout="square", square_px=128))
    count = draw_in.fit(text, rows * 4)
    assert draw_in.count_latents(text[:count]) <= rows * 4
    if draw_in.count_latents(text) <= rows * 4:
        assert count == len(text)


OTHER_VALUES: dict[str, Any] = {
    "font": "DejaVu Sans Mono",
    "font_size_px": 16,
    "height_px": 28,
    "padding_px": 8,
    "line_break": " | ",
    "foreground": 40,
    "background": 200,
    "on_missing": "box",
    "fallback": (NAME,),
    "kerning": "pairs",
    "letter_spacing_px": 1,
    "cells": 3,
    "lines": 2,
    "align_steps": True,
    "align_numbers": True,
    "begin_mark": "<think>",
    "end_mark": "</think>",
    "layout": "square",
    "square_px": 512,
}
BESIDE: dict[str, dict[str, Any]] = {
    "cells": {"padding_px": 0},
    "lines": {"cells": 3, "padding_px": 0, "font_size_px": 10},
    "align_steps": {"cells": 3, "padding_px": 0},
    "align_numbers": {"cells": 3, "padding_px": 0},
    "square_px": {"layout": "square"},
}
"""Knobs that need another one turned to mean anything."""


@pytest.mark.parametrize("knob", [field.name for field in dataclasses.fields(StripStyle)])
@pytest.mark.usefixtures("squares")
def test_every_knob_changes_pixels_and_fingerprint(knob: str) -> None:
    plain = dataclasses.replace(SANS, **BESIDE.get(knob, {}))
    other = dataclasses.replace(plain, **{knob: OTHER_VALUES[knob]})
    only_maths = chr(min(find_font("DejaVu Math TeX Gyre").coverage - find_font("DejaVu Sans").coverage))
    text = f"two\nlines AV {only_maths}{WIDE[0]} 1+2"
    mine, theirs = render(text, plain).pixels, render(text, other).pixels
    assert mine.shape != theirs.shape or (mine != theirs).any()
    fingerprints = [renderer(style).fingerprint for style in (plain, other)]
    assert fingerprints[0]["sha256"] != fingerprints[1]["sha256"]
    assert fingerprints[0]["style"] != fingerprints[1]["style"]


def test_the_fingerprint_is_the_same_every_time() -> None:
    assert Renderer(SANS).fingerprint == Renderer(StripStyle(font="dejavu")).fingerprint


def test_the_fingerprint_names_fonts_not_paths(tmp_path: Path) -> None:
    copy = shutil.copy(find_font("mono").path, tmp_path / "copy.ttf")
    assert Renderer(StripStyle(font=str(copy))).fingerprint == Renderer(StripStyle(font="mono")).fingerprint


def test_the_fingerprint_tells_another_release_of_a_shipped_font(tmp_path: Path) -> None:
    other = tmp_path / "DejaVuSans.ttf"
    other.write_bytes(find_font("DejaVu").path.read_bytes() + b"\0\0\0\0")
    fingerprint = Renderer(StripStyle(font=str(other))).fingerprint
    assert fingerprint["sha256"] != Renderer(SANS).fingerprint["sha256"]
    assert find_font(str(other)).sha256 in fingerprint["fonts"].values()


@pytest.mark.parametrize("cells", [2, 4, 6, 8])
def test_cells_alone_choose_the_font_size_and_padding_that_the_command_gives_them(cells: int) -> None:
    size = font_size_for_cells("DejaVu Sans Mono", cells, 32)
    chosen = StripStyle(font="DejaVu Sans Mono", font_size_px=size, padding_px=0, cells=cells)
    assert StripStyle(cells=cells) == chosen
    assert (StripStyle().font, StripStyle().font_size_px, StripStyle().padding_px) == ("DejaVu Sans", 20, 4)


def test_a_notebook_is_shown_the_pixels() -> None:
    strip = render("a+b", StripStyle(cells=6))
    assert strip.image.mode == "L"
    np.testing.assert_array_equal(np.asarray(strip.image), strip.pixels)
    np.testing.assert_array_equal(decode_png(strip._repr_png_()), strip.pixels)


@pytest.mark.parametrize(
    "values",
    [
        {"height_px": 7},
        {"font_size_px": 3},
        {"padding_px": -1},
        {"foreground": 256},
        {"background": -1},
        {"on_missing": "guess"},
        {"kerning": "optical"},
        {"layout": "round"},
        {"cells": 0, "padding_px": 0},
        {"cells": 9, "padding_px": 0},
        {"lines": 2},
        {"lines": 0, "cells": 4, "padding_px": 0},
        {"lines": 3, "cells": 4, "padding_px": 0},
        {"lines": 8, "cells": 4, "padding_px": 0},
        {"lines": 2, "cells": 4, "padding_px": 32},
        {"lines": 2, "cells": 4, "padding_px": 0, "layout": "square"},
        {"cells": 4, "padding_px": 4},
        {"cells": 4, "padding_px": 0, "kerning": "pairs"},
        {"cells": 4, "padding_px": 0, "letter_spacing_px": 1},
        {"begin_mark": "a\nb"},
        {"end_mark": "\t"},
        {"layout": "square", "square_px": 1000},
        {"layout": "square", "square_px": 96},
        {"layout": "square", "square_px": 128, "padding_px": 40},
        *({"line_break": f"-{character}"} for character in (*BREAKS, *INVISIBLE, "\t", "\x00")),
    ],
    ids=ascii,
)
def test_values_that_make_no_strip_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        StripStyle(**values)


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("height", [8, 16, 28, 32])
def test_a_font_that_is_higher_than_the_strip_is_refused(font: str, height: int) -> None:
    sizes = [StripStyle(font=font, height_px=height, font_size_px=size) for size in range(4, 60)]
    for style in sizes:
        if fits(style):
            assert glyph("p", style)[1].size == style.font_size_px
            assert_drawn_as_by_pillow(render("Mp", style), "Mp", style)
        else:
            with pytest.raises(UsageError, match="use a smaller --font-size or a greater --height"):
                render("M", style)


def test_an_unknown_font_is_refused() -> None:
    with pytest.raises(UnknownFont):
        render("a", StripStyle(font="Comic Sans"))
