"""Which cell each character of a text is drawn in, and what each latent shows: of cells alone, knowing no font.

Shapes: K latents, S cells of a latent.
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
_STEP = re.compile(rf"(?<=[{LINE_BREAKS}])[^{LINE_BREAKS}]|(?<= )<<")
"""Where a step of the reasoning begins, but for the first."""


@cache
def is_mark(character: str) -> bool:
    """Whether it is drawn over the character before it."""
    return unicodedata.category(character) in ("Mn", "Me")


def steps_of(text: str) -> list[int]:
    """The characters that begin a step, but for the first."""
    return [found.start() for found in _STEP.finditer(text)]


def place_cells(drawn: str, cells_a_latent: int, steps: Sequence[int] = ()) -> NDArray[np.int32]:
    """Number of each character's cell, and of the cell after the last: [len(drawn) + 1].

    A mark has the cell which it is drawn in. `steps` are the drawn characters that begin a latent; a space before one
    that would open a latent for nothing takes no cell, and has the number of the one after it.
    """
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


def shown(text: str, style: StripStyle) -> NDArray[np.uint32]:
    """Code points of what each latent of a line of cells shows, cell by cell, or EMPTY or SEVERAL: [K, S].

    The style has neither padding nor marks beside the text.
    """
    assert style.cells is not None
    drawn, owners = respell(
        text, {each: spelt for each in set(text) if (spelt := spelling(each, style.line_break)) is not None}
    )
    steps = steps_of(text) if style.align_steps else []
    cells = place_cells(drawn, style.cells, steps if owners is None else owners[steps].tolist())
    points = np.frombuffer(drawn.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    mark = np.array([is_mark(character) for character in drawn], dtype=bool)
    room = cells[1:] > cells[:-1]
    room[:-1] |= mark[1:]  # a character has a cell although the mark over it has the same one
    found_KS = np.full((max(1, -(-int(cells[-1]) // style.cells)), style.cells), EMPTY, dtype=np.uint32)
    flat = found_KS.reshape(-1)
    flat[cells[:-1][room & ~mark]] = points[room & ~mark]
    flat[cells[:-1][mark]] = SEVERAL
    return found_KS


def characters_of(points: NDArray[np.uint32]) -> str:
    """The characters that cells show, without the cells that show none or several."""
    return "".join(map(chr, points[(points != EMPTY) & (points != SEVERAL)].tolist()))
