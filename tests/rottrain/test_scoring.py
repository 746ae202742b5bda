"""Verdicts on answers that were looked at by hand, and where an answer is found in a reply."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rottrain.scoring import equal, extract, to_number

NUMBERS = [
    # prediction, reference, whether they are the same number
    ("5", "5", True),
    ("-5", "5", False),
    ("5", "-5", False),
    ("-5", "-5", True),
    ("\N{MINUS SIGN}5", "-5", True),
    ("- 5", "-5", True),
    ("+5", "5", True),
    ("1,234", "1234", True),
    ("1,234", "234", False),
    ("234", "1,234", False),
    ("1,234,567", "1234567", True),
    ("1,23", "123", False),
    ("12,34", "1234", False),
    ("1/2", "0.5", True),
    ("0.5", "1/2", True),
    ("2/4", "1/2", True),
    ("1/3", "0.333", False),
    ("1/3", "2/6", True),
    ("-1/2", "-0.5", True),
    ("1/2", "-1/2", False),
    ("1/0", "0", False),
    ("0/1", "0", True),
    ("1/2/2", "0.25", False),
    (r"\frac{1}{2}", "0.5", True),
    (r"\dfrac{1}{2}", r"\frac{2}{4}", True),
    (r"-\frac{3}{4}", "-0.75", True),
    (r"\frac{-3}{4}", "-0.75", True),
    (r"\frac{3}{4}", "-0.75", False),
    (r"\frac12", "0.5", True),
    (r"\frac 1 2", r"\frac{1}{2}", True),
    (r"\frac{1}2", "0.5", True),
    (r"\frac{1,000}{2}", "500", True),
    ("1 1/2", "1.5", True),
    ("1 1/2", "11/2", False),
    (r"1\frac{1}{2}", "1.5", True),
    (r"1\frac{1}{2}", "5.5", False),
    ("-1 1/2", "-1.5", True),
    ("$18", "18", True),
    (r"\$18", "18", True),
    ("$18.00", "18", True),
    ("$-18", "-18", True),
    ("-$18", "-18", True),
    ("18$", "18", True),
    ("$0.1", "$.10", True),
    ("\N{EURO SIGN}18", "18", True),
    ("50%", "50", True),
    (r"50\%", "50", True),
    ("50%", "0.5", False),
    ("18.0", "18", True),
    ("18.000", "18", True),
    ("18.50", "18.5", True),
    ("18.", "18", True),
    (".5", "0.5", True),
    ("007", "7", True),
    ("0", "-0", True),
    ("180", "18", False),
    ("18.01", "18", False),
    ("0.1", "0.10000000000000000001", False),
    ("1" * 40, "1" * 39 + "2", False),
    ("3 4", "34", False),
    ("1, 234", "1234", False),
    ("18 dollars", "18", False),  # one number and nothing else, signs of currency and percent aside
    ("1 -1/2", "0.5", False),
    (r"-\frac{-1}{2}", "0.5", True),
    ("18 apples and 2 pears", "18", False),
    ("x+1", "1", False),
    ("x+1", "x+1", True),
    ("5x", "5", False),
    ("2^3", "8", False),
    ("1e3", "1e3", True),
    ("", "5", False),
    ("", "", False),
    ("  ", "5", False),
    ("-", "5", False),
    ("None", "5", False),
    ("5", "five", False),
    ("Monday", "monday", True),
    ("Monday", "Tuesday", False),
    ("no", "yes", False),
    ("5\n", "5", True),
]


@pytest.mark.parametrize(("prediction", "reference", "same"), NUMBERS)
def test_numbers_are_the_same_if_their_exact_values_are(prediction: str, reference: str, same: bool) -> None:
    assert equal(prediction, reference, "number") is same


MATHS = [
    # prediction, reference, whether they are the same answer
    ("5", "5", True),
    ("-5", "5", False),
    ("0.5", r"\frac{1}{2}", True),
    (r"\tfrac{1}{2}", r"\frac12", True),
    (r"$\frac{1}{2}$", "1/2", True),
    (r"10,\!000", "10000", True),
    (r"\$12.50", "12.5", True),
    (r"90^\circ", "90", True),
    (r"90^{\circ}", "90", True),
    (r"5\text{ cm}", "5", True),
    (r"12\%", "12", True),
    ("x+1", "x + 1", True),
    ("x+1", "x-1", False),
    ("x+1", "1", False),
    ("x+1", "x+2", False),
    ("x", "X", False),
    (r"\left(3, 4\right)", "(3,4)", True),
    ("(3,4)", "(4,3)", False),
    ("(3,4)", "34", False),
    ("[0,1)", "(0,1)", False),
    (r"\dfrac{\pi}{2}", r"\frac{\pi}{2}", True),
    (r"\frac{\pi}2", r"\frac{\pi}{2}", True),
    (r"\frac{\pi}{2}", r"\frac{\pi}{3}", False),
    (r"\sqrt2", r"\sqrt{2}", True),
    (r"2\sqrt{3}", r"3\sqrt{2}", False),
    (r"\text{(B)}", "(B)", True),
    (r"\text{Evelyn}", "Evelyn", True),
    (r"\mathrm{even}", r"\text{even}", True),
    (r"\text{even}", r"\text{odd}", False),
    ("11,\\! 111", "11111", True),
    ("1, 2", "1,2", True),
    ("1, 2", "12", False),
    ("1,2,3", "1,2", False),
    ("x = 5", "x=5", True),
    ("\\frac{1}{x}", "\\frac{1}{y}", False),
    ("", r"\frac{1}{2}", False),
    ("3.", "3", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
]


@pytest.mark.parametrize(("prediction", "reference", "same"), MATHS)
def test_maths_answers_are_the_same_as_numbers_or_as_normalised_latex(
    prediction: str, reference: str, same: bool
) -> None:
    assert equal(prediction, reference, "math") is same
    assert equal(reference, prediction, "math") is (same and bool(reference))


@given(value=st.fractions() | st.integers().map(Fraction))
def test_a_fraction_written_out_is_read_back_exactly(value: Fraction) -> None:
    assert to_number(f"{value.numerator}/{value.denominator}") == value
    assert to_number(rf"\frac{{{value.numerator}}}{{{value.denominator}}}") == value
    assert to_number(f"{value.numerator:,}") == value.numerator


@given(left=st.text(max_size=12), right=st.text(max_size=12))
def test_any_two_texts_get_a_verdict_that_does_not_depend_on_their_order(left: str, right: str) -> None:
    if left.strip() and right.strip():
        for kind in ("number", "math"):
            assert equal(left, right, kind) is equal(right, left, kind)


@given(text=st.text(max_size=12))
def test_any_text_but_a_blank_one_is_the_same_as_itself(text: str) -> None:
    assert equal(text, text, "math") is equal(text, text, "number") is bool(text.strip())


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("#### 18", "18"),
        ("<<9*2=18>>\n#### 18", "18"),
        ("#### 5 no, wait\n#### 18", "18"),
        ("#### 18\nand so on 7", "18"),
        ("####18", "18"),
        ("#### -5", "-5"),
        ("#### 1,234", "1,234"),
        ("#### $18.00 ", "$18.00"),
        (r"#### \frac{1}{2}", r"\frac{1}{2}"),
        ("#### x+1", "x+1"),
        ("#### ", ""),
        ("####", ""),
        ("####\n18", "18"),
        ("####\n\n18\n7", "18"),
        ("The answer is 18.", "18"),
        ("First 7, then 18", "18"),
        ("It costs $1,234.50, I think.", "1,234.50"),
        ("It falls to -5 degrees", "-5"),
        ("so 10-5=5", "5"),
        ("that is 15-10", "10"),
        ("that is .5", ".5"),
        ("one half, so 1/2", "1/2"),
        ("3, 4, 5, and nothing", "5"),
        ("no number at all", ""),
        ("", ""),
    ],
)
def test_the_answer_follows_the_last_mark_or_is_the_last_number(reply: str, answer: str) -> None:
    assert extract(reply) == answer


@given(reply=st.text(max_size=60))
def test_any_reply_gives_one_line(reply: str) -> None:
    assert "\n" not in extract(reply)


def test_a_long_reply_of_digits_and_commas_is_read_quickly() -> None:
    assert extract("1," * 20_000 + "x") != ""
    assert to_number("1," * 20_000) is None


def test_a_boxed_answer_is_taken_before_the_last_number() -> None:
    assert extract(r"So 3 + 4 is \boxed{\frac{7}{1}} in 2 steps.") == r"\frac{7}{1}"
    assert extract(r"\boxed{5} but #### 6") == "6"
