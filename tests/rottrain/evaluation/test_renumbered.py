"""The same questions with other numbers: asked, paired with the first, and what an interval says of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rotdata.corpora import Source
from rotdata.errors import SourceError
from rottrain.evaluation.evaluate import Exam, examine, gradable_rows
from rottrain.evaluation.modes import Candidate
from rottrain.evaluation.renumbered import OtherNumbers, compare, examine_again, other_numbers
from rottrain.generation.decoding import GREEDY, Sampling
from rottrain.generation.generate import Generation, Timings
from rottrain.metrics.intervals import mean_difference, paired_difference, share
from tests.helpers import write_jsonl

RECORDS = [
    {
        "question": f"Ann had {12 + n} figs and ate 5. How many are left?",
        "answer": f"<<{12 + n}-5={7 + n}>>\n#### {7 + n}",
    }
    for n in range(8)
]
STRANGE = {"question": "Ann had 12 figs and a few nuts.", "answer": "<<12+4=16>>\n#### 16"}


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Eight questions of one wording, and one that can't be asked with other numbers."""
    file = write_jsonl(tmp_path / "rows.jsonl", [*RECORDS, STRANGE])
    return Source(location=str(file), corpus="gsm8k", split="test", need_cot=False)


def answers(reply: Callable[[int, int], int]) -> Candidate:
    """A candidate that answers with what `reply` makes of the question's first and last number."""

    def answer(questions: list[str], _: Sampling) -> list[Generation]:
        found = [list(map(int, re.findall(r"\d+", question))) for question in questions]
        return [
            Generation(
                question=question,
                reply=f"#### {reply(numbers[0], numbers[-1])}",
                reasoning_tokens=1,
                seconds=0.0,
                timings=Timings(),
                answer_tokens=1,
            )
            for question, numbers in zip(questions, found, strict=True)
        ]

    return Candidate(mode="rot", name="stage2", answer=answer)


def compared(source: Source, candidate: Candidate, times: int, samplings: tuple[Sampling, ...] = (GREEDY,)) -> Any:
    exam = Exam(corpus="gsm8k", rows=gradable_rows(source), samplings=samplings)
    _, runs = examine(candidate, exam)
    return examine_again(candidate, exam, runs, other_numbers(source, times))


def test_who_computes_is_right_with_any_numbers(source: Source) -> None:
    found, result, runs = compared(source, answers(lambda first, last: first - last), 3)
    assert (found["times"], found["n"], found["accuracy"], found["renumbered_accuracy"]) == (3, 8, 1.0, 1.0)
    assert (found["difference"], found["accuracies"]) == (0.0, [1.0, 1.0, 1.0])
    assert found["left_out"] == {"its chain uses a number that its question does not state": 1}
    assert (result.n, len(runs[0])) == (24, 24)
    assert [entry.row.id for entry in runs[0][:4]] == [
        f"gsm8k-test-00000{n}-n{k}" for n, k in ((0, 0), (0, 1), (0, 2), (1, 0))
    ]


def test_who_has_learnt_the_answers_by_heart_is_wrong_with_other_numbers(source: Source) -> None:
    by_heart = {12 + n: 7 + n for n in range(8)}
    found, _, runs = compared(source, answers(lambda first, last: by_heart.get(first, 0) if last == 5 else 0), 4)
    right = [entry.correct for entry in runs[0]]
    assert found["accuracy"] == 1.0
    assert found["renumbered_accuracy"] == pytest.approx(sum(right) / 32)
    assert sum(right) < 16
    assert found["difference"] == pytest.approx(found["renumbered_accuracy"] - 1)
    assert found["difference_interval"]["high"] < 0
    assert found["accuracies"] == [pytest.approx(sum(right[time::4]) / 8) for time in range(4)]


def test_every_run_is_asked_again(source: Source) -> None:
    samplings = (Sampling(temperature=1.0, seed=0), Sampling(temperature=1.0, seed=1))
    found, result, runs = compared(source, answers(lambda first, last: first - last), 2, samplings)
    assert (result.seeds, len(runs), len(runs[1])) == (2, 2, 16)
    assert found["accuracies"] == [1.0, 1.0]


OTHERS = OtherNumbers(times=1, rows={})


def test_one_verdict_a_question_has_the_intervals_of_pairs() -> None:
    before, after = [True] * 12 + [False] * 8, [True] * 7 + [False] * 10 + [True] * 3
    found = compare([[each] for each in before], [[each] for each in after], OTHERS)
    pairs, alone = paired_difference(before, after), share(after)
    assert found["difference"] == pytest.approx(pairs.value) == pytest.approx(-0.1)
    assert found["difference_interval"] == {
        "low": round(pairs.low, 5), "high": round(pairs.high, 5), "method": "Newcombe over pairs"
    }  # fmt: skip
    assert found["renumbered_interval"] == {
        "low": round(alone.low, 5), "high": round(alone.high, 5), "method": "Wilson over questions"
    }  # fmt: skip


def test_many_verdicts_on_a_question_make_it_no_surer_than_the_question() -> None:
    before = [[True], [False]] * 10
    after = [[True, True, False, False], [False, True, False, False]] * 10
    found = compare(before, after, OtherNumbers(times=4, rows={}))
    expected = mean_difference([-0.5, 0.25] * 10)
    assert found["difference"] == pytest.approx(-0.125)
    assert found["difference_interval"]["method"] == "Student's t over questions"
    assert (found["difference_interval"]["low"], found["difference_interval"]["high"]) == (
        round(expected.low, 5),
        round(expected.high, 5),
    )
    assert found["difference_interval"]["low"] < -0.25
    assert found["accuracies"] == [0.5, 1.0, 0.0, 0.0]


def test_one_question_has_an_interval() -> None:
    found = compare([[True]], [[False]], OTHERS)
    assert found["difference"] == -1.0
    assert found["difference_interval"]["high"] > -0.5


def test_questions_that_can_not_be_asked_with_other_numbers_are_said(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [STRANGE])
    with pytest.raises(SourceError, match="since its chain uses a number that its question does not state"):
        other_numbers(Source(location=str(file), corpus="gsm8k"), 1)


def test_the_first_of_rows_with_one_id_is_meant(tmp_path: Path) -> None:
    records = [each | {"id": "same"} for each in RECORDS[:2]]
    file = write_jsonl(tmp_path / "rows.jsonl", records)
    source = Source(location=str(file), corpus="gsm8k", need_cot=False)
    found, _, _ = compared(source, answers(lambda first, last: first - last if first == 12 else 0), 1)
    assert (found["n"], found["accuracy"]) == (1, 1.0)
