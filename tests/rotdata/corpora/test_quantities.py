"""Numbers in English questions: found, told apart, written as they stood."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.corpora import quantities


def found(text: str) -> list[tuple[str, str, bool]]:
    """Text, unit, and whether it may be exchanged."""
    return [(each.text, each.unit, bool(each.choices.steps)) for each in quantities.find(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("She has 12 figs.", [("12", "count", True)]),
        ("It costs $1,250.50 now.", [("1,250.50", "money", True)]),
        ("He pays 30 dollars.", [("30", "money", True)]),
        ("A tip of 20% or 15 percent.", [("20", "percent", True), ("15", "percent", True)]),
        ("Twenty-five figs and seven nuts", [("Twenty-five", "count", True), ("seven", "count", True)]),
        ("an 8-page letter of 20cm", [("8", "count", True), ("20", "count", True)]),
        ("She has one fig, 1 nut and 0 pens.", [("one", "count", False), ("1", "count", False), ("0", "count", False)]),
        ("It is 3:30, then 5 pm, then 6 o'clock.", [(text, "count", False) for text in ("3:30", "5 pm", "6 o'clock")]),
        ("On June 5, and the 4th of July, 2019", [(t, "count", False) for t in ("June 5", "4th of July", "2019")]),
        ("the 3rd day, a 2:1 mix, 10-12 figs", [(text, "count", False) for text in ("3rd", "2:1", "10-12")]),
        ("1/2 cup, 2 1/3 cups, ¾ cup", [(text, "count", False) for text in ("1/2", "2 1/3", "¾")]),
        ("half, twice, two thirds, a dozen", [(t, "count", False) for t in ("half", "twice", "two thirds", "dozen")]),
        ("page 40 of grade 5", [("40", "count", False), ("5", "count", False)]),
        (
            "a dog with 4 legs, a 5-dollar bill, a $20 bill",
            [("4", "count", False), ("5", "money", False), ("20", "money", False)],
        ),
        ("flight B12 at -5 degrees", [("12", "count", False), ("-5", "count", False)]),
        ("3 different kinds", [("3", "count", False)]),
        ("two hundred figs", [("two hundred", "count", False)]),
        ("second to none", []),
    ],
)
def test_numbers_are_found_and_those_that_mean_more_than_their_size_are_fixed(
    text: str, expected: list[tuple[str, str, bool]]
) -> None:
    assert found(text) == expected


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("30%", (30, Fraction(3, 10))),
        ("half", (Fraction(1, 2), 1, 2)),
        ("three quarters", (Fraction(3, 4), 3, 4)),
        ("2 1/2", (Fraction(5, 2), 2, 1, 2, Fraction(1, 2))),
        ("twice", (2,)),
        ("2:3", (2, 3, 5)),
        ("13th", (13, 12)),
        ("one hundred and five", (105,)),
        ("two thousand three hundred", (2300,)),
        ("1/0", ()),
        ("two seven", ()),
    ],
)
def test_a_number_has_the_values_that_a_calculation_may_write(text: str, values: tuple[int, ...]) -> None:
    [quantity] = quantities.find(text)
    assert quantity.values == values


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("7 figs", 2, 9),
        ("48 figs", 24, 96),
        ("she is 20 years old", 15, 25),
        ("5 days a week", 2, 6),
        ("40 minutes", 20, 55),
        ("60% of them", 5, 95),
        ("he got 80 points in the test", 40, 100),
        ("seventy figs", 35, 95),
        ("3000 figs", 1500, 6000),
    ],
)
def test_other_numbers_are_of_its_size(text: str, least: int, most: int) -> None:
    [quantity] = quantities.find(text)
    assert (min(quantity.choices.steps), max(quantity.choices.steps)) == (least, most)


def test_decimals_stay_on_their_side_of_one_with_as_many_places() -> None:
    [large], [small] = quantities.find("$2.50"), quantities.find("0.5 miles")
    assert (min(large.choices.steps), max(large.choices.steps), large.choices.scale) == (15, 50, 10)
    assert (min(small.choices.steps), max(small.choices.steps), small.choices.scale) == (5, 5, 10)


@pytest.mark.parametrize(
    ("like", "value", "written"),
    [
        ("7", 12, "12"),
        ("1,200", 15000, "15,000"),
        (".5", Fraction(1, 4), ".25"),
        ("0.5", Fraction(1, 4), "0.25"),
        ("2.50", 3, "3.00"),
        ("2.5", Fraction(13, 4), "3.25"),
        ("seven", 12, "twelve"),
        ("Seven", 23, "Twenty-three"),
        ("seven", 120, "120"),
    ],
)
def test_a_number_is_written_as_another_stood(like: str, value: quantities.Value, written: str) -> None:
    assert quantities.writer(like)(value) == written


def test_cents_stay_two() -> None:
    assert quantities.writer("1.25", cents=True)(Fraction(5, 2)) == "2.50"


@pytest.mark.parametrize(
    ("number", "article"),
    [
        *((number, "an") for number in ("8", "80", "800", "11", "18", "18.5", "11,000", "eight", "eleven")),
        *((number, "a") for number in ("1,100", "118", "one", "seven", "100", "7")),
    ],
)
def test_a_number_has_its_article(number: str, article: str) -> None:
    assert quantities.article(number, "a") == article
    assert quantities.article(number, "A") == article.capitalize()


@given(st.text())
def test_any_text_has_numbers_in_order_that_stand_where_they_say(text: str) -> None:
    end = 0
    for each in quantities.find(text):
        assert end <= each.start < each.end
        assert text[each.start : each.end] == each.text
        end = each.end


@given(st.text(alphabet="0123456789.,/%$-: ahndtwo", max_size=60))
def test_any_row_of_signs_is_read(text: str) -> None:
    for each in quantities.find(text):
        for value in each.values:
            assert quantities.plain(value) == value
            assert isinstance(value, int) is (value.denominator == 1)


def test_a_long_text_without_numbers_takes_no_time_that_grows_with_its_square() -> None:
    quantities.find("a" * 20_000 + " -" * 20_000 + "1" * 3000)


@given(st.integers(0, 99))
def test_words_are_read_back(value: int) -> None:
    [quantity] = quantities.find(f"{quantities.in_words(value)} figs")
    assert quantity.value == value
