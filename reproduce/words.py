"""Real words for the miniature: MultiArith's own questions, asked with many numbers.

    python -m reproduce.words multiarith.json --out FOLDER [--rows N]

MultiArith has 600 questions of two steps, some asked several times with other numbers or names. A wording is a question
without its numbers and capitalised words. A fifth of the wordings, chosen by their hash, is held out. Files:

    train.jsonl        questions of the other wordings, drawn again and again with numbers of the same size
    test.jsonl         the held-out questions as they stand
    test-drawn.jsonl   of the held-out wordings, with other numbers
    test-known.jsonl   of the wordings of train.jsonl, with numbers that it does not ask them with

A chain of thought is the equation in its two steps, written as GSM8k-Aug does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import operator
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from rotdata.console import say

_INNER_FIRST = re.compile(r"X=\(\(([\d.]+)([-+*/])([\d.]+)\)([-+*/])([\d.]+)\)")
_INNER_LAST = re.compile(r"X=\(([\d.]+)([-+*/])\(([\d.]+)([-+*/])([\d.]+)\)\)")
_LARGEST, _LARGEST_FACTOR, _LARGEST_RESULT = 60, 9, 120
_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True, slots=True)
class Wording:
    """A question whose numbers can be exchanged."""

    parts: tuple[str, ...]
    """What stands around its three numbers."""
    order: tuple[int, ...]
    """Which number of the equation stands first in the question, which second, which third."""
    inner: str
    """The operator that is applied first."""
    outer: str
    inner_first: bool
    """Whether the equation is (a . b) . c, or else a . (b . c)."""

    @classmethod
    def of(cls, record: dict[str, Any]) -> tuple[Wording, list[int]]:
        """A record's wording, and the numbers of its equation."""
        equation = record["lEquations"][0]
        if found := _INNER_FIRST.fullmatch(equation):
            first, inner, second, outer, third = found.groups()
        elif found := _INNER_LAST.fullmatch(equation):
            first, outer, second, inner, third = found.groups()
        else:
            raise ValueError(f"no equation of two steps: {equation}")
        numbers = [int(float(number)) for number in (first, second, third)]
        question, places = record["sQuestion"], record["lAlignments"]
        order = sorted(range(3), key=lambda number: places[number])
        ends = [0]
        parts = []
        for number in order:
            parts.append(question[ends[-1] : places[number]])
            ends.append(places[number] + len(str(numbers[number])))
        parts.append(question[ends[-1] :])
        parts[0], parts[-1] = parts[0].lstrip(), parts[-1].rstrip()
        wording = cls(tuple(parts), tuple(order), inner, outer, inner_first=equation.startswith("X=(("))
        return wording, numbers

    @property
    def key(self) -> str:
        """What questions that differ in numbers and names share."""
        return re.sub(r"\b[A-Z]\w*", "_", "#".join(self.parts))

    def ask(self, numbers: Sequence[int]) -> dict[str, str] | None:
        """Question, chain of thought and answer; None where a result is not a whole number of the usual size."""
        a, b, c = numbers
        first = _step(a, self.inner, b) if self.inner_first else _step(b, self.inner, c)
        second = first and (_step(first[1], self.outer, c) if self.inner_first else _step(a, self.outer, first[1]))
        if not first or not second:
            return None
        question = self.parts[0] + "".join(
            f"{numbers[number]}{part}" for number, part in zip(self.order, self.parts[1:], strict=True)
        )
        return {"question": question, "cot": f"<<{first[0]}>> <<{second[0]}>>", "answer": str(second[1])}

    def draw(self, rng: random.Random) -> dict[str, str]:
        """The question with other numbers."""
        factor = 2 if self.inner_first else 0
        while True:
            numbers = [rng.randint(2, _LARGEST) for _ in range(3)]
            if self.outer in "*/":
                numbers[factor] = rng.randint(2, _LARGEST_FACTOR)
            if row := self.ask(numbers):
                return row


def _step(left: int, sign: str, right: int) -> tuple[str, int] | None:
    """An operation as it is written, and its result; None where that is not a whole number of the usual size."""
    result = _APPLY[sign](left, right)
    if not 1 <= result <= _LARGEST_RESULT or result != int(result):
        return None
    return f"{left}{sign}{right}={int(result)}", int(result)


def splits(records: Sequence[dict[str, Any]], rows: int, drawn: int, seed: int) -> dict[str, list[dict[str, str]]]:
    """The rows of each file. Raises ValueError for a record whose equation is not its answer."""
    known, held_out, asked = [], [], []
    for record in records:
        wording, numbers = Wording.of(record)
        row = wording.ask(numbers)
        if row is None or float(row["answer"]) != record["lSolutions"][0]:
            raise ValueError(f"question {record['iIndex']} does not come to its answer: {row}")
        if hashlib.sha256(wording.key.encode()).digest()[0] % 5:
            known.append(wording)
        else:
            held_out.append(wording)
            asked.append(row)
    rng = random.Random(seed)  # noqa: S311 -- a corpus, not a secret
    train = [rng.choice(known).draw(rng) for _ in range(rows)]
    seen = {row["question"] for row in train}
    unseen = (row for row in iter(lambda: rng.choice(known).draw(rng), None) if row["question"] not in seen)
    return {
        "train": train,
        "test": asked,
        "test-drawn": [rng.choice(held_out).draw(rng) for _ in range(drawn)],
        "test-known": list(islice(unseen, drawn)),
    }


def main() -> None:
    """Write the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=16000)
    parser.add_argument("--drawn", type=int, default=500, help="questions in each test file that is drawn")
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    try:
        records = json.loads(wanted.file.read_text(encoding="utf-8"))
        made = splits(records, wanted.rows, wanted.drawn, wanted.seed)
    except (OSError, ValueError, LookupError, TypeError) as error:
        parser.error(
            f"{wanted.file} is not MultiArith's file of questions ({error!r}): it takes the form with sQuestion, "
            "lEquations, lAlignments and lSolutions"
        )
    wanted.out.mkdir(parents=True, exist_ok=True)
    for name, rows in made.items():
        file = wanted.out / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        say(f"{len(rows)} questions in {file}")


if __name__ == "__main__":
    main()
