"""Corpora with other numbers: right, wordings kept apart, and no question of a test among those learnt from."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from reproduce import words
from reproduce.words import CORPORA, Corpus, splits
from rottrain.metrics import scoring

THINGS = ("figs", "nuts", "cups", "pens", "hats", "keys", "maps", "eggs", "toys", "rugs", "jars", "mugs")
NUMBERS = ((12, 7, 5), (31, 8, 11), (25, 14, 9))


def asked(things: str, first: int, second: int, third: int) -> dict[str, str]:
    """A row as GSM8K has it: of two steps, one wording a thing."""
    left, all_ = first - second, first - second + third
    question = f"Ann had {first} {things} and sold {second}. She bought {third} more {things}. How many has she?"
    steps = f"<<{first}-{second}={left}>>{left}", f"<<{left}+{third}={all_}>>{all_}"
    chain = f"She had {first}-{second}={steps[0]}.\nShe has {left}+{third}={steps[1]}."
    return {"question": question, "answer": f"{chain}\n#### {all_}"}


def equation(things: str, first: int, second: int, third: int) -> dict[str, object]:
    """The same as MultiArith has it."""
    question = asked(things, first, second, third)["question"]
    return {
        "iIndex": f"{things}-{first}",
        "sQuestion": question,
        "lEquations": [f"X=(({first}.0-{second}.0)+{third}.0)"],
        "lAlignments": [question.index(str(number)) for number in (first, second, third)],
        "lSolutions": [float(first - second + third)],
    }


def body(things: str, first: int, second: int) -> dict[str, object]:
    """One step, as SVAMP has it."""
    return {
        "ID": f"{things}-{first}",
        "Body": f"Ann had {first} {things} and sold {second}",
        "Question": "How many are left?",
        "Equation": f"( {first}.0 - {second}.0 )",
        "Answer": float(first - second),
        "Type": "Subtraction",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the three corpora, each of a dozen wordings."""
    folder = tmp_path_factory.mktemp("data")
    rows = [(things, *numbers) for things in THINGS for numbers in NUMBERS]
    (folder / "gsm8k_train.jsonl").write_text("".join(json.dumps(asked(*row)) + "\n" for row in rows))
    (folder / "multiarith.json").write_text(json.dumps([equation(*row) for row in rows]))
    (folder / "svamp.json").write_text(json.dumps([body(*row[:3]) for row in rows]))
    return folder


def wording(question: str) -> str:
    return re.sub(r"\d+", "N", question)


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.name)
def test_wordings_and_questions_are_kept_apart(corpus: Corpus, data: Path) -> None:
    made = splits(replace(corpus, hold_out=0.4), data / corpus.file, tests=20)
    asked_by = {name: {row["question"] for row in rows} for name, rows in made.items()}
    assert all(asked_by.values())
    assert asked_by["train"].isdisjoint(asked_by["known"] | asked_by["validation"])
    assert asked_by["known"].isdisjoint(asked_by["validation"])
    known, apart = (
        {wording(question) for name in names for question in asked_by[name]}
        for names in (("train", "known", "validation"), ("drawn", "own"))
    )
    assert known.isdisjoint(apart)
    assert len(made["known"]) <= 20 >= len(made["drawn"])
    assert asked_by["drawn"].isdisjoint(asked_by["own"])


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: corpus.name)
def test_every_chain_is_right_and_comes_to_its_answer(corpus: Corpus, data: Path) -> None:
    for rows in splits(corpus, data / corpus.file, tests=20).values():
        for row in rows:
            steps = re.findall(r"<<([^=]*)=([^>]*)>>", row["cot"])
            assert corpus.steps[0] <= len(steps) <= corpus.steps[1]
            assert "".join(f"<<{left}={right}>> " for left, right in steps).strip() == row["cot"]
            assert all(eval(left) == float(right) <= words.LARGEST for left, right in steps)
            assert scoring.equal(row["answer"], steps[-1][1], "number")


def test_a_corpus_s_own_questions_stand_as_they_are(data: Path) -> None:
    gsm8k = CORPORA[-1]
    own = splits(replace(gsm8k, hold_out=0.4), data / gsm8k.file, tests=20)["own"]
    standing = {json.loads(line)["question"] for line in (data / gsm8k.file).read_text().splitlines()}
    assert own
    assert {row["question"] for row in own} <= standing


def test_the_command_writes_the_files_of_each_corpus_the_same_every_time(data: Path, tmp_path: Path) -> None:
    contents = []
    for out in (tmp_path / "a", tmp_path / "b"):
        command = [sys.executable, "-m", "reproduce.words", data, "--out", out, "--tests", "9"]
        subprocess.run(command, check=True, capture_output=True)
        contents.append({str(file.relative_to(out)): file.read_bytes() for file in sorted(out.rglob("*.jsonl"))})
    assert contents[0] == contents[1]
    names = ("train", "validation", "known", "drawn", "own")
    files = {f"{corpus.name}/{name}.jsonl" for corpus in CORPORA for name in names}
    assert contents[0].keys() == {*files, *(f"{name}/train.jsonl" for name in ("all", "sums", "practice"))}
    rows = {name: [json.loads(line) for line in content.splitlines()] for name, content in contents[0].items()}
    mixed = rows["all/train.jsonl"]
    drills = [row for row in mixed if row["id"].startswith("drill-")]
    assert {row["cot"].count("<<") for row in drills} == set(range(1, 9))
    of_sums = rows["sums/train.jsonl"]
    learnt = {row["id"] for corpus in CORPORA for row in rows[f"{corpus.name}/train.jsonl"]}
    others = {row["id"] for row in mixed} - {row["id"] for row in drills} - {row["id"] for row in of_sums}
    assert others == learnt
    sums_of = {name: [row["id"] for row in found if row["id"].startswith("sums-")] for name, found in rows.items()}
    assert len(sums_of["all/train.jsonl"]) == 10_000
    assert len(set(sums_of["practice/train.jsonl"])) >= 20_000


def test_sums_are_right_and_of_sizes_that_people_ask_about() -> None:
    equations = [
        re.fullmatch(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", each)
        for seed in range(100)
        for each in words.sums(random.Random(seed)).cot.split(" ")
    ]
    assert len(equations) == 1200
    signs = set()
    for equation in equations:
        assert equation
        left, sign, right, result = equation.groups()
        assert eval(f"{left}{sign}{right}") == int(result)
        assert all(1 < int(number) <= words.LARGEST for number in (left, right, result))
        signs.add(sign)
    assert signs == set("+-*/")


def test_sums_are_asked_for_some_of_them_as_they_were_learnt() -> None:
    learnt = "<<3/4*40=30>>"
    row = words.sums(random.Random(7), [learnt])
    assert row.cot.endswith(f"={row.answer}>>")
    assert row.question == f"Work out {', '.join(re.findall('<<(.*?)=', row.cot))}."
    assert 0 < row.cot.split(" ").count(learnt) < 12


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "reproduce.words", tmp_path, "--out", tmp_path / "out"]
    failed = subprocess.run(command, check=False, capture_output=True, text=True)
    assert failed.returncode == 2
    assert "multiarith.json" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.skipif("ROT_DATA" not in os.environ, reason="ROT_DATA names no folder of real corpora")
def test_real_questions_are_enough_to_learn_from() -> None:
    corpus = CORPORA[0]
    made = splits(corpus, Path(os.environ["ROT_DATA"]) / corpus.file, tests=500)
    assert len(made["train"]) > 25_000
    assert len(made["own"]) > 50
