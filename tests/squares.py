"""A font of a few East Asian characters, each a full em wide and of another shape, for machines without such fonts."""

from __future__ import annotations

from pathlib import Path

from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen

NAME = "Squares"
WIDE = "数学計算加等于甲乙丙丁计ひらがなカタナ한국어，。（）＋１２３"
EM = 1000


def save_squares(path: Path, characters: str = WIDE, *, name: str = NAME) -> Path:
    """Write the font; equal arguments give equal bytes."""
    builder = FontBuilder(EM, isTTF=True)
    named = {ord(character): f"u{ord(character):04X}" for character in characters}
    order = [".notdef", *named.values()]
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap(named)
    builder.setupGlyf({glyph: _square(place) for place, glyph in enumerate(order)})
    builder.setupHorizontalMetrics(dict.fromkeys(order, (EM, 50)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": name, "styleName": "Regular", "fullName": name})
    builder.setupOS2()
    builder.setupPost()
    builder.updateHead(created=0, modified=0)
    builder.font.recalcTimestamp = False
    builder.save(path)
    return path


def _square(place: int) -> object:
    """A frame of full width, filled up to a height that tells its place."""
    pen = TTGlyphPen(None)
    for low, high in ((-100, -50), (0, 50 + 25 * place)):
        pen.moveTo((50, low))
        for point in ((50, high), (950, high), (950, low)):
            pen.lineTo(point)
        pen.closePath()
    return pen.glyph()
