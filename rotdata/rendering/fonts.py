"""Font registry, glyph coverage and loading: names -> faces. Knows font files; knows nothing of pixels."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

from rotdata.errors import UnknownFont

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

FALLBACK_CHAIN = ("DejaVu Sans", "DejaVu Math TeX Gyre")
"""Where a character goes that the chosen font can't draw, in this order."""

_FONT_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_COLLECTIONS = {".ttc", ".otc"}
_ALIASES = {
    "dejavu": "dejavusans",
    **dict.fromkeys(("mono", "dejavumono"), "dejavusansmono"),
    **dict.fromkeys(("condensed", "dejavucondensed"), "dejavusanscondensed"),
    **dict.fromkeys(("math", "dejavumath"), "dejavumathtexgyre"),
}


@dataclass(frozen=True, kw_only=True)
class FontFace:
    """One face of a font file, at one point of its axes if it is variable."""

    name: str
    path: Path
    index: int = 0
    """Place among the faces of a collection (.ttc)."""
    variation: tuple[tuple[str, float], ...] = ()
    """Values of the axes of a variable font, in the font's own order; none for a font that is not."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the whole font file, in hex."""
        return _sha256(self.path)

    @property
    def coverage(self) -> frozenset[int]:
        """Code points that the face has a glyph for (its best Unicode cmap)."""
        return _coverage(self.path, self.index)


def find_font(name: str) -> FontFace:
    """The face that `name` means. Raises UnknownFont, which lists what there is.

    A family or style by its name, case, spaces and hyphens forgiven, shipped ("DejaVu Sans Condensed") or installed; or
    the path of a font file. A face of a collection and an instance of a variable font stand after a hash:
    x.ttc#1, x.ttc#Face Name, x.ttf#Bold, x.ttf#wght=650,wdth=90.
    """
    path, _, part = name.partition("#")
    if Path(path).suffix.lower() in _FONT_SUFFIXES:
        if not Path(path).is_file():
            raise UnknownFont(f"no font file at {path}: give the path of a .ttf, .otf or .ttc, or one of {_known()}")
        return _part(Path(path), part.strip())
    key = _normalise(name)
    key = _ALIASES.get(key, key)
    for faces in (shipped_fonts(), installed_fonts()):
        found = [face for face in faces if _normalise(face.name) == key]
        if len({face.sha256 for face in found}) > 1:
            files = ", ".join(str(face.path) for face in found)
            raise UnknownFont(f"several font files are called {name!r}: give the path of one of {files}")
        if found:
            return found[0]
    names = {_normalise(face.name): face.name for face in (*installed_fonts(), *shipped_fonts())}
    near = difflib.get_close_matches(key, names, 3)
    meant = f"did you mean {', '.join(names[each] for each in near)}? " if near else ""
    raise UnknownFont(
        f"unknown font {name!r}: {meant}shipped are {_known()}; `rotdata fonts --installed` lists this machine's, "
        "or give the path of a font file"
    )


@lru_cache(maxsize=512)
def load_font(face: FontFace, size_px: int) -> ImageFont.FreeTypeFont:
    """The face at a size, in Pillow's basic layout: one glyph a code point, whatever Pillow was built with."""
    basic = ImageFont.Layout.BASIC
    font = ImageFont.truetype(str(face.path), size_px, index=face.index, layout_engine=basic)
    if face.variation:
        font.set_variation_by_axes([value for _, value in face.variation])
    return font


def font_size_for_cells(font: str, cells: int, height_px: int, *, lines: int = 1) -> int:
    """The largest size in pixels, up to the paper's 20, at which a zero of `font` needs no more than its cell.

    With several lines a latent, the font is no higher than one of them either.
    """
    face = find_font(font)
    narrow = height_px // max(1, cells)

    def fits(size_px: int) -> bool:
        drawn = load_font(face, size_px)
        return round(drawn.getlength("0")) <= narrow and (lines == 1 or sum(drawn.getmetrics()) <= height_px // lines)

    return next(filter(fits, range(20, 4, -1)), 4)


@cache
def shipped_fonts() -> tuple[FontFace, ...]:
    """Every face in the fonts folder that travels with the package, by name."""
    faces = [face for path in sorted(_fonts_folder().glob("*.ttf")) for face in _faces(path)]
    return tuple(sorted(faces, key=lambda face: face.name))


def fallback_chain(primary: FontFace, last: Sequence[str] = ()) -> tuple[FontFace, ...]:
    """`primary` and after it the faces that stand in for its missing characters, those named `last` at the end."""
    rest = (find_font(name) for name in FALLBACK_CHAIN)
    chain = (primary, *(face for face in rest if face.path != primary.path))
    return tuple(dict.fromkeys((*chain, *map(find_font, last))))


def shipped_sha256() -> Iterator[tuple[str, str]]:
    """(file name, SHA-256) pairs of fonts/SHA256SUMS, the list that the shipped files must match."""
    for line in (_fonts_folder() / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        yield name, digest


@cache
def _fonts_folder() -> Path:
    """The packaged folder in an installed wheel, fonts/ beside the package in a checkout."""
    here = Path(__file__).resolve().parents[1]
    packaged = here / "_fonts"
    return packaged if packaged.is_dir() else here.parent / "fonts"


@cache
def installed_fonts() -> tuple[FontFace, ...]:
    """Every readable face in the font folders of this machine, by name; files that are no fonts are passed over."""
    faces: list[FontFace] = []
    for folder in _system_folders():
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _FONT_SUFFIXES and path.is_file():
                try:
                    faces.extend(_faces(path))
                except UnknownFont:
                    continue
    return tuple(sorted(faces, key=lambda face: (face.name, face.path)))


def _system_folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    elif sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    else:
        data = os.environ.get("XDG_DATA_HOME") or home / ".local/share"
        folders = [home / ".fonts", Path(data) / "fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts")]
    return [folder for folder in folders if folder.is_dir()]


@cache
def _faces(path: Path) -> tuple[FontFace, ...]:
    """The faces of a font file; a variable font at its default values. Raises UnknownFont."""
    from fontTools.ttLib import TTCollection, TTFont, TTLibError  # 70 ms of import that --help need not pay

    try:
        with path.open("rb") as stream:
            collected = path.suffix.lower() in _COLLECTIONS
            fonts = TTCollection(stream, lazy=True).fonts if collected else [TTFont(stream, lazy=True)]
            described = [
                (_face_name(font, path), tuple((axis, default) for axis, default in _axes(font))) for font in fonts
            ]
        ImageFont.truetype(str(path), 10)
    except (TTLibError, KeyError, OSError, AssertionError, struct.error) as error:
        raise UnknownFont(f"{path} is not a font file that can be read ({error}): give a .ttf, .otf or .ttc") from error
    return tuple(
        FontFace(name=name, path=path, index=index, variation=variation)
        for index, (name, variation) in enumerate(described)
    )


def _axes(font: TTFont) -> Iterator[tuple[str, float]]:
    """Tags and default values of a variable font's axes."""
    return ((axis.axisTag, axis.defaultValue) for axis in font["fvar"].axes) if "fvar" in font else iter(())


def _part(path: Path, part: str) -> FontFace:
    """The face or the instance of a font file that stands after the hash; the first or default one for none."""
    faces = _faces(path)
    if not part:
        return faces[0]
    for face in faces:
        if len(faces) > 1 and (part == str(face.index) or _normalise(part) == _normalise(face.name)):
            return face
    if not faces[0].variation:
        there = ", ".join(f"{face.index} ({face.name})" for face in faces)
        raise UnknownFont(f"{path} has no face {part!r}: it has {there}, and it is no variable font")
    return _instance(faces[0], part)


def _instance(face: FontFace, part: str) -> FontFace:
    """A variable font at a named instance or at given values of its axes."""
    from fontTools.ttLib import TTFont

    with TTFont(str(face.path), lazy=True, fontNumber=_number(face)) as font:
        axes = {axis.axisTag: (axis.minValue, axis.maxValue) for axis in font["fvar"].axes}
        instances = {
            str(font["name"].getDebugName(instance.subfamilyNameID)): dict(instance.coordinates)
            for instance in font["fvar"].instances
        }
    named = {_normalise(name): values for name, values in instances.items()}
    values = named.get(_normalise(part)) or _axis_values(part)
    allowed = values is not None and all(
        tag in axes and axes[tag][0] <= value <= axes[tag][1] for tag, value in values.items()
    )
    if values is None or not allowed:
        ranges = ", ".join(f"{tag} from {low:g} to {high:g}" for tag, (low, high) in axes.items())
        raise UnknownFont(
            f"{face.path} has no instance {part!r}: its axes are {ranges}, as in #{next(iter(axes))}=...; "
            f"its instances {', '.join(instances) or 'none'}"
        )
    variation = tuple((tag, float(values.get(tag, default))) for tag, default in face.variation)
    moved = " ".join(f"{tag}={value:g}" for tag, value in variation)
    return replace(face, name=f"{face.name} {moved}", variation=variation)


def _axis_values(part: str) -> dict[str, float] | None:
    """Tags and numbers as in "wght=650,wdth=90"; None for something else."""
    pairs = [re.fullmatch(r"\s*(\w{1,4})\s*=\s*(-?\d+(?:\.\d+)?)\s*", pair) for pair in part.split(",")]
    if not all(pairs):
        return None
    return {pair[1]: float(pair[2]) for pair in pairs if pair}


def _number(face: FontFace) -> int:
    """What fontTools wants to know of a face's place in its file."""
    return face.index if face.path.suffix.lower() in _COLLECTIONS else -1


def _face_name(font: TTFont, path: Path) -> str:
    """The full name without the word for "no particular weight" that some foundries append."""
    name = str(font["name"].getBestFullName() or path.stem)
    return name.removesuffix(" Book").removesuffix(" Regular")


@lru_cache(maxsize=32)  # some 5 MB each where a font has all of Chinese, and a machine may have a hundred such
def _coverage(path: Path, index: int) -> frozenset[int]:
    from fontTools.ttLib import TTFont, TTLibError

    number = index if path.suffix.lower() in _COLLECTIONS else -1
    try:
        with TTFont(str(path), lazy=True, fontNumber=number) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, AssertionError, KeyError, struct.error) as error:
        raise UnknownFont(f"the character map of {path} can't be read ({error}): the file is damaged") from error


@cache
def kern_table(face: FontFace) -> Mapping[tuple[int, int], float]:
    """Pairs of code points -> how far the second moves, in parts of the font size; empty without a kern table."""
    from fontTools.ttLib import TTFont

    with TTFont(str(face.path), lazy=True, fontNumber=_number(face)) as font:
        if "kern" not in font:
            return {}
        codes: dict[str, list[int]] = {}
        for code, name in (font.getBestCmap() or {}).items():
            codes.setdefault(name, []).append(code)
        units = font["head"].unitsPerEm
        return {
            (first, second): value / units
            for table in font["kern"].kernTables
            for (left, right), value in getattr(table, "kernTable", {}).items()
            for first in codes.get(left, ())
            for second in codes.get(right, ())
        }


@cache
def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _normalise(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _known() -> str:
    return ", ".join(face.name for face in shipped_fonts())
