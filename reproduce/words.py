"""Questions that people wrote, asked with many numbers: what `make sister` and `make words` learn from and are asked.

    python -m reproduce.words DATA --out FOLDER

DATA holds multiarith.json, svamp.json and gsm8k_train.jsonl. Of each corpus FOLDER gets a folder of its name with

    train.jsonl        known wordings, each row drawn `TIMES` times with other numbers (`rotdata renumber`)
    validation.jsonl   known wordings with numbers that train.jsonl does not ask them with: to choose by
    known.jsonl        the same, other ones: the test
    drawn.jsonl        wordings held out, with other numbers
    own.jsonl          the questions of the held-out wordings as they stand

and all/train.jsonl has as many rows of each, exercises in arithmetic of up to eight operations, and some sums.
sums/train.jsonl has nothing but sums, a dozen in a row, of these corpora and of other numbers: arithmetic is learnt
from them where nothing has to be understood. practice/train.jsonl has some of all, and as many rows of sums.

A wording is a question without its numbers and names; which are held out is decided by their hash. A chain of thought
is the equations of its steps alone, `<<12+6=18>> <<18-10=8>>`, of GSM8K those with two to four steps.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from rotdata.console import run_app, say
from rotdata.corpora import Row, Source, read, resolve
from rotdata.corpora.chains import Chain, wording_of
from rotdata.corpora.files import Record
from rotdata.corpora.readers import Unusable
from rotdata.corpora.records import record_of
from rotdata.corpora.wordings import Wording, is_held_out
from rotdata.errors import RotError
from rotdata.output import write_atomically

LARGEST = 200
"""No number that is drawn, and no result, is larger."""
_OF_EACH = 20_000
_SUMS, _SUMS_MIXED, _PRACTICE = 30_000, 10_000, 20_000
"""Rows of sums; how many of them go among all; rows of all, and of sums once more, to practise."""
_PRODUCTS = [(one, other) for one in range(2, 100) for other in range(2, 100) if one * other <= LARGEST]
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


def drill(rng: random.Random, *, most: int = 3) -> Row:
    """An exercise in arithmetic: one operation to so many on numbers that people's questions have."""
    value = rng.randint(2, 99)
    told, steps = [f"Start with {value}"], []
    for _ in range(rng.randint(1, most)):
        for _ in range(100):
            sign = rng.choice("++--*/")
            other = rng.randint(2, 12) if sign in "*/" else rng.randint(2, 99)
            result = {"+": value + other, "-": value - other, "*": value * other, "/": value / other}[sign]
            if 0 <= result <= LARGEST and result == int(result):
                break
        else:
            break
        verb = {"+": "add {}", "-": "take away {}", "*": "take it {} times", "/": "divide it by {}"}[sign]
        told.append(verb.format(other))
        steps.append(f"<<{value}{sign}{other}={int(result)}>>")
        value = int(result)
    return Row("drill", f"{', '.join(told)}.", " ".join(steps), str(value))


def sums(rng: random.Random, learnt: Sequence[str] = (), *, count: int = 12) -> Row:
    """Calculations that have nothing to do with each other, of numbers that people's questions have.

    Every other one is one of the equations `learnt`, if there are any. The question has all of them, so that nothing in
    the chain is left to chance: what no one can know teaches nothing, and hides what could be learnt.
    """
    chain = [rng.choice(learnt) if learnt and rng.random() < 0.5 else _sum(rng) for _ in range(count)]
    parts = [equation.removeprefix("<<").removesuffix(">>").rpartition("=") for equation in chain]
    return Row("sums", f"Work out {', '.join(part[0] for part in parts)}.", " ".join(chain), parts[-1][2])


def _sum(rng: random.Random) -> str:
    sign = rng.choice("++--*/")
    if sign in "+-":
        whole = rng.randint(4, LARGEST)
        part = rng.randint(2, whole - 2)
        return f"<<{part}+{whole - part}={whole}>>" if sign == "+" else f"<<{whole}-{part}={whole - part}>>"
    one, other = rng.choice(_PRODUCTS)
    return f"<<{one}*{other}={one * other}>>" if sign == "*" else f"<<{one * other}/{other}={one}>>"


def splits(corpus: Corpus, file: Path, *, tests: int, seed: int = 0) -> dict[str, list[Record]]:
    """The rows of each file; the tests hold at most so many. Raises SourceError for a file that can't be read."""
    known: dict[str, Record] = {}
    others: dict[str, Record] = {}
    own: list[Record] = []
    for wording in wordings(file, corpus.name, steps=corpus.steps):
        rows = [record_of(row, "generic") for row in wording.renumbered(corpus.times, seed)]
        if is_held_out(wording.key, corpus.hold_out):
            own.append(record_of(wording.written(wording.values, wording.row.id), "generic"))
            others.update({row["question"]: row for row in rows})
        else:
            known.update({row["question"]: row for row in rows})
    train, spare = parted(known.values(), one_in=_APART)
    rng = random.Random(seed)  # noqa: S311 -- a corpus, not a secret
    for rows in (train, spare):
        rng.shuffle(rows)
    drawn = list(others.values())
    return {
        "train": train,
        "validation": spare[0::2][:tests],
        "known": spare[1::2][:tests],
        "drawn": rng.sample(drawn, min(tests, len(drawn))),
        "own": own,
    }


def wordings(file: Path, name: str, *, steps: tuple[int, int], chain: Chain = "steps") -> Iterator[Wording]:
    """The wordings of those rows that can be asked with other numbers, and whose chains have fewest to most steps."""
    source = resolve(Source(location=str(file), corpus="auto", calc="keep"))
    fewest, most = steps
    unreadable = 0
    for row in tqdm(read(source), unit="row", desc=name, disable=None):
        if not isinstance(row, Row):
            unreadable += 1
            continue
        try:
            wording = wording_of(row, chain, largest=LARGEST)
        except Unusable:
            continue
        if fewest <= wording.written(wording.values, row.id).cot.count("<<") <= most:
            yield wording
    if unreadable:
        say(f"rows of {file} that can't be read, and were left out: {unreadable}")


def parted(rows: Iterable[Record], *, one_in: int) -> tuple[list[Record], list[Record]]:
    """Rows to learn from, and one in so many to ask. The question alone decides which."""
    parts: tuple[list[Record], list[Record]] = [], []
    for row in rows:
        number = int.from_bytes(hashlib.sha256(row["question"].encode()).digest()[:8], "big")
        parts[number % one_in == 0].append(row)
    return parts


def exercises(draw: Callable[[random.Random], Row], count: int, *, seed: int = 0) -> list[Record]:
    """So many rows that `draw` makes."""
    rng = random.Random(seed)  # noqa: S311 -- exercises, not a secret
    rows = (draw(rng) for _ in range(count))
    return [record_of(replace(row, id=f"{row.id}-{number}"), "generic") for number, row in enumerate(rows)]


def main() -> None:
    """Write the files of each corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with multiarith.json, svamp.json and gsm8k_train.jsonl")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tests", type=int, default=500, help="questions of each test at most")
    wanted = parser.parse_args()
    mixed: list[Record] = []
    for corpus in CORPORA:
        try:
            made = splits(corpus, wanted.data / corpus.file, tests=wanted.tests)
        except RotError as error:
            parser.error(str(error))
        for name, rows in made.items():
            write(wanted.out / corpus.name / f"{name}.jsonl", rows)
        mixed += made["train"][:_OF_EACH]
    equations = [equation for row in mixed for equation in row["cot"].split(" ")]
    summing = exercises(partial(sums, learnt=equations), _SUMS)
    write(wanted.out / "sums" / "train.jsonl", summing)
    mixed = _shuffled(mixed + exercises(partial(drill, most=8), _OF_EACH) + summing[:_SUMS_MIXED])
    write(wanted.out / "practice" / "train.jsonl", _shuffled(mixed[:_PRACTICE] + summing[-_PRACTICE:]))
    write(wanted.out / "all" / "train.jsonl", mixed)  # last: all others are there


def _shuffled(rows: list[Record]) -> list[Record]:
    """The same list, in another order."""
    random.Random(0).shuffle(rows)  # noqa: S311 -- a corpus, not a secret
    return rows


def write(file: Path, rows: list[Record]) -> None:
    """A file of rows, JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    say(f"{len(rows)} questions in {file}")


if __name__ == "__main__":
    run_app(main)
