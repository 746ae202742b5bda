"""GSM8K's chains of thought in plain English, of many lengths: what `make words` learns from and is asked.

    python -m reproduce.lengths DATA --out FOLDER

DATA holds gsm8k_train.jsonl. Of chains of up to 120, 240, 360 and 720 characters FOLDER gets as many wordings each,
asked with other numbers: train.jsonl has all of them, and to-120.jsonl to to-720.jsonl ask the same wordings with
numbers that train.jsonl does not ask them with.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable
from pathlib import Path

from reproduce.words import parted, wordings, write
from rotdata.console import run_app
from rotdata.corpora.cot_text import strip_calculator
from rotdata.corpora.files import Record
from rotdata.corpora.records import record_of
from rotdata.corpora.wordings import Wording
from rotdata.errors import RotError

LENGTHS = (120, 240, 360, 720)
"""Characters of a chain, at most."""
_TIMES = 80
_APART = 8


def files(found: Iterable[Wording], *, of_each: int, tests: int) -> dict[str, list[Record]]:
    """The rows of each file, of so many wordings of each length; a test holds at most so many."""
    chosen: dict[int, list[Wording]] = {length: [] for length in LENGTHS}
    for wording in found:
        characters = len(_english(wording.written(wording.values, wording.row.id).cot))
        length = next((length for length in LENGTHS if characters <= length), None)
        if length is not None and len(chosen[length]) < of_each:
            chosen[length].append(wording)
    rng = random.Random(0)  # noqa: S311 -- a corpus, not a secret
    train: list[Record] = []
    asked = {}
    for length, some in chosen.items():
        rows = [record_of(row, "generic") for wording in some for row in wording.renumbered(_TIMES)]
        rows = [row | {"cot": _english(row["cot"])} for row in rows]
        learnt, spare = parted(rows, one_in=_APART)
        train += learnt
        asked[f"to-{length}"] = rng.sample(spare, min(tests, len(spare)))
    rng.shuffle(train)
    return {**asked, "train": train}


def _english(cot: str) -> str:
    return strip_calculator(cot).strip()


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with gsm8k_train.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--wordings", type=int, default=50, help="of each length")
    parser.add_argument("--tests", type=int, default=200, help="questions of each length at most")
    wanted = parser.parse_args()
    try:
        found = list(wordings(wanted.data / "gsm8k_train.jsonl", "gsm8k", steps=(2, 9), chain="own"))
    except RotError as error:
        parser.error(str(error))
    for name, rows in files(found, of_each=wanted.wordings, tests=wanted.tests).items():
        write(wanted.out / f"{name}.jsonl", rows)


if __name__ == "__main__":
    run_app(main)
