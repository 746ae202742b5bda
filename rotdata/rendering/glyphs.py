"""Characters -> glyphs of one style: what is drawn for each, by which font, how far the pen moves. Learnt once each.

Drawing is Pillow's basic layout, one glyph a call. Pictures of columns are bytes, column after column, so that two of
them are joined by joining their bytes.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rotdata.errors import RotError, UsageError
from rotdata.rendering.fonts import FontFace, fallback_chain, find_font, load_font
from rotdata.rendering.style import StripStyle, respell, spelling

_BOX = "\N{WHITE SQUARE}"
_UNKNOWN, _RESPELT = -1, -2  # advances of characters not met yet, and of those drawn as another text
_CODE_POINTS = 0x110000


class MissingGlyph(RotError):
    """A character that no allowed font can draw, under on_missing="error"."""


@dataclass(frozen=True, slots=True)
class Glyph:
    """A character as its font draws it; pixels count from the pen position, down and to the right."""

    character: str
    face: FontFace
    font: ImageFont.FreeTypeFont
    advance_px: int
    left_px: int  # ink spans [left, right), which may leave [0, advance)
    right_px: int
    top_px: int
    bottom_px: int


class Glyphs:
    """The glyphs of one style."""

    def __init__(self, style: StripStyle) -> None:
        """Choose fonts and baseline. Raises UnknownFont, or UsageError for a font higher than the strip."""
        self.style = style
        self.faces: tuple[FontFace, ...] = fallback_chain(find_font(style.font), style.fallback)
        self.boxed: set[str] = set()
        """Characters met so far that stand as boxes."""
        self.substituted: set[str] = set()
        """Characters met so far that a fallback font draws."""
        ascent, descent = load_font(self.faces[0], style.font_size_px).getmetrics()
        if ascent + descent > style.line_px:
            raise UsageError(
                f"{self.faces[0].name} at {style.font_size_px} px takes {ascent + descent} px of height, a line "
                f"has {style.line_px}: use a smaller --font-size or a greater --height"
            )
        self._baseline_px = (style.line_px - ascent - descent) // 2 + ascent
        self._box_rank = next(rank for rank, face in enumerate(self.faces) if ord(_BOX) in face.coverage)
        self._glyphs: dict[str, Glyph] = {}
        self._respelt: dict[str, str] = {}
        self._advances = np.full(_CODE_POINTS, _UNKNOWN, dtype=np.int16)

    def __getitem__(self, character: str) -> Glyph:
        """The glyph of a character that is drawn as itself or as a box."""
        return self._glyphs[character]

    def spell(self, text: str) -> tuple[str, NDArray[np.int32] | None, NDArray[np.int16]]:
        """The characters to draw, which source character each belongs to, and their advances in pixels.

        Source character i is drawn as drawn[owners[i]:owners[i + 1]]; owners are None where each is drawn as itself.
        """
        advances = self._look_up(text)
        if not text or advances.min() >= 0:
            return text, None, advances
        for character in set(text).difference(self._glyphs, self._respelt):
            self._learn(character)
        if set(text).isdisjoint(self._respelt):
            return text, None, self._look_up(text)
        drawn, owners = respell(text, self._respelt)
        return drawn, owners, self._look_up(drawn)

    def stand_ins(self, characters: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """The characters of a corpus that a fallback font draws, and those missing, with their counts.

        Missing ones are drawn as boxes, or refused under on_missing="error". Nothing is drawn to find out.
        """
        found: dict[str, dict[str, int]] = {"missing": {}, "substituted": {}}
        for character, count in sorted(characters.items()):
            if spelling(character, "") is None and (rank := self._rank(character)) != 0:
                found["missing" if rank is None else "substituted"][character] = count
        return found

    def boxes(self, text: str) -> Counter[str]:
        """The characters of `text` that stand as boxes, with their counts."""
        self.spell(text)
        if self.boxed.isdisjoint(text):
            return Counter()
        return Counter({character: count for character, count in Counter(text).items() if character in self.boxed})

    def measure(self, character: str, face: FontFace, size_px: int) -> Glyph:
        """The glyph of a character at a size. Its advance is hinted, in whole pixels, and without letter spacing."""
        font = load_font(face, size_px)
        left, top, right, bottom = map(int, font.getbbox(character, anchor="ls"))
        return Glyph(character, face, font, round(font.getlength(character)), left, right, top, bottom)

    def fits_height(self, glyph: Glyph) -> bool:
        """Whether all ink lies within the line."""
        return self._baseline_px + glyph.top_px >= 0 and self._baseline_px + glyph.bottom_px <= self.style.line_px

    def canvas(self, width_px: int) -> Image.Image:
        """An empty stretch of line."""
        return Image.new("L", (width_px, self.style.line_px), self.style.background)

    def stamp(self, image: Image.Image, glyph: Glyph, pen_px: int) -> None:
        """Draw a glyph onto a stretch of line."""
        if glyph.right_px > glyph.left_px:
            where = (pen_px, self._baseline_px)
            ImageDraw.Draw(image).text(where, glyph.character, fill=self.style.foreground, font=glyph.font, anchor="ls")

    def _look_up(self, text: str) -> NDArray[np.int16]:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return self._advances.take(codes)

    def _learn(self, character: str) -> None:
        """Find how `character` is drawn: as another text, by the first font that has it, or as a box."""
        spelt = spelling(character, self.style.line_break)
        if spelt is not None:
            self._respelt[character] = spelt
            self._advances[ord(character)] = _RESPELT
            for stand_in in set(spelt).difference(self._glyphs):
                self._learn(stand_in)
            return
        glyph = self._choose(character)
        advance = glyph.advance_px and max(0, glyph.advance_px + self.style.letter_spacing_px)
        self._glyphs[character] = replace(glyph, advance_px=advance)
        self._advances[ord(character)] = advance

    def _choose(self, character: str) -> Glyph:
        """Font and drawn character by the policy for missing glyphs; too large ones shrink until they fit."""
        rank = self._rank(character)
        if rank is None:
            if self.style.on_missing == "error":
                raise MissingGlyph(
                    f"{self.faces[0].name} has no glyph for U+{ord(character):04X} "
                    f"({unicodedata.name(character, 'unnamed')}): use another --font, or --on-missing fallback|box"
                )
            self.boxed.add(character)
            rank, character = self._box_rank, _BOX
        elif rank > 0:
            self.substituted.add(character)
        room = self.style.square_px - 2 * self.style.padding_px if self.style.layout == "square" else None
        for size_px in range(self.style.font_size_px, 0, -1):
            glyph = self.measure(character, self.faces[rank], size_px)
            narrow = room is None or max(glyph.right_px, glyph.advance_px) - min(glyph.left_px, 0) <= room
            if narrow and self.fits_height(glyph):
                break
        return glyph

    def _rank(self, character: str) -> int | None:
        """Which of the faces draws `character`; None if none may."""
        depth = len(self.faces) if self.style.on_missing == "fallback" else 1
        return next((rank for rank in range(depth) if ord(character) in self.faces[rank].coverage), None)


def columns(image: Image.Image, start_px: int, stop_px: int) -> bytes:
    """Columns [start, stop) of a grey image, column after column."""
    return np.asarray(image)[:, start_px:stop_px].tobytes(order="F")
