"""Font registry and glyph coverage. Knows font files; knows nothing of pixels."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from rotdata.errors import UnknownFont

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

FALLBACK_CHAIN = ("DejaVu Sans", "DejaVu Math TeX Gyre")
"""Where a character goes that the chosen font can't draw, in this order."""

_FONT_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_ALIASES = {"dejavu": "dejavusans", "mono": "dejavusansmono", "condensed": "dejavusanscondensed"}


@dataclass(frozen=True, kw_only=True)
class FontFace:
    """One face of a font file; `index` counts faces in a collection (.ttc)."""

    name: str
    path: Path
    index: int = 0

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole font file, in hex."""
        return _sha256(self.path)

    @property
    def coverage(self) -> frozenset[int]:
        """Code points that the face has a glyph for (its best Unicode cmap)."""
        return _coverage(self.path, self.index)


def find_font(name: str) -> FontFace:
    """The face called `name`: a shipped family (case, spaces and hyphens forgiven) or the path of a font file.

    Raises UnknownFont, which lists the shipped families.
    """
    path = Path(name)
    if path.suffix.lower() in _FONT_SUFFIXES:
        if not path.is_file():
            raise UnknownFont(f"no font file at {name}: give the path of a .ttf, .otf or .ttc, or one of {_known()}")
        return _faces(path)[0]
    key = _normalise(name)
    key = _ALIASES.get(key, key)
    for face in shipped_fonts():
        if _normalise(face.name) == key:
            return face
    raise UnknownFont(f"unknown font {name!r}: shipped are {_known()}, or give the path of a font file")


@cache
def shipped_fonts() -> tuple[FontFace, ...]:
    """Every face in the fonts folder that travels with the package, by name."""
    faces = [face for path in sorted(_fonts_folder().glob("*.ttf")) for face in _faces(path)]
    return tuple(sorted(faces, key=lambda face: face.name))


def fallback_chain(primary: FontFace) -> tuple[FontFace, ...]:
    """`primary` and after it the faces that stand in for its missing characters."""
    rest = (find_font(name) for name in FALLBACK_CHAIN)
    return (primary, *(face for face in rest if face.path != primary.path))


def shipped_sha256() -> Iterator[tuple[str, str]]:
    """(file name, SHA-256) pairs of fonts/SHA256SUMS, the list that the shipped files must match."""
    for line in (_fonts_folder() / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        yield name, digest


@cache
def _fonts_folder() -> Path:
    """The packaged folder in an installed wheel, fonts/ beside the package in a checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "_fonts"
    return packaged if packaged.is_dir() else here.parent / "fonts"


@cache
def _faces(path: Path) -> tuple[FontFace, ...]:
    from fontTools.ttLib import TTCollection, TTFont, TTLibError  # 70 ms of import that --help need not pay

    try:
        with path.open("rb") as stream:
            collected = path.suffix.lower() in {".ttc", ".otc"}
            fonts = TTCollection(stream, lazy=True).fonts if collected else [TTFont(stream, lazy=True)]
            names = [_face_name(font, path) for font in fonts]
    except (TTLibError, KeyError, OSError) as error:
        raise UnknownFont(f"{path} is not a font file that can be read ({error}): give a .ttf, .otf or .ttc") from error
    return tuple(FontFace(name=name, path=path, index=index) for index, name in enumerate(names))


def _face_name(font: TTFont, path: Path) -> str:
    """The full name without the word for "no particular weight" that some foundries append."""
    name = str(font["name"].getBestFullName() or path.stem)
    return name.removesuffix(" Book").removesuffix(" Regular")


@cache
def _coverage(path: Path, index: int) -> frozenset[int]:
    from fontTools.ttLib import TTFont, TTLibError

    number = index if path.suffix.lower() in {".ttc", ".otc"} else -1
    try:
        with TTFont(str(path), lazy=True, fontNumber=number) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, AssertionError, KeyError, struct.error) as error:
        raise UnknownFont(f"the character map of {path} can't be read ({error}): the file is damaged") from error


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _normalise(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _known() -> str:
    return ", ".join(face.name for face in shipped_fonts())
