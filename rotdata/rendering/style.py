"""StripStyle: all that decides the pixels of a strip, validated where it is made."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rotdata.errors import UsageError
from rotdata.rendering.fonts import font_size_for_cells

OnMissing = Literal["fallback", "box", "error"]
Kerning = Literal["none", "pairs"]
Layout = Literal["line", "square"]

LINE_BREAKS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_VARIATION_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


_FONT = "DejaVu Sans"
_LOWEST_LINE_PX = 8
_BY_CELLS: Any = None  # its value depends on whether there are cells: __post_init__ puts it in


@dataclass(frozen=True, kw_only=True)
class StripStyle:
    """All that decides the pixels of a strip. The defaults are the paper's: 32 px high, 20 px font, 4 px padding.

    With cells alone, `StripStyle(cells=6)`, font, size and padding are those that cells need.
    """

    font: str = _BY_CELLS
    """A shipped or installed family, or the path of a font file; by default DejaVu Sans, in cells its mono."""
    font_size_px: int = _BY_CELLS
    """By default 20, or in cells the largest up to that which fits them."""
    height_px: int = 32
    """The encoder's factor: height of a line, and the width of one latent."""
    padding_px: int = _BY_CELLS
    """Blank columns before the first and after the last character of a line, by default 4; with cells whole latents,
    by default none."""
    line_break: str = " "
    """What stands for a line break; an end of line of two characters (CR LF) counts once."""
    foreground: int = 0
    """Grey value of ink, 0 to 255."""
    background: int = 255
    on_missing: OnMissing = "fallback"
    """A character the font lacks: try the fallback fonts and then draw a box, draw a box at once, or raise."""
    fallback: tuple[str, ...] = ()
    """Fonts, named as `font` is, for what neither it nor the shipped ones have, in this order."""
    kerning: Kerning = "none"
    """With pairs, the font's kern table moves the letters of a word; spaces and GPOS tables play no part."""
    letter_spacing_px: int = 0
    """Added to the advance of every character that has one."""
    cells: int | None = None
    """Characters a line of a latent: each is drawn within a cell of height_px / cells columns, so that none straddles
    latents."""
    lines: int = 1
    """Lines of cells in the height of one latent, read one below the other before the next latent is."""
    align_steps: bool = False
    """Whether each step of the reasoning, a line of its text or a calculator mark <<...>>, begins a latent."""
    align_numbers: bool = False
    """Whether each number of a calculation begins a latent, with the sign before it."""
    begin_mark: str = ""
    """Drawn before the text; belongs to no character's span."""
    end_mark: str = ""
    layout: Layout = "line"
    """One line, or lines of one latent's height wrapped at words into a square, latents in reading order."""
    square_px: int = 1024
    """Side of the square; the paper's is 1024."""

    @property
    def aligns(self) -> bool:
        """Whether some characters begin a latent wherever they stand."""
        return self.align_steps or self.align_numbers

    @property
    def line_px(self) -> int:
        """Height of one line."""
        return self.height_px // self.lines

    @property
    def cells_a_latent(self) -> int | None:
        """Characters that a latent has room for, where there are cells."""
        return None if self.cells is None else self.cells * self.lines

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't make a strip, UnknownFont where cells ask for the size of a font."""
        self._fill_in()
        object.__setattr__(self, "fallback", tuple(self.fallback))  # a manifest has a list
        if self.fallback and self.on_missing != "fallback":
            raise UsageError(f"fallback fonts go with on_missing fallback, not with {self.on_missing}: name none")
        if self.height_px < 8 or self.font_size_px < 4 or self.padding_px < 0:
            raise UsageError(
                f"height {self.height_px} px, font {self.font_size_px} px, padding {self.padding_px} px can't be "
                "drawn: the height is at least 8, the font at least 4, the padding at least 0"
            )
        if not (0 <= self.foreground <= 255 and 0 <= self.background <= 255):
            raise UsageError(f"grey values run from 0 to 255, got {self.foreground} on {self.background}")
        for name, choices in (("on_missing", OnMissing), ("kerning", Kerning), ("layout", Layout)):
            if getattr(self, name) not in choices.__args__:  # type: ignore[attr-defined]  # a Literal has them
                raise UsageError(f"{name} is one of {', '.join(choices.__args__)}, got {getattr(self, name)!r}")  # type: ignore[attr-defined]
        for name in ("line_break", "begin_mark", "end_mark"):
            if any(spelling(character, "") is not None for character in getattr(self, name)):
                raise UsageError(
                    f"{name} can't itself hold line breaks, tabs or invisible characters: {getattr(self, name)!r}"
                )
        self._check_cells()
        self._check_square()

    @property
    def wide_cells(self) -> bool:
        """Whether full-width characters take two cells: with fallback fonts, before which all characters had one."""
        return bool(self.fallback) and (self.cells or 1) > 1

    def _fill_in(self) -> None:
        """Choose what depends on cells and was left open."""
        for name in ("font", "padding_px", "font_size_px"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self._chosen(name))

    def _chosen(self, name: str) -> Any:
        if self.cells is None:
            return {"font": _FONT, "padding_px": 4, "font_size_px": 20}[name]
        if name == "font_size_px":
            return font_size_for_cells(self.font, self.cells, self.height_px, lines=max(1, self.lines))
        return {"font": f"{_FONT} Mono", "padding_px": 0}[name]

    def _check_cells(self) -> None:
        if self.aligns and (self.cells is None or self.layout != "line"):
            raise UsageError(
                "steps and numbers are aligned with latents in a line of cells: give cells, 4 or 6 say, and no other "
                "layout"
            )
        if self.lines != 1 and (self.cells is None or self.layout != "line" or self.padding_px or self.lines < 1):
            raise UsageError(
                "lines count lines of cells in one latent, 2 say: give cells, 6 say, and neither padding nor another "
                "layout"
            )
        if self.height_px % self.lines or self.line_px < _LOWEST_LINE_PX:
            raise UsageError(
                f"{self.lines} lines do not divide a latent of {self.height_px} px into lines of at least "
                f"{_LOWEST_LINE_PX} px"
            )
        if self.cells is None:
            return
        if not 1 <= self.cells <= self.height_px // 4:
            raise UsageError(
                f"a latent of {self.height_px} px has room for 1 to {self.height_px // 4} cells, got {self.cells}"
            )
        if self.padding_px % self.height_px:
            raise UsageError(
                f"padding of {self.padding_px} px would push cells across latents: with cells it is 0 or a multiple of "
                f"{self.height_px}"
            )
        if self.kerning != "none" or self.letter_spacing_px:
            raise UsageError("cells have one width: they go with neither kerning nor letter spacing")

    def _check_square(self) -> None:
        if self.layout == "line":
            return
        if self.square_px % self.height_px or self.square_px < 4 * self.height_px:
            raise UsageError(
                f"a square has a side of at least four latents and of whole latents of {self.height_px} px, got "
                f"{self.square_px} px"
            )
        if 4 * self.padding_px > self.square_px:
            raise UsageError(f"padding of {self.padding_px} px leaves no room in a square of {self.square_px} px")


def spelling(character: str, line_break: str) -> str | None:
    """What is drawn in place of a character that has no picture of its own; None if it is drawn as itself."""
    if character in LINE_BREAKS:
        return line_break
    if character == "\t":
        return " "
    category = unicodedata.category(character)
    if category == "Cf" or character in _VARIATION_SELECTORS:
        return ""
    if category in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE:
        return REPLACEMENT
    return None


def respell(text: str, spellings: Mapping[str, str]) -> tuple[str, NDArray[np.int32] | None]:
    """The characters to draw, where some are drawn as others, and which source character each belongs to.

    Source character i is drawn as drawn[owners[i]:owners[i + 1]]; owners are None where each is drawn as one.
    """
    present = set(text).intersection(spellings)
    if "\r" not in present and all(len(spellings[character]) == 1 for character in present):
        return text.translate({ord(character): spellings[character] for character in present}), None
    pieces = [spellings.get(character, character) for character in text]
    for i in range(len(text) - 1):
        if text[i] == "\r" and text[i + 1] == "\n":
            pieces[i] = ""
    owners = np.zeros(len(text) + 1, dtype=np.int32)
    np.cumsum([len(piece) for piece in pieces], out=owners[1:])
    return "".join(pieces), owners
