"""MultiArith's questions with other numbers: right, of one wording each, and the held-out ones kept apart."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from reproduce import words
from reproduce.words import Wording
from rottrain.metrics import scoring


def record(question: str, equation: str, answer: float) -> dict[str, Any]:
    """A record as MultiArith has it, of a question whose numbers are marked: "Ann had [42] figs"."""
    numbers = re.findall(r"[\d.]+", equation)
    plain, places = "", {}
    for part in re.split(r"(\[\d+\])", question):
        if part.startswith("["):
            places[part[1:-1]] = len(plain) + 1  # MultiArith's questions begin with a space
        plain += part.strip("[]")
    return {
        "iIndex": 7,
        "sQuestion": f" {plain} ",
        "lEquations": [equation],
        "lAlignments": [places[number.removesuffix(".0")] for number in numbers],
        "lSolutions": [answer],
    }


SOLD = record("Ann had [5] figs. She sold [4] and bought [38]. How many has she?", "X=((5.0+38.0)-4.0)", 39.0)
SHARED = record("Each van holds [5] people; [25] pupils and [10] adults go. How many vans?", "X=((25.0+10.0)/5.0)", 7.0)
PAID = record("Eggs cost [3] each. Ben had [17] and broke [9]. What are the rest worth?", "X=(3.0*(17.0-9.0))", 24.0)


@pytest.mark.parametrize(
    ("row", "chain"),
    [(SOLD, "<<5+38=43>> <<43-4=39>>"), (SHARED, "<<25+10=35>> <<35/5=7>>"), (PAID, "<<17-9=8>> <<3*8=24>>")],
)
def test_a_question_asked_with_its_own_numbers_is_itself(row: dict[str, Any], chain: str) -> None:
    wording, numbers = Wording.of(row)
    assert wording.ask(numbers) == {
        "question": row["sQuestion"].strip(),
        "cot": chain,
        "answer": str(int(row["lSolutions"][0])),
    }


@pytest.mark.parametrize("row", [SOLD, SHARED, PAID])
def test_a_drawn_question_has_the_wording_and_a_right_answer(row: dict[str, Any]) -> None:
    wording, _ = Wording.of(row)
    rng = random.Random(1)
    asked = [wording.draw(rng) for _ in range(50)]
    assert len({each["question"] for each in asked}) > 40
    masked = re.sub(r"\d+", "N", row["sQuestion"].strip())
    for each in asked:
        assert re.sub(r"\d+", "N", each["question"]) == masked
        for left, right in re.findall(r"<<(.*?)=(\d+)>>", each["cot"]):
            assert eval(left) == int(right)
        assert each["cot"].endswith(f"={each['answer']}>>")
        assert scoring.equal(each["answer"], each["cot"].rpartition("=")[2].removesuffix(">>"), "number")


def test_results_that_are_no_whole_numbers_of_the_usual_size_are_not_asked_for() -> None:
    shared, sold = Wording.of(SHARED)[0], Wording.of(SOLD)[0]
    assert shared.ask((25, 11, 5)) is None
    assert sold.ask((5, 3, 8)) is None
    assert sold.ask((60, 61, 1)) is None


def test_wordings_are_told_apart_whatever_numbers_and_names_they_have() -> None:
    another = record("Eve had [6] figs. She sold [2] and bought [9]. How many has she?", "X=((6.0+9.0)-2.0)", 13.0)
    assert Wording.of(another)[0].key == Wording.of(SOLD)[0].key != Wording.of(PAID)[0].key


def test_held_out_wordings_are_in_no_row_to_learn_from() -> None:
    names = ["figs", "nuts", "pens", "cups", "keys", "hats", "toys", "maps", "bags", "eggs", "cars", "dogs"]
    records = [SOLD | {"sQuestion": SOLD["sQuestion"].replace("figs", name)} for name in names]
    made = words.splits(records, rows=300, drawn=60, seed=0)
    things = {name: {each["question"].split()[3] for each in rows} for name, rows in made.items()}
    assert things["train"] == things["test-known"]
    assert things["test"] == things["test-drawn"]
    assert len(things["train"]) + len(things["test"]) == len(names)
    assert things["train"].isdisjoint(things["test"])
    questions = {name: {each["question"] for each in rows} for name, rows in made.items()}
    assert questions["train"].isdisjoint(questions["test-known"])
    assert made == words.splits(records, rows=300, drawn=60, seed=0)
    assert made != words.splits(records, rows=300, drawn=60, seed=1)


def test_a_record_whose_equation_is_not_its_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="question 7 does not come to its answer"):
        words.splits([SOLD | {"lSolutions": [40.0]}], rows=1, drawn=1, seed=0)
    with pytest.raises(ValueError, match="no equation of two steps"):
        Wording.of(SOLD | {"lEquations": ["X=(5.0+4.0)"]})


def test_the_command_writes_four_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "multiarith.json"
    file.write_text(
        json.dumps(
            [row | {"sQuestion": row["sQuestion"] + name} for row in (SOLD, SHARED, PAID) for name in "abcdefgh"]
        )
    )
    monkeypatch.setattr(
        sys, "argv", ["words", str(file), "--out", str(tmp_path / "made"), "--rows", "20", "--drawn", "5"]
    )
    words.main()
    lines = {path.stem: path.read_text().splitlines() for path in (tmp_path / "made").iterdir()}
    assert {name: len(rows) for name, rows in lines.items() if name != "test"} == {
        "train": 20,
        "test-drawn": 5,
        "test-known": 5,
    }
    assert all(set(json.loads(row)) == {"question", "cot", "answer"} for rows in lines.values() for row in rows)


def test_a_file_that_is_not_there_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["words", str(tmp_path / "none.json"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        words.main()
    assert "is not MultiArith's file" in capsys.readouterr().err


@pytest.mark.parametrize("content", ['[{"question": "How many?", "final_ans": "3"}]', "[3]", "[]", '{"a": 1}', "[{"])
def test_another_file_is_said_to_be_one(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "other.json"
    file.write_text(content)
    monkeypatch.setattr(sys, "argv", ["words", str(file), "--out", str(tmp_path / "made")])
    with pytest.raises(SystemExit):
        words.main()
    assert "is not MultiArith's file" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
