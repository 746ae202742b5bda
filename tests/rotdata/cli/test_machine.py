"""rotdata fonts: names, counts, and what each font lacks of a corpus."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.helpers import Result, write_jsonl

Run = Callable[..., Result]


def test_fonts_prints_names_counts_and_hashes(run_rotdata: Run) -> None:
    faces = json.loads(run_rotdata("fonts", "--json").out)
    assert [face["name"] for face in faces] == [
        "DejaVu Math TeX Gyre",
        "DejaVu Sans",
        "DejaVu Sans Condensed",
        "DejaVu Sans Mono",
    ]
    assert all(face["characters"] > 2000 and len(face["sha256"]) == 64 for face in faces)


def test_fonts_tells_what_each_lacks_of_a_corpus(run_rotdata: Run, tmp_path: Path) -> None:
    cot = "\N{HEBREW LETTER ALEF}\N{CRAB}\N{CRAB}1"
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "cot": cot, "answer": "1"}])
    faces = {face["name"]: face for face in json.loads(run_rotdata("fonts", file, "--json").out)}
    assert faces["DejaVu Sans"]["missing"] == {"\N{CRAB}": 2}
    assert faces["DejaVu Sans"]["covered"] == 0.5
    assert faces["DejaVu Math TeX Gyre"]["missing"] == {"\N{HEBREW LETTER ALEF}": 1, "\N{CRAB}": 2}
    assert "lacks \N{CRAB} U+1F980 (2)" in run_rotdata("fonts", file).out
