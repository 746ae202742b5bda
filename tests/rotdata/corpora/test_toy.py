"""The toy corpus: endless, repeatable, correct, split without leaks."""

from __future__ import annotations

import re
from itertools import islice

import pytest

from rotdata.corpora.toy import LARGEST, MAX_STEPS, MIN_STEPS, MOST_STEPS, SPLITS, difficulty_of, toy_problems

FIRST = {split: list(islice(toy_problems(split), 500)) for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_split_and_seed_give_the_same_problems(split: str) -> None:
    assert list(islice(toy_problems(split), 500)) == FIRST[split]


def test_another_seed_gives_other_problems() -> None:
    assert list(islice(toy_problems("train", seed=1), 500)) != FIRST["train"]


def test_no_question_of_one_split_occurs_in_another() -> None:
    questions = [{problem.question for problem in FIRST[split]} for split in SPLITS]
    assert sum(map(len, questions)) == len(set.union(*questions))


@pytest.mark.parametrize("split", SPLITS)
def test_every_equation_holds_and_starts_from_the_result_before_it(split: str) -> None:
    for problem in FIRST[split]:
        value = re.search(r"has (\d+) ", problem.question)[1]
        for left, operator, right, result in re.findall(r"<<(\d+)([-+*])(\d+)=(\d+)>>", problem.cot):
            assert left == value
            numbers = int(left), int(right)
            expected = {"+": numbers[0] + numbers[1], "-": numbers[0] - numbers[1], "*": numbers[0] * numbers[1]}
            assert expected[operator] == int(result)
            value = result
        assert problem.answer == value


@pytest.mark.parametrize("split", SPLITS)
def test_difficulty_and_results_stay_within_bounds(split: str) -> None:
    for problem in FIRST[split]:
        results = [int(result) for result in re.findall(r"=(\d+)>>", problem.cot)]
        assert problem.steps == len(results)
        assert MIN_STEPS <= problem.steps <= MAX_STEPS
        assert all(1 <= result <= LARGEST for result in results)


def test_every_difficulty_occurs() -> None:
    assert {problem.steps for problem in FIRST["train"]} == set(range(MIN_STEPS, MAX_STEPS + 1))


def test_the_question_tells_every_step() -> None:
    for problem in FIRST["train"]:
        clauses = problem.question.partition(". How many")[0].split(", ")
        assert len(clauses) == problem.steps + 1
        operations = re.findall(r"<<\d+([-+*]\d+)=", problem.cot)
        words = {"*2": "doubles them", "*3": "triples them"}
        for clause, operation in zip(clauses[1:], operations, strict=True):
            assert clause == words.get(operation) or clause.endswith(f" {operation[1:]}")


def test_difficulty_can_be_asked_for() -> None:
    problems = list(islice(toy_problems("train", difficulty=(1, MOST_STEPS)), 500))
    assert {problem.steps for problem in problems} == set(range(1, MOST_STEPS + 1))


@pytest.mark.parametrize(
    ("location", "difficulty"),
    [("toy", (3, 6)), ("toy:6", (6, 6)), ("toy:5-8", (5, 8)), ("toys", None), ("a/toy", None)],
)
def test_a_location_names_its_difficulty(location: str, difficulty: tuple[int, int] | None) -> None:
    assert difficulty_of(location) == difficulty


@pytest.mark.parametrize("location", ["toy:", "toy:0", "toy:8-5", "toy:5-", "toy:21", "toy:many", "toy:1-9999999999"])
def test_steps_that_no_problem_has_are_refused(location: str) -> None:
    with pytest.raises(ValueError, match="1 to 20 steps"):
        difficulty_of(location)
