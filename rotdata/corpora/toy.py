"""A toy corpus: word problems whose every step needs the step before it, with a GSM8k-Aug style chain of thought.

"Ann has 7 figs, finds 5, doubles them, loses 4. How many figs now?" -> "<<7+5=12>> <<12*2=24>> <<24-4=20>>", 20. It
is endless, needs no download, and its difficulty is the number of steps. A problem belongs to the split that the hash
of its question names, so no question of one split occurs in another.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
MIN_STEPS, MAX_STEPS = 3, 6
MOST_STEPS = 20
LARGEST = 99
"""No intermediate result exceeds it, none falls below 1."""

_NAMES = ("Ann", "Ben", "Cem", "Dana", "Eli", "Fay", "Gus", "Hana")
_THINGS = ("figs", "pens", "nuts", "cards", "shells", "coins", "books", "stones")
_GAINS = ("finds", "buys", "gets")
_LOSSES = ("loses", "sells", "drops")
_MULTIPLES = {2: "doubles them", 3: "triples them"}


@dataclass(frozen=True, slots=True)
class ToyProblem:
    """One problem; `steps` is its difficulty."""

    question: str
    cot: str
    answer: str
    steps: int


def toy_problems(
    split: str, *, seed: int = 0, difficulty: tuple[int, int] = (MIN_STEPS, MAX_STEPS)
) -> Iterator[ToyProblem]:
    """Problems of `split` without end, of the fewest to the most steps that `difficulty` says.

    The same split, seed and difficulty give the same sequence everywhere.
    """
    rng = random.Random(f"{split}-{seed}")  # noqa: S311 -- a corpus, not a secret
    while True:
        problem = _draw(rng, difficulty)
        if _split_of(problem.question) == split:
            yield problem


def difficulty_of(location: str) -> tuple[int, int] | None:
    """Fewest and most steps of what "toy", "toy:6" or "toy:5-8" names; None if it names no toy problems.

    Raises ValueError for steps that no problem has.
    """
    name, colon, text = location.partition(":")
    if name != "toy":
        return None
    if not colon:
        return MIN_STEPS, MAX_STEPS
    found = re.fullmatch(r"(\d{1,3})(?:-(\d{1,3}))?", text)
    fewest, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= fewest <= most <= MOST_STEPS:
        raise ValueError(f"toy problems have 1 to {MOST_STEPS} steps, asked for by toy:6 or toy:5-8, got {location!r}")
    return fewest, most


def _draw(rng: random.Random, difficulty: tuple[int, int]) -> ToyProblem:
    things = rng.choice(_THINGS)
    steps = rng.randint(*difficulty)
    value = rng.randint(2, 9)
    clauses = [f"{rng.choice(_NAMES)} has {value} {things}"]
    equations = []
    for _ in range(steps):
        clause, operation, result = _draw_step(rng, value)
        clauses.append(clause)
        equations.append(f"<<{value}{operation}={result}>>")
        value = result
    question = f"{', '.join(clauses)}. How many {things} now?"
    return ToyProblem(question, " ".join(equations), str(value), steps)


def _draw_step(rng: random.Random, value: int) -> tuple[str, str, int]:
    """A step that keeps the value within bounds: its clause, its operation as written, its result."""
    while True:
        kind = rng.choice("+-*")
        operand = rng.choice((2, 3)) if kind == "*" else rng.randint(1, 9)
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[kind]
        if 1 <= result <= LARGEST:
            break
    if kind == "*":
        return _MULTIPLES[operand], f"*{operand}", result
    verb = rng.choice(_GAINS if kind == "+" else _LOSSES)
    return f"{verb} {operand}", f"{kind}{operand}", result


def _split_of(question: str) -> str:
    """Nine tenths train, the rest half validation and half test."""
    bucket = hashlib.sha256(question.encode()).digest()[0] % 20
    return {0: "validation", 1: "test"}.get(bucket, "train")
