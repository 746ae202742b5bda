"""Which cell each character of a text is drawn in, and what each latent shows: of cells alone, knowing no font.

Shapes: K latents, S cells of a latent (of all its lines), n lines of a latent, H height of a latent, and its width.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from rotdata.rendering.style import LINE_BREAKS, StripStyle, respell, spelling

EMPTY, SEVERAL = 0, 0xFFFFFFFF
"""In place of a code point: a cell that no character has, and one that a character shares with the marks over it."""
REST = 0x200B
"""The same for the second cell of a character that takes two: nothing, but no space, as a zero-width space is drawn."""
_STEP = re.compile(rf"(?<=[{LINE_BREAKS}])[^{LINE_BREAKS}]|(?<= )<<")
"""Where a step of the reasoning begins, but for the first."""
_NUMBER = re.compile(r"(?:(?<=[\d)%])|(?<=[\d)%] ))[-+*/=\u00d7\u00f7](?= ?[-$(]?\.?\d)")
"""Where a number of a calculation begins, but for the first: the sign before it."""


@cache
def is_mark(character: str) -> bool:
    """Whether it is drawn over the character before it."""
    return unicodedata.category(character) in ("Mn", "Me")


@cache
def is_wide(character: str) -> bool:
    """Whether it is as wide as two of the others."""
    return unicodedata.east_asian_width(character) in ("W", "F")


def aligned(text: str, style: StripStyle) -> list[int]:
    """The characters that begin a latent in this style, but for the first: those of steps, and of their numbers."""
    patterns = (_STEP,) * style.align_steps + (_NUMBER,) * style.align_numbers
    return sorted({found.start() for pattern in patterns for found in pattern.finditer(text)})


def place_cells(
    drawn: str, cells_a_latent: int, steps: Sequence[int] = (), *, lines: int = 1, wide_cells: bool = False
) -> NDArray[np.int32]:
    """Number of each character's cell, and of the cell after the last: [len(drawn) + 1].

    A mark has the cell which it is drawn in. `steps` are the drawn characters that begin a latent; a space before one
    that would open a latent for nothing takes no cell, and has the number of the one after it. With `wide_cells`,
    full-width characters take two cells of one of a latent's lines; where one is left, it stays blank.
    """
    if wide_cells and any(map(is_wide, set(drawn))):
        return _place_wide(drawn, cells_a_latent, cells_a_latent // lines, frozenset(steps))
    cells = np.arange(len(drawn) + 1, dtype=np.int32)
    if any(map(is_mark, set(drawn))):
        owns = [i == 0 or not is_mark(character) for i, character in enumerate(drawn)]
        np.cumsum([*owns[1:], True], out=cells[1:])
    for step in steps:
        beyond = int(cells[step]) % cells_a_latent
        if beyond == 1 and drawn[step - 1] == " ":
            cells[step:] -= 1
        elif beyond:
            cells[step:] += cells_a_latent - beyond
    return cells


def _place_wide(drawn: str, cells_a_latent: int, cells_a_line: int, steps: frozenset[int]) -> NDArray[np.int32]:
    cells = np.empty(len(drawn) + 1, dtype=np.int32)
    free = 0
    for i, character in enumerate(drawn):
        beyond = free % cells_a_latent
        if i in steps and beyond:
            free += -1 if beyond == 1 and drawn[i - 1] == " " else cells_a_latent - beyond
        elif i and is_mark(character):
            cells[i] = cells[i - 1]
            continue
        size = 1 + is_wide(character)
        if size == 2 and free % cells_a_line == cells_a_line - 1:
            free += 1
        cells[i] = free
        free += size
    cells[-1] = free
    return cells


def shown(text: str, style: StripStyle) -> NDArray[np.uint32]:
    """Code points of what each latent of a line of cells shows, cell by cell, or EMPTY, SEVERAL or REST: [K, S].

    The style has neither padding nor marks beside the text.
    """
    assert style.cells_a_latent is not None
    drawn, owners = respell(
        text, {each: spelt for each in set(text) if (spelt := spelling(each, style.line_break)) is not None}
    )
    steps = aligned(text, style)
    steps = steps if owners is None else owners[steps].tolist()
    cells = place_cells(drawn, style.cells_a_latent, steps, lines=style.lines, wide_cells=style.wide_cells)
    points = np.frombuffer(drawn.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    mark = np.array([is_mark(character) for character in drawn], dtype=bool)
    room = cells[1:] > cells[:-1]
    room[:-1] |= mark[1:]  # a character has a cell although the mark over it has the same one
    found_KS = np.full(
        (max(1, -(-int(cells[-1]) // style.cells_a_latent)), style.cells_a_latent), EMPTY, dtype=np.uint32
    )
    flat = found_KS.reshape(-1)
    flat[cells[:-1][room & ~mark]] = points[room & ~mark]
    flat[cells[:-1][mark]] = SEVERAL
    if style.wide_cells:
        wide = np.array([is_wide(character) for character in drawn], dtype=bool)
        flat[cells[:-1][wide] + 1] = REST
    return found_KS


def characters_of(points: NDArray[np.uint32]) -> str:
    """The characters that cells show, without the cells that show none or several."""
    return "".join(map(chr, points[(points != EMPTY) & (points != SEVERAL)].tolist()))


def fold(line: NDArray[np.uint8], lines: int, height_px: int) -> NDArray[np.uint8]:
    """One long line [H / n, K * n * H] -> a strip [H, K * H] whose latents each show n stretches of it."""
    if lines == 1:
        return line
    stretches = line.reshape(len(line), -1, lines, height_px)
    return stretches.transpose(2, 0, 1, 3).reshape(height_px, -1)


def unfold(strip: NDArray[np.uint8], lines: int) -> NDArray[np.uint8]:
    """A strip as the one long line that was folded into it."""
    height_px = len(strip)
    if lines == 1:
        return strip
    stretches = strip.reshape(lines, height_px // lines, -1, height_px)
    return stretches.transpose(1, 2, 0, 3).reshape(height_px // lines, -1)
