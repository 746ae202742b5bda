"""The font registry: names, coverage, integrity of the shipped files."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont
from fontTools.ttLib.tables.TupleVariation import TupleVariation

from rotdata.errors import UnknownFont
from rotdata.rendering import fonts
from rotdata.rendering.fonts import FontFace, fallback_chain, find_font, shipped_fonts, shipped_sha256
from rotdata.rendering.strips import StripStyle, render, renderer

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


@pytest.mark.parametrize("part", ["1", "DejaVu Sans Condensed", "dejavusanscondensed"])
def test_a_face_of_a_collection_is_named_after_a_hash(tmp_path: Path, part: str) -> None:
    collection = TTCollection()
    collection.fonts = [TTFont(find_font(name).path) for name in ("mono", "condensed")]
    file = tmp_path / "two.ttc"
    collection.save(file)
    face = find_font(f"{file}#{part}")
    assert (face.name, face.index) == ("DejaVu Sans Condensed", 1)
    drawn = render("Typography", StripStyle(font=f"{file}#{part}")).pixels
    np.testing.assert_array_equal(drawn, render("Typography", StripStyle(font="condensed")).pixels)
    with pytest.raises(UnknownFont, match=r"has no face '2': it has 0 \(DejaVu Sans Mono\), 1 \(DejaVu Sans"):
        find_font(f"{file}#2")


# Variable fonts.


@pytest.fixture(scope="session")
def variable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A font whose one letter, a bar, is as wide as its axis wght says: a tenth of the height at 100, half at 500."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "space", "I"])
    builder.setupCharacterMap({0x20: "space", 0x49: "I"})
    pen = TTGlyphPen(None)
    for point in ((100, 0), (100, 700), (200, 700), (200, 0)):
        (pen.moveTo if point == (100, 0) else pen.lineTo)(point)
    pen.closePath()
    bar, empty = pen.glyph(), TTGlyphPen(None).glyph()
    builder.setupGlyf({".notdef": empty, "space": empty, "I": bar})
    builder.setupHorizontalMetrics(dict.fromkeys((".notdef", "space", "I"), (700, 100)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Bars", "styleName": "Regular", "fullName": "Bars"})
    builder.setupFvar([("wght", 100, 100, 500, "Weight")], [{"location": {"wght": 500}, "stylename": "Extra Bold"}])
    deltas = [(0, 0), (0, 0), (400, 0), (400, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
    builder.setupGvar({"I": [TupleVariation({"wght": (0, 1, 1)}, deltas)]})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path_factory.mktemp("fonts") / "bars.ttf"
    builder.save(path)
    return path


def bar_px(font: str) -> int:
    strip = render("I", StripStyle(font=font)).pixels
    return int((strip == 0).any(axis=0).sum())


def test_a_variable_font_is_drawn_at_its_default_instance_or_axis_values(variable: Path) -> None:
    assert bar_px(str(variable)) == 2
    assert bar_px(f"{variable}#wght=300") == 6
    assert bar_px(f"{variable}#Extra Bold") == bar_px(f"{variable}#wght=500") == 10
    assert bar_px(str(variable)) == 2  # no size or instance changes another


def test_an_instance_is_part_of_the_fingerprint(variable: Path) -> None:
    fingerprints = {renderer(StripStyle(font=f"{variable}{part}")).fingerprint["sha256"] for part in ("", "#wght=300")}
    assert len(fingerprints) == 2
    assert find_font(f"{variable}#wght=300").name == "Bars wght=300"
    assert find_font(f"{variable}#extrabold").variation == (("wght", 500.0),)


@pytest.mark.parametrize("part", ["Thin", "wght=501", "wdth=100", "wght=", "wght=1e2"])
def test_an_instance_that_a_variable_font_lacks_is_refused(variable: Path, part: str) -> None:
    with pytest.raises(UnknownFont, match=r"its axes are wght from 100 to 500, as in #wght=.* Extra Bold"):
        find_font(f"{variable}#{part}")


def test_a_font_that_is_not_variable_has_no_instances() -> None:
    with pytest.raises(UnknownFont, match="has no face 'Bold'"):
        find_font(f"{find_font('mono').path}#Bold")


# Installed fonts.


@pytest.fixture
def installed(tmp_path: Path, variable: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose one font folder holds Bars, a broken file and a text."""
    folder = tmp_path / "installed"
    folder.mkdir()
    shutil.copy(variable, folder / "bars.ttf")
    (folder / "broken.ttf").write_bytes(variable.read_bytes()[:200])
    (folder / "notes.txt").touch()
    monkeypatch.setattr(fonts, "_system_folders", lambda: [folder])
    fonts.installed_fonts.cache_clear()
    yield folder
    fonts.installed_fonts.cache_clear()


def test_an_installed_font_is_found_by_its_name(installed: Path) -> None:
    assert find_font("bars").path == installed / "bars.ttf"


def test_a_shipped_font_goes_before_an_installed_one(installed: Path) -> None:
    shutil.copy(find_font("mono").path, installed / "mono.ttf")
    fonts.installed_fonts.cache_clear()
    assert find_font("DejaVu Sans Mono").path.parent != installed


def test_two_installed_fonts_of_one_name_must_be_told_apart_by_path(installed: Path) -> None:
    (installed / "other.ttf").write_bytes((installed / "bars.ttf").read_bytes() + b"\0\0\0\0")
    fonts.installed_fonts.cache_clear()
    with pytest.raises(
        UnknownFont, match=r"several font files are called 'Bars': give the path of one of .*other\.ttf"
    ):
        find_font("Bars")


def test_near_misses_are_suggested(installed: Path) -> None:
    with pytest.raises(UnknownFont, match=r"unknown font 'DejaVu San Mono': did you mean DejaVu Sans Mono"):
        find_font("DejaVu San Mono")
    with pytest.raises(UnknownFont, match="did you mean Bars"):
        find_font("Barz")


def test_missing_characters_go_to_the_sans_and_then_the_maths_font() -> None:
    assert [face.name for face in fallback_chain(find_font("mono"))] == [
        "DejaVu Sans Mono",
        "DejaVu Sans",
        "DejaVu Math TeX Gyre",
    ]


def test_no_font_falls_back_to_itself() -> None:
    assert [face.name for face in fallback_chain(find_font("DejaVu"))] == ["DejaVu Sans", "DejaVu Math TeX Gyre"]
