"""Text -> strip: grey pixels, one factor high and a whole number of factors wide, and the span of every latent. Pure.

Each glyph sits at an integer pen position: the sum of the hinted, whole-pixel advances before it, without kerning
(unless the style asks for it) and without ligatures, so that equal prefixes have equal pixels and each character knows
its columns. Code points are drawn in logical order, one by one: right-to-left text is not reordered, combining marks
are drawn over what precedes them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rotdata.errors import UsageError
from rotdata.rendering.cells import aligned, fold
from rotdata.rendering.fonts import find_font, font_size_for_cells
from rotdata.rendering.glyphs import Glyphs, MissingGlyph
from rotdata.rendering.lines import CellLine, Line, ProportionalLine
from rotdata.rendering.png import encode_png
from rotdata.rendering.style import StripStyle

__all__ = [
    "MissingGlyph",
    "Renderer",
    "Strip",
    "StripStyle",
    "font_size_for_cells",
    "render",
    "renderer",
    "renderer_as",
    "style_of",
]


@dataclass(frozen=True, slots=True)
class Strip:
    """A rendered chain of thought of K latents; latent k shows text[spans[k]:spans[k+1]], characters centred in it."""

    pixels: NDArray[np.uint8]
    """[H, W], read-only. A line has W = K * H; a square holds rows of latents, in reading order."""
    spans: NDArray[np.int32]
    """[K + 1] offsets in code points, from 0 to len(text), never falling."""
    boxed: str = ""
    """Characters that no font could draw and that stand as boxes, each once, sorted."""
    substituted: str = ""
    """Characters drawn by a fallback font, each once, sorted."""

    @property
    def num_latents(self) -> int:
        """K: one latent every factor squared."""
        return len(self.spans) - 1

    @property
    def image(self) -> Image.Image:
        """The pixels as a grey picture of Pillow's."""
        return Image.fromarray(self.pixels)

    def _repr_png_(self) -> bytes:
        """How a notebook shows it."""
        return encode_png(self.pixels)


_PLAIN = StripStyle()


def render(text: str, style: StripStyle = _PLAIN) -> Strip:
    """Draw `text` in `style`, by default the paper's.

    Raises MissingGlyph under on_missing="error", UnknownFont for a bad font name.
    """
    return renderer(style).render(text)


@lru_cache(maxsize=16)
def renderer(style: StripStyle) -> Renderer:
    """The renderer of a style, made once: it keeps what it has drawn."""
    return Renderer(style)


def style_of(fingerprint: Mapping[str, Any]) -> StripStyle:
    """The style that a fingerprint is of. Raises UsageError for one that this release does not know."""
    try:
        return StripStyle(**fingerprint["style"])
    except TypeError as error:
        raise UsageError(f"the strips were drawn in a style of another release ({error}): upgrade this one") from error


def renderer_as(fingerprint: Mapping[str, Any]) -> Renderer | None:
    """The renderer that a fingerprint is of; None if fonts, Pillow or FreeType here draw otherwise."""
    draw = renderer(style_of(fingerprint))
    return draw if draw.fingerprint["sha256"] == fingerprint["sha256"] else None


@dataclass(frozen=True, slots=True)
class _Placed:
    """A text as it will be drawn, marks included: n characters at n + 1 pen positions."""

    drawn: str
    advances: NDArray[np.int16]
    pens: NDArray[np.int32]
    owners: NDArray[np.int32] | None
    """[len(text) + 1]: source character i is drawn as drawn[owners[i]:owners[i + 1]]; None if as drawn[begin + i]."""
    squeezed: list[int]
    """Source characters, spaces each before a step, that have no room: they belong to the latent before the step's."""


@dataclass(frozen=True, slots=True)
class _Row:
    """Characters drawn[start:stop] stand in one row of a square; those up to `following` are spaces left out there."""

    start: int
    stop: int
    following: int


class Renderer:
    """Draws strips of one style."""

    def __init__(self, style: StripStyle) -> None:
        """Raises UnknownFont, or UsageError for a style that its font can't be drawn in."""
        self.style = style
        self._glyphs = Glyphs(style)
        self._line: Line = ProportionalLine(self._glyphs) if style.cells is None else CellLine(self._glyphs)

    def render(self, text: str) -> Strip:
        """Draw `text`; see the module's docstring for what is drawn and where."""
        placed = self._place(text)
        pixels, spans = (
            self._draw_line(placed, len(text)) if self.style.layout == "line" else self._draw_square(placed, len(text))
        )
        boxed, substituted = self._glyphs.boxed, self._glyphs.substituted
        shown = set(placed.drawn) if boxed or substituted else set()
        return Strip(
            pixels=pixels,
            spans=spans,
            boxed="".join(sorted(boxed & shown)),
            substituted="".join(sorted(substituted & shown)),
        )

    def count_latents(self, text: str) -> int:
        """K of the strip of `text` without drawing it; too few by one or two where ink reaches beyond the padding."""
        placed = self._place(text)
        if self.style.layout == "square":
            side = self.style.square_px // self.style.height_px
            return max(side, len(self._wrap(placed))) * side
        return self._width_px(placed) // (self.style.lines * self.style.height_px)

    def fit(self, text: str, max_latents: int) -> int:
        """How many characters of `text`, from its start, make a strip of at most `max_latents`."""
        placed = self._place(text)
        if self.style.layout == "square":
            rows = self._wrap(placed)
            room = max_latents * self.style.height_px // self.style.square_px
            stop = rows[room].start if room < len(rows) else len(placed.drawn)
        else:
            tail = int(placed.pens[-1] - placed.pens[len(placed.pens) - 1 - len(self.style.end_mark)])
            room = max_latents * self.style.lines * self.style.height_px - 2 * self.style.padding_px - tail
            stop = int(np.searchsorted(placed.pens, room, side="right")) - 1
        borders = self._borders(placed.owners, len(text))
        fitting = max(0, int(np.searchsorted(borders, stop, side="right")) - 1)
        while fitting and self.count_latents(text[:fitting]) > max_latents:
            fitting -= 1  # an end mark that needs a row, a line break that is now the last
        return fitting

    def stand_ins(self, characters: Mapping[str, int]) -> dict[str, dict[str, int]]:
        """The "missing" and the "substituted" among a corpus' characters, with their counts; nothing is drawn."""
        return self._glyphs.stand_ins(characters)

    def boxes(self, text: str) -> Counter[str]:
        """The characters of `text` that stand as boxes, with their counts. Raises MissingGlyph."""
        return self._glyphs.boxes(text)

    @cached_property
    def glyph_sha256(self) -> str:
        """Hash of the printable ASCII glyphs as drawn here: it differs where another FreeType rasterises otherwise."""
        return hashlib.sha256(self.render("".join(map(chr, range(32, 127)))).pixels.tobytes()).hexdigest()

    @cached_property
    def fingerprint(self) -> dict[str, object]:
        """What decides the pixels: style, font files and glyphs as drawn. JSON-ready."""
        faces = self._glyphs.faces
        style = asdict(self.style) | {"font": faces[0].name}
        for later, default in (("align_steps", False), ("align_numbers", False), ("lines", 1)):
            if style[later] == default:
                del style[later]  # strips from before there was such a thing keep their fingerprint
        if self.style.fallback:
            style["fallback"] = [find_font(name).name for name in self.style.fallback]
        else:
            del style["fallback"]
        fonts: dict[str, str] = {}
        for rank, face in enumerate(faces):  # another release of a shipped font has its name, not its hash
            fonts[f"{face.name} (fallback {rank})" if face.name in fonts else face.name] = face.sha256
        glyphs = self.glyph_sha256
        whole = json.dumps([style, fonts, glyphs], sort_keys=True)
        return {
            "style": style,
            "fonts": fonts,
            "glyphs": glyphs,
            "sha256": hashlib.sha256(whole.encode()).hexdigest(),
        }

    def _place(self, text: str) -> _Placed:
        drawn, owners, advances = self._glyphs.spell(text)
        begin, end = self.style.begin_mark, self.style.end_mark
        if begin or end:
            drawn = begin + drawn + end
            advances = np.concatenate([self._glyphs.spell(begin)[2], advances, self._glyphs.spell(end)[2]])
            owners = None if owners is None else owners + np.int32(len(begin))
        if not self.style.aligns:
            return _Placed(drawn, advances, self._line.place(drawn, advances), owners, [])
        begins = aligned(text, self.style)
        steps = self._borders(owners, len(text))[begins].tolist()
        pens = self._line.place(drawn, advances, steps)
        squeezed = [
            begin - 1
            for begin, step in zip(begins, steps, strict=True)
            if drawn[step - 1] == " " and pens[step - 1] == pens[step]
        ]
        return _Placed(drawn, advances, pens, owners, squeezed)

    def _borders(self, owners: NDArray[np.int32] | None, length: int) -> NDArray[np.int32]:
        """[length + 1]: where in the drawn characters each source character begins, and where the last one ends."""
        if owners is not None:
            return owners
        begin = len(self.style.begin_mark)
        return np.arange(begin, begin + length + 1, dtype=np.int32)

    def _width_px(self, placed: _Placed) -> int:
        """Of the line, or of all the lines of latents that have several, one after the other."""
        factor = self.style.lines * self.style.height_px
        return max(1, -(-(int(placed.pens[-1]) + 2 * self.style.padding_px) // factor)) * factor

    def _draw_line(self, placed: _Placed, length: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Pixels and spans of one line."""
        origin, columns = self._line.draw(placed.drawn, placed.pens, self._width_px(placed))
        line = np.frombuffer(columns, dtype=np.uint8).reshape(-1, self.style.line_px).T
        if placed.owners is not None:
            starts = placed.pens[placed.owners]
        elif self.style.begin_mark or self.style.end_mark:
            starts = placed.pens[len(self.style.begin_mark) :][: length + 1]
        else:
            starts = placed.pens
        doubled_centres = starts[:-1] + starts[1:] + np.int32(2 * origin)
        doubled_centres[placed.squeezed] -= 1
        spans = self._spans(doubled_centres, line.shape[1] // self.style.height_px)[:: self.style.lines]
        pixels = fold(line, self.style.lines, self.style.height_px)
        pixels.flags.writeable = False
        return pixels, spans

    def _draw_square(self, placed: _Placed, length: int) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Pixels and spans of a square, or of as many rows as the text needs, as if its rows were one long line."""
        side, factor = self.style.square_px, self.style.height_px
        rows = self._wrap(placed)
        pixels = np.full((max(side // factor, len(rows)) * factor, side), self.style.background, dtype=np.uint8)
        begins = np.zeros(len(placed.drawn) + 1, dtype=np.int64)  # left edge of each drawn character in the long line
        ends = np.zeros(len(placed.drawn) + 1, dtype=np.int64)  # its right edge
        for number, row in enumerate(rows):
            pens = self._line.place(placed.drawn[row.start : row.stop], placed.advances[row.start : row.stop])
            origin, columns = self._line.draw(placed.drawn[row.start : row.stop], pens, side)
            stretch = np.frombuffer(columns, dtype=np.uint8).reshape(-1, factor).T
            pixels[number * factor :][:factor] = stretch[:, :side]
            begins[row.start : row.stop] = number * side + origin + pens[:-1]
            ends[row.start : row.stop] = number * side + origin + pens[1:]
            begins[row.stop : row.following] = ends[row.stop : row.following] = number * side + origin + int(pens[-1])
            begins[-1] = ends[-1] = number * side + origin + int(pens[-1])
        pixels.flags.writeable = False
        borders = self._borders(placed.owners, length)
        empty = borders[:-1] == borders[1:]
        doubled_centres = begins[borders[:-1]] + np.where(empty, begins[borders[:-1]], ends[borders[1:] - 1])
        return pixels, self._spans(doubled_centres, pixels.size // factor**2)

    def _wrap(self, placed: _Placed) -> list[_Row]:
        """Rows of a square, broken at spaces; a word that is wider than a row is broken where it leaves it."""
        room = self.style.square_px - 2 * self.style.padding_px
        drawn, pens = placed.drawn, placed.pens
        rows: list[_Row] = []
        start = 0
        while start < len(drawn) or not rows:
            stop = int(np.searchsorted(pens, pens[start] + room, side="right")) - 1
            if stop >= len(drawn):
                row = _Row(start, len(drawn), len(drawn))
            elif (space := drawn.rfind(" ", start + 1, stop + 1)) > 0:
                row = _Row(start, space, space + 1)
            else:
                row = _Row(start, max(stop, start + 1), max(stop, start + 1))
            row = self._shorten(placed, row)
            rows.append(row)
            start = row.following
        return rows

    def _shorten(self, placed: _Placed, row: _Row) -> _Row:
        """The row without the last characters if their ink would leave it."""
        while row.stop - row.start > 1:
            drawn, advances = placed.drawn[row.start : row.stop], placed.advances[row.start : row.stop]
            _, columns = self._line.draw(drawn, self._line.place(drawn, advances), self.style.square_px)
            if len(columns) <= self.style.square_px * self.style.height_px:
                break
            row = _Row(row.start, row.stop - 1, row.stop - 1)
        return row

    def _spans(self, doubled_centres: NDArray[np.integer], num_latents: int) -> NDArray[np.int32]:
        """Offsets of the first character centred at or after each latent's left edge."""
        borders = np.arange(0, 2 * num_latents + 1, 2, dtype=np.int32) * np.int32(self.style.height_px)
        spans = np.searchsorted(doubled_centres, borders, side="left").astype(np.int32)
        spans[-1] = len(doubled_centres)  # a trailing mark may be centred on the very edge
        return spans
