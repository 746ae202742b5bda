"""Text -> strip: one line of text as grey pixels, exactly one factor high and a whole number of factors wide. Pure.

Each glyph sits at an integer pen position: the sum of the hinted, whole-pixel advances before it, without kerning and
without ligatures, so that equal prefixes have equal pixels and each character knows its columns. Code points are drawn
in logical order, one by one: right-to-left text is not reordered, combining marks are drawn over what precedes them.
"""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rotdata.errors import RotError, UsageError
from rotdata.fonts import FontFace, fallback_chain, find_font

OnMissing = Literal["fallback", "box", "error"]

_LINE_BREAKS = "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_BOX = "\N{WHITE SQUARE}"
_VARIATION_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_MAX_REACH_PX = 3  # how far a glyph's ink may leave its own columns before its text is drawn glyph by glyph
_PNG_LEVEL = 1  # zlib's fastest
_MAX_CELLS = 100_000  # some 50 MB; beyond it the cells are dropped and made again as needed
_MAX_WORDS_BYTES = 128 << 20  # the same, for words


class MissingGlyph(RotError):
    """A character that no allowed font can draw, under on_missing="error"."""


@dataclass(frozen=True, kw_only=True)
class StripStyle:
    """All that decides the pixels of a strip. The defaults are the paper's: 32 px high, 20 px font, 4 px padding."""

    font: str = "DejaVu Sans"
    """A shipped family or the path of a font file."""
    font_size_px: int = 20
    height_px: int = 32
    """The encoder's factor: strip height, and the width of one latent."""
    padding_px: int = 4
    """Blank columns before the first and after the last character."""
    line_break: str = " "
    """What stands for a line break; an end of line of two characters (CR LF) counts once."""
    foreground: int = 0
    """Grey value of ink, 0 to 255."""
    background: int = 255
    on_missing: OnMissing = "fallback"
    """A character the font lacks: try the fallback fonts and then draw a box, draw a box at once, or raise."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't make a strip."""
        if self.height_px < 8 or self.font_size_px < 4 or self.padding_px < 0:
            raise UsageError(
                f"height {self.height_px} px, font {self.font_size_px} px, padding {self.padding_px} px can't be "
                "drawn: the height is at least 8, the font at least 4, the padding at least 0"
            )
        if not (0 <= self.foreground <= 255 and 0 <= self.background <= 255):
            raise UsageError(f"grey values run from 0 to 255, got {self.foreground} on {self.background}")
        if self.on_missing not in ("fallback", "box", "error"):
            raise UsageError(f"on_missing is fallback, box or error, got {self.on_missing!r}")
        if any(_spelling(character, "") is not None for character in self.line_break):
            raise UsageError(
                f"line_break can't itself hold line breaks, tabs or invisible characters: {self.line_break!r}"
            )


@dataclass(frozen=True, slots=True)
class Strip:
    """A rendered chain of thought of K latents; latent k shows text[spans[k]:spans[k+1]], characters centred in it."""

    pixels: NDArray[np.uint8]
    """[H, W], W = K * H; a read-only view with contiguous columns."""
    spans: NDArray[np.int32]
    """[K + 1] offsets in code points, from 0 to len(text), never falling."""
    boxed: str = ""
    """Characters that no font could draw and that stand as boxes, each once, sorted."""
    substituted: str = ""
    """Characters drawn by a fallback font, each once, sorted."""

    @property
    def num_latents(self) -> int:
        """K: one latent every factor (= height) pixels."""
        return len(self.spans) - 1


def render(text: str, style: StripStyle) -> Strip:
    """Draw `text` in `style`. Raises MissingGlyph under on_missing="error", UnknownFont for a bad font name."""
    return renderer(style).render(text)


@lru_cache(maxsize=16)
def renderer(style: StripStyle) -> Renderer:
    """The renderer of a style, made once: it keeps every glyph that it has drawn."""
    return Renderer(style)


@dataclass(frozen=True, slots=True)
class _Glyph:
    """A character as its font draws it; pixels count from the pen position."""

    character: str
    font: ImageFont.FreeTypeFont
    advance_px: int
    left_px: int  # ink spans [left, right), which may leave [0, advance)
    right_px: int


class Renderer:
    """Draws strips of one style by joining cells: the columns of a character as its two neighbours leave them.

    A cell is drawn once, by Pillow, with the neighbour on either side at its own pen position, since their ink may
    reach into it; joining cells then gives the same bytes as drawing every glyph of the line one after another. Since a
    space has no ink, a word's cells depend on the word alone, and words are kept joined. A line with a glyph whose ink
    reaches further than a neighbour (combining marks above all) is drawn glyph by glyph.
    """

    def __init__(self, style: StripStyle) -> None:
        self.style = style
        self._faces: tuple[FontFace, ...] = fallback_chain(find_font(style.font))
        self._fonts = [_load_font(face, style.font_size_px) for face in self._faces]
        self._box_rank = next(rank for rank, face in enumerate(self._faces) if ord(_BOX) in face.coverage)
        ascent, descent = self._fonts[0].getmetrics()
        if ascent + descent > style.height_px:
            raise UsageError(
                f"{self._faces[0].name} at {style.font_size_px} px takes {ascent + descent} px of height, the strip "
                f"has {style.height_px}: use a smaller --font-size or a greater --height"
            )
        self._baseline_px = (style.height_px - ascent - descent) // 2 + ascent
        self._glyphs: dict[str, _Glyph] = {}
        self._advances: dict[str, int] = {}
        self._cells: dict[str, bytes] = {}  # a character between its two neighbours -> its columns
        self._words: dict[str, bytes] = {}  # a word between two spaces -> its columns
        self._words_bytes = 0
        self._gaps: dict[str, bytes] = {}  # a space between the last and first character of two words -> its columns
        self._special: dict[str, str] = {}  # characters that are drawn as another text
        self._wild: set[str] = set()  # glyphs that reach past a neighbour
        self._boxed: set[str] = set()
        self._substituted: set[str] = set()
        self._blank_column = bytes([style.background]) * style.height_px
        self._learn(" ")

    def render(self, text: str) -> Strip:
        """Draw `text`; see the module's docstring for what is drawn and where."""
        characters = set(text)
        for character in characters.difference(self._glyphs, self._special):
            self._learn(character)
        drawn, owners = self._spell(text, characters)
        advances = np.fromiter(map(self._advances.__getitem__, drawn), dtype=np.int32, count=len(drawn))
        edges = np.zeros(len(drawn) + 1, dtype=np.int32)  # pen position before each drawn character, then the end
        np.cumsum(advances, out=edges[1:])
        if not drawn or self._joinable(drawn):
            origin = self.style.padding_px
            columns = self._join(drawn, int(edges[-1]))
        else:
            origin, columns = self._draw(drawn, edges)
        pixels = np.frombuffer(columns, dtype=np.uint8).reshape(-1, self.style.height_px).T
        starts = edges if owners is None else edges[owners]
        shown = set(drawn) if self._boxed or self._substituted else set()
        return Strip(
            pixels=pixels,
            spans=self._spans(starts + origin, pixels.shape[1]),
            boxed="".join(sorted(self._boxed & shown)),
            substituted="".join(sorted(self._substituted & shown)),
        )

    def width_px(self, text: str) -> int:
        """Width of the strip of `text` without drawing it; approximate where a glyph reaches far beyond the line."""
        for character in set(text).difference(self._glyphs, self._special):
            self._learn(character)
        drawn, _ = self._spell(text, set(text))
        total = sum(map(self._advances.__getitem__, drawn)) + 2 * self.style.padding_px
        return self._round_up(total)

    @cached_property
    def glyph_sha256(self) -> str:
        """Hash of the printable ASCII glyphs as drawn here: it differs where another FreeType rasterises otherwise."""
        return hashlib.sha256(self.render("".join(map(chr, range(32, 127)))).pixels.tobytes()).hexdigest()

    @cached_property
    def fingerprint(self) -> dict[str, object]:
        """What decides the pixels: style, font files and glyphs as drawn. JSON-ready."""
        style = asdict(self.style) | {"font": self._faces[0].name}
        fonts: dict[str, str] = {}
        for rank, face in enumerate(self._faces):  # another release of a shipped font has its name, not its hash
            fonts[f"{face.name} (fallback {rank})" if face.name in fonts else face.name] = face.sha256
        glyphs = self.glyph_sha256
        whole = json.dumps([style, fonts, glyphs], sort_keys=True)
        return {
            "style": style,
            "fonts": fonts,
            "glyphs": glyphs,
            "sha256": hashlib.sha256(whole.encode()).hexdigest(),
        }

    def _learn(self, character: str) -> None:
        """Find how `character` is drawn: as another text, by the first font that has it, or as a box."""
        special = _spelling(character, self.style.line_break)
        if special is not None:
            self._special[character] = special
            for stand_in in set(special).difference(self._glyphs):
                self._learn(stand_in)
            return
        glyph = self._rasterise(character)
        self._glyphs[character] = glyph
        self._advances[character] = glyph.advance_px
        reach = max(-glyph.left_px, glyph.right_px - glyph.advance_px)
        if reach > _MAX_REACH_PX or glyph.advance_px < _MAX_REACH_PX:
            self._wild.add(character)

    def _rasterise(self, character: str) -> _Glyph:
        """Choose font and drawn character by the policy for missing glyphs; too tall ones shrink until they fit."""
        depth = len(self._faces) if self.style.on_missing == "fallback" else 1
        ranks = (rank for rank in range(depth) if ord(character) in self._faces[rank].coverage)
        rank = next(ranks, None)
        if rank is None:
            if self.style.on_missing == "error":
                raise MissingGlyph(
                    f"{self._faces[0].name} has no glyph for U+{ord(character):04X} ({_character_name(character)}): "
                    "use another --font, or --on-missing fallback|box"
                )
            self._boxed.add(character)
            rank, character = self._box_rank, _BOX
        elif rank > 0:
            self._substituted.add(character)
        for size_px in range(self.style.font_size_px, 0, -1):
            font = _load_font(self._faces[rank], size_px)
            left, top, right, bottom = font.getbbox(character, anchor="ls")
            if self._baseline_px + top >= 0 and self._baseline_px + bottom <= self.style.height_px:
                break
        advance = round(font.getlength(character))
        return _Glyph(character, font, advance, int(left), int(right))

    def _joinable(self, drawn: str) -> bool:
        """Whether every glyph's ink stays within its neighbours' columns, and within the padding at both ends."""
        if not self._wild.isdisjoint(drawn):
            return False
        head, tail = self._glyphs[drawn[0]], self._glyphs[drawn[-1]]
        return max(-head.left_px, tail.right_px - tail.advance_px) <= self.style.padding_px

    def _spell(self, text: str, characters: set[str]) -> tuple[str, NDArray[np.int32] | None]:
        """The characters to draw and, where they are not `text` itself, the index of each source character in them.

        The indices are [len(text) + 1]: source character i is drawn as drawn[owners[i]:owners[i + 1]].
        """
        present = characters.intersection(self._special)
        if not present:
            return text, None
        if "\r" not in present and all(len(self._special[character]) == 1 for character in present):
            return text.translate({ord(character): self._special[character] for character in present}), None
        pieces = [self._special.get(character, character) for character in text]
        for i in range(len(text) - 1):
            if text[i] == "\r" and text[i + 1] == "\n":
                pieces[i] = ""
        owners = np.zeros(len(text) + 1, dtype=np.int32)
        np.cumsum([len(piece) for piece in pieces], out=owners[1:])
        return "".join(pieces), owners

    def _spans(self, starts_px: NDArray[np.int32], width_px: int) -> NDArray[np.int32]:
        """Offsets of the first character centred at or after each latent's left edge."""
        doubled_centres = starts_px[:-1] + starts_px[1:]
        borders = np.arange(0, width_px + 1, self.style.height_px, dtype=np.int32)
        spans = np.searchsorted(doubled_centres, 2 * borders, side="left").astype(np.int32)
        spans[-1] = len(doubled_centres)  # a trailing mark may be centred on the very edge
        return spans

    def _join(self, drawn: str, length_px: int) -> bytes:
        """The columns of a line from its words, padded to a whole number of latents."""
        blank = self._blank_column
        padding = self.style.padding_px
        width = self._round_up(length_px + 2 * padding)
        if not drawn:
            return blank * width
        words = drawn.split(" ")
        for word in set(words).difference(self._words):
            self._words[word] = self._join_cells(f" {word} ")
            self._words_bytes += len(self._words[word])
        gaps = [f"{before[-1:]} {after[:1]}" for before, after in pairwise(words)]
        for gap in set(gaps).difference(self._gaps):
            before, _, after = gap.partition(" ")
            self._gaps[gap] = self._cell(f"{before or ' '} {after or ' '}")
        pieces = [b""] * (2 * len(words) - 1)  # words, and between them spaces with the ink that reaches into them
        pieces[::2] = map(self._words.__getitem__, words)
        pieces[1::2] = map(self._gaps.__getitem__, gaps)
        head, tail = self._draw_margins(drawn[0], drawn[-1])
        line = b"".join([head, *pieces, tail, blank * (width - length_px - 2 * padding)])
        if self._words_bytes > _MAX_WORDS_BYTES:
            self._words.clear()
            self._gaps.clear()
            self._words_bytes = 0
        return line

    def _join_cells(self, context: str) -> bytes:
        """The columns of all characters of `context` but the first and last."""
        return b"".join([self._cell(context[i : i + 3]) for i in range(len(context) - 2)])

    def _cell(self, key: str) -> bytes:
        """The columns of the middle one of three characters."""
        cell = self._cells.get(key)
        if cell is None:
            if len(self._cells) > _MAX_CELLS:
                self._cells.clear()
            before, after = key[0], key[2]
            if not self._reaches_right(before):
                before = " "  # a neighbour whose ink stays at home is as good as a space
            if not self._reaches_left(after):
                after = " "
            plain = before + key[1] + after
            cell = self._cells[key] = self._draw_cell(key) if plain == key else self._cell(plain)
        return cell

    def _reaches_right(self, character: str) -> bool:
        glyph = self._glyphs[character]
        return glyph.right_px > glyph.advance_px

    def _reaches_left(self, character: str) -> bool:
        return self._glyphs[character].left_px < 0

    def _draw_cell(self, key: str) -> bytes:
        """The columns of the middle one of three characters."""
        before, own, after = (self._glyphs[character] for character in key)
        start = before.advance_px
        image = self._canvas(start + own.advance_px + after.advance_px)
        self._stamp(image, before, 0)
        self._stamp(image, own, start)
        self._stamp(image, after, start + own.advance_px)
        return _columns(image, start, start + own.advance_px)

    def _draw_margins(self, first: str, last: str) -> tuple[bytes, bytes]:
        """The padding before the first and after the last character, with the ink that reaches into it."""
        padding = self.style.padding_px
        head, tail = self._glyphs[first], self._glyphs[last]
        left = right = self._blank_column * padding
        if head.left_px < 0:
            image = self._canvas(padding + head.advance_px)
            self._stamp(image, head, padding)
            left = _columns(image, 0, padding)
        if tail.right_px > tail.advance_px:
            image = self._canvas(tail.advance_px + padding)
            self._stamp(image, tail, 0)
            right = _columns(image, tail.advance_px, tail.advance_px + padding)
        return left, right

    def _draw(self, drawn: str, edges_px: NDArray[np.int32]) -> tuple[int, bytes]:
        """The line drawn glyph by glyph: the pen's origin and the columns. Wide enough for all the ink."""
        glyphs = [self._glyphs[character] for character in drawn]
        pens = edges_px.tolist()
        padding = self.style.padding_px
        leftmost = min(pen + glyph.left_px for pen, glyph in zip(pens, glyphs, strict=False))
        rightmost = max(pen + glyph.right_px for pen, glyph in zip(pens, glyphs, strict=False))
        origin = max(padding, -leftmost)
        width = self._round_up(origin + max(pens[-1] + padding, rightmost))
        image = self._canvas(width)
        for pen, glyph in zip(pens, glyphs, strict=False):
            self._stamp(image, glyph, origin + pen)
        return origin, _columns(image, 0, width)

    def _canvas(self, width_px: int) -> Image.Image:
        return Image.new("L", (width_px, self.style.height_px), self.style.background)

    def _stamp(self, image: Image.Image, glyph: _Glyph, pen_px: int) -> None:
        if glyph.right_px > glyph.left_px:
            where = (pen_px, self._baseline_px)
            ImageDraw.Draw(image).text(where, glyph.character, fill=self.style.foreground, font=glyph.font, anchor="ls")

    def _round_up(self, width_px: int) -> int:
        factor = self.style.height_px
        return max(1, -(-width_px // factor)) * factor


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A grey picture as PNG."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG", compress_level=_PNG_LEVEL)
    return stream.getvalue()


def decode_png(content: bytes) -> NDArray[np.uint8]:
    """The grey pixels [H, W] of a PNG of ours."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return np.asarray(image.convert("L"))


def _spelling(character: str, line_break: str) -> str | None:
    """What is drawn in place of a character that has no picture of its own; None if it is drawn as itself."""
    if character in _LINE_BREAKS:
        return line_break
    if character == "\t":
        return " "
    category = unicodedata.category(character)
    if category == "Cf" or character in _VARIATION_SELECTORS:
        return ""
    if category in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE:
        return _REPLACEMENT
    return None


@lru_cache(maxsize=256)
def _load_font(face: FontFace, size_px: int) -> ImageFont.FreeTypeFont:
    basic = ImageFont.Layout.BASIC  # one glyph a code point: no shaping, whatever Pillow was built with
    return ImageFont.truetype(str(face.path), size_px, index=face.index, layout_engine=basic)


def _columns(image: Image.Image, start_px: int, stop_px: int) -> bytes:
    """Columns [start, stop) of a grey image, column after column."""
    return np.asarray(image)[:, start_px:stop_px].tobytes(order="F")


def _character_name(character: str) -> str:
    return unicodedata.name(character, "unnamed")
