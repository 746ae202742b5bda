"""A wording: a row whose numbers can be exchanged. Draws other numbers, computes its chain with them, writes it again.

Results keep their kind: whole where they were whole, never below zero, decimals of as many places, of similar size.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rotdata.corpora.quantities import Choices, Value, Writer, plain
from rotdata.corpora.readers import Row

MOST_TRIES = 500
"""Draws of numbers, none of which is fit, before a wording is given up."""

Part = str | tuple[int, Writer]
"""A text, or the place of a value and how it is written there."""


Comparison = tuple[str, int, int, int, bool]
"""+ or *, the places of a, b and c, and whether a + b (a * b) is more than c."""


@dataclass(frozen=True, slots=True)
class Step:
    """An operation on two values, and what must hold of its result."""

    sign: str
    left: int
    right: int
    place: int
    """Where its result goes."""
    whole: bool
    zero: bool
    one: bool
    """Whether it is one, of which texts speak in the singular."""
    largest: int
    scale: int
    """A written result is a whole number of 1 / scale; 0 for one that is written nowhere."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A row whose numbers can be exchanged.

    Its values have places: those of numbers of the question, of constants, and of the results of steps.
    """

    row: Row
    key: str
    """What rows share that differ in numbers and names alone."""
    question: tuple[Part, ...]
    cot: tuple[Part, ...]
    answer: tuple[Part, ...]
    values: tuple[Value, ...]
    """The row's own."""
    drawn: tuple[tuple[int, Choices], ...]
    """Places of the numbers that are drawn anew."""
    steps: tuple[Step, ...]
    orders: tuple[tuple[int, ...], ...]
    """Places of numbers that stay in their order: who eats 3 of 5 apples does not eat 7 of 6."""
    comparisons: tuple[Comparison, ...]
    """What stays as it is, too: ten at $0.50 cost more than a pack of ten at $3."""

    def renumbered(self, times: int, seed: int = 0) -> Iterator[Row]:
        """The row with other numbers, up to so many times, each time with others; fewer where there are no more.

        The same seed gives the same, and begins with the same for more times.
        """
        rng = random.Random(f"{seed}-{self.row.id}")  # noqa: S311 -- a corpus, not a secret
        seen = {self._numbers(self.values)}
        for number in range(times):
            values = next((found for _ in range(MOST_TRIES) if (found := self._draw(rng, seen))), None)
            if values is None:
                return
            seen.add(self._numbers(values))
            yield self.written(values, f"{self.row.id}-n{number}")

    def written(self, values: Sequence[Value], row_id: str) -> Row:
        """The row with these values."""
        question, cot, answer = (
            "".join([part if isinstance(part, str) else part[1](values[part[0]]) for part in parts])
            for parts in (self.question, self.cot, self.answer)
        )
        return Row(row_id, question, cot, answer)

    def _numbers(self, values: Sequence[Value]) -> tuple[Value, ...]:
        return tuple([values[place] for place, _ in self.drawn])

    def _draw(self, rng: random.Random, seen: set[tuple[Value, ...]]) -> list[Value] | None:
        """All values for numbers drawn at random; None if they were seen or something does not keep its kind."""
        values = list(self.values)
        for place, choices in self.drawn:
            steps, scale = choices.steps, choices.scale
            step = steps[int(rng.random() * len(steps))]
            if scale == 1:
                values[place] = step
            elif step % scale:
                values[place] = Fraction(step, scale)
            else:
                return None  # a decimal stays one
        fits = self._keeps_order(values) and self._numbers(values) not in seen and self._compute(values)
        return values if fits else None

    def _keeps_order(self, values: list[Value]) -> bool:
        for places in self.orders:
            least = values[places[0]]
            for place in places[1:]:
                if not least < values[place]:
                    return False
                least = values[place]
        for sign, a, b, c, more in self.comparisons:
            found = values[a] + values[b] if sign == "+" else values[a] * values[b]
            if (found > values[c]) is not more:
                return False
        return True

    def _compute(self, values: list[Value]) -> bool:
        """Fill in the results; whether they keep their kind."""
        for step in self.steps:
            result = apply(step.sign, values[step.left], values[step.right])
            if (
                result is None
                or (step.whole and result.denominator != 1)
                or not 0 <= result <= step.largest
                or (result == 0) is not step.zero
                or (result == 1) is not step.one
                or (step.scale and step.scale % result.denominator)
            ):
                return False
            values[step.place] = result
        return True


def is_held_out(key: str, share: float) -> bool:
    """Whether a wording is of the share that is held out, by its hash: the same in every corpus and run."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < share * 2**64


def apply(sign: str, left: Value, right: Value) -> Value | None:
    """The exact result of an operation; None for a division by zero."""
    if sign == "+":
        return plain(left + right)
    if sign == "-":
        return plain(left - right)
    if sign == "*":
        return plain(left * right)
    if not right:
        return None
    if isinstance(left, int) and isinstance(right, int) and not left % right:
        return left // right
    return plain(Fraction(left) / right)
