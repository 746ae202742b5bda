"""The table: every row stays in the denominator, every mode is asked the right way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rottrain import generate
from rottrain.evaluate import MODES, Judged, Result, as_table, evaluate
from rottrain.generate import Generation, RoT

ROWS = [Row(str(n), f"{n}+{n}?", f"<<{n}+{n}={2 * n}>>", str(2 * n)) for n in range(5)]


def reply_to(question: str, *, tokens: int = 4, latents: bool = True) -> Generation:
    """The right answer for questions of even numbers, a wrong one for odd ones."""
    number = int(question.partition("+")[0])
    return Generation(
        question=question,
        reply=f"#### {2 * number + number % 2}",
        reasoning_tokens=tokens,
        seconds=0.5,
        latents_KD=torch.zeros(tokens, 2) if latents else None,
    )


class StandInRoT:
    """Answers without a model; raises `error` for questions in `failing`, and notes how it was called."""

    def __init__(self, *, failing: Sequence[str] = (), error: Exception | None = None) -> None:
        self.base = SimpleNamespace(base=nullcontext)
        self.calls: list[tuple[list[str], int, int]] = []
        self._failing, self._error = failing, error or RuntimeError("out of memory")

    def budget(self, asked: int) -> int:
        return asked

    def generate(self, questions: list[str], *, budget: int, batch_size: int, stop: None) -> list[Generation]:
        self.calls.append((questions, budget, batch_size))
        if set(questions) & set(self._failing):
            raise self._error
        return [reply_to(question, tokens=budget) for question in questions]


def judge(rot: StandInRoT, rows: Sequence[Row] = ROWS, **options: Any) -> tuple[Result, list[Judged]]:
    return evaluate(cast("RoT", rot), rows, "rot", **{"corpus": "toy", "budget": 4} | options)


def test_a_result_has_the_pinned_keys() -> None:
    result, _ = judge(StandInRoT())
    assert dataclasses.asdict(result) == {
        "mode": "rot",
        "corpus": "toy",
        "n": 5,
        "accuracy": 3 / 5,
        "reasoning_tokens": 4.0,
        "seconds_per_question": 0.5,
        "budget": 4,
        "failures": 0,
    }


def test_every_row_is_judged_in_order() -> None:
    _, judged = judge(StandInRoT(), batch_size=2)
    assert [entry.row for entry in judged] == ROWS
    assert [entry.correct for entry in judged] == [True, False, True, False, True]
    assert [entry.answer for entry in judged] == ["0", "3", "4", "7", "8"]


def test_budget_and_batches_are_passed_on() -> None:
    rot = StandInRoT()
    judge(rot, budget=7, batch_size=2)
    assert [(len(questions), budget, size) for questions, budget, size in rot.calls] == [
        (2, 7, 2),
        (2, 7, 2),
        (1, 7, 2),
    ]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), ValueError("too long"), IndexError("position")])
def test_a_row_that_fails_counts_as_wrong_and_stays_in_n(error: Exception) -> None:
    result, judged = judge(StandInRoT(failing=["2+2?"], error=error))
    assert (result.n, result.failures, result.accuracy) == (5, 1, 2 / 5)
    assert (result.reasoning_tokens, result.seconds_per_question) == (4.0, 0.5)
    failed = judged[2]
    assert (failed.row, failed.generation, failed.answer, failed.correct) == (ROWS[2], None, "", False)
    assert failed.error == f"{type(error).__name__}: {error}"


def test_a_row_that_fails_takes_no_other_with_it() -> None:
    rot = StandInRoT(failing=["2+2?"])
    _, judged = judge(rot)
    assert [entry.error is None for entry in judged] == [True, True, False, True, True]
    assert [len(questions) for questions, _, _ in rot.calls] == [5, 1, 1, 1, 1, 1]


def test_where_all_fails_nothing_is_divided_by_zero() -> None:
    result, _ = judge(StandInRoT(failing=[row.question for row in ROWS]))
    assert (result.n, result.failures, result.accuracy, result.reasoning_tokens) == (5, 5, 0.0, 0.0)


def test_an_answer_is_wrong_where_there_is_none() -> None:
    rot = StandInRoT()
    rot.generate = lambda questions, **_: [dataclasses.replace(reply_to(q), reply="####") for q in questions]
    assert judge(rot)[0].accuracy == 0


def test_what_the_user_got_wrong_is_no_failing_row() -> None:
    with pytest.raises(UsageError, match="the budget"):
        judge(StandInRoT(failing=["2+2?"], error=UsageError("the budget is at least 1")))


def test_latents_are_kept_only_where_asked() -> None:
    for kept in (True, False):
        _, judged = judge(StandInRoT(), keep_latents=kept)
        assert {entry.generation.latents_KD is not None for entry in judged} == {kept}


@pytest.mark.parametrize(("corpus", "correct"), [("math", True), ("gsm8k", False), ("toy", False), ("generic", False)])
def test_maths_corpora_are_graded_as_latex_and_the_others_as_numbers(corpus: str, correct: bool) -> None:
    rot = StandInRoT()
    rot.generate = lambda questions, **_: [
        dataclasses.replace(reply_to("0+0?"), reply=r"#### \sqrt2") for _ in questions
    ]
    result, _ = judge(rot, [Row("a", "q", "c", r"\sqrt{2}")], corpus=corpus)
    assert result.accuracy == correct


def test_words_are_asked_of_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    rot = StandInRoT()
    asked: list[str] = []
    for name in ("in_words", "at_once"):

        def answer(backbone: Any, questions: list[str], *, batch_size: int, name: str = name) -> list[Generation]:
            assert backbone is rot.base
            asked.append(name)
            return [reply_to(question, tokens=9, latents=False) for question in questions]

        monkeypatch.setattr(generate, name, answer)
    results = [evaluate(cast("RoT", rot), ROWS, mode, corpus="toy", budget=4)[0] for mode in ("cot", "no-cot")]
    assert asked == ["in_words", "at_once"]
    assert rot.calls == []
    assert [(result.mode, result.budget, result.reasoning_tokens) for result in results] == [
        ("cot", None, 9.0),
        ("no-cot", None, 9.0),
    ]


def test_there_must_be_rows_and_batches() -> None:
    with pytest.raises(UsageError, match="there are no rows to evaluate on"):
        judge(StandInRoT(), [])
    for size in (0, -1):
        with pytest.raises(UsageError, match=f"the batch size is at least 1, got {size}"):
            judge(StandInRoT(), batch_size=size)


def test_the_table_for_people_has_a_line_a_result() -> None:
    result, _ = judge(StandInRoT())
    table = as_table([result, dataclasses.replace(result, mode="cot", budget=None)])
    assert table.splitlines()[2:] == [
        "| rot | toy | 5 | 60.0% | 4.0 | 0.5000 | 4 |",
        "| cot | toy | 5 | 60.0% | 4.0 | 0.5000 | - |",
    ]
    assert MODES == ("rot", "cot", "no-cot")
