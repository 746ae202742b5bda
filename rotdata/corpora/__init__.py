"""Corpora -> rows of question, chain of thought and answer. Knows fields and texts; knows nothing of pictures.

A reader never stops at a bad record: it yields a Reject that says which record and why. It raises SourceError only
where nothing can be read at all, or where none of the first records is what the corpus should have.
"""

from __future__ import annotations

import hashlib
import math
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rotdata.corpora.cot_text import (
    Asymptote,
    Calc,
    Inconvertible,
    Latex,
    last_boxed,
    latex_to_unicode,
    only_calculator,
    strip_calculator,
    treat_asymptote,
)
from rotdata.corpora.files import LINE, Record, Unreadable, find_files, records
from rotdata.corpora.toy import MAX_STEPS, MIN_STEPS, SPLITS, difficulty_of, toy_problems
from rotdata.errors import RotError, SourceError, UnknownCorpus, UsageError

TOY_ROWS = 1000
"""Rows of the toy corpus, which has no end, where no limit is given."""

AUTO = "auto"
"""The corpus that a source names to have it recognised."""

_PEEKED_RECORDS = 10


@dataclass(frozen=True, slots=True)
class Row:
    """One problem: what is asked, how it is reasoned out, and the bare final answer."""

    id: str
    question: str
    cot: str
    answer: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that can't be used: its id (or place in the source) and the reason."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Fields:
    """Names of the fields that the generic corpus reads."""

    question: str = "question"
    cot: str = "cot"
    answer: str = "answer"
    id: str = "id"
    """May be missing: ids are then numbers."""


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
    fields: Fields = Fields()
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


@dataclass(frozen=True, kw_only=True)
class Survey:
    """A corpus counted, in one pass and in flat memory."""

    rows: int
    rejects: int
    duplicates: int
    """Rows equal to an earlier one in question, chain of thought and answer."""
    duplicate_ids: int
    """Rows whose id an earlier row has."""
    characters: Counter[str]
    """Code points of the chains of thought."""


class _Unusable(Exception):
    """Why a record can't become a row."""


class _FieldsMissing(_Unusable):
    """The record lacks fields that its corpus has."""

    def __init__(self, names: Sequence[str], record: Record) -> None:
        found = ", ".join(map(str, record)) or "none"
        super().__init__(f"no field {', '.join(map(repr, names))}; found {found}")


def resolve(source: Source) -> Source:
    """`source` with its corpus recognised from its first records, and the commit of a Hub dataset pinned.

    Raises SourceError for records of no known form, naming the fields found.
    """
    source = _recognised(source)
    if source.corpus != "toy" and source.revision is None and _is_hub_id(source):
        source = replace(source, revision=_hub_revision(source.location))
    return source


def read(source: Source) -> Iterator[Row | Reject]:
    """Rows and rejects of `source` in its own order. Raises SourceError where the whole source can't be right."""
    source = _recognised(source)
    read_record = CORPORA[source.corpus]
    found = islice(_records(source), source.limit)
    head = list(islice(found, _PEEKED_RECORDS))
    _check_head(head, source)
    for index, (place, record) in enumerate(chain(head, found)):
        fallback_id = f"{source.name}-{index:06d}"
        try:
            if isinstance(record, Unreadable):
                raise _Unusable(record.reason)  # noqa: TRY301 -- one place makes rejects
            row = _treat(read_record(record, source), source)
            row = row if row.id else Row(fallback_id, row.question, row.cot, row.answer)
            _check_text(row, source)
        except (_Unusable, Inconvertible) as error:
            yield Reject(f"{fallback_id} ({place})", str(error))
        else:
            yield row


def survey(source: Source) -> Survey:
    """Count the rows of `source`, what repeats in them, and their characters."""
    rejects = 0
    characters: Counter[str] = Counter()
    contents, ids = array("q"), array("q")  # hashes of eight bytes: ten million rows take 160 MB
    for row in tqdm(read(source), unit="row", desc="read", disable=None):
        if isinstance(row, Reject):
            rejects += 1
            continue
        characters.update(row.cot)
        contents.append(hash((row.question, row.cot, row.answer)))
        ids.append(hash(row.id))
    return Survey(
        rows=len(contents),
        rejects=rejects,
        duplicates=_repeats(contents),
        duplicate_ids=_repeats(ids),
        characters=characters,
    )


def describe(source: Source) -> dict[str, Any]:
    """What identifies the rows of `source`, JSON-ready: contents of files by hash, Hub datasets by commit."""
    source = resolve(source)
    identity: dict[str, Any] = {"limit": source.limit}
    if source.corpus == "toy":
        steps = _toy_steps(source)
        named = {"steps": list(steps)} if steps and steps != (MIN_STEPS, MAX_STEPS) else {}
        return identity | {"generator": 1, "seed": source.seed} | named
    if source.corpus == "generic":
        identity["fields"] = [source.fields.question, source.fields.cot, source.fields.answer, source.fields.id]
    identity |= {"calc": _calc(source), "latex": source.latex, "asymptote": source.asymptote}
    root, files = find_files(source.location, source.split)
    if files:
        return identity | {"files": {file.relative_to(root).as_posix(): _file_sha256(file) for file in files}}
    return identity | {"hub": source.location, "config": source.config, "revision": source.revision}


def _read_gsm8k(record: Any, _source: Source) -> Row:
    question, solution = _texts(record, "question", "answer")
    return Row("", question, *_split_answer(solution))


def _read_gsm8k_aug(record: Any, _source: Source) -> Row:
    if _is_line(record):
        return Row("", *_split_line(record))
    if isinstance(record, dict) and isinstance(record.get("steps"), list):
        record = record | {"steps": " ".join(map(str, record["steps"]))}
    question, steps, answer = _texts(record, "question", "steps", "answer")
    return Row("", question, steps.strip(), answer)


def _read_math(record: Any, _source: Source) -> Row:
    problem, solution = _texts(record, "problem", "solution")
    given = record.get("answer") not in (None, "")
    answer = _texts(record, "answer")[0] if given else last_boxed(solution)
    if answer is None:
        raise _Unusable("the solution has no \\boxed answer")
    return Row(_own_id(record, "unique_id"), problem, solution, answer)


def _read_svamp(record: Any, _source: Source) -> Row:
    equation, answer = _texts(record, "Equation", "Answer")
    if isinstance(record, dict) and "question_concat" in record:
        [question] = _texts(record, "question_concat")
    else:
        body, question = (text.strip() for text in _texts(record, "Body", "Question"))
        question = f"{body}{'' if body[-1:] in '.?!,' else '.'} {question}".strip()
    answer = _plain_number(answer)
    return Row(_own_id(record, "ID"), question, _solved(equation, answer), answer)


def _read_multiarith(record: Any, _source: Source) -> Row:
    if isinstance(record, dict) and "final_ans" in record:
        question, answer = _texts(record, "question", "final_ans")
        return Row("", question.strip(), "", _plain_number(answer))
    [question] = _texts(record, "sQuestion")
    equation, answer = (_only_text(record, name) for name in ("lEquations", "lSolutions"))
    answer = _plain_number(answer)
    equation = re.sub(r"^\s*X\s*=", "", equation)
    return Row(_own_id(record, "iIndex"), question.strip(), _solved(equation, answer), answer)


def _read_gsm_hard(record: Any, _source: Source) -> Row:
    question, answer = _texts(record, "input", "target")
    code = _texts(record, "code")[0] if "code" in record else ""
    return Row("", question, code, answer)


def _read_generic(record: Any, source: Source) -> Row:
    if _is_line(record):
        return Row("", *_split_line(record))
    names = source.fields
    question, cot, answer = _texts(record, names.question, names.cot, names.answer)
    return Row(_own_id(record, names.id), question, cot, answer)


CORPORA: dict[str, Callable[[Any, Source], Row]] = {
    "gsm8k": _read_gsm8k,
    "gsm8k-aug": _read_gsm8k_aug,
    "gsm8k-aug-nl": _read_gsm8k_aug,
    "math": _read_math,
    "svamp": _read_svamp,
    "multiarith": _read_multiarith,
    "gsm-hard": _read_gsm_hard,
    "generic": _read_generic,
    "toy": _read_generic,
}
"""Corpus name -> reader of one record: it raises _Unusable with the reason, or returns a Row whose id may be empty."""


def _recognised(source: Source) -> Source:
    if source.corpus != AUTO:
        return source
    if not Path(source.location).exists() and _toy_steps(source):
        return replace(source, corpus="toy")
    return replace(source, corpus=_recognise(list(islice(_records(source), _PEEKED_RECORDS)), source))


def _recognise(head: list[tuple[str, Any]], source: Source) -> str:
    """The corpus that can read most of the first records; of several, the first in CORPORA."""
    _check_any(head, source)
    if all(isinstance(record, Unreadable) for _, record in head):
        raise SourceError(f"{source.location} begins with nothing readable: {head[0][1].reason}; is it the right file?")
    parsed = {name: _rows(head, replace(source, corpus=name)) for name in CORPORA if name != "toy"}
    best = max(parsed, key=lambda name: len(parsed[name]))
    if not parsed[best]:
        raise SourceError(f"{source.location} is of no known corpus: {_fields_found(head)}; {_REMEDY}")
    if best == "gsm8k-aug" and not any("<<" in row.cot for row in parsed[best]):
        return "gsm8k-aug-nl"  # the same records, with steps in words
    return best


def _check_head(head: list[tuple[str, Any]], source: Source) -> None:
    """Raise SourceError if no record at all can be read as the corpus says and they are not merely unreadable."""
    _check_any(head, source)
    if any(isinstance(record, Unreadable) for _, record in head) or _rows(head, source):
        return
    reasons: list[Exception] = []
    for _, record in head:
        try:
            CORPORA[source.corpus](record, source)
        except (_Unusable, Inconvertible) as error:
            reasons.append(error)
    others = {name: len(_rows(head, replace(source, corpus=name))) for name in CORPORA if name != "toy"}
    best = max(others, key=lambda name: others[name])
    remedy = f"it reads as --corpus {best}" if others[best] else _REMEDY
    if others[best] or isinstance(reasons[0], _FieldsMissing):
        raise SourceError(f"{source.location} is not a {source.corpus} corpus: {reasons[0]}; {remedy}")


_REMEDY = "name its fields with --corpus generic --question-field ... --cot-field ... --answer-field ..."


def _check_any(head: list[tuple[str, Any]], source: Source) -> None:
    if not head:
        raise SourceError(f"{source.location} holds no records: is it the right file or split?")


def _rows(head: list[tuple[str, Any]], source: Source) -> list[Row]:
    """Those of the first records that the source's corpus can read."""
    rows = []
    for _, record in head:
        if not isinstance(record, Unreadable):
            try:
                rows.append(CORPORA[source.corpus](record, source))
            except (_Unusable, Inconvertible):
                continue
    return rows


def _fields_found(head: list[tuple[str, Any]]) -> str:
    for _, record in head:
        if isinstance(record, dict):
            return f"found the fields {', '.join(map(str, record)) or 'none'}"
    return "found no record with fields"


def _treat(row: Row, source: Source) -> Row:
    """The row with its calculator marks, LaTeX and drawings as the source wants them; the answer stays as it is."""
    cot = row.cot
    calc = _calc(source)
    if calc == "strip":
        cot = strip_calculator(cot).strip()
    elif calc == "only":
        cot = only_calculator(cot)
    if source.asymptote != "keep":
        cot = treat_asymptote(cot, source.asymptote)
    if source.latex == "unicode":
        cot = latex_to_unicode(cot)
    return row if cot == row.cot else Row(row.id, row.question, cot, row.answer)


def _calc(source: Source) -> Calc:
    return source.calc or ("strip" if source.corpus == "gsm8k" else "keep")


def _texts(record: Any, *names: str) -> list[str]:
    """The fields as text; numbers are written out. Raises _Unusable."""
    if not isinstance(record, dict):
        raise _Unusable(f"a record is an object with fields, got {type(record).__name__}")
    missing = [name for name in names if name not in record]
    if missing:
        raise _FieldsMissing(missing, record)
    return [_text(record[name], name) for name in names]


def _only_text(record: Record, name: str) -> str:
    """The text of a field that is a list of one."""
    if name not in record:
        raise _FieldsMissing([name], record)
    value = record[name]
    if isinstance(value, list):
        if len(value) != 1:
            raise _Unusable(f"field {name!r} lists {len(value)} values, not one")
        value = value[0]
    return _text(value, name)


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise _Unusable(f"field {name!r} is {type(value).__name__}, not text")
    if isinstance(value, Decimal):
        return _plain_number(f"{value:f}")
    if isinstance(value, float):
        if not math.isfinite(value):  # NaN is how tables write a missing value
            raise _Unusable(f"field {name!r} is {value}, not text")
        return str(int(value)) if value.is_integer() and abs(value) < 1e16 else repr(value)
    try:
        return str(value)
    except ValueError:
        raise _Unusable(f"field {name!r} is a number of too many digits") from None


def _split_answer(solution: str) -> tuple[str, str]:
    """A chain of thought and what follows its last "####"."""
    cot, found, answer = solution.rpartition("####")
    if not found:
        raise _Unusable('no "####" before the answer')
    return cot.strip(), answer.strip()


def _is_line(record: Any) -> bool:
    return isinstance(record, dict) and record.keys() == {LINE}


def _split_line(record: Record) -> tuple[str, str, str]:
    """Question, chain of thought and answer of a line of plain text."""
    question, found, solution = str(record[LINE]).partition("||")
    if not found:
        raise _Unusable('a line has the form "question||steps #### answer", and this one has no "||"')
    return question.strip(), *_split_answer(solution)


def _plain_number(text: str) -> str:
    """A number without a decimal part of zeros."""
    return re.sub(r"(?<=\d)\.0+(?!\d)", "", text.strip())


def _solved(equation: str, answer: str) -> str:
    """An equation as one line of arithmetic with its result: "( 76.0 - 25.0 )" and "51" -> "76 - 25 = 51"."""
    if not equation.strip():
        return ""
    text = re.sub(r"\(\s+", "(", re.sub(r"(?<!\s)\s+\)", ")", _plain_number(equation)))
    if text.startswith("(") and _closing(text) == len(text) - 1:
        text = text[1:-1]
    return f"{text} = {answer}"


def _closing(text: str) -> int:
    """Where the parenthesis that opens `text` closes; -1 if nowhere."""
    depth = 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if not depth:
            return i
    return -1


def _own_id(record: Any, name: str) -> str:
    value = record.get(name) if isinstance(record, dict) else None
    return _text(value, name) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _check_text(row: Row, source: Source) -> None:
    """Refuse rows that can't be trained on: nothing to draw, nothing to answer, text that is not Unicode."""
    if source.need_cot and not row.cot.strip():
        raise _Unusable("the chain of thought is empty")
    if not row.question.strip() or not row.answer.strip():
        raise _Unusable("the question or the answer is empty")
    try:
        f"{row.id}{row.question}{row.cot}{row.answer}".encode()
    except UnicodeEncodeError as error:
        raise _Unusable(f"a lone surrogate or a byte that is not UTF-8, at character {error.start}") from None


def _repeats(hashes: array[int]) -> int:
    return len(hashes) - len(np.unique(np.frombuffer(hashes, dtype=np.int64)))


def _records(source: Source) -> Iterator[tuple[str, Any]]:
    """(place, record) pairs of the source; a record that can't even be parsed is the reason why."""
    if source.corpus == "toy":
        yield from _toy_records(source)
        return
    _, files = find_files(source.location, source.split)
    if files:
        for file in files:
            for place, record in records(file):
                yield place if len(files) == 1 else f"{file.name}, {place}", record
    elif _is_hub_id(source):
        yield from _hub_records(source)
    else:
        raise SourceError(f"no file or folder {source.location}, and it is no Hub dataset id (owner/name) either")


def _is_hub_id(source: Source) -> bool:
    return not Path(source.location).exists() and bool(re.fullmatch(r"[\w.-]+/[\w.-]+", source.location))


def _toy_records(source: Source) -> Iterator[tuple[str, Record]]:
    if source.split not in SPLITS:
        raise UsageError(f"the toy corpus has the splits {', '.join(SPLITS)}, got {source.split!r}")
    count = TOY_ROWS if source.limit is None else source.limit
    difficulty = _toy_steps(source) or (MIN_STEPS, MAX_STEPS)
    problems = toy_problems(source.split, seed=source.seed, difficulty=difficulty)
    for index, problem in enumerate(islice(problems, count)):
        row_id = f"toy-{source.split}-{index:06d}-{problem.steps}steps"
        record = {"id": row_id, "question": problem.question, "cot": problem.cot, "answer": problem.answer}
        yield f"problem {index}", record


def _toy_steps(source: Source) -> tuple[int, int] | None:
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


def _hub_revision(dataset_id: str) -> str | None:
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


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
