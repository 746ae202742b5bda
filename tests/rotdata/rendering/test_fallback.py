"""Fonts of this machine for what a style's own lack: which are chosen, and what they draw."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rotdata.errors import UnknownFont, UsageError
from rotdata.rendering import fonts
from rotdata.rendering.fallback import EAST_ASIAN, PACKAGES, fonts_for, remedy, with_fallback
from rotdata.rendering.strips import Renderer, StripStyle, renderer, renderer_as
from tests.squares import NAME, WIDE, save_squares

PLAIN = StripStyle()
TEXT = "3+4=7, 数学計算"


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, **characters: str) -> None:
    """A machine of these fonts, whose names have blanks for underscores."""
    for name, has in characters.items():
        save_squares(folder / f"{name}.ttf", has, name=name.replace("_", " "))
    monkeypatch.setattr(fonts, "_system_folders", lambda: [folder])
    fonts.installed_fonts.cache_clear()


def test_a_font_is_chosen_that_has_what_a_corpus_lacks(squares: str) -> None:
    chosen = with_fallback(PLAIN, Counter(TEXT))
    assert chosen.fallback == (squares,)
    strip = renderer(chosen).render(TEXT)
    assert (strip.boxed, strip.substituted) == ("", "".join(sorted("数学計算")))
    assert renderer(PLAIN).render(TEXT).boxed == strip.substituted


def test_what_the_shipped_fonts_have_is_drawn_by_them(squares: str) -> None:
    style = StripStyle(fallback=(squares,))
    for text in ("3+4=7", "∑ é Ж"):
        np.testing.assert_array_equal(renderer(style).render(text).pixels, renderer(PLAIN).render(text).pixels)


def test_for_a_few_characters_in_a_hundred_no_font_is_looked_for(squares: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert with_fallback(PLAIN, Counter("数数" + "3" * 98)).fallback == (squares,)
    monkeypatch.setattr("rotdata.rendering.fallback.installed_fonts", lambda: pytest.fail("they were looked at"))
    assert with_fallback(PLAIN, Counter("数" + "3" * 99)) == PLAIN


def test_a_style_that_names_fonts_or_wants_boxes_keeps_what_it_says(squares: str) -> None:
    for style in (StripStyle(fallback=("mono",)), StripStyle(on_missing="box"), StripStyle(on_missing="error")):
        assert with_fallback(style, Counter(TEXT)) == style


def test_the_first_that_has_nearly_all_is_chosen_and_then_one_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_installed_fonts: None
) -> None:
    install(monkeypatch, tmp_path, A_few="数学", B_most=WIDE[:-1], C_all=WIDE, D_rest="𝐀乾")
    assert fonts_for(dict.fromkeys(WIDE, 100)) == ("C all",)
    assert fonts_for(dict.fromkeys(WIDE, 100) | {WIDE[-1]: 1}) == ("B most", "C all")
    assert fonts_for(dict.fromkeys(WIDE, 100) | {WIDE[-1]: 1}, few=1) == ("B most",)
    assert fonts_for(dict.fromkeys(f"{WIDE}乾坤", 1)) == ("C all", "D rest")
    assert fonts_for({"坤": 1}) == ()


def test_plain_faces_and_those_of_the_text_s_region_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_installed_fonts: None
) -> None:
    names = ("A_Bold", "Noto_Serif_SC", "Noto_JP", "Noto_KR", "Noto_SC", "Noto_SC_DemiLight", "Z")
    install(monkeypatch, tmp_path, **dict.fromkeys(names, WIDE))
    assert fonts_for(Counter("数学計算")) == ("Noto SC",)
    assert fonts_for(Counter("数学ひらカナ")) == ("Noto JP",)
    assert fonts_for(Counter("한국数")) == ("Noto KR",)


def test_fonts_that_a_name_does_not_tell_apart_and_damaged_ones_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_installed_fonts: None
) -> None:
    install(monkeypatch, tmp_path, A=WIDE, B=WIDE, C=WIDE)
    save_squares(tmp_path / "again.ttf", WIDE + "乾", name="A")
    whole = (tmp_path / "B.ttf").read_bytes()
    (tmp_path / "B.ttf").write_bytes(whole[: len(whole) // 3])
    fonts.installed_fonts.cache_clear()
    assert fonts_for(Counter("数")) == ("C",)


def test_fallback_fonts_are_part_of_the_fingerprint_and_found_again(squares: str) -> None:
    draw = Renderer(StripStyle(fallback=("squares",)))
    assert draw.fingerprint["style"]["fallback"] == [squares]  # type: ignore[index]
    assert squares in draw.fingerprint["fonts"]  # type: ignore[operator]
    assert draw.fingerprint["sha256"] != renderer(PLAIN).fingerprint["sha256"]
    again = renderer_as(draw.fingerprint)
    assert again is not None
    assert again.style.fallback == (squares,)


def test_without_fallback_fonts_a_fingerprint_is_what_it_was() -> None:
    assert "fallback" not in renderer(PLAIN).fingerprint["style"]  # type: ignore[operator]
    assert list(renderer(PLAIN).fingerprint["fonts"]) == ["DejaVu Sans", "DejaVu Math TeX Gyre"]  # type: ignore[call-overload]


def test_a_fallback_font_that_is_gone_is_named(squares: str, request: pytest.FixtureRequest) -> None:
    fingerprint = renderer(StripStyle(fallback=(squares,))).fingerprint
    request.getfixturevalue("no_installed_fonts")
    with pytest.raises(UnknownFont, match=f"unknown font '{NAME}'"):
        renderer_as(fingerprint)


def test_fallback_fonts_go_with_the_policy_that_uses_them() -> None:
    with pytest.raises(UsageError, match="not with box"):
        StripStyle(fallback=("mono",), on_missing="box")


def test_the_remedy_names_packages_where_they_help() -> None:
    assert PACKAGES in remedy("数")
    assert PACKAGES not in remedy("\u0e01")
    assert PACKAGES not in remedy("")


def test_an_installed_font_draws_chinese_japanese_and_korean() -> None:
    names = fonts_for(Counter(EAST_ASIAN))
    if not names:
        pytest.skip("no font for Chinese, Japanese and Korean is installed")
    strip = renderer(StripStyle(fallback=names)).render(EAST_ASIAN)
    assert (strip.boxed, strip.substituted) == ("", "".join(sorted(set(EAST_ASIAN))))
    pictures = {
        renderer(StripStyle(fallback=names)).render(character).pixels.tobytes() for character in set(EAST_ASIAN)
    }
    assert len(pictures) == len(set(EAST_ASIAN))
