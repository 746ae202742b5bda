"""A toy corpus: word problems whose every step needs the step before it, with a GSM8k-Aug style chain of thought.

"Ann has 7 figs, finds 5, doubles them, loses 4. How many figs now?" -> "<<7+5=12>> <<12*2=24>> <<24-4=20>>", 20. It
is endless, needs no download, and its difficulty is the number of steps. A problem belongs to the split that the hash
of its question names, so no question of one split occurs in another.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

SPLITS = ("train", "validation", "test")
MIN_STEPS, MAX_STEPS = 3, 6
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


def toy_problems(split: str, *, seed: int = 0) -> Iterator[ToyProblem]:
    """Problems of `split` without end; the same split and seed give the same sequence everywhere."""
    rng = random.Random(f"{split}-{seed}")  # noqa: S311 -- a corpus, not a secret
    while True:
        problem = _draw(rng)
        if _split_of(problem.question) == split:
            yield problem


def _draw(rng: random.Random) -> ToyProblem:
    things = rng.choice(_THINGS)
    steps = rng.randint(MIN_STEPS, MAX_STEPS)
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
