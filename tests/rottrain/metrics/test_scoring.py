"""Verdicts on answers that were looked at by hand, and where an answer is found in a reply."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rottrain.metrics import maths
from rottrain.metrics.scoring import Kind, elect, equal, extract, extract_flexible, to_number

NUMBERS = [
    # prediction, reference, whether they are the same number
    # Signs.
    ("5", "5", True),
    ("-5", "5", False),
    ("5", "-5", False),
    ("-5", "-5", True),
    ("\N{MINUS SIGN}5", "-5", True),
    ("- 5", "-5", True),
    ("+5", "5", True),
    ("0", "-0", True),
    ("-", "5", False),
    ("5-", "5", False),
    # Thousands.
    ("1,234", "1234", True),
    ("1,234", "234", False),
    ("234", "1,234", False),
    ("1,234,567", "1234567", True),
    ("1,234,567.89", "1234567.89", True),
    ("1,23", "123", False),
    ("12,34", "1234", False),
    ("1, 234", "1234", False),
    ("3 4", "34", False),
    ("1 234", "1234", False),  # two numbers, as far as one can tell
    ("1\N{NARROW NO-BREAK SPACE}234", "1234", True),
    (r"1{,}234", "1234", True),
    (r"10,\!000", "10000", True),
    # Decimals.
    ("18.0", "18", True),
    ("18.000", "18", True),
    ("18.50", "18.5", True),
    ("18.", "18", True),
    (".5", "0.5", True),
    ("007", "7", True),
    ("180", "18", False),
    ("18.01", "18", False),
    ("0.1", "0.10000001", False),
    ("1" * 40, "1" * 39 + "2", False),
    ("1.234", "1234", False),
    # What a double computed: GSM-Hard.
    ("2.67", "2.6666666666666665", False),
    ("2.6667", "2.6666666666666665", True),
    ("8/3", "2.6666666666666665", True),
    ("1430100", "1430100.0000000001", True),
    ("1430101", "1430100.0000000001", False),
    ("-2.6667", "2.6666666666666665", False),
    ("2.6666666666666665", "2.667", False),
    ("123456789012345678", "123456789012345679", False),
    # Fractions and mixed numbers.
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
    ("1/2", "12", False),
    (r"\frac{1}{2}", "0.5", True),
    (r"\dfrac{1}{2}", r"\frac{2}{4}", True),
    (r"-\frac{3}{4}", "-0.75", True),
    (r"\frac{-3}{4}", "-0.75", True),
    (r"-\frac{-1}{2}", "0.5", True),
    (r"\frac{3}{4}", "-0.75", False),
    (r"\frac12", "0.5", True),
    (r"\frac 1 2", r"\frac{1}{2}", True),
    (r"\frac{1}2", "0.5", True),
    (r"\frac{1,000}{2}", "500", True),
    ("1 1/2", "1.5", True),
    ("1 1/2", "11/2", False),
    ("1 and 1/2", "1.5", True),
    ("1\N{VULGAR FRACTION ONE HALF}", "1.5", True),
    ("\N{VULGAR FRACTION THREE QUARTERS}", "0.75", True),
    (r"1\frac{1}{2}", "1.5", True),
    (r"1\frac{1}{2}", "5.5", False),
    ("-1 1/2", "-1.5", True),
    ("1 -1/2", "0.5", False),
    # Currency, percent, degrees.
    ("$18", "18", True),
    (r"\$18", "18", True),
    ("$18.00", "18", True),
    ("$-18", "-18", True),
    ("-$18", "-18", True),
    ("18$", "18", True),
    ("US$18", "18", True),
    ("$0.1", "$.10", True),
    ("\N{EURO SIGN}18", "18", True),
    ("$1,234.50", "1234.5", True),
    ("50%", "50", True),
    ("50 %", "50", True),
    (r"50\%", "50", True),
    ("50 percent", "50", True),
    ("50%", "0.5", False),  # one of the two readings of a percentage
    ("90\N{DEGREE SIGN}", "90", True),
    ("-5\N{DEGREE SIGN}C", "-5", True),
    ("90 degrees", "90", True),
    # Units.
    ("18 dollars", "18", True),
    ("18 US dollars", "18", True),
    ("18 USD", "18", True),
    ("18 dollars.", "18", True),
    ("18 miles per hour", "18", True),
    ("18 km/h", "18", True),
    ("18cm", "18", True),
    ("18 cm^2", "18", True),
    ("18 m\N{SUPERSCRIPT TWO}", "18", True),
    ("1/2 cup", "0.5", True),
    ("1,234 apples", "1234", True),
    (r"18\text{ cm}", "18", True),
    ("-3 degrees Celsius", "-3", True),
    ("18 dollars", "81", False),
    ("18 apples and 2 pears", "18", False),
    ("18 or 19", "18", False),
    ("18 and a half", "18", False),
    ("2 million", "2", False),
    ("2 dozen eggs", "2", False),
    ("2 pi", "2", False),
    ("5 squared", "5", False),
    (r"5\text{ million}", "5", False),
    ("5x", "5", False),
    ("5 x", "5", False),
    ("5 times", "5", False),
    ("5 feet 3 inches", "5", False),
    (r"5\text{ and }6", "56", False),
    # Powers of ten.
    ("1e3", "1000", True),
    ("1.5e3", "1500", True),
    ("1.5E+3", "1500", True),
    ("2e-3", "0.002", True),
    (r"1.5 \times 10^3", "1500", True),
    (r"1.5 \times 10^{3}", "1500", True),
    (r"1.5\cdot10^{-3}", "0.0015", True),
    ("1.5 x 10^3", "1500", True),
    ("1.5\N{MULTIPLICATION SIGN}10^3", "1500", True),
    ("1e3", "13", False),
    ("1e999999999", "5", False),
    ("1e999999999", "1e999999999", True),
    ("2^3", "8", False),  # a calculation, not a number
    # Names, emphasis, words.
    ("x = 5", "5", True),
    ("x=-5", "5", False),
    ("2+3=5", "5", False),
    ("**18**", "18", True),
    ("`18`", "18", True),
    ("x+1", "1", False),
    ("x+1", "x+1", True),
    ("", "5", False),
    ("", "", False),
    ("  ", "5", False),
    ("None", "5", False),
    ("nan", "5", False),
    ("5", "five", False),
    ("Monday", "monday", True),
    ("Monday", "Tuesday", False),
    ("no", "yes", False),
    ("5\n", "5", True),
    ("3:30", "330", False),
]


@pytest.mark.parametrize(("prediction", "reference", "same"), NUMBERS)
def test_numbers_are_the_same_if_their_exact_values_are(prediction: str, reference: str, same: bool) -> None:
    assert equal(prediction, reference, "number") is same


MATHS = [
    # prediction, reference, whether they are the same answer
    # Numbers are numbers here too.
    ("5", "5", True),
    ("-5", "5", False),
    ("0.5", r"\frac{1}{2}", True),
    ("1/2", "0.5", True),
    ("0.333333", r"\frac{1}{3}", False),
    (r"\tfrac{1}{2}", r"\frac12", True),
    (r"$\frac{1}{2}$", "1/2", True),
    (r"10,\!000", "10000", True),
    ("11,\\! 111", "11111", True),
    (r"\$12.50", "12.5", True),
    (r"5 \times 10^3", "5000", True),
    ("3.", "3", True),
    # Degrees, percent, units, text.
    (r"90^\circ", "90", True),
    (r"90^{\circ}", "90", True),
    (r"90^\circ", r"\frac{\pi}{2}", False),
    (r"12\%", "12", True),
    (r"5\text{ cm}", "5", True),
    (r"10\text{ cm}^2", "10", True),
    (r"10\mbox{ inches}", "10", True),
    ("5x", "5", False),
    (r"\text{(B)}", "(B)", True),
    (r"\text{(B)}", "B", True),
    (r"\text{(B)}", "C", False),
    (r"\text{Evelyn}", "Evelyn", True),
    (r"\mathrm{even}", r"\text{even}", True),
    (r"\text{even}", r"\text{odd}", False),
    # Algebra.
    ("x+1", "x + 1", True),
    ("x+1", "1+x", True),
    ("x+1", "x-1", False),
    ("x+1", "1", False),
    ("x+1", "x+2", False),
    ("p-q", "q-p", False),
    ("2k", "2n", False),
    ("(x+1)^2", "x^2+2x+1", True),
    ("x^2-1", "(x-1)(x+1)", True),
    ("x^2-1", "(x-1)^2", False),
    (r"\frac{1}{x}", r"\frac{1}{y}", False),
    (r"\frac{x+1}{2}", r"\frac{1}{2}x+\frac{1}{2}", True),
    ("3+4i", "4i+3", True),
    ("3+4i", "3-4i", False),
    ("2^{10}", "1024", True),
    ("10!", "3628800", True),
    (r"\binom{5}{2}", "10", True),
    (r"\log_2 8", "3", True),
    # Fractions, roots, pi.
    (r"\dfrac{\pi}{2}", r"\frac{\pi}{2}", True),
    (r"\frac{\pi}2", r"\frac{\pi}{2}", True),
    (r"\pi/2", r"\frac{\pi}{2}", True),
    (r"\frac{\pi}{2}", r"\frac{\pi}{3}", False),
    (r"\sqrt2", r"\sqrt{2}", True),
    (r"\sqrt{12}", r"2\sqrt{3}", True),
    (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}", True),
    (r"2\sqrt{3}", r"3\sqrt{2}", False),
    (r"\frac{\frac{1}{2}}{3}", r"\frac{1}{6}", True),
    (r"\frac{1}{\frac{1}{2}}", "2", True),
    (r"\sqrt{\frac{1}{4}}", "0.5", True),
    # Equations and inequalities.
    ("x = 5", "x=5", True),
    ("x=5", "5", True),
    ("5", "x=5", True),
    ("y=5", "x=5", False),
    ("x=-5", "5", False),
    ("y=2x+3", "2x+3", True),
    ("2x+1=0", "1+2x=0", True),
    ("x>2", "2<x", True),
    ("x>2", r"x\ge2", False),
    ("x>2", "x<2", False),
    # Intervals, tuples, sets.
    ("[0,1)", "[0,1)", True),
    ("[0, 1)", r"\left[0,1\right)", True),
    ("[0,1)", "(0,1)", False),
    ("(0,1]", "[0,1]", False),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", True),
    (r"(-\infty,2]\cup(3,\infty)", r"(-\infty,2)\cup(3,\infty)", False),
    (r"x\in[1,2]", "[1,2]", True),
    (r"\left(3, 4\right)", "(3,4)", True),
    ("(3,4)", "(4,3)", False),
    ("(3,4)", "34", False),
    ("(6,31,-1)", "(6, 31, -1)", True),
    ("(6,31,-1)", "(6,31,1)", False),
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)", True),
    ("(1,2)", r"\{1,2\}", False),
    (r"\{1,2\}", r"\{2,1\}", True),
    (r"\{1,2\}", r"\{1,2,3\}", False),
    ("1, 2", "1,2", True),
    ("2,1", "1,2", True),
    ("1, 2", "12", False),
    ("1,2,3", "1,2", False),
    (r"1 \text{ and } 2", "1,2", True),
    (r"3\pm\sqrt{2}", r"3-\sqrt{2},3+\sqrt{2}", True),
    # Matrices.
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
    (r"\begin{bmatrix}1\\2\end{bmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{pmatrix}1/2\\2\end{pmatrix}", r"\begin{pmatrix}\frac{1}{2}\\2\end{pmatrix}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
    (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
    # Numerals of other bases.
    ("2516_8", "2516_{8}", True),
    ("2516_8", "2516_9", False),
    # What is no answer.
    ("", r"\frac{1}{2}", False),
    (r"\frac{", r"\frac{1}{2}", False),
    ("{{{{", "5", False),
    ("}{", "5", False),
    ("I don't know", "5", False),
]


@pytest.mark.parametrize(("prediction", "reference", "same"), MATHS)
def test_maths_answers_are_the_same_as_numbers_or_for_math_verify(prediction: str, reference: str, same: bool) -> None:
    assert equal(prediction, reference, "math") is same


def test_there_are_enough_pairs() -> None:
    assert len(NUMBERS) + len(MATHS) >= 200


@given(value=st.fractions() | st.integers().map(Fraction))
def test_a_fraction_written_out_is_read_back_exactly(value: Fraction) -> None:
    assert to_number(f"{value.numerator}/{value.denominator}") == value
    assert to_number(rf"\frac{{{value.numerator}}}{{{value.denominator}}}") == value
    assert to_number(f"{value.numerator:,}") == value.numerator


@given(left=st.text(max_size=12), right=st.text(max_size=12))
def test_any_two_texts_get_a_verdict_that_does_not_depend_on_their_order(left: str, right: str) -> None:
    if left.strip() and right.strip():
        assert equal(left, right, "number") is equal(right, left, "number")


@given(text=st.text(max_size=12))
def test_any_text_but_a_blank_one_and_no_number_is_the_same_as_itself(text: str) -> None:
    says = bool(text.strip()) and text.strip().lower().lstrip("+-") not in {"nan", "inf", "infinity"}
    assert equal(text, text, "math") is equal(text, text, "number") is says


@pytest.mark.parametrize("kind", ["number", "math"])
@pytest.mark.parametrize(
    "hostile",
    [
        "1" * 10**6,
        "1," * 10**5,
        "-" * 10**6,
        "{" * 10**6,
        r"\frac" * 10**5,
        "5 mm" * 10**5,
        "1/" * 10**5,
    ],
    ids=lambda text: f"{text[:6]} x {len(text)}",
)
def test_hostile_answers_are_graded_in_bounded_time(hostile: str, kind: Any) -> None:
    assert not equal(hostile, "5", kind)
    assert not equal("5", hostile, kind)
    assert equal(hostile, hostile, kind)
    assert extract(f"#### {hostile}") == hostile
    assert len(extract_flexible(hostile, kind)) <= len(hostile)


def test_units_that_do_not_end_as_one_are_read_in_bounded_time() -> None:
    assert to_number("5" + " mm" * 160 + "!") is None


# math-verify in its own process.


@pytest.fixture(scope="module")
def verifier() -> Iterator[maths.Verifier]:
    verifier = maths.Verifier(timeout_s=2)
    yield verifier
    verifier.close()


def test_an_answer_that_takes_too_long_is_wrong_and_harms_no_other(verifier: maths.Verifier) -> None:
    assert verifier.same("x+1", "1+x")
    assert not verifier.same("9^{9^{9^9}}", "5")  # one operation on integers, which no signal interrupts
    assert verifier.same("x+1", "1+x")


def test_answers_may_be_compared_in_any_thread(verifier: maths.Verifier) -> None:
    with ThreadPoolExecutor(2) as threads:
        verdicts = threads.map(verifier.same, ["x+1", "x", "2x"], ["1+x", "y", "x+x"])
        assert list(verdicts) == [True, False, True]


def test_the_process_ends_with_its_verifier(verifier: maths.Verifier) -> None:
    verifier.same("x", "y")
    process = verifier._process
    verifier.close()
    assert process is not None
    assert process.returncode is not None


def test_an_answer_is_no_program(tmp_path: Path, verifier: maths.Verifier) -> None:
    file = tmp_path / "made"
    for answer in (f"__import__('pathlib').Path('{file}').touch()", rf"\write18{{touch {file}}}"):
        assert not verifier.same(answer, "5")
    assert not file.exists()


# Where the answer stands.


@pytest.mark.parametrize(
    ("reply", "declared", "last"),
    [
        ("#### 18", "18", "18"),
        ("<<9*2=18>>\n#### 18", "18", "18"),
        ("#### 5 no, wait\n#### 18", "18", "18"),
        ("#### 18\nand so on 7", "18", "7"),
        ("####18", "18", "18"),
        ("#### -5", "-5", "-5"),
        ("#### \N{MINUS SIGN}5", "\N{MINUS SIGN}5", "\N{MINUS SIGN}5"),
        ("#### 1,234", "1,234", "1,234"),
        ("#### $18.00 ", "$18.00", "18.00"),
        ("#### 18 dollars", "18 dollars", "18"),
        (r"#### \frac{1}{2}", r"\frac{1}{2}", r"\frac{1}{2}"),
        ("#### x+1", "x+1", "1"),
        ("#### ", "", ""),
        ("####", "", ""),
        ("####\n18", "18", "18"),
        ("####\n\n18\n7", "18", "7"),
        ("The answer is 18.", "", "18"),
        ("First 7, then 18", "", "18"),
        ("It costs $1,234.50, I think.", "", "1,234.50"),
        ("It falls to -5 degrees", "", "-5"),
        ("so 10-5=5", "", "5"),
        ("that is 15-10", "", "10"),
        ("that is .5", "", ".5"),
        ("one half, so 1/2", "", "1/2"),
        ("it takes 1 1/2 hours", "", "1 1/2"),
        ("3, 4, 5, and nothing", "", "5"),
        ("1,23", "", "23"),
        ("about 1.5e3 of them", "", "1.5e3"),
        ("no number at all", "", ""),
        ("", "", ""),
        (r"So 3 + 4 is \boxed{7} in 2 steps.", "7", "2"),
        (r"So it is \boxed{\frac{7}{\sqrt{2}}}.", r"\frac{7}{\sqrt{2}}", "2"),
        (r"\boxed{5} but #### 6", "6", "6"),
        (r"\boxed{5", "", "5"),
    ],
)
def test_an_answer_is_declared_by_a_mark_or_a_box_or_else_is_the_last_number(
    reply: str, declared: str, last: str
) -> None:
    assert extract(reply) == declared
    assert extract_flexible(reply, "number") == last


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"Hence \boxed{\frac{\pi}{2}}, in 3 steps.", r"\frac{\pi}{2}"),
        (r"Hence $y = 3$ and $x = \frac{\pi}{2}$.", r"x = \frac{\pi}{2}"),
        ("Hence 3, or 4", "4"),
        (r"#### \sqrt{2}", r"\sqrt{2}"),
    ],
)
def test_a_maths_answer_that_is_not_declared_is_the_last_formula(reply: str, answer: str) -> None:
    assert extract_flexible(reply, "math") == answer


@given(reply=st.text(max_size=60))
def test_any_reply_gives_one_line(reply: str) -> None:
    assert "\n" not in extract(reply)
    assert "\n" not in extract_flexible(reply, "math")


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        (r"\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"),
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
        (r"\pi / 10^{20}", r"e / 10^{20}"),
        (r"x=\frac{1}{2^{98}}", r"\frac{1}{2^{99}}"),
        (r"(1,\frac{1}{2^{98}})", r"(1,\frac{1}{2^{99}})"),
        (r"\{1,\frac{1}{2^{98}}\}", r"\{1,\frac{1}{2^{99}}\}"),
        (r"[0,\frac{1}{2^{98}}]", r"[0,\frac{1}{2^{99}}]"),
        (r"\frac{1}{2^{98}} < x", r"\frac{1}{2^{99}} < x"),
        (r"\begin{pmatrix}\frac{1}{2^{98}}\end{pmatrix}", r"\begin{pmatrix}\frac{1}{2^{99}}\end{pmatrix}"),
        (r"\frac{1}{2^{98}}", "0"),
        ("0.0000004", r"\frac{1}{2^{98}}"),
    ],
)
def test_tiny_numbers_are_told_apart(prediction: str, reference: str) -> None:
    assert not equal(prediction, reference, "math")
    assert not equal(reference, prediction, "math")


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        (r"\frac{1}{2006!}", r"\frac{1}{2006 \cdot 2005!}"),
        (r"\frac{1}{2^{98}}", r"\frac{1}{2 \cdot 2^{97}}"),
        (r"\sqrt{2}\sqrt{2} - 2", "0"),
        (r"\sqrt{3+2\sqrt2} - 1 - \sqrt2", "0"),
        (r"\sin(\pi)", "0"),
        ("3.1415927", r"\pi"),
        (r"(0, \infty)", r"(0, +\infty)"),
    ],
)
def test_the_same_number_in_another_form_is_the_same_however_small(prediction: str, reference: str) -> None:
    assert equal(prediction, reference, "math")


@pytest.mark.parametrize("kind", ["number", "math"])
@pytest.mark.parametrize("text", ["nan", "NaN", "-nan", "inf", "Infinity", "-inf", "+Inf"])
def test_what_is_no_number_equals_nothing_not_even_itself(text: str, kind: Kind) -> None:
    assert not equal(text, text, kind)


def test_infinity_in_latex_is_an_answer() -> None:
    assert equal(r"\infty", r"\infty", "math")


@pytest.mark.parametrize(
    ("answers", "elected"),
    [
        (["5", "7", "5.0"], [0, 2]),
        (["7", "5", "5", "7"], [0, 3]),  # of equally many the first
        (["", "7", "", ""], [1]),
        (["$1,234", "x", "1234"], [0, 2]),
        (["", ""], []),
        (["nan", "nan", "3", "3"], [2, 3]),
    ],
)
def test_the_answer_that_most_say_is_elected(answers: list[str], elected: list[int]) -> None:
    assert elect(answers, "number") == elected


def test_maths_answers_are_counted_together_where_they_are_the_same() -> None:
    assert elect(["2x", "x+1", "1+x"], "math") == [1, 2]
