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
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rotdata import strips
from rotdata.errors import UnknownFont, UsageError
from rotdata.fonts import find_font, shipped_fonts
from rotdata.strips import MissingGlyph, Renderer, Strip, StripStyle, render, renderer

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
    return character, font, round(font.getlength(character)), ink


def draw(text: str, style: StripStyle) -> Picture:
    """The oracle: one ImageDraw.text call a character, in order, at the sum of the advances before it."""
    pens: list[int] = []
    glyphs = []
    starts: list[int] = []
    pen = 0
    for index in range(len(text)):
        starts.append(pen)
        for character in spelled(text, index, style.line_break):
            found = glyph(character, style)
            glyphs.append(found)
            pens.append(pen)
            pen += found[2]
    starts.append(pen)
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
    monkeypatch.setattr(strips, "_MAX_CELLS", 5)
    monkeypatch.setattr(strips, "_MAX_WORDS_BYTES", 5000)
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
    assert renderer(SANS).width_px(text) == render(text, SANS).pixels.shape[1]


OTHER_VALUES: dict[str, Any] = {
    "font": "DejaVu Sans Mono",
    "font_size_px": 16,
    "height_px": 28,
    "padding_px": 8,
    "line_break": " | ",
    "foreground": 40,
    "background": 200,
    "on_missing": "box",
}


@pytest.mark.parametrize("knob", [field.name for field in dataclasses.fields(StripStyle)])
def test_every_knob_changes_pixels_and_fingerprint(knob: str) -> None:
    other = dataclasses.replace(SANS, **{knob: OTHER_VALUES[knob]})
    only_maths = chr(min(find_font("DejaVu Math TeX Gyre").coverage - find_font("DejaVu Sans").coverage))
    text = f"two\nlines {only_maths}"
    mine, theirs = render(text, SANS).pixels, render(text, other).pixels
    assert mine.shape != theirs.shape or (mine != theirs).any()
    fingerprints = [renderer(style).fingerprint for style in (SANS, other)]
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


@pytest.mark.parametrize(
    "values",
    [
        {"height_px": 7},
        {"font_size_px": 3},
        {"padding_px": -1},
        {"foreground": 256},
        {"background": -1},
        {"on_missing": "guess"},
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
