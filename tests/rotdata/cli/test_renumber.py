"""rotdata renumber: files of rows with other numbers, which rotdata render takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rotdata.corpora import Row, Source, read, resolve
from rotdata.corpora.chains import wording_of
from rotdata.corpora.wordings import is_held_out
from tests.helpers import REPOSITORY, Result

Run = Callable[..., Result]

THINGS = ["figs", "nuts", "pens", "cups", "keys", "hats", "toys", "maps", "bags", "eggs", "caps", "dogs"]
GSM8K = [
    {
        "question": f"Ann had 15 {thing} and got 7 more. How many {thing} has she?",
        "answer": f"She has 15+7 = <<15+7=22>>22 {thing}.\n#### 22",
    }
    for thing in THINGS
]
LEFT_OUT = {"question": "Ann had 15 figs and a few nuts.", "answer": "<<15+4=19>>19\n#### 19"}


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    """A file of rows that can be renumbered, and one that can't."""
    file = tmp_path / "gsm8k.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in [*GSM8K, LEFT_OUT]))
    return file


def test_rows_are_written_in_their_own_form_and_counted(run_rotdata: Run, gsm8k: Path, tmp_path: Path) -> None:
    out, why = tmp_path / "out.jsonl", tmp_path / "why.jsonl"
    result = run_rotdata("renumber", gsm8k, "--out", out, "--times", 3, "--left-out", why, "--json")
    summary = json.loads(result.out)
    assert result.code == 0
    assert summary | {"seconds": 0} == {
        "rows_in": 13,
        "rows_renumbered": 12,
        "wordings": 12,
        "rows_out": 36,
        "rows_held_out": 0,
        "rows_short": 0,
        "left_out": {"its chain uses a number that its question does not state": 1},
        "seconds": 0,
        "files": {"out": str(out), "held_out": None},
    }
    assert len(lines(out)) == 36
    assert lines(out)[0].keys() == {"id", "question", "answer"}
    [reject] = lines(why)
    assert reject == {"id": "gsm8k-train-000012", "reason": "its chain uses a number that its question does not state"}


def test_what_is_left_out_is_said_with_the_reason(run_rotdata: Run, gsm8k: Path, tmp_path: Path) -> None:
    result = run_rotdata("renumber", gsm8k, "--out", tmp_path / "out.jsonl")
    assert "1 rows are left out (7.7%):" in result.err
    assert "1  its chain uses a number that its question does not state" in result.err
    assert "12 rows of 12 of 13 rows (12 wordings)" in result.out


SVAMP = {"ID": "chal-1", "Body": "Each pack costs 76 dollars. There is a discount of 25 dollars", "Type": "Subtraction"}
SVAMP |= {"Question": "What do you pay?", "Equation": "( 76.0 - 25.0 )", "Answer": 51.0}
MULTIARITH = {"iIndex": 7, "sQuestion": " Ann had 32 figs and 42 nuts and ate 35. How many are left? "}
MULTIARITH |= {"lEquations": ["X=((32.0+42.0)-35.0)"], "lSolutions": [39.0]}
AUG = {"question": "Ann had 15 figs and ate 7.", "steps": ["<<15-7=8>>"], "answer": "8"}


@pytest.mark.parametrize(
    ("record", "corpus", "row_id"),
    [
        (GSM8K[0], "gsm8k", "gsm8k-train-000000-n0"),
        (AUG, "gsm8k-aug", "gsm8k-aug-train-000000-n0"),
        (SVAMP, "svamp", "chal-1-n0"),
        (MULTIARITH, "multiarith", "7-n0"),
    ],
)
def test_what_is_written_is_recognised_and_read_back(
    run_rotdata: Run, tmp_path: Path, record: dict[str, Any], corpus: str, row_id: str
) -> None:
    file, out = tmp_path / "source.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(record) + "\n")
    assert run_rotdata("renumber", file, "--out", out, "--times", 2).code == 0
    source = resolve(Source(location=str(out), calc="keep"))
    first, second = (each for each in read(source) if isinstance(each, Row))
    own = next(iter(read(Source(location=str(file), corpus=corpus, calc="keep"))))
    assert isinstance(own, Row)
    assert source.corpus == corpus
    assert (first.id, second.id) == (row_id, row_id[:-1] + "1")
    wording = wording_of(own)
    assert [first, second] == list(wording.renumbered(2))
    assert {wording_of(first).key, wording_of(second).key} == {wording.key}


def test_steps_alone_are_rows_of_gsm8k_aug(run_rotdata: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "source.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(MULTIARITH) + "\n")
    assert run_rotdata("renumber", file, "--out", out, "--chain", "steps").code == 0
    [made] = lines(out)
    assert made.keys() == {"id", "question", "steps", "answer"}
    assert made["steps"].count("<<") == 2
    assert resolve(Source(location=str(out))).corpus == "gsm8k-aug"


def test_rows_are_rendered_with_their_ids(run_rotdata: Run, gsm8k: Path, tmp_path: Path) -> None:
    out, strips = tmp_path / "out.jsonl", tmp_path / "strips"
    run_rotdata("renumber", gsm8k, "--out", out)
    result = run_rotdata("render", out, "--out", strips, "--json")
    assert (result.code, json.loads(result.out)["rows_out"]) == (0, 12)


def test_no_wording_is_in_both_files(run_rotdata: Run, gsm8k: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = run_rotdata("renumber", gsm8k, "--out", out, "--times", 2, "--hold-out", "40%", "--json")
    summary = json.loads(result.out)
    apart = tmp_path / "out-held-out.jsonl"
    assert summary["files"]["held_out"] == str(apart)
    things = [{each["question"].split()[3] for each in lines(file)} for file in (out, apart)]
    assert things[0] | things[1] == set(THINGS)
    assert things[0].isdisjoint(things[1])
    assert summary["rows_out"] + summary["rows_held_out"] == 24
    asked = [
        each
        for each in read(Source(location=str(gsm8k), corpus="gsm8k", calc="keep", limit=12))
        if isinstance(each, Row)
    ]
    expected = {each.question.split()[3] for each in asked if is_held_out(wording_of(each).key, 0.4)}
    assert things[1] == expected != set()


def test_processes_with_other_hashes_write_the_same_bytes(gsm8k: Path, tmp_path: Path) -> None:
    written = []
    for hashes in ("1", "2"):
        out = tmp_path / f"out{hashes}.jsonl"
        command = [sys.executable, "-m", "rotdata", "renumber", gsm8k, "--out", out, "--times", "4", "--seed", "3"]
        environment = {**os.environ, "PYTHONHASHSEED": hashes}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, text=True, timeout=120
        )
        assert "row/s" not in done.stdout
        written.append(out.read_bytes())
    assert written[0] == written[1] != b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hold-out", "x"], "--hold-out takes a share such as 10% or 0.1, got 'x'"),
        (["--hold-out", "100%"], "--hold-out is a share of the wordings below 100%, got 100%"),
        (["--hold-out", "nan"], "--hold-out is a share of the wordings below 100%, got nan%"),
        (["--hold-out", "-1%"], "--hold-out is a share of the wordings below 100%, got -1%"),
    ],
)
def test_what_can_not_be_is_refused(
    run_rotdata: Run, gsm8k: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run_rotdata("renumber", gsm8k, "--out", tmp_path / "out.jsonl", *arguments)
    assert (result.code, result.err) == (2, f"error: {message}\n")


def test_a_corpus_of_which_nothing_can_be_made_is_said_and_leaves_no_file(run_rotdata: Run, tmp_path: Path) -> None:
    file, out = tmp_path / "source.jsonl", tmp_path / "out.jsonl"
    file.write_text(json.dumps(LEFT_OUT) + "\n")
    result = run_rotdata("renumber", file, "--out", out)
    assert result.code == 1
    assert "can be renumbered, 1 of 1 since its chain uses a number that its question does not state" in result.err
    assert list(tmp_path.iterdir()) == [file]


def test_an_out_that_is_a_folder_or_in_none_is_refused(run_rotdata: Run, gsm8k: Path, tmp_path: Path) -> None:
    for out, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "absent" / "out.jsonl", "does not exist: make it first"),
    ):
        result = run_rotdata("renumber", gsm8k, "--out", out)
        assert result.code == 2
        assert message in result.err


def test_what_is_no_regular_file_is_written_through(run_rotdata: Run, gsm8k: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(target)
    assert run_rotdata("renumber", gsm8k, "--out", link).code == 0
    assert link.is_symlink()
    assert len(lines(target)) == 12
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert run_rotdata("renumber", gsm8k, "--out", pipe).code == 0
    reader.join(60)
    assert read == [target.read_text()]
    assert pipe.is_fifo()
