"""Where rows come from, and its records as they stand there: files, toy problems, datasets of the Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from rotdata.corpora.cot_text import Asymptote, Calc, Latex
from rotdata.corpora.files import Record, find_files, records
from rotdata.corpora.readers import CORPORA, Fields
from rotdata.corpora.toy import MAX_STEPS, MIN_STEPS, SPLITS, difficulty_of, toy_problems
from rotdata.errors import RotError, SourceError, UnknownCorpus, UsageError

TOY_ROWS = 1000
"""Rows of the toy corpus, which has no end, where no limit is given."""
AUTO = "auto"
"""The corpus that a source names to have it recognised."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from and how they are understood."""

    location: str
    """A file, a folder of files, a glob, a Hub dataset id, or toy problems: toy, or toy:5-8 for so many steps."""
    corpus: str = AUTO
    split: str = "train"
    config: str | None = None
    """Configuration of a Hub dataset."""
    revision: str | None = None
    """Commit of a Hub dataset; `resolve` pins it."""
    limit: int | None = None
    """Read no more than this many records."""
    fields: Fields = field(default_factory=Fields)
    seed: int = 0
    """Seed of the toy corpus."""
    calc: Calc | None = None
    """Calculator marks <<...>>: kept, stripped, or all that is kept; by default stripped for gsm8k alone."""
    latex: Latex = "raw"
    asymptote: Asymptote = "keep"
    """What becomes of drawings in [asy] blocks."""
    need_cot: bool = True
    """Whether a row without a chain of thought is a reject; evaluation asks questions and needs none."""

    def __post_init__(self) -> None:
        """Raise UnknownCorpus or UsageError for what can't be a source."""
        if self.corpus != AUTO and self.corpus not in CORPORA:
            raise UnknownCorpus(f"unknown corpus {self.corpus!r}: known are {AUTO}, {', '.join(CORPORA)}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit counts rows to read and is at least 1, got {self.limit}")
        if not re.fullmatch(r"[A-Za-z0-9_.]+", self.split):
            raise UsageError(f"a split is a word such as train or test, got {self.split!r}")

    @property
    def name(self) -> str:
        """CORPUS-SPLIT, the stem of the shards' file names."""
        return f"{self.corpus}-{self.split}"


def records_of(source: Source) -> Iterator[tuple[str, Any]]:
    """(place, record) pairs of the source; a record that can't even be parsed is the reason why."""
    if source.corpus == "toy":
        yield from _toy_records(source)
        return
    _, files = find_files(source.location, source.split)
    if files:
        for file in files:
            for place, record in records(file):
                yield place if len(files) == 1 else f"{file.name}, {place}", record
    elif is_hub_id(source):
        yield from _hub_records(source)
    else:
        raise SourceError(f"no file or folder {source.location}, and it is no Hub dataset id (owner/name) either")


def count_records(source: Source) -> int | None:
    """How many records there are to read, counted in one pass; None for a dataset of the Hub."""
    if is_hub_id(source):
        return source.limit
    return sum(1 for _ in islice(records_of(source), source.limit))


def is_hub_id(source: Source) -> bool:
    """Whether a source can only be a dataset of the Hub: OWNER/NAME, and no file of that name."""
    return not Path(source.location).exists() and bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source.location))


def _toy_records(source: Source) -> Iterator[tuple[str, Record]]:
    if source.split not in SPLITS:
        raise UsageError(f"the toy corpus has the splits {', '.join(SPLITS)}, got {source.split!r}")
    count = TOY_ROWS if source.limit is None else source.limit
    difficulty = toy_steps(source) or (MIN_STEPS, MAX_STEPS)
    problems = toy_problems(source.split, seed=source.seed, difficulty=difficulty)
    for index, problem in enumerate(islice(problems, count)):
        row_id = f"toy-{source.split}-{index:06d}-{problem.steps}steps"
        record = {"id": row_id, "question": problem.question, "cot": problem.cot, "answer": problem.answer}
        yield f"problem {index}", record


def toy_steps(source: Source) -> tuple[int, int] | None:
    """Fewest and most steps of the toy problems that the location names, if it names any. Raises UsageError."""
    try:
        return difficulty_of(source.location)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _hub_records(source: Source) -> Iterator[tuple[str, Record]]:
    """Records of a Hub dataset, streamed. Not run where no Hub is reached: tested on a stand-in."""
    from datasets import load_dataset

    try:
        stream = load_dataset(
            source.location, source.config, split=source.split, revision=source.revision, streaming=True
        )
        for index, record in enumerate(stream):
            yield f"record {index}", dict(record)
    except RotError:
        raise
    except _hub_errors() as error:
        raise SourceError(
            f"the Hub dataset {source.location} (config {source.config}, split {source.split}) can't be read: {error}; "
            "is it a file? then check its path"
        ) from error


def hub_revision(dataset_id: str) -> str | None:
    """The dataset's current commit, so that a later run knows that it reads the same rows."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(dataset_id).sha
    except _hub_errors() as error:
        raise SourceError(f"the Hub does not answer for dataset {dataset_id}: {error}") from error


def _hub_errors() -> tuple[type[Exception], ...]:
    """What datasets and huggingface_hub raise derives from these; an absent network is an error of the HTTP client."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time only

    return OSError, ValueError, RuntimeError, DatasetsError, httpx.HTTPError
