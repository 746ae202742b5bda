"""What a chain of thought computes from the numbers of its question: a row -> its wording, or why it is left out.

Every number of the chain is found again: in the question, among the results before it, or among what everybody knows
(the days of a week). Where there is a doubt the row is left out: better none than a wrong one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal

from rotdata.corpora import quantities
from rotdata.corpora.quantities import NUMBER, Choices, Numeral, Quantity, Value, Writer
from rotdata.corpora.readers import Row, Unusable
from rotdata.corpora.wordings import Comparison, Part, Step, Wording, apply

Chain = Literal["own", "steps"]
"""A chain as its source has it, or its equations alone, each <<...>>, as GSM8k-Aug writes them."""

MOST_CHARACTERS = 10_000
MOST_NUMBERS = 30
LARGEST_DOUBTFUL = 6
"""What counts people and days that a question may leave unsaid is no larger."""
TOO_LARGE = "it is no word problem: more than 10,000 characters, 30 numbers, or 15 digits of one"
NO_EQUATIONS = "its chain has no equations"
UNREADABLE = "an equation of its chain can't be read"
INEXACT = "an equation of its chain is not exact"
NEGATIVE = "its chain goes below zero"
UNMARKED = "its chain calculates without a mark"
OTHER_ANSWER = "its answer is not what its chain comes to"
UNKNOWN = "its chain uses a number that its question does not state"
AMBIGUOUS = "a number of its chain may be one of several"
UNUSED = "its question states a number that its chain does not use"
DEPENDENT = "numbers of its question depend on each other"
FIXED = "no number that its chain uses may be another"
IN_PROSE = "a number in the words of its chain can't be told"

_HUGE = re.compile(r"(?:\d,?){16}")
_MARK = re.compile(r"<<([^<>]*)>>")
_WORD = re.compile(r"[a-z]+")
_TOKEN = re.compile(rf"({NUMBER})|([-+*/()])|\s+")
_NUMBER = re.compile(NUMBER)
_RESULT = re.compile(rf"\s*(-?{NUMBER})\s*")
_ANSWER = re.compile(rf"[$€£]?\s?({NUMBER})\s?%?")
_Alike = tuple[bool, Value]
"""Whether a number is a percentage, and its value."""
_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}


def wording_of(row: Row, chain: Chain = "own", *, largest: int | None = None) -> Wording:
    """The wording of a row, no number and no result of which exceeds `largest`. Raises Unusable with the reason."""
    if max(len(row.question), len(row.cot)) > MOST_CHARACTERS or _HUGE.search(f"{row.question} {row.cot} {row.answer}"):
        raise Unusable(TOO_LARGE)
    question = _Question(row.question, largest)
    reading = _Reading(question)
    cot = reading.chain(row.cot, chain)
    answer = reading.answer(row.answer.strip())
    question.check_use(reading)
    reading.check_factors()
    if not question.drawn or reading.last not in question.varies:
        raise Unusable(FIXED)
    return Wording(
        row=row,
        key=quantities.masked(row.question, question.found),
        question=tuple(question.parts()),
        cot=tuple(cot),
        answer=tuple(answer),
        values=tuple(question.values),
        drawn=tuple(question.drawn.items()),
        steps=tuple(reading.steps(largest)),
        orders=tuple(question.orders()),
        comparisons=tuple(question.comparisons()),
    )


class _Question:
    """A question's numbers, and the places of all values that a chain may mean."""

    def __init__(self, text: str, largest: int | None) -> None:
        self.text = text
        self.found = quantities.find(text)
        if len(self.found) > MOST_NUMBERS:
            raise Unusable(TOO_LARGE)
        if any(each.is_rest or not each.values for each in self.found):
            raise Unusable(DEPENDENT)
        self.values: list[Value] = []
        self.drawn: dict[int, Choices] = {}
        self.varies: set[int] = set()
        """Places of what is drawn or computed from it."""
        self.known: dict[Value, set[int]] = {}
        """The places that a number of the chain may mean."""
        self.constants: dict[Value, int] = {}
        self.percents: dict[int, int] = {}
        """A drawn percentage -> the place of its hundredth."""
        self.formulas: dict[tuple[str, int, int], int] = {}
        self._beginnings = {word[:4] for word in _WORD.findall(text.lower())}
        self.guessed = quantities.implied(text, self.found)
        """What nobody states and a chain may use."""
        self._place(largest)

    def _place(self, largest: int | None) -> None:
        """Give every number a place; equal ones share it, and are drawn together."""
        groups: dict[_Alike, list[Quantity]] = {}
        for each in self.found:
            groups.setdefault((each.unit == "percent", each.value), []).append(each)
        choices = {key: _common(group, largest) for key, group in groups.items()}
        self._fix_alike(groups, choices)
        self.stated: dict[int, int] = {}
        for key, group in groups.items():
            place = self._draw(group, choices[key]) if choices[key].steps else self.constant(key[1])
            self.stated |= {each.start: place for each in group}

    def _fix_alike(
        self, groups: dict[tuple[bool, Value], list[Quantity]], choices: dict[tuple[bool, Value], Choices]
    ) -> None:
        """Leave numbers as they are that a chain may write as it writes another: 50% beside a half, 7 beside a week."""
        written = {key: {value for each in group for value in each.values} for key, group in groups.items()}
        stated = Counter(value for values in written.values() for value in values)
        fixed = set(self.guessed)
        self.guessed -= stated.keys()
        pending = True
        while pending:
            pending = False
            for key, values in written.items():
                alike = not fixed.isdisjoint(values) or any(stated[value] > 1 for value in values)
                if choices[key].steps and alike:
                    choices[key] = quantities.NONE
                if not choices[key].steps and not values <= fixed:
                    fixed |= values
                    pending = True
        for value in fixed:
            self.known[value] = {self.constant(value)}

    def _draw(self, group: Sequence[Quantity], choices: Choices) -> int:
        value, *parts = group[0].values
        place = self.add(value)
        self.drawn[place] = choices
        self.varies.add(place)
        self.known[value] = {place}
        for part in parts:
            self.percents[place] = self.step("/", place, self.constant(100))
            self.known[part] = {self.percents[place]}
        return place

    def add(self, value: Value) -> int:
        """A new place for a value."""
        self.values.append(value)
        return len(self.values) - 1

    def constant(self, value: Value) -> int:
        """The place of a value that does not change."""
        if value not in self.constants:
            self.constants[value] = self.add(value)
        return self.constants[value]

    def step(self, sign: str, left: int, right: int) -> int:
        """The place of an operation's result, the same for the same operation."""
        value = apply(sign, self.values[left], self.values[right])
        if value is None:
            raise Unusable(UNREADABLE)
        if value < 0:
            raise Unusable(NEGATIVE)
        if self.varies.isdisjoint((left, right)):
            return self.constant(value)
        if left == right and (sign, value) in {("+", 4), ("*", 4)}:  # two and two are two times two
            raise Unusable(AMBIGUOUS)
        if (sign, left, right) not in self.formulas:
            self.formulas[sign, left, right] = self.add(value)
            self.varies.add(self.formulas[sign, left, right])
        return self.formulas[sign, left, right]

    def may_be_computed(self, value: Value) -> bool:
        """Whether a number that is taken for a constant may have been computed in the head, from one that is drawn."""
        drawn = [self.values[place] for place in self.drawn]
        known = self.guessed - {1, value}
        return any(
            value in (a + b, a - b, b - a, a * b) or value * b == a or value * a == b for a, b in combinations(drawn, 2)
        ) or any(value in (b - a, a * b) or value * b == a or value * a == b for a in drawn for b in known)

    def speaks_of(self, numeral: Numeral) -> bool:
        """Whether the question has the word behind a number, in singular or plural: else what is counted is new."""
        if not numeral.noun:
            return not numeral.text[0].isalpha()
        return numeral.noun[:4] in self._beginnings

    def check_use(self, reading: _Reading) -> None:
        """Raise Unusable if it states what the chain does not use, which may have been computed with in the head.

        An equation that comes with the question is all that is computed: there such a number only stays as it is.
        """
        for each in self.found:
            place = self.stated[each.start]
            if place not in self.drawn:
                if each.must_be_used and not reading.is_annotated and reading.uses(each) < self._times_stated(each):
                    raise Unusable(UNUSED)
            elif reading.used.isdisjoint({place, self.percents.get(place, place)}):
                if not reading.is_annotated:
                    raise Unusable(UNUSED)
                self._keep(place)
            elif self._may_be_another(each, reading):
                self._keep(place)

    def _may_be_another(self, quantity: Quantity, reading: _Reading) -> bool:
        """Whether the text states a number more often than the chain uses it, and not of the same thing again.

        Of "three buckets" and "3 more than" only one may be what is computed with.
        """
        equal = [each for each in self.found if self.stated[each.start] == self.stated[quantity.start]]
        return reading.uses(quantity) < len(equal) and len({each.noun for each in equal}) > 1

    def _keep(self, place: int) -> None:
        """Draw a number no more."""
        del self.drawn[place]
        self.varies.discard(place)

    def _times_stated(self, quantity: Quantity) -> int:
        """How often a number's values are stated, each operation (half, twice) counted, equal numbers once."""
        values = set(quantity.values)
        alike = [each for each in self.found if each.must_be_used and not values.isdisjoint(each.values)]
        numbers = {each.value for each in alike if not each.is_operation}
        return max(1, sum(each.is_operation for each in alike) + len(numbers))

    def orders(self) -> list[tuple[int, ...]]:
        """Places of numbers of one unit, in their order."""
        units = (
            self._in_order(each for each in self.found if each.unit == unit) for unit in ("count", "money", "percent")
        )
        return [tuple(places) for places in units if not self.drawn.keys().isdisjoint(places)]

    def comparisons(self) -> list[Comparison]:
        """Two numbers, summed or multiplied, beside a third. Raises Unusable for a + b = c and a * b = c."""
        triples = [("+", triple) for places in self.orders() for triple in combinations(places, 3)]
        for a, b, c in combinations(self._in_order(each for each in self.found if each.unit != "percent"), 3):
            triples.append(("*", (a, b, c)))
            if self.values[a] < 1:
                triples += [("*", (a, c, b)), ("*", (b, c, a))]
        comparisons = []
        for sign, (a, b, c) in triples:
            if self.drawn.keys().isdisjoint((a, b, c)):
                continue
            found = apply(sign, self.values[a], self.values[b])
            if found == self.values[c] and (sign == "+" or 1 not in (self.values[a], self.values[b])):
                raise Unusable(DEPENDENT)
            comparisons.append((sign, a, b, c, found is not None and found > self.values[c]))
        return comparisons

    def _in_order(self, found: Iterable[Quantity]) -> list[int]:
        return sorted({self.stated[each.start] for each in found}, key=lambda place: self.values[place])

    def parts(self) -> list[Part]:
        """The question as it is written with other values."""
        parts: list[Part] = []
        end = 0
        for each in self.found:
            place = self.stated[each.start]
            if place in self.drawn:
                write = quantities.writer(each.text, cents=each.unit == "money")
                parts += _with_article(self.text, end, each.start, (place, write))
                end = each.end
        return [*parts, self.text[end:]]


class _Reading:
    """The chain of a question, read from its first equation to its last."""

    def __init__(self, question: _Question) -> None:
        self._question = question
        self.last: int | None = None
        """The place of the last result."""
        self.used: set[int] = set()
        """Places of operands."""
        self._results: set[int] = set()
        self._uses: Counter[int] = Counter()
        """How often each place is an operand."""
        self._factors: set[int] = set()
        """Places that multiply or divide."""
        self._scales: dict[int, int] = {}
        self._literals: Counter[Value] = Counter()
        """How often each number is written in an equation."""
        self._awaited: Counter[Value] = Counter()
        """How often it is still to come."""
        self.is_annotated = False
        """Whether the chain is one equation that comes with the question."""

    def chain(self, cot: str, chain: Chain) -> list[Part]:
        """The chain as it is written with other values. Raises Unusable."""
        marks = list(_MARK.finditer(cot))
        if not marks:
            return self._annotation(cot, chain)
        self._awaited.update(
            quantities.exact(number) for mark in marks for number in _NUMBER.findall(mark[1].partition("=")[0])
        )
        equations, words, end = [], [], 0
        for mark in marks:
            words.append(cot[end : mark.start()])
            if "=" in words[-1].rstrip("= $€£"):
                raise Unusable(UNMARKED)
            equations.append(self._equation(mark[1]))
            end = mark.end()
        words.append(cot[end:])
        if "=" in words[-1]:
            raise Unusable(UNMARKED)
        if chain == "steps":
            spaced = [[" " * bool(number), "<<", *each, ">>"] for number, each in enumerate(equations)]
            return [part for each in spaced for part in each]
        return self._in_words(words, equations)

    def answer(self, text: str) -> list[Part]:
        """The answer as it is written with other values. Raises Unusable if it is not the last result."""
        found = _ANSWER.fullmatch(text)
        if not found or self.last is None or quantities.exact(found[1]) != self._question.values[self.last]:
            raise Unusable(OTHER_ANSWER)
        return [text[: found.start(1)], (self.last, quantities.writer(found[1])), text[found.end(1) :]]

    def _annotation(self, cot: str, chain: Chain) -> list[Part]:
        """An equation without marks; its operations one by one as steps."""
        if "=" not in cot:
            raise Unusable(NO_EQUATIONS)
        self.is_annotated = True
        self._awaited.update(map(quantities.exact, _NUMBER.findall(cot.partition("=")[0])))
        parts = self._equation(cot)
        if chain == "own":
            return parts
        plain = quantities.writer("7")
        steps: list[Part] = []
        for (sign, left, right), place in self._operations():
            places = quantities.places(self._question.values[place])
            if places is None:
                raise Unusable(INEXACT)
            self._scales[place] = 10**places
            steps += [" " * bool(steps), "<<", (left, plain), sign, (right, plain), "=", (place, plain), ">>"]
        return steps

    def _equation(self, text: str) -> list[Part]:
        """An equation such as 48/2=24, as it is written with other values."""
        question = self._question
        left, equals, right = text.partition("=")
        found = _RESULT.fullmatch(right)
        if not equals or not found:
            raise Unusable(UNREADABLE)
        parts, place = self._expression(left)
        value = question.values[place]
        if value != quantities.exact(found[1]):
            raise Unusable(INEXACT)
        self.last = place
        if place in question.varies and place not in question.drawn:
            self._results.add(place)
        question.known.setdefault(value, set()).add(place)
        places = len(found[1].partition(".")[2])
        self._scales[place] = max(self._scales.get(place, 1), 10**places)
        return [*parts, "=" + right[: found.start(1)], (place, quantities.writer(found[1])), right[found.end(1) :]]

    def _expression(self, text: str) -> tuple[list[Part], int]:
        """Numbers, signs and parentheses, as they are written with other values; the place of what they come to."""
        parts: list[Part] = []
        operands: list[int] = []
        signs: list[str] = []
        at, wants_operand = 0, True
        while at < len(text):
            token = _TOKEN.match(text, at)
            if not token:
                raise Unusable(UNREADABLE)
            at = token.end()
            number, sign = token.groups()
            parts.append(token[0])
            if not number and not sign:
                continue
            if (number is not None or sign == "(") is not wants_operand:
                raise Unusable(UNREADABLE)
            if number:
                operands.append(self._literal(number))
                parts[-1] = (operands[-1], quantities.writer(number))
                wants_operand = False
            elif sign == "(":
                signs.append(sign)
            elif sign == ")":
                self._reduce(operands, signs, 0)
                if not signs:
                    raise Unusable(UNREADABLE)
                signs.pop()
            else:
                self._reduce(operands, signs, _RANK[sign])
                signs.append(sign)
                wants_operand = True
        if wants_operand or "(" in signs:
            raise Unusable(UNREADABLE)
        self._reduce(operands, signs, 0)
        return parts, operands[0]

    def _reduce(self, operands: list[int], signs: list[str], rank: int) -> None:
        """Apply the signs at the end that bind as strongly, back to a parenthesis."""
        while signs and signs[-1] != "(" and _RANK[signs[-1]] >= rank:
            right, left = operands.pop(), operands.pop()
            sign = signs.pop()
            self.used |= {left, right}
            self._uses.update((left, right))
            self._factors |= {"*": {left, right}, "/": {right}}.get(sign, set())
            operands.append(self._question.step(sign, left, right))

    def check_factors(self) -> None:
        """Raise Unusable for a small number that multiplies or divides, and is used more often than it is stated.

        Of one that is stated, or computed, once, the second may be another that nobody states: two days, two friends.
        """
        if self.is_annotated:
            return
        question = self._question
        stated = Counter(question.stated.values())
        for place in self._factors & question.varies:
            if question.values[place] <= LARGEST_DOUBTFUL and self._uses[place] > max(1, stated[place]):
                raise Unusable(AMBIGUOUS)

    def _literal(self, number: str) -> int:
        """The place of what a number of an equation means."""
        value = quantities.exact(number)
        places = self._question.known.get(value, set())
        self._literals[value] += 1
        self._awaited[value] -= 1
        if not places:
            raise Unusable(UNKNOWN)
        if len(places) > 1:
            return self._unused_result(value, places)
        if value in self._question.guessed and value != 1 and self._question.may_be_computed(value):
            raise Unusable(AMBIGUOUS)
        return next(iter(places))

    def _unused_result(self, value: Value, places: set[int]) -> int:
        """Of several places, that of a result which the number has to be: else nothing would use the result."""
        waiting = places & self._results - self.used
        doubtful = {place for place in places - waiting - self.used if value not in self._question.guessed}
        if len(waiting) != 1 or doubtful or self._awaited[value]:
            raise Unusable(AMBIGUOUS)
        return waiting.pop()

    def _in_words(self, words: Sequence[str], equations: Sequence[list[Part]]) -> list[Part]:
        """Words and marks in turn, words last."""
        parts: list[Part] = []
        result: int | None = None
        for text, equation in zip(words, [*equations, []], strict=True):
            places = [part[0] for part in equation if not isinstance(part, str)]
            parts += self._words(text, result, places[:-1])
            if equation:
                parts += ["<<", *equation, ">>"]
                result = places[-1]
        return parts

    def _words(self, text: str, result: int | None, operands: Sequence[int]) -> list[Part]:
        """Words between two marks, in which every number is found again.

        What stands beside a mark repeats it: its operands before it, its result behind it.
        """
        values = self._question.values
        found = list(quantities.numerals(text))
        meant: list[int | None] = [None] * len(found)
        if result is not None and found and found[0].start <= 1 and found[0].value == values[result]:
            meant[0] = result
        if operands and [each.value for each in found[-len(operands) :]] == [values[place] for place in operands]:
            meant[-len(operands) :] = operands
        parts: list[Part] = []
        end = 0
        for each, known in zip(found, meant, strict=True):
            place = self._numeral(each) if known is None else known
            if place in self._question.varies:
                parts += _with_article(text, end, each.start, (place, quantities.writer(each.text)))
                end = each.end
        return [*parts, text[end:]]

    def _numeral(self, numeral: Numeral) -> int | None:
        """The place of a number in the words of a chain; None for what stays as it is."""
        if numeral.value == 1:  # a result is one only where it was
            return None
        if numeral.value is None:
            if numeral.text.lower() in self._question.text.lower():
                return None
            raise Unusable(IN_PROSE)
        places = self._question.known.get(numeral.value, set())
        if len(places) != 1 or (numeral.value <= 10 and not self._question.speaks_of(numeral)):
            raise Unusable(IN_PROSE)
        return next(iter(places))

    def uses(self, quantity: Quantity) -> int:
        """How often the chain's equations write a number, in whatever form."""
        values = quantity.values
        if quantity.unit == "percent" and not self._literals[100]:
            values = values[1:]
        return sum(self._literals[value] for value in values)

    def _operations(self) -> list[tuple[tuple[str, int, int], int]]:
        """What is computed with what is drawn."""
        wanted = self.used | self._results
        return [(formula, place) for formula, place in self._question.formulas.items() if place in wanted]

    def steps(self, largest: int | None) -> list[Step]:
        """The chain's operations, and what must hold of their results."""
        steps = []
        for (sign, left, right), place in self._operations():
            value = self._question.values[place]
            most = max(100, int(10 * value))
            steps.append(
                Step(
                    sign=sign,
                    left=left,
                    right=right,
                    place=place,
                    whole=value.denominator == 1,
                    zero=value == 0,
                    one=value == 1,
                    largest=most if largest is None else min(most, largest),
                    scale=self._scales.get(place, 0),
                )
            )
        return steps


def _common(group: Sequence[Quantity], largest: int | None) -> Choices:
    """What all of some equal numbers may be, up to the largest."""
    if all(each.is_definite for each in group):
        return quantities.NONE
    choices = group[0].choices
    for each in group[1:]:
        choices = choices.also_in(each.choices)
    if largest is not None:
        choices = choices.up_to(largest)
    return choices


def _with_article(text: str, begin: int, start: int, number: tuple[int, Writer]) -> list[Part]:
    """The text from `begin` to the number at `start`, an article before it as it needs it, and the number."""
    at = quantities.article_before(text, start)
    if at is None or at < begin:
        return [text[begin:start], number]
    place, write = number
    like, between = text[at], text[at:start].partition(" ")[2]
    return [text[begin:at], (place, lambda value: quantities.article(write(value), like)), f" {between}", number]
