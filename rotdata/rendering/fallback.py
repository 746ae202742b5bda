"""Characters that no font of a style has -> fonts of this machine that have them, chosen by coverage. Draws nothing.

The choice depends on the characters and on what is installed alone, and is made by name, so that a style can record it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rotdata.errors import UnknownFont
from rotdata.rendering.fonts import FontFace, find_font, installed_fonts, load_font
from rotdata.rendering.strips import renderer

if TYPE_CHECKING:
    from rotdata.rendering.style import StripStyle

EAST_ASIAN = "\u6570\u5b66\u8ba1\u7b97\u8a08\u3072\u3089\u304c\u306a\u30ab\u30bf\u30ab\u30ca\ud55c\uad6d\uc5b4"
"""Some of what Chinese, Japanese and Korean are written in."""
PACKAGES = "fonts-noto-cjk, or the small fonts-wqy-zenhei (apt install ...)"

_WORTH_IT = 0.01  # share of a corpus' characters that must be missing before fonts are looked for
_NEARLY_ALL = 0.99  # of what is missing; the first font that has so much will do, whatever rarities others have
_MOST = 3
_OTHER_WEIGHTS = re.compile(r"\b(\w*(bold|black|heavy|light|thin)|medium|italic|oblique|condensed)\b", re.IGNORECASE)
_SERIFS = re.compile(r"\b(serif|ming|song|mincho|batang)", re.IGNORECASE)
_NOT_TO_BE_READ = re.compile(r"^\.|last ?resort|blank", re.IGNORECASE)
_REGIONS = re.compile(r"\b(SC|CN|GB|TC|TW|HK|JP|KR)\b")
_SOME_KANA = 0.05  # of Japanese; the rest may be characters that Chinese shares


def with_fallback(style: StripStyle, characters: Mapping[str, int]) -> StripStyle:
    """`style` with fonts of this machine for the characters of a corpus that it lacks, if there are many, and fonts.

    A style that names fonts itself, and one that allows no other font, stay as they are.
    """
    if style.fallback or style.on_missing != "fallback":
        return style
    missing = renderer(style).stand_ins(characters)["missing"]
    few = int(_WORTH_IT * sum(characters.values()))
    return replace(style, fallback=fonts_for(missing, few))


def fonts_for(missing: Mapping[str, int], few: int = 0) -> tuple[str, ...]:
    """Names of installed fonts that together have all but at most a `few` of the missing, as far as there are such."""
    left = dict(missing)
    chosen: list[str] = []
    if sum(left.values()) <= few:
        return ()
    wanted = _region(left)
    faces = sorted(installed_fonts(), key=lambda face: _preference(face, wanted))
    while sum(left.values()) > few and len(chosen) < _MOST and (best := _best(faces, left)):
        chosen.append(best.name)
        left = {character: count for character, count in left.items() if ord(character) not in best.coverage}
    return tuple(chosen)


def remedy(missing: Iterable[str]) -> str:
    """How characters come by a font, the same on every machine."""
    if any(unicodedata.east_asian_width(character) in ("W", "F") for character in missing):
        return f"install a font that has them, {PACKAGES}, or name one with --fallback"
    return "name a font that has them with --fallback"


def _best(faces: Iterable[FontFace], left: Mapping[str, int]) -> FontFace | None:
    """The first face that has nearly all of `left`, else the one that has most of it, if any has some."""
    best, most = None, 0
    for face in faces:
        has = _count(face, left)
        if has > most and _is_usable(face, left):
            best, most = face, has
            if has >= _NEARLY_ALL * sum(left.values()):
                break
    return best


def _count(face: FontFace, left: Mapping[str, int]) -> int:
    try:
        coverage = face.coverage
    except UnknownFont:  # a damaged file, which is of no use
        return 0
    return sum(count for character, count in left.items() if ord(character) in coverage)


def _is_usable(face: FontFace, left: Mapping[str, int]) -> bool:
    """Whether the face is known by its name, and draws ink: the glyphs of a colour font may be blank to us."""
    try:
        if find_font(face.name) != face:
            return False
    except UnknownFont:  # several files have its name
        return False
    inked = max((c for c in left if ord(c) in face.coverage and not c.isspace()), key=lambda c: left[c], default=None)
    return inked is None or load_font(face, 20).getmask(inked).getbbox() is not None


def _preference(face: FontFace, region: str) -> tuple[bool, bool, int, bool, str]:
    """Plain faces first, then those made for the region, sans serif, and by name."""
    regions = {"SC" if found in ("CN", "GB") else found for found in _REGIONS.findall(face.name)}
    foreign = 0 if region in regions else 1 + bool(regions)
    return (
        bool(_NOT_TO_BE_READ.search(face.name)),
        bool(_OTHER_WEIGHTS.search(face.name)),
        foreign,
        bool(_SERIFS.search(face.name)),
        face.name,
    )


def _region(characters: Mapping[str, int]) -> str:
    """Whose forms of the characters that East Asian scripts share are meant, as fonts name regions."""
    kana, hangul = (
        sum(count for character, count in characters.items() if unicodedata.name(character, "").startswith(script))
        for script in (("HIRAGANA", "KATAKANA"), "HANGUL")
    )
    if max(kana, hangul) < _SOME_KANA * sum(characters.values()):
        return "SC"
    return "JP" if kana >= hangul else "KR"
