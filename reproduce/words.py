"""Questions that people wrote, asked with many numbers: what `make sister` and `make words` learn from and are asked.

    python -m reproduce.words DATA --out FOLDER

DATA holds multiarith.json, svamp.json and gsm8k_train.jsonl. Of each corpus FOLDER gets a folder of its name with

    train.jsonl        known wordings, each row drawn `TIMES` times with other numbers (`rotdata renumber`)
    validation.jsonl   known wordings with numbers that train.jsonl does not ask them with: to choose by
    known.jsonl        the same, other ones: the test
    drawn.jsonl        wordings held out, with other numbers
    own.jsonl          the questions of the held-out wordings as they stand

A wording is a question without its numbers and names; which are held out is decided by their hash. A chain of thought
is the equations of its steps alone, `<<12+6=18>> <<18-10=8>>`, of GSM8K those with two to four steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from rotdata.console import say
from rotdata.corpora import Row, Source, read, resolve
from rotdata.corpora.chains import wording_of
from rotdata.corpora.files import Record
from rotdata.corpora.readers import Unusable
from rotdata.corpora.records import record_of
from rotdata.corpora.wordings import Wording, is_held_out
from rotdata.errors import RotError
from rotdata.output import write_atomically

LARGEST = 200
"""No number that is drawn, and no result, is larger."""
_APART = 40
"""One known question in so many is not learnt from: half of these are for validation, half the test."""


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A corpus of questions, and how it is asked."""

    name: str
    file: str
    hold_out: float
    """Share of the wordings."""
    times: int
    steps: tuple[int, int] = (1, 4)
    """Fewest and most steps of a chain."""


CORPORA = (
    Corpus(name="multiarith", file="multiarith.json", hold_out=0.2, times=100),
    Corpus(name="svamp", file="svamp.json", hold_out=0.1, times=80),
    Corpus(name="gsm8k", file="gsm8k_train.jsonl", hold_out=0.1, times=80, steps=(2, 4)),
)


def splits(corpus: Corpus, file: Path, *, tests: int, seed: int = 0) -> dict[str, list[Record]]:
    """The rows of each file; the tests hold at most so many. Raises SourceError for a file that can't be read."""
    known: dict[str, Record] = {}
    apart: dict[str, Record] = {}
    own: list[Record] = []
    for wording in _wordings(corpus, file):
        rows = [record_of(row, "generic") for row in wording.renumbered(corpus.times, seed)]
        if is_held_out(wording.key, corpus.hold_out):
            own.append(record_of(wording.written(wording.values, wording.row.id), "generic"))
            apart.update({row["question"]: row for row in rows})
        else:
            known.update({row["question"]: row for row in rows})
    train = [row for row in known.values() if _place(row)]
    spare = [row for row in known.values() if not _place(row)]
    rng = random.Random(seed)  # noqa: S311 -- a corpus, not a secret
    for rows in (train, spare):
        rng.shuffle(rows)
    drawn = list(apart.values())
    return {
        "train": train,
        "validation": spare[0::2][:tests],
        "known": spare[1::2][:tests],
        "drawn": rng.sample(drawn, min(tests, len(drawn))),
        "own": own,
    }


def _wordings(corpus: Corpus, file: Path) -> Iterator[Wording]:
    """The wordings of those rows that can be asked with other numbers."""
    source = resolve(Source(location=str(file), corpus="auto", calc="keep"))
    for row in tqdm(read(source), unit="row", desc=corpus.name, disable=None):
        if not isinstance(row, Row):
            continue
        try:
            wording = wording_of(row, "steps", largest=LARGEST)
        except Unusable:
            continue
        fewest, most = corpus.steps
        if fewest <= wording.written(wording.values, row.id).cot.count("<<") <= most:
            yield wording


def _place(row: Record) -> int:
    """A number below `_APART` that the question alone decides."""
    return int.from_bytes(hashlib.sha256(row["question"].encode()).digest()[:8], "big") % _APART


def main() -> None:
    """Write the files of each corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with multiarith.json, svamp.json and gsm8k_train.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tests", type=int, default=500, help="questions of each test at most")
    wanted = parser.parse_args()
    for corpus in CORPORA:
        try:
            made = splits(corpus, wanted.data / corpus.file, tests=wanted.tests)
        except RotError as error:
            parser.error(str(error))
        folder = wanted.out / corpus.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in made.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_atomically(folder / f"{name}.jsonl", text.encode())
            say(f"{len(rows)} questions in {folder / name}.jsonl")


if __name__ == "__main__":
    main()
