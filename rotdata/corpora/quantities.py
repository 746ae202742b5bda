"""Numbers in English word problems: where they stand, what they may mean, and which of them may be exchanged.

Careful rather than complete: a number that means more than its size (a date, a grade, an ordinal, a part in words, the
wheels of a bicycle) is fixed. Knows texts; knows nothing of chains of thought.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from rotdata.corpora import number_words as words

Value = int | Fraction
"""An exact number; a whole one is an int."""
Unit = Literal["count", "money", "percent"]
Writer = Callable[[Value], str]

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"


def _either(options: Iterable[str]) -> str:
    """A pattern of any of some words, the longest first."""
    return "|".join(sorted(options, key=len, reverse=True))


_CARDINAL = _either(words.CARDINALS)
_SPELLED = rf"(?:{_CARDINAL})\b(?:(?:[\s-]+and)?[\s-]*(?:{_CARDINAL}|hundred|thousand|million)\b)*"
_MONTH = (
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december"
    r"|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?"
)
# Of texts in small letters. What a number may begin with is looked for first: most characters are none of it.
_QUANTITY = re.compile(
    rf"""(?=[\d$€£.½¼¾⅓⅔-]|\b[adefhjmnoqstz])(?:
    (?P<fixed> \d{{1,2}}:\d{{2}}(?:\s?[ap]\.?m\b)? | \b\d{{1,2}}\s?(?:[ap]\.?m\b|o['\u2019]?\s?clock)
      | \b{_MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?\b(?![.,]\d|%) | \b\d{{1,2}}(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}
      | \b\d+(?:st|nd|rd|th)\b | \d+/\d+/\d+ | \d+\s?:\s?\d+
      | (?<![\w.,$]){NUMBER}\s?[-\u2013]\s?\$?{NUMBER}(?!\w)
      | (?<=[^\W\d])-?\d[\w.]* | (?<=\#)\d+ | (?<![\w)])-\d[\d.,]* )
  | (?P<ratio> (?<![\d.,])(?:\d+(?:\s|-|\s-\s|\sand\s))?\d+\s?/\s?\d+(?![\d/]) | (?:\d+\s?)?[½¼¾⅓⅔] )
  | (?P<sign> [$€£]\s? )?(?P<digits> {NUMBER} )(?P<percent> \s?% | [\s-]percent\b | \sper\scent\b )?
  | \b(?P<multiple> {_either(words.MULTIPLES)} )\b
  | \b(?:(?P<above> an?|{_CARDINAL} )[\s-])?(?P<below> {_either(words.BELOW)} )\b
  | \b(?P<words> (?:an?\s(?:hundred|thousand|million)\b)? {_SPELLED} | an?\s(?:hundred|thousand|million)\b )
    (?P<percents> [\s-]percent\b )? )
    """,
    re.VERBOSE,
)
_NUMERAL = re.compile(
    rf"\d+(?:st|nd|rd|th)\b|(?P<digits>(?<![\d.]){NUMBER})|\b(?:{_either([*words.MULTIPLES, *words.BELOW])})\b"
    rf"|\b(?P<words>{_SPELLED})"
)
_AFTER = re.compile(r"[\s-]*([a-z]+(?:[\s-][a-z]+){0,3})")
_ARTICLE = re.compile(r"(?<![\w'\u2019])an?(?=\s[$€£]?$)", re.IGNORECASE)

_WORD = re.compile(r"[a-z]+")
_NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]+\b")
_LIST = re.compile(
    r"\b[\w'\u2019]+(?:,\s(?!and\b|or\b)[\w'\u2019$.]+(?:\s[\w'\u2019]+){0,3})+,?\s(?:and|or)\s\w|\b[A-Z]\w*\s(?:and|or)\s[A-Z]"
)


@dataclass(frozen=True, slots=True)
class Choices:
    """Numbers of one size and kind: whole multiples of 1 / scale."""

    steps: Sequence[int]
    scale: int = 1

    def also_in(self, other: Choices) -> Choices:
        """Those that both have."""
        if self.scale != other.scale:
            return NONE
        if self.steps == other.steps:
            return self
        return Choices([step for step in self.steps if step in other.steps], self.scale)

    def up_to(self, largest: int) -> Choices:
        """Those of them that are no larger."""
        return Choices([step for step in self.steps if step <= largest * self.scale], self.scale)


NONE = Choices(())


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in a text."""

    start: int
    end: int
    """Of the numeral alone, without signs and units."""
    text: str
    unit: Unit
    values: tuple[Value, ...]
    """What a calculation may write for it, its own value first: 30 and 0.3 for 30%; 3/4, 3 and 4 for three quarters."""
    choices: Choices = NONE
    """Numbers that may stand in its place; none if it is fixed."""
    must_be_used: bool = True
    """Whether a calculation without any of its values leaves out something that the text says."""
    is_operation: bool = False
    """Whether it is less a number than what is done with one: half, twice, 20%."""
    is_rest: bool = False
    """Whether it is what other numbers leave: the other 3."""
    is_definite: bool = False
    """Whether it speaks of what the text knows already: the 3 friends."""
    noun: str = ""
    """The word that follows, adjectives aside."""

    @property
    def value(self) -> Value:
        """Its own value."""
        return self.values[0]


@dataclass(frozen=True, slots=True)
class Numeral:
    """A number in the words of a calculation, or a word for what is done with one."""

    start: int
    end: int
    text: str
    value: Value | None
    """None of ordinals, parts and multiples."""
    noun: str
    """The word that follows, adjectives aside."""


def find(text: str) -> list[Quantity]:
    """The numbers of a text, in order; "half", "twice" and "two thirds" are among them, "second" is not."""
    small = _small_letters(text)
    spoken = set(_WORD.findall(small))
    narrow, school = not words.NARROW.isdisjoint(spoken), not words.SCHOOL.isdisjoint(spoken)
    return [_quantity(text, small, found, narrow=narrow, school=school) for found in _QUANTITY.finditer(small)]


def implied(text: str, found: Sequence[Quantity]) -> set[Value]:
    """Numbers that a calculation may use though the text has them in other words only, or as the length of a list."""
    values: set[Value] = {1}
    ordinals = 0
    for word in _WORD.findall(_small_letters(text)):
        values.update(words.IMPLIED.get(word, ()))
        if word in words.ORDINALS:
            ordinals = max(ordinals, words.ORDINALS.index(word) + 1)
    values.update(range(2, ordinals + 1))
    for listed in _LIST.findall(text):
        values.add(listed.count(",") + 2 - (", and " in listed or ", or " in listed))
    values.add(len(set(_NAME.findall(text))))
    if any(each.unit == "percent" for each in found):
        values.add(100)
    return values


def numerals(text: str) -> Iterator[Numeral]:
    """All numbers in the words of a calculation, what is written of them piece by piece."""
    small = _small_letters(text)
    for found in _NUMERAL.finditer(small):
        start, end = found.span()
        value = exact(found[0]) if found["digits"] else _spelled(found[0]) if found["words"] else None
        yield Numeral(start, end, text[start:end], value, _noun(_following(small, end)))


def masked(text: str, found: Sequence[Quantity]) -> str:
    """What is left of a text when its numbers and names are taken out."""
    pieces, end = [], 0
    for each in found:
        pieces.append(text[end : each.start])
        end = each.end
    bare = re.sub(r"\b[A-Z]\w*", "_", "#".join([*pieces, text[end:]]))
    return " ".join(re.sub(r"\b[Aa]n? (?=[$€£]?#)", "", bare).split())


def writer(like: str, *, cents: bool = False) -> Writer:
    """How numbers are written where `like` stood: in words or digits, with its commas and trailing zeros.

    `cents` has two decimals stay two.
    """
    if like[0].isalpha():
        return (lambda value: in_words(value).capitalize()) if like[0].isupper() else in_words
    shown = len(like.partition(".")[2])
    fixed = shown if like[-1] == "0" or (cents and shown == 2) else 0
    commas, bare = "," in like, like[0] == "."

    def write(value: Value) -> str:
        if isinstance(value, int) and not fixed:
            return f"{value:,}" if commas else str(value)
        return _decimal(value, fixed, commas=commas, bare=bare)

    return write


def in_words(value: Value) -> str:
    """A whole number up to 99 in words; others in digits."""
    if not isinstance(value, int) or not 0 <= value < 100:
        return _decimal(value, 0, commas=False, bare=False)
    if value < 20:
        return words.SMALL[value]
    tens, ones = divmod(value, 10)
    return words.TENS[tens - 2] + (f"-{words.SMALL[ones]}" if ones else "")


def article_before(text: str, start: int) -> int | None:
    """Where the "a" or "an" begins that stands before the numeral at `start`; None without one."""
    found = _ARTICLE.search(text, max(0, start - 5), start)
    return found.start() if found else None


def article(number: str, like: str) -> str:
    """The article of a number as it is written: an 8, an eleven, a 100; capital as `like` has it."""
    digits = number.lower().partition(".")[0].replace(",", "")
    leads = digits[: len(digits) % 3 or 3]  # 11,500 is eleven thousand
    is_vowel = number[0].lower() in "aeiou8" or leads in {"11", "18"}
    found = "an" if is_vowel and digits != "one" else "a"
    return found.capitalize() if like[0].isupper() else found


@lru_cache(maxsize=1 << 14)
def exact(digits: str) -> Value:
    """The value of a number in digits."""
    return plain(Fraction(digits.replace(",", "")))


def plain(value: Value) -> Value:
    """A whole number as an int."""
    return value.numerator if value.denominator == 1 else value


def places(value: Value) -> int | None:
    """Decimal places that a number needs; None for one that never ends, or has more than six."""
    return next((count for count in range(7) if 10**count % value.denominator == 0), None)


def _small_letters(text: str) -> str:
    small = text.lower()
    return small if len(small) == len(text) else text  # a few letters of other scripts grow


def _quantity(text: str, small: str, found: re.Match[str], *, narrow: bool, school: bool) -> Quantity:
    start, end = found.span()
    written = text[start:end]
    if found["fixed"]:
        return Quantity(start, end, written, "count", _fixed(written), must_be_used=False)
    if found["ratio"]:
        return Quantity(start, end, written, "count", _ratio(written), is_operation=True)
    if found["multiple"]:
        return Quantity(start, end, written, "count", (words.MULTIPLES[found[0]],), is_operation=True)
    if found["below"]:
        return _part(written, small, found)
    return _number(text, small, found, narrow=narrow, school=school)


def _fixed(written: str) -> tuple[Value, ...]:
    """What a date, a time, an ordinal, a ratio or a range is made of, and what goes with it."""
    numbers = [exact(number) for number in re.findall(NUMBER, written)]
    if ":" in written:
        return *numbers, sum(numbers)  # a ratio of 2:3 has five parts
    if written[-2:].isalpha():
        return *numbers, numbers[0] - 1  # before the 13th day there are twelve
    return tuple(numbers)


def _number(text: str, small: str, found: re.Match[str], *, narrow: bool, school: bool) -> Quantity:
    in_digits = found["digits"] is not None
    start, end = found.span("digits" if in_digits else "words")
    written = text[start:end]
    value = exact(written) if in_digits else _spelled(small[start:end])
    if value is None:
        return Quantity(start, end, written, "count", ())
    before = small[max(0, start - 20) : start].rstrip(" $€£-").rpartition(" ")[2]
    after = _following(small, found.end())
    is_percent = bool(found["percent"] or found["percents"])
    unit: Unit = (
        "percent" if is_percent else "money" if found["sign"] or (after and after[0] in words.MONEY) else "count"
    )
    values = (value, plain(Fraction(value) / 100)) if is_percent else (value,)
    attached = small[end : end + 1].isalpha() and (not after or after[0] not in words.UNITS)
    noun = _noun(after)
    if value in (0, 1) or attached or not _counts(written, value, unit, before, after, noun):
        must_be_used = value not in (0, 1) and not (unit == "count" and _names(written, value, before))
        return Quantity(start, end, written, unit, values, must_be_used=must_be_used, is_operation=is_percent)
    if is_percent:
        choices = _percentages(value)
    else:
        most = _most(value, after)
        if school and unit == "count" and value <= 100:
            most = min(most, 100)
        choices = _of_its_size(value, most if in_digits else min(most, 99), narrow=narrow and unit == "count")
    return Quantity(
        start,
        end,
        written,
        unit,
        values,
        choices,
        is_operation=is_percent,
        is_rest=unit == "count" and before in words.REST,
        is_definite=unit == "count" and before in words.DEFINITE,
        noun=noun,
    )


def _following(small: str, end: int) -> list[str]:
    """Up to four words behind a number, as far as nothing stands between them."""
    found = _AFTER.match(small, end)
    return found[1].replace("-", " ").split() if found else []


def _noun(after: list[str]) -> str:
    return next((word for word in after if word not in words.ADJECTIVES), "")


def _counts(written: str, value: Value, unit: Unit, before: str, after: list[str], noun: str) -> bool:
    """Whether a number counts or measures, and nothing but its text decides it."""
    if unit == "percent":
        return True
    if unit == "money":
        return noun not in words.CASH
    is_large_word = value > 99 and written[0].isalpha()
    is_different = "different" in after[:1] or "different" in after[1:2]
    named = _names(written, value, before)
    return not (named or is_large_word or noun in words.DECIDED or is_different)


def _names(written: str, value: Value, before: str) -> bool:
    """Whether a number is a name: of a year, a page, a grade."""
    is_year = 1700 <= value <= 2100 and written.isdecimal()
    return is_year or before.strip(".") in words.NAMING


def _most(value: Value, after: list[str]) -> int:
    """The largest number that may stand in a number's place, by what it counts."""
    for noun, rate, each in zip(after, after[1:], after[2:], strict=False):
        most = words.MOST_EACH.get(each, {}).get(noun)
        if rate in words.RATES and most and value <= most:
            return most
    limits = [words.MOST[noun] for noun in after[:2] if noun in words.MOST]
    return next((most for most in limits if value <= most), 2**31)


def _of_its_size(value: Value, most: int, *, narrow: bool) -> Choices:
    """Numbers from half to twice a number, as round as it is; one digit stays one digit."""
    if isinstance(value, Fraction):
        return _decimals(value, narrow=narrow)
    step = _roundness(value)
    least, largest = (2, 9) if value < 10 else (-(-value // 2), 2 * value)
    if narrow:
        least, largest = -(-3 * value // 4), 4 * value // 3
    return Choices(range(max(2, -(-least // step) * step), min(largest, most) + 1, step))


def _roundness(value: int) -> int:
    """What a number's others are multiples of: prices that are whole tens stay so, or nearly."""
    digits = str(value)
    zeros = len(digits) - len(digits.rstrip("0"))
    if zeros == 1:
        return 5 if value < 100 else 10
    if zeros:
        return int(10 ** (zeros - (len(digits) == zeros + 1)))
    return 5 if value > 100 and value % 5 == 0 else 1


def _decimals(value: Fraction, *, narrow: bool) -> Choices:
    """Decimals of as many places, on the same side of one."""
    shown = places(value)
    if shown is None or shown > 3:
        return NONE
    scale = 10**shown
    units = int(value * scale)
    step = 25 if shown == 2 and units % 25 == 0 else 5 if units % 5 == 0 else 1
    least, largest = (3 * units // 4, 4 * units // 3) if narrow else (units // 2, 2 * units)
    least, largest = (max(least, scale), largest) if value > 1 else (least, min(largest, scale - 1))
    return Choices(range(max(1, -(-least // step)) * step, largest + 1, step), scale)


def _percentages(value: Value) -> Choices:
    """Half is as much as what is left of it, and chains take the one for the other: 50% stays."""
    if not isinstance(value, int) or value >= 100 or value == 50:
        return NONE
    return Choices(range(5, 100, 5) if value % 5 == 0 else range(2, 100))


def _part(written: str, small: str, found: re.Match[str]) -> Quantity:
    """A half, two thirds; "third" alone is an ordinal."""
    start, end = found.span()
    below = words.BELOW[found["below"]]
    count = words.CARDINALS.get(found["above"], 1)
    follows = small[end : end + 6].split()
    is_part = below == 2 or found["below"][-1] == "s" or follows[:1] in (["of"], ["as"], ["the"], ["off"], ["more"])
    values = (Fraction(count, below), count, below)
    return Quantity(start, end, written, "count", values, must_be_used=is_part, is_operation=True)


def _ratio(written: str) -> tuple[Value, ...]:
    """What a fraction comes to and is made of, of a mixed number its whole part too."""
    if written[-1] in words.VULGAR:
        above, below = words.VULGAR[written[-1]]
        whole = int(written[:-1] or 0)
    else:
        *wholes, above, below = map(int, re.findall(r"\d+", written))
        whole = wholes[0] if wholes else 0
    if not below:
        return ()
    part = Fraction(above, below)
    return (plain(whole + part), whole, above, below, plain(part)) if whole else (plain(part), above, below)


def _spelled(number: str) -> int | None:
    """The value of a number in words: two hundred and five; None for words that are not one number."""
    total = current = previous = 0
    for word in _WORD.findall(number):
        if word in {"a", "an"}:
            current = 1
        elif word in words.SCALES:
            current = max(1, current) * words.SCALES[word]
            if word != "hundred":
                total, current = total + current, 0
            previous = 0
        elif word != "and":
            if previous and not (previous >= 20 and words.CARDINALS[word] < 10):
                return None
            previous = words.CARDINALS[word]
            current += previous
    return total + current


def _decimal(value: Value, fixed: int, *, commas: bool, bare: bool) -> str:
    """An exact decimal with at least `fixed` places."""
    shown = max(fixed, places(value) or 0)
    whole, part = divmod(int(value * 10**shown), 10**shown)
    text = "" if bare and not whole else f"{whole:,}" if commas else str(whole)
    return f"{text}.{part:0{shown}}" if shown else text
