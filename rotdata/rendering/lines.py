"""Glyphs -> one line of pixels, in proportional type or in cells of one width. Knows pen positions, not latents.

Both kinds place and draw: `place` turns advances into pen positions, one more than characters; `draw` gives the
columns, at least as many as asked for. Either gives the bytes of drawing every glyph of the line, one after another, at
its pen position; words and cells are kept, since corpora repeat them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rotdata.errors import UsageError
from rotdata.rendering.cells import is_mark, is_wide, place_cells
from rotdata.rendering.fonts import kern_table
from rotdata.rendering.glyphs import Glyph, Glyphs, columns

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")

_MAX_REACH_PX = 3  # how far a glyph's ink may leave its own columns before its word is drawn glyph by glyph
_MAX_CELLS = 50_000  # beyond it the cells are dropped and made again as needed; some 25 MB
_MAX_WORDS_BYTES = 32 << 20  # the same, for words


class Line(Protocol):
    """A way to set a line of characters."""

    def place(self, drawn: str, advances: NDArray[np.int16], steps: Sequence[int] = ()) -> NDArray[np.int32]:
        """Pen position before each character, and after the last: [len(drawn) + 1], from 0.

        `steps` are the characters that begin a latent, in a line that can have them do so.
        """

    def draw(self, drawn: str, pens: NDArray[np.int32], width_px: int) -> tuple[int, bytes]:
        """Where the line's pen stood at 0, and its columns: `width_px` of them, or more if the ink needs them."""


class ProportionalLine:
    """Each character takes its advance; words are drawn once and joined.

    A space has no ink. Half of its columns belong to the word before it and half to the word after it, as far as their
    ink reaches, so a word's columns depend on the word alone. A line with a word whose ink reaches further, and a word
    with a glyph whose ink reaches over a neighbour (combining marks above all), are drawn glyph by glyph.
    """

    def __init__(self, glyphs: Glyphs) -> None:
        self._glyphs = glyphs
        self._padding_px = glyphs.style.padding_px
        self._blank = bytes([glyphs.style.background]) * glyphs.style.height_px
        glyphs.spell(" ")
        space = glyphs[" "].advance_px
        self._after_px, self._before_px = space // 2, space - space // 2
        self._words: dict[str, bytes] = _Remembered(self._draw_word)
        self._words_bytes = 0
        self._cells: dict[str, bytes] = _Remembered(self._draw_cell)  # keyed by a character between two neighbours
        self._tame: set[str] = set()
        self._reaching: dict[str, tuple[int, int]] = {}  # words whose ink leaves them by more than the padding
        self._kerning = _kerning_of(glyphs) if glyphs.style.kerning == "pairs" else None

    def place(self, drawn: str, advances: NDArray[np.int16], steps: Sequence[int] = ()) -> NDArray[np.int32]:  # noqa: ARG002 -- of cells
        """Sums of advances, and of kerning where the style asks for it."""
        pens = np.zeros(len(drawn) + 1, dtype=np.int32)
        np.cumsum(advances, out=pens[1:])
        if self._kerning is not None and len(drawn) > 1:
            moved = np.fromiter(map(self._kerning, drawn, drawn[1:]), dtype=np.int32, count=len(drawn) - 1)
            pens[1:-1] += np.cumsum(moved)
            pens[-1] += moved.sum()
        return pens

    def draw(self, drawn: str, pens: NDArray[np.int32], width_px: int) -> tuple[int, bytes]:
        """Join the words, or draw glyph by glyph where one can't stand alone."""
        padding = self._padding_px
        if not drawn:
            return padding, self._blank * width_px
        words = drawn.split(" ")
        margin = padding - self._before_px
        rest = width_px - padding - int(pens[-1]) - self._after_px
        try:
            line = b"".join([self._blank * margin, *map(self._words.__getitem__, words), self._blank * rest])
            self._check_padding(words[0], words[-1])
        except _NotAlone:
            return self._draw_line(drawn, pens, width_px)
        if self._words_bytes > _MAX_WORDS_BYTES:
            self._words.clear()
            self._words_bytes = 0
        if margin < 0 or rest < 0:  # half a space is wider than the room beside the text
            height = len(self._blank)
            start = max(0, -margin) * height
            line = line[start : start + width_px * height]
        return padding, line

    def _draw_word(self, word: str) -> bytes:
        """The columns of a word and of its halves of the spaces around it. Raises _NotAlone if they do not hold it."""
        if not word:
            return self._blank * (self._before_px + self._after_px)
        if self._kerning is None and self._all_tame(word):
            first, last = self._glyphs[word[0]], self._glyphs[word[-1]]
            self._keep_reach(word, -first.left_px, last.right_px - last.advance_px)
            context = f" {word} "
            cells = [self._cells[context[i : i + 3]] for i in range(len(word))]
            before = self._margin(first, -self._before_px, 0)
            after = self._margin(last, last.advance_px, last.advance_px + self._after_px)
            drawn = b"".join([before, *cells, after])
        else:
            glyphs = [self._glyphs[character] for character in word]
            advances = np.array([glyph.advance_px for glyph in glyphs], dtype=np.int16)
            pens = self.place(word, advances).tolist()
            left, right = _ink(glyphs, pens)
            self._keep_reach(word, -left, right - pens[-1])
            drawn = self._stamp(glyphs, pens, -self._before_px, pens[-1] + self._after_px)
        self._words_bytes += len(drawn)
        return drawn

    def _keep_reach(self, word: str, left_px: int, right_px: int) -> None:
        """Refuse a word whose ink leaves its columns; note one whose ink leaves a line without padding."""
        if left_px > self._before_px or right_px > self._after_px:
            raise _NotAlone
        if max(left_px, right_px) > self._padding_px:
            self._reaching[word] = (left_px, right_px)

    def _check_padding(self, first: str, last: str) -> None:
        """Refuse a line whose ink would leave it on either side."""
        if self._reaching and max(self._reaching.get(first, (0, 0))[0], self._reaching.get(last, (0, 0))[1]) > (
            self._padding_px
        ):
            raise _NotAlone

    def _all_tame(self, word: str) -> bool:
        """Whether no glyph's ink reaches over a neighbour."""
        if not self._tame.issuperset(word):
            self._tame.update(character for character in set(word) if _is_tame(self._glyphs[character]))
        return self._tame.issuperset(word)

    def _draw_cell(self, key: str) -> bytes:
        """The columns of the middle one of three characters, with what its neighbours' ink leaves there."""
        if len(self._cells) > _MAX_CELLS:
            self._cells.clear()
        before, own, after = (self._glyphs[character] for character in key)
        # A neighbour whose ink stays at home is as good as a space.
        plain = (key[0] if before.right_px > before.advance_px else " ") + key[1]
        plain += key[2] if after.left_px < 0 else " "
        if plain != key:
            return self._cells[plain]
        return self._stamp([before, own, after], [-before.advance_px, 0, own.advance_px], 0, own.advance_px)

    def _margin(self, glyph: Glyph, start_px: int, stop_px: int) -> bytes:
        """Columns beside a glyph, with its ink if it reaches there."""
        if glyph.left_px < stop_px and glyph.right_px > start_px:
            return self._stamp([glyph], [0], start_px, stop_px)
        return self._blank * (stop_px - start_px)

    def _stamp(self, glyphs: list[Glyph], pens: list[int], start_px: int, stop_px: int) -> bytes:
        """Columns [start, stop) of glyphs drawn one after another at their pens."""
        left = min(start_px, _ink(glyphs, pens)[0])
        image = self._glyphs.canvas(stop_px - left)
        for glyph, pen in zip(glyphs, pens, strict=False):
            self._glyphs.stamp(image, glyph, pen - left)
        return columns(image, start_px - left, stop_px - left)

    def _draw_line(self, drawn: str, pens: NDArray[np.int32], width_px: int) -> tuple[int, bytes]:
        """The whole line glyph by glyph, moved and widened as far as the ink needs it."""
        glyphs = [self._glyphs[character] for character in drawn]
        positions = pens.tolist()
        left, right = _ink(glyphs, positions)
        origin = max(self._padding_px, -left)
        factor = len(self._blank)
        needed = origin + max(positions[-1] + self._padding_px, right)
        width = max(width_px, -(-needed // factor) * factor)
        return origin, self._stamp(glyphs, positions, -origin, width - origin)


class CellLine:
    """Each character has a cell of its own, `cells` of them a latent's width, and its ink stays within.

    Where a latent has several lines, the line is one as long as all of them: whoever draws strips folds it.

    A glyph is centred by its advance, moved until its ink is inside, and drawn smaller if it is too wide. A combining
    mark takes no cell: it is centred over the character before it. The character before one that begins a latent takes
    what is left of its own; a space that would open a latent for nothing takes no room. Where the style has wide cells,
    a full-width character takes two.
    """

    def __init__(self, glyphs: Glyphs) -> None:
        assert glyphs.style.cells is not None
        self._glyphs = glyphs
        self._cells = glyphs.style.cells
        self._factor_px = glyphs.style.height_px
        self._padding_px = glyphs.style.padding_px
        self._blank = bytes([glyphs.style.background]) * glyphs.style.line_px
        self._drawn: dict[int, dict[str, bytes]] = _Remembered(lambda width: _Remembered(self._drawer(width)))

    def place(self, drawn: str, advances: NDArray[np.int16], steps: Sequence[int] = ()) -> NDArray[np.int32]:  # noqa: ARG002 -- cells have one
        """Left border of each character's cell; a mark's is that of the cell which it is drawn in."""
        style = self._glyphs.style
        cells = place_cells(drawn, self._cells * style.lines, steps, lines=style.lines, wide_cells=style.wide_cells)
        return cells * np.int32(self._factor_px) // np.int32(self._cells)

    def draw(self, drawn: str, pens: NDArray[np.int32], width_px: int) -> tuple[int, bytes]:
        """Join the cells."""
        widths, starts = np.diff(pens), pens[:-1]
        clusters = list(drawn)
        if not widths.all():  # characters with marks, whose pens are the same up to the last mark
            stops = (np.flatnonzero(widths) + 1).tolist()
            clusters = [drawn[start:stop] for start, stop in pairwise([0, *stops])]
            widths, starts = widths[widths > 0], starts[widths > 0]
        if self._has_wide(drawn):
            cells = list(map(self._draw_own, clusters, starts.tolist(), widths.tolist()))
        else:
            cells = [self._drawn[width][cluster] for width, cluster in zip(widths.tolist(), clusters, strict=True)]
        for kept in self._drawn.values():
            if len(kept) > _MAX_CELLS:
                kept.clear()
        rest = width_px - self._padding_px - int(pens[-1])
        return self._padding_px, b"".join([self._blank * self._padding_px, *cells, self._blank * rest])

    def _has_wide(self, drawn: str) -> bool:
        return self._glyphs.style.wide_cells and any(map(is_wide, set(drawn)))

    def _draw_own(self, cluster: str, pen: int, width_px: int) -> bytes:
        """The columns of a cluster in a line where some take two cells: those of its own, and what is left blank."""
        cell = -(-pen * self._cells // self._factor_px)
        size = 1 + self._has_wide(cluster)
        own_px = (cell + size) * self._factor_px // self._cells - pen
        return self._drawn[own_px][cluster] + self._blank * (width_px - own_px)

    def _drawer(self, width_px: int) -> Callable[[str], bytes]:
        """What draws a cluster, a character and the marks over it, into a cell and what is left of its latent."""
        narrow = self._factor_px // self._cells

        def draw(cluster: str) -> bytes:
            # Some cells are wider where they do not divide the latent; what takes two has no more than these here.
            cell_px = width_px if width_px <= narrow + 1 or self._has_wide(cluster) else narrow
            image = self._glyphs.canvas(cell_px)
            for character in cluster:
                glyph = self._fitted(self._glyphs[character], cell_px)
                across = glyph.left_px + glyph.right_px if is_mark(character) else glyph.advance_px
                pen = min(max((cell_px - across) // 2, -glyph.left_px), cell_px - glyph.right_px)
                self._glyphs.stamp(image, glyph, pen)
            return columns(image, 0, cell_px) + self._blank * (width_px - cell_px)

        return draw

    def _fitted(self, glyph: Glyph, width_px: int) -> Glyph:
        size_px = int(glyph.font.size)
        while glyph.right_px - glyph.left_px > width_px:
            size_px -= 1
            glyph = self._glyphs.measure(glyph.character, glyph.face, size_px)
        return glyph


class _NotAlone(Exception):
    """A word whose ink reaches beyond its halves of the spaces around it."""


class _Remembered(dict[_Key, _Value]):
    """What is drawn of a key, when first asked for."""

    def __init__(self, draw: Callable[[_Key], _Value]) -> None:
        self._draw = draw

    def __missing__(self, key: _Key) -> _Value:
        self[key] = drawn = self._draw(key)
        return drawn


def _ink(glyphs: list[Glyph], pens: list[int]) -> tuple[int, int]:
    """Leftmost and rightmost edge of the glyphs' ink."""
    left = min(pen + glyph.left_px for glyph, pen in zip(glyphs, pens, strict=False))
    return left, max(pen + glyph.right_px for glyph, pen in zip(glyphs, pens, strict=False))


def _is_tame(glyph: Glyph) -> bool:
    """Whether a glyph's ink reaches no further than into its neighbours, and itself is as wide as theirs reaches."""
    reach = max(-glyph.left_px, glyph.right_px - glyph.advance_px)
    return reach <= _MAX_REACH_PX <= glyph.advance_px


def _kerning_of(glyphs: Glyphs) -> Callable[[str, str], int]:
    """Kerning of two neighbours in whole pixels, from the kern table of the font that draws them both.

    Raises UsageError if the style's font has no such table.
    """
    if not kern_table(glyphs.faces[0]):
        raise UsageError(
            f"{glyphs.faces[0].name} has no kern table (GPOS is not read): use --kerning none, or another font"
        )

    @cache
    def kern(first: str, second: str) -> int:
        a, b = glyphs[first], glyphs[second]
        if " " in (first, second) or (a.face, a.font.size) != (b.face, b.font.size):
            return 0
        pair = (ord(a.character), ord(b.character))
        # No further than to the pen before, so that pens never go back.
        return max(-a.advance_px, round(kern_table(a.face).get(pair, 0) * a.font.size))

    return kern
