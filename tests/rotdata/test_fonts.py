"""The font registry: names, coverage, integrity of the shipped files."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
from fontTools.ttLib import TTCollection, TTFont

from rotdata.errors import UnknownFont
from rotdata.fonts import FontFace, fallback_chain, find_font, shipped_fonts, shipped_sha256

FAMILIES = ["DejaVu Math TeX Gyre", "DejaVu Sans", "DejaVu Sans Condensed", "DejaVu Sans Mono"]


def test_four_families_are_shipped() -> None:
    assert [face.name for face in shipped_fonts()] == FAMILIES


def test_shipped_files_have_the_listed_hashes() -> None:
    found = {face.path.name: hashlib.sha256(face.path.read_bytes()).hexdigest() for face in shipped_fonts()}
    assert dict(shipped_sha256()) == found == {face.path.name: face.sha256 for face in shipped_fonts()}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("DejaVu", "DejaVu Sans"),
        ("dejavu-sans", "DejaVu Sans"),
        ("DEJAVU_SANS_MONO", "DejaVu Sans Mono"),
        ("mono", "DejaVu Sans Mono"),
        ("condensed", "DejaVu Sans Condensed"),
        ("DejaVuMathTeXGyre", "DejaVu Math TeX Gyre"),
        *((family, family) for family in FAMILIES),
    ],
)
def test_case_spaces_and_hyphens_are_forgiven(name: str, family: str) -> None:
    assert find_font(name).name == family


@pytest.mark.parametrize("face", shipped_fonts(), ids=lambda face: face.name)
def test_coverage_is_the_unicode_table_of_the_font_file(face: FontFace) -> None:
    with TTFont(face.path) as font:
        assert face.coverage == frozenset(font.getBestCmap())


def test_an_unknown_font_lists_the_known_ones() -> None:
    with pytest.raises(UnknownFont, match=r"unknown font 'Comic Sans'") as raised:
        find_font("Comic Sans")
    assert all(family in str(raised.value) for family in FAMILIES)


def test_a_font_file_is_found_by_its_path(tmp_path: Path) -> None:
    copy = shutil.copy(find_font("mono").path, tmp_path / "mine.ttf")
    face = find_font(str(copy))
    assert (face.name, face.path) == ("DejaVu Sans Mono", copy)


def test_a_missing_font_file_is_an_unknown_font(tmp_path: Path) -> None:
    with pytest.raises(UnknownFont, match="no font file at"):
        find_font(str(tmp_path / "none.ttf"))


@pytest.mark.parametrize("suffix", [".ttf", ".otf", ".ttc"])
def test_a_file_that_is_no_font_is_an_unknown_font(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"text{suffix}"
    file.write_text("this is no font")
    with pytest.raises(UnknownFont, match="is not a font file"):
        find_font(str(file))


def test_the_first_face_of_a_collection_is_used(tmp_path: Path) -> None:
    collection = TTCollection()
    collection.fonts = [TTFont(find_font(name).path) for name in ("mono", "condensed")]
    file = tmp_path / "two.ttc"
    collection.save(file)
    face = find_font(str(file))
    assert (face.name, face.index) == ("DejaVu Sans Mono", 0)
    assert face.coverage == find_font("mono").coverage


def test_missing_characters_go_to_the_sans_and_then_the_maths_font() -> None:
    assert [face.name for face in fallback_chain(find_font("mono"))] == [
        "DejaVu Sans Mono",
        "DejaVu Sans",
        "DejaVu Math TeX Gyre",
    ]


def test_no_font_falls_back_to_itself() -> None:
    assert [face.name for face in fallback_chain(find_font("DejaVu"))] == ["DejaVu Sans", "DejaVu Math TeX Gyre"]
