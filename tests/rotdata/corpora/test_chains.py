"""Rows with other numbers: right, of the same kind, and none of a row that can be understood in two ways."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import pytest
import sympy
from hypothesis import assume, given
from hypothesis import strategies as st

from rotdata.corpora import Row, Source, chains, read
from rotdata.corpora.chains import wording_of
from rotdata.corpora.readers import Unusable
from rotdata.corpora.wordings import Wording, is_held_out

NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"


def row(question: str, cot: str, answer: str) -> Row:
    return Row("row-1", question, cot, answer)


def numbers(text: str) -> list[Fraction]:
    """The numbers in digits of a text."""
    return [Fraction(found.replace(",", "")) for found in re.findall(NUMBER, text)]


CLIPS = row(
    "Natalia sold clips to 48 friends in April, and half as many in May. How many clips did she sell altogether?",
    "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nNatalia sold 48+24 = <<48+24=72>>72 clips altogether.",
    "72",
)
TICKET = row(
    "A ticket costs $2,000 and Tom gets a 30% discount. What does he pay?",
    "<<30/100*2000=600>> <<2000-600=1400>>",
    "1400",
)
EGGS = row("Ann has five boxes of 12 eggs and breaks 8 eggs. How many are left?", "(5 * 12) - 8 = 52", "52")
PRICE = row(
    "A booklet costs $1.50. What do 20 booklets cost?",
    "20 booklets cost $1.50 x 20 = $<<1.5*20=30>>30.",
    "30",
)
ALL = (CLIPS, TICKET, EGGS)


@pytest.mark.parametrize("each", ALL)
@pytest.mark.parametrize("chain", ["own", "steps"])
def test_a_row_written_with_its_own_numbers_is_itself(each: Row, chain: chains.Chain) -> None:
    wording = wording_of(each, chain)
    written = wording.written(wording.values, each.id)
    assert (written.question, written.answer) == (each.question, each.answer)
    assert written.cot == each.cot or chain == "steps"


def test_steps_alone_are_written_as_gsm8k_aug_does() -> None:
    written = [wording_of(each, "steps") for each in ALL]
    assert [each.written(each.values, "").cot for each in written] == [
        "<<48/2=24>> <<48+24=72>>",
        TICKET.cot,
        "<<5*12=60>> <<60-8=52>>",
    ]


def test_numbers_are_exchanged_in_question_marks_words_and_answer_alike() -> None:
    for made in wording_of(CLIPS).renumbered(20):
        [clips] = numbers(made.question)
        half, all_ = clips / 2, clips + clips / 2
        assert made.cot == CLIPS.cot.replace("48", f"{clips}").replace("24", f"{half}").replace("72", f"{all_}")
        assert made.answer == f"{all_}"
        assert clips not in {48, 1}


def test_numbers_in_words_stay_words_and_commas_stay() -> None:
    for made in wording_of(EGGS).renumbered(10):
        assert re.search(
            r"has (two|three|four|five|six|seven|eight|nine) boxes of \d+ eggs and breaks \d eggs", made.question
        )
    for made in wording_of(TICKET).renumbered(10):
        assert re.search(r"costs \$\d,\d00 and", made.question)


def test_an_article_fits_the_number_behind_it() -> None:
    book = row("An 8-page book has a 9-page index. How many pages?", "<<8+9=17>>", "17")
    asked = [made.question for made in wording_of(book).renumbered(30)]
    assert len(asked) > 10
    for question in asked:
        assert re.fullmatch(r"(An 8|A [2-79])-page book has (an 8|a [2-79])-page index\. How many pages\?", question)


def test_what_the_chain_does_not_compute_with_stays() -> None:
    drawn = [
        made.question
        for made in wording_of(row("In 2019 Ann had 5 figs on page 7 and 30 nuts.", "5+30=35", "35")).renumbered(9)
    ]
    assert all(re.fullmatch(r"In 2019 Ann had \d figs on page 7 and \d\d nuts\.", each) for each in drawn)


def test_a_number_of_a_row_with_an_equation_that_is_not_used_stays_and_keeps_its_rank() -> None:
    wording = wording_of(row("Ann had 20 figs and 8 nuts. She ate 5 nuts. How many nuts are left?", "8 - 5 = 3", "3"))
    for made in wording.renumbered(20):
        figs, nuts, eaten = numbers(made.question)
        assert figs == 20 > nuts > eaten


@pytest.mark.parametrize(
    ("each", "reason"),
    [
        (row("Ann had 5 figs and 7 nuts.", "twelve", "12"), chains.NO_EQUATIONS),
        (row("Ann had 5 figs and 7 nuts.", "<<5+x=12>>", "12"), chains.UNREADABLE),
        (row("Ann had 5 figs and 7 nuts.", "<<5+(7=12>>", "12"), chains.UNREADABLE),
        (row("Ann had 5 figs and 7 nuts.", "<<5 7+=12>>", "12"), chains.UNREADABLE),
        (row("Ann had 5 figs for 0 people.", "<<5/0=0>>", "0"), chains.UNREADABLE),
        (row("Ann shares 20 figs among 7.", "<<20/7=2.86>>", "2.86"), chains.INEXACT),
        (row("Ann had 5 figs and ate 7.", "<<5-7=2>>", "2"), chains.NEGATIVE),
        (row("Ann had 5 figs and 7 nuts.", "5+7=12, so 12-5=7 <<12-5=7>>", "7"), chains.UNMARKED),
        (row("Ann had 5 figs and 7 nuts.", "<<5+7=12>>", "13"), chains.OTHER_ANSWER),
        (row("Ann had 5 figs and a few nuts.", "<<5+6=11>>", "11"), chains.UNKNOWN),
        (row("Ann had 5 figs, 7 nuts and 9 pens.", "<<5+7=12>>", "12"), chains.UNUSED),
        (row("Ann had 15 figs, ate half, and got 20.", "<<15+20=35>>", "35"), chains.UNUSED),
        (
            row("Of 10 dogs 6 are brown and 4 are white. A brown one weighs 30.", "<<10-6=4>> <<6*30=180>>", "180"),
            chains.UNUSED,
        ),
        (row("Of 13 dogs 6 are brown, the other 7 white.", "<<6+7=13>> <<13+6=19>>", "19"), chains.DEPENDENT),
        (row("Ann has 4 red, 6 blue and 10 old pens.", "<<4+6=10>> <<10+4=14>>", "14"), chains.AMBIGUOUS),
        (row("Ann has 3 pens, 5 nuts and 8 figs.", "<<3+5=8>> <<8*8=64>>", "64"), chains.AMBIGUOUS),
        (
            row("Every 30 minutes it fills 50 cans. How many in 7 hours?", "<<7*2=14>> <<50*14=700>>", "700"),
            chains.UNKNOWN,
        ),
        (row("Ann works twice 50 minutes, once a week. How many in 7 hours?", "<<7*60=420>>", "420"), chains.UNUSED),
        (row("It has 4 wheels and 2 doors.", "<<4+2=6>>", "6"), chains.FIXED),
        (row("Ann had 5 figs and 7 nuts.", "She had 99 in all, that is <<5+7=12>>12.", "12"), chains.IN_PROSE),
        (row("Ann had 5 figs and 7 nuts.", "A third of it, that is <<5+7=12>>12.", "12"), chains.IN_PROSE),
        (row("Ann buys 2 bags of 2 figs, and 7 nuts.", "<<2+2=4>> <<4+7=11>>", "11"), chains.AMBIGUOUS),
        (row("50% of the figs went.", "<<50/100=0.5>>", "0.5"), chains.FIXED),
        (
            row("He pays $40, 5% tax. He and a friend split it.", "<<40*.05=2>> <<40+2=42>> <<42/2=21>>", "21"),
            chains.AMBIGUOUS,
        ),
        (row("He and a friend stay 3 days at $50 each.", "<<3*50=150>> <<150*3=450>>", "450"), chains.AMBIGUOUS),
        (row("Ann had 2 figs and 7 nuts.", "Add those two numbers to 2+7 = <<2+7=9>>9.", "9"), chains.IN_PROSE),
        (row("Ann had 5 figs. " * 700, "<<5+5=10>>", "10"), chains.TOO_LARGE),
        (row("1 2 3 " * 11, "<<2+3=5>>", "5"), chains.TOO_LARGE),
        (row(f"Ann had {'7' * 5000} figs and 7 nuts.", "<<5+5=10>>", "10"), chains.TOO_LARGE),
    ],
)
def test_a_row_that_is_not_understood_without_a_doubt_is_left_out(each: Row, reason: str) -> None:
    with pytest.raises(Unusable) as left_out:
        wording_of(each)
    assert str(left_out.value) == reason


TEMPLATES: list[tuple[str, str, Callable[..., Fraction]]] = [
    ("Ann has {} figs, finds {} and eats {}. How many?", "<<{0}+{1}={3}>> <<{3}-{2}={4}>>", lambda a, b, c: a + b - c),
    ("Ben buys {} bags of {} nuts and a box of {}.", "<<{0}*{1}={3}>> <<{3}+{2}={4}>>", lambda a, b, c: a * b + c),
    ("{} figs and {} nuts are put on {} plates alike.", "<<{0}+{1}={3}>> <<{3}/{2}={4}>>", lambda a, b, c: (a + b) / c),
    ("Cem sells {} pens at ${} each and pays ${}.", "<<{0}*{1}={3}>> <<{3}-{2}={4}>>", lambda a, b, c: a * b - c),
    (
        "It costs ${}, {}% less today, and ${} to send.",
        "<<{0}*{1}/100={3}>> <<{0}-{3}+{2}={4}>>",
        lambda a, p, c: a - a * p / 100 + c,
    ),
    (
        "Dana runs {} km on {} days and half of {} km once.",
        "<<{0}*{1}={3}>> <<{2}/2+{3}={4}>>",
        lambda a, b, c: a * b + c / 2,
    ),
]
small = st.integers(2, 60)


@given(st.sampled_from(TEMPLATES), small, small, small, st.integers(0, 2**32))
def test_every_renumbering_of_any_numbers_is_right_and_of_its_kind(
    template: tuple[str, str, Callable[..., Fraction]], a: int, b: int, c: int, seed: int
) -> None:
    question, cot, compute = template
    answer = compute(Fraction(a), Fraction(b), Fraction(c))
    middle = {"+": a + b, "*": a * b}[cot[5]] if "100" not in cot else Fraction(a * b, 100)
    assume(answer >= 0 and (answer * 100).denominator == 1 and (Fraction(middle) * 100).denominator == 1)
    own = row(
        question.format(a, b, c), cot.format(a, b, c, _decimal(Fraction(middle)), _decimal(answer)), _decimal(answer)
    )
    try:
        wording = wording_of(own)
    except Unusable:
        return
    for made in wording.renumbered(3, seed):
        drawn = numbers(made.question)
        assert Fraction(made.answer) == compute(*drawn) >= 0
        assert_chain_is_right(made)
        assert re.sub(r"\d+", "#", made.question) == re.sub(r"\d+", "#", own.question)
        assert drawn != [a, b, c]
        if answer.denominator == 1:
            assert Fraction(made.answer).denominator == 1


def _decimal(value: Fraction) -> str:
    return f"{float(value):.10g}"


def assert_chain_is_right(made: Row) -> None:
    """Every equation by sympy, and the answer the last one's result."""
    equations = re.findall(r"<<(.*?)=(.*?)>>", made.cot) or [made.cot.split("=")]
    for left, right in equations:
        assert sympy.sympify(left, rational=True) == sympy.Rational(right.replace(",", "")), made
    assert sympy.Rational(equations[-1][1].replace(",", "")) == sympy.Rational(made.answer.replace(",", "")), made


def test_the_same_seed_gives_the_same_and_more_times_begin_the_same() -> None:
    wording = wording_of(TICKET)
    three, five = list(wording.renumbered(3, seed=4)), list(wording.renumbered(5, seed=4))
    assert five[:3] == three != list(wording.renumbered(3, seed=5))
    assert [each.id for each in five] == [f"row-1-n{number}" for number in range(5)]
    assert len({each.question for each in five}) == 5


def test_a_row_with_few_other_numbers_has_each_of_them_once() -> None:
    ten = row("Ann works 6 hours a day on 2 days a week. How many hours?", "<<6*2=12>>", "12")
    made = {each.question for each in wording_of(ten, largest=12).renumbered(500)}
    assert 3 < len(made) < 40
    assert all(numbers(each)[0] * numbers(each)[1] <= 12 for each in made)


def test_wordings_that_differ_in_numbers_and_names_are_one_and_held_out_together() -> None:
    others = [
        row("Ben has two boxes of 30 eggs and breaks 4 eggs. How many are left?", "(2 * 30) - 4 = 56", "56"),
        row("Cem has 9 boxes of 20 eggs and breaks 15 eggs. How many are left?", "(9 * 20) - 15 = 165", "165"),
    ]
    assert {wording_of(each).key for each in (EGGS, *others)} == {wording_of(EGGS).key}
    assert wording_of(PRICE).key != wording_of(EGGS).key


def test_the_share_of_wordings_that_is_held_out_is_the_one_asked_for_and_grows() -> None:
    keys = [f"wording {number}" for number in range(2000)]
    tenth, half = ({key for key in keys if is_held_out(key, share)} for share in (0.1, 0.5))
    assert 150 < len(tenth) < 250
    assert tenth < half
    assert not any(is_held_out(key, 0) for key in keys)


# On real corpora.

CORPORA = {
    "gsm8k_train.jsonl": ("gsm8k", 80, 500),
    "gsm8k_aug_valid.txt": ("gsm8k-aug", 40, 180),
    "svamp.json": ("svamp", 40, 800),
    "multiarith.json": ("multiarith", 40, 500),
}


@pytest.fixture(scope="module")
def wordings(rot_data: Path) -> dict[str, list[Wording]]:
    """The wordings of every real corpus."""
    return {
        name: [found for each in _rows(rot_data / name, corpus) if (found := _wording(each))]
        for name, (corpus, *_) in CORPORA.items()
    }


def _rows(file: Path, corpus: str) -> list[Row]:
    return [
        each
        for each in read(Source(location=str(file), corpus=corpus, calc="keep", limit=1500))
        if isinstance(each, Row)
    ]


def _wording(each: Row) -> Wording | None:
    try:
        return wording_of(each)
    except Unusable:
        return None


@pytest.mark.data
@pytest.mark.parametrize("name", CORPORA)
def test_two_hundred_real_rows_are_right_and_say_every_number_that_they_compute_with(
    wordings: dict[str, list[Wording]], name: str
) -> None:
    _, count, least = CORPORA[name]
    found = wordings[name]
    assert len(found) >= least
    checked = 0
    for wording in found[:: len(found) // count]:
        for made in wording.renumbered(2, seed=checked):
            checked += 1
            assert_chain_is_right(made)
            assert_numbers_are_said(made, wording.row)
    assert checked >= count


def assert_numbers_are_said(made: Row, own: Row) -> None:
    """Every number of a chain is in its question, the result of an equation, or at the same place in the own chain."""
    stated = set(numbers(made.question)) | {value / 100 for value in numbers(made.question)}
    stated |= {Fraction(value) for word, value in WORDS.items() if re.search(rf"\b{word}\b", made.question.lower())}
    results = set(numbers(" ".join(re.findall(r"=(.*?)>>", made.cot) or [made.cot.rpartition("=")[2]])))
    pairs = zip(numbers(made.cot), numbers(own.cot), strict=True)
    strange = [now for now, before in pairs if now != before and now not in stated | results]
    assert strange == [], (made, own)


_ONES = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
WORDS = _ONES | _TENS | {"nineteen": 19}
WORDS |= {f"{tens}-{one}": ten + unit for tens, ten in _TENS.items() for one, unit in (_ONES | {"one": 1}).items()}
