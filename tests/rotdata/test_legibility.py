"""Strips as an OCR model reads them: each shipped font can be read, and what can't be read is noticed."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata import corpora, legibility
from rotdata.errors import MissingExtra, UsageError
from rotdata.legibility import Legibility, Reading, check_folder, judge, pieces, read_strip
from rotdata.rendering.fonts import shipped_fonts
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import pipeline
from tests.helpers import Result, write_jsonl

SANS = StripStyle()
PLAIN = "Natalia sold 48/2 = 24 clips in May."


def read_all(texts: list[str], style: StripStyle) -> Legibility:
    return judge(read_strip(str(i), text, render(text, style).pixels) for i, text in enumerate(texts))


@pytest.fixture(scope="module")
def gsm8k_texts(rot_data: Path) -> list[str]:
    """The 50 shortest of the first 500 chains of thought of GSM8K."""
    source = corpora.Source(location=str(rot_data / "gsm8k_train.jsonl"), corpus="gsm8k", limit=500)
    texts = [row.cot for row in corpora.read(source) if isinstance(row, corpora.Row)]
    return sorted(texts, key=len)[:50]


@pytest.mark.data
@pytest.mark.parametrize("font", [face.name for face in shipped_fonts()])
def test_fifty_strips_of_gsm8k_can_be_read_in_each_shipped_font(gsm8k_texts: list[str], font: str) -> None:
    found = read_all(gsm8k_texts, StripStyle(font=font))
    assert found.characters > 2000
    assert found.rate < 0.005, found.worst


def test_the_corpus_that_ships_can_be_read(toy_strips: Path) -> None:
    found = check_folder(toy_strips, 10)
    assert (found.strips, found.worst) == (10, [])
    assert found.errors == 0


def test_what_can_not_be_read_is_noticed() -> None:
    pixels = render(PLAIN, SANS).pixels
    mirrored = read_strip("mirrored", PLAIN, np.ascontiguousarray(pixels[:, ::-1]))
    shuffled = np.random.default_rng(0).permutation(pixels.shape[1])
    assert mirrored.errors > 15
    assert read_strip("shuffled", PLAIN, pixels[:, shuffled]).errors > 15
    assert read_strip("other", PLAIN, render(PLAIN.replace("24", "42"), SANS).pixels).errors == 2
    assert read_all([PLAIN], StripStyle(font_size_px=4)).rate > 0.3


def test_paper_is_read_as_nothing_and_colours_do_not_matter() -> None:
    blank = read_strip("blank", "7", np.full((32, 64), 255, dtype=np.uint8))
    assert (blank.read, blank.errors) == ("", 1)
    assert read_all([PLAIN], StripStyle(foreground=255, background=0)).errors == 0


def test_errors_are_counted_without_white_space_and_forms_of_characters() -> None:
    found = read_strip("spaced", "4\N{NO-BREAK SPACE}8 /\n2\N{SUPERSCRIPT TWO}", render("48/22", SANS).pixels)
    assert (found.characters, found.errors) == (5, 0)


@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x17F), max_size=200))
def test_the_pieces_of_a_strip_are_the_strip(text: str) -> None:
    pixels = render(text, SANS).pixels
    cut = list(pieces(pixels))
    np.testing.assert_array_equal(np.concatenate(cut, axis=1), pixels)
    assert all(piece.shape[1] <= 640 for piece in cut)


def test_a_strip_is_cut_between_words() -> None:
    pixels = render(" ".join(["seventeen"] * 40), SANS).pixels
    cut = list(pieces(pixels))
    assert len(cut) > 3
    for piece in cut[1:]:
        assert (piece[:, 0] == 255).all()
    assert read_strip("long", " ".join(["seventeen"] * 40), pixels).errors == 0


def test_the_worst_strips_come_first() -> None:
    readings = [
        Reading(id=str(i), text="a" * 9, read="", characters=9, errors=errors) for i, errors in enumerate([1, 0, 5])
    ]
    found = judge(readings)
    assert [each.id for each in found.worst] == ["2", "0"]
    assert (found.strips, found.characters, found.errors, found.rate) == (3, 27, 6, 6 / 27)


def test_rows_are_spread_evenly_over_the_shards(toy_strips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def note(name: str, text: str, pixels: Any) -> Reading:
        read.append(name)
        return Reading(id=name, text=text, read=text, characters=1, errors=0)

    monkeypatch.setattr(legibility, "read_strip", note)
    check_folder(toy_strips, 4)
    assert [int(name.split("-")[2]) for name in read] == [0, 3, 6, 9]
    read.clear()
    check_folder(toy_strips, 99)
    assert len(read) == 10


def test_squares_are_not_read(tmp_path: Path) -> None:
    source = corpora.Source(location="toy", limit=1)
    pipeline.render(source, StripStyle(layout="square", square_px=128), tmp_path)
    with pytest.raises(UsageError, match="holds no strips of one line"):
        check_folder(tmp_path, 1)


def test_without_the_extra_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "rapidocr":
            raise ImportError("No module named 'rapidocr'")
        return whole(name, *arguments, **options)

    legibility._reader.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"pip install 'render-of-thought\[ocr\]'"):
        legibility.load_reader()


def test_render_reports_what_was_read_back(run_rotdata: Callable[..., Result], tmp_path: Path) -> None:
    rows = [{"question": "q", "cot": f"{PLAIN} {number}", "answer": "1"} for number in range(5)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    result = run_rotdata("render", file, "--check-ocr", 3, "--out", tmp_path / "out", "--json")
    found = json.loads(result.out)["legibility"]
    assert (found["strips"], found["errors"], found["character_error_rate"], found["worst"]) == (3, 0, 0.0, [])
    shown = run_rotdata("render", file, "--check-ocr", 2, "--out", tmp_path / "out")
    assert "2 strips read back: 0 of 60 characters wrong (0.00%)" in shown.err
