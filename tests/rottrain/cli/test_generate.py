"""rottrain generate: where questions come from, what is printed, what is refused."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers import Result, assert_refused, write_jsonl

Run = Callable[..., Result]


def as_stdin(text: str) -> io.TextIOWrapper:
    """A text on stdin, as bytes below."""
    return io.TextIOWrapper(io.BytesIO(text.encode()))


def test_generate_answers_the_questions_given_as_arguments(ask: Run) -> None:
    result = ask("2+2?", "3+3?", "--json")
    found = json.loads(result.out)
    assert [entry["question"] for entry in found] == ["2+2?", "3+3?"]
    assert all(entry.keys() >= {"question", "answer", "reply", "reasoning_tokens", "seconds"} for entry in found)
    assert [entry["reasoning_tokens"] for entry in found] == [2, 2]


def test_generate_reads_a_file_of_questions(ask: Run, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("2+2?\n\n\N{GREEK SMALL LETTER PI}?\n", encoding="utf-8")
    result = ask("1+1?", "--file", tmp_path / "questions.txt", "--json")
    assert [entry["question"] for entry in json.loads(result.out)] == ["1+1?", "2+2?", "\N{GREEK SMALL LETTER PI}?"]


def test_generate_reads_json_lines(ask: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "questions.jsonl", [{"question": "2+2?", "id": 1}, "", {"question": "a\u2028b"}])
    assert [entry["question"] for entry in json.loads(ask("--file", file, "--json").out)] == ["2+2?", "a\u2028b"]
    for broken in ("{ broken", {"question": " "}, {"problem": "2+2?"}, [1]):
        write_jsonl(file, [{"question": "2+2?"}, broken])
        assert_refused(ask("--file", file), 2, "questions.jsonl, line 2 is no JSON object with a text in its field")
    file.write_text("{1, 2} has how many elements?\n")
    assert json.loads(ask("--file", file, "--json").out)[0]["question"] == "{1, 2} has how many elements?"


def test_generate_prints_json_lines(ask: Run) -> None:
    result = ask("2+2?", "3+3?", "--jsonl", "--temperature", 1, "--top-p", 0.9, "--seed", 4, "--max-answer-tokens", 3)
    entries = [json.loads(line) for line in result.out.splitlines()]
    assert [entry["question"] for entry in entries] == ["2+2?", "3+3?"]
    assert all(entry["answer_tokens"] <= 3 and entry["reply"].startswith("#### ") for entry in entries)
    assert all(entry["timings"].keys() == {"prefill_s", "latents_s", "answer_s"} for entry in entries)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--budget", "some"), "a budget is a number of latents, or auto; got 'some'"),
        (("--budget", -1), "the budget is at least 0 latents, got -1"),
        (("--temperature", -1), "a temperature is 0, or from"),
        (("--top-p", 0), "top-p is a share from"),
    ],
)
def test_generation_that_can_not_be_is_refused(
    run_rottrain: Run, stage2_checkpoint: Path, option: tuple[object, ...], message: str
) -> None:
    assert_refused(run_rottrain("generate", stage2_checkpoint, "2+2?", *option), 2, message)


def test_generate_reads_stdin_where_nothing_else_is_given(ask: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", as_stdin("2+2?\n3+3?\n"))
    assert [entry["question"] for entry in json.loads(ask("--json").out)] == ["2+2?", "3+3?"]


def test_generate_prints_an_answer_for_each_question(ask: Run) -> None:
    assert ask("2+2?", "3+3?").out.count("\n") >= 2


def test_questions_that_are_not_there_or_not_text_are_refused(
    ask: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdin", as_stdin(" \n"))
    assert_refused(ask(), 2, "there is no question: give it as an argument, in --file, or on stdin")
    assert_refused(ask("--file", tmp_path / "absent.txt"), 1, "absent.txt")
    (tmp_path / "binary.txt").write_bytes(b"2+2?\xff")
    assert_refused(ask("--file", tmp_path / "binary.txt"), 2, "binary.txt is not UTF-8")
