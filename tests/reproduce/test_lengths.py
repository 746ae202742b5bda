"""Chains of many lengths: as many wordings of each, in plain English, and no test among what is learnt from."""

from __future__ import annotations

import re
from collections import Counter

from reproduce.lengths import LENGTHS, files
from rotdata.corpora import Row
from rotdata.corpora.chains import wording_of
from rotdata.corpora.wordings import Wording

THINGS = ("figs", "nuts", "cups", "pens")


def wording(things: str, padding: int) -> Wording:
    """A wording whose chain has so many more characters."""
    question = f"Ann had 31 {things} and sold 7. She bought 12 more {things}. How many has she?"
    chain = f"She had 31-7=<<31-7=24>>24.{' So' * padding}\nNow 24+12=<<24+12=36>>36."
    return wording_of(Row(f"{things}-{padding}", question.replace("Ann", "A" + "n" * padding), chain, "36"), "own")


def test_of_each_length_as_many_wordings_are_learnt_and_asked_with_other_numbers() -> None:
    some = [wording(things, padding) for padding in (1, 50, 100, 150, 400) for things in THINGS]
    made = files(some, of_each=3, tests=5)
    assert made.keys() == {"train", *(f"to-{length}" for length in LENGTHS)}
    of_wording = Counter(row["id"].rpartition("-n")[0] for row in made["train"])
    assert of_wording.keys() == {f"{things}-{padding}" for padding in (1, 50, 100, 150) for things in THINGS[:3]}
    learnt = {row["question"] for row in made["train"]}
    for shorter, length in zip((0, *LENGTHS), LENGTHS, strict=False):
        rows = made[f"to-{length}"]
        assert 1 <= len(rows) <= 5
        for row in rows:
            assert row["question"] not in learnt
            assert shorter < len(row["cot"]) <= length
            first, second = re.findall(r"(\d+[-+]\d+)=(\d+)", row["cot"])
            assert eval(first[0]) == int(first[1])
            assert eval(second[0]) == int(second[1]) == int(row["answer"])
            assert "<<" not in row["cot"]
