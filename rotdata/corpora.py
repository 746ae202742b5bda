"""Corpora -> rows of question, chain of thought and answer. Knows files and fields; knows nothing of pictures.

A reader never stops at a bad record: it yields a Reject that says which record and why. It raises SourceError only
where nothing can be read at all, or where the first records all lack the fields that the corpus should have.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rotdata.errors import RotError, SourceError, UnknownCorpus, UsageError
from rotdata.toy import SPLITS, toy_problems

Record = dict[str, Any]

TOY_ROWS = 1000
"""Rows of the toy corpus, which has no end, where no limit is given."""

_PEEKED_RECORDS = 10
_FILE_SUFFIXES = (".jsonl", ".json", ".txt")


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
    """Names of the fields that the generic corpus (jsonl) reads."""

    question: str = "question"
    cot: str = "cot"
    answer: str = "answer"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from and how they are understood."""

    location: str
    """A file, a folder of files, a Hub dataset id, or the word "toy" for the generated corpus."""
    corpus: str
    split: str = "train"
    config: str | None = None
    """Configuration of a Hub dataset."""
    limit: int | None = None
    """Read no more than this many records."""
    fields: Fields = Fields()
    seed: int = 0
    """Seed of the toy corpus."""

    def __post_init__(self) -> None:
        """Raise UnknownCorpus or UsageError for what can't be a source."""
        if self.corpus not in CORPORA:
            raise UnknownCorpus(f"unknown corpus {self.corpus!r}: known are {', '.join(CORPORA)}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit counts rows to read and is at least 1, got {self.limit}")
        if not re.fullmatch(r"[A-Za-z0-9_.]+", self.split):
            raise UsageError(f"a split is a word such as train or test, got {self.split!r}")

    @property
    def name(self) -> str:
        """CORPUS-SPLIT, the stem of the shards' file names."""
        return f"{self.corpus}-{self.split}"


class _Unusable(Exception):
    """Why a record can't become a row."""


class _FieldsMissing(_Unusable):
    """The record lacks fields that its corpus has."""


def read(source: Source) -> Iterator[Row | Reject]:
    """Rows and rejects of `source` in its own order. Raises SourceError where the whole source can't be right."""
    parse = CORPORA[source.corpus]
    records = islice(_records(source), source.limit)
    head = list(islice(records, _PEEKED_RECORDS))
    _check_fields(head, parse, source)
    for index, (place, record) in enumerate(chain(head, records)):
        fallback_id = f"{source.name}-{index:06d}"
        if isinstance(record, _Unusable):
            yield Reject(f"{fallback_id} ({place})", str(record))
            continue
        try:
            row = parse(record, source)
            row = replace(row, id=row.id or fallback_id)
            _check_text(row)
        except _Unusable as error:
            yield Reject(f"{fallback_id} ({place})", str(error))
        else:
            yield row


def describe(source: Source) -> dict[str, Any]:
    """What identifies the rows of `source`, JSON-ready: contents of files by hash, Hub datasets by commit."""
    identity: dict[str, Any] = {"limit": source.limit}
    if source.corpus == "jsonl":
        identity["fields"] = [source.fields.question, source.fields.cot, source.fields.answer]
    if source.corpus == "toy":
        return identity | {"generator": 1, "seed": source.seed}
    path = Path(source.location)
    if path.exists():
        root = path if path.is_dir() else path.parent  # files of several subfolders may share a name
        return identity | {"files": {file.relative_to(root).as_posix(): _file_sha256(file) for file in _files(path)}}
    return identity | {"hub": source.location, "config": source.config, "revision": _hub_revision(source.location)}


def last_boxed(solution: str) -> str | None:
    r"""Contents of the last \boxed{...} (or \fbox) of a MATH solution, nested braces and "\boxed 5" included."""
    start = max(solution.rfind("\\boxed"), solution.rfind("\\fbox"))
    if start < 0:
        return None
    rest = solution[start:].removeprefix("\\boxed").removeprefix("\\fbox")
    if not rest.lstrip().startswith("{"):
        word = re.match(r"\s+([^\s$]+)", rest)
        return word.group(1).rstrip(".") if word else None
    rest = rest.lstrip()
    depth = 0
    escaped = False
    for i, character in enumerate(rest):
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = True
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return rest[1:i].strip()
    return None


def strip_calculator(text: str) -> str:
    """`text` without GSM8K's calculator marks, <<48/2=24>>."""
    return re.sub(r"<<[^<>]*>>", "", text)


def _parse_gsm8k(record: Record, _source: Source) -> Row:
    question, solution = _texts(record, "question", "answer")
    cot, answer = _split_answer(solution)
    return Row("", question, strip_calculator(cot).strip(), answer)


def _parse_gsm8k_aug(record: Record, _source: Source) -> Row:
    if "steps" in record and isinstance(record["steps"], list):
        record = record | {"steps": " ".join(map(str, record["steps"]))}
    if "line" in record:
        question, found, solution = _texts(record, "line")[0].partition("||")
        if not found:
            raise _FieldsMissing('a line has the form "question||steps #### answer", and this one has no "||"')
        return Row("", question.strip(), *_split_answer(solution))
    question, steps, answer = _texts(record, "question", "steps", "answer")
    return Row("", question, steps.strip(), answer)


def _parse_math(record: Record, _source: Source) -> Row:
    problem, solution = _texts(record, "problem", "solution")
    given = record.get("answer") not in (None, "")
    answer = _texts(record, "answer")[0] if given else last_boxed(solution)
    if answer is None:
        raise _Unusable("the solution has no \\boxed answer")
    return Row(_own_id(record, "unique_id"), problem, solution, answer)


def _parse_jsonl(record: Record, source: Source) -> Row:
    names = source.fields
    question, cot, answer = _texts(record, names.question, names.cot, names.answer)
    return Row(_own_id(record, "id"), question, cot, answer)


CORPORA: dict[str, Callable[[Record, Source], Row]] = {
    "gsm8k": _parse_gsm8k,
    "gsm8k-aug": _parse_gsm8k_aug,
    "math": _parse_math,
    "jsonl": _parse_jsonl,
    "toy": _parse_jsonl,
}
"""Corpus name -> parser of one record: it raises _Unusable with the reason, or returns a Row whose id may be empty."""


def _texts(record: Record, *names: str) -> list[str]:
    """The fields as text; numbers are written out. Raises _FieldsMissing, or _Unusable for other types."""
    if not isinstance(record, dict):
        raise _Unusable(f"a record is an object with fields, got {type(record).__name__}")
    missing = [name for name in names if name not in record]
    if missing:
        raise _FieldsMissing(f"no field {', '.join(map(repr, missing))}; found {', '.join(map(str, record)) or 'none'}")
    texts = []
    for name in names:
        value = record[name]
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = f"{value:.12g}" if isinstance(value, float) else str(value)
        if not isinstance(value, str):
            raise _Unusable(f"field {name!r} is {type(value).__name__}, not text")
        texts.append(value)
    return texts


def _split_answer(solution: str) -> tuple[str, str]:
    """A chain of thought and what follows its last "####"."""
    cot, found, answer = solution.rpartition("####")
    if not found:
        raise _Unusable('no "####" before the answer')
    return cot.strip(), answer.strip()


def _own_id(record: Record, name: str) -> str:
    value = record.get(name)
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _check_text(row: Row) -> None:
    """Refuse rows that can't be trained on: nothing to draw, nothing to answer, text that is not Unicode."""
    if not row.cot.strip():
        raise _Unusable("the chain of thought is empty")
    if not row.question.strip() or not row.answer.strip():
        raise _Unusable("the question or the answer is empty")
    try:
        f"{row.id}{row.question}{row.cot}{row.answer}".encode()
    except UnicodeEncodeError as error:
        raise _Unusable(f"a lone surrogate at character {error.start} is not text") from None


def _check_fields(head: list[tuple[str, Record | _Unusable]], parse: Callable[..., Row], source: Source) -> None:
    """Raise SourceError if every one of the first records lacks the corpus's fields, or there are no records."""
    if not head:
        raise SourceError(f"{source.location} holds no records: is it the right file or split?")
    reasons = []
    for _, record in head:
        if isinstance(record, _Unusable):
            return
        try:
            parse(record, source)
        except _FieldsMissing as error:
            reasons.append(str(error))
        except _Unusable:
            return
        else:
            return
    fits = [name for name, other in CORPORA.items() if _parses(other, head[0][1], source)]
    remedy = f"it reads as --corpus {fits[0]}" if fits else "name its fields with --corpus jsonl --question-field ..."
    raise SourceError(f"{source.location} is not a {source.corpus} corpus: {reasons[0]}; {remedy}")


def _parses(parse: Callable[..., Row], record: Any, source: Source) -> bool:
    try:
        parse(record, source)
    except _Unusable:
        return False
    return True


def _records(source: Source) -> Iterator[tuple[str, Record | _Unusable]]:
    """(place, record) pairs of the source; a record that can't even be parsed is the reason why."""
    if source.corpus == "toy":
        yield from _toy_records(source)
        return
    path = Path(source.location)
    if path.exists():
        for file in _files(path):
            yield from _file_records(file)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", source.location):
        yield from _hub_records(source)
    else:
        raise SourceError(f"no file or folder {source.location}, and it is no Hub dataset id (owner/name) either")


def _toy_records(source: Source) -> Iterator[tuple[str, Record]]:
    if source.split not in SPLITS:
        raise UsageError(f"the toy corpus has the splits {', '.join(SPLITS)}, got {source.split!r}")
    count = TOY_ROWS if source.limit is None else source.limit
    problems = toy_problems(source.split, seed=source.seed)
    for index, problem in enumerate(islice(problems, count)):
        row_id = f"toy-{source.split}-{index:06d}-{problem.steps}steps"
        record = {"id": row_id, "question": problem.question, "cot": problem.cot, "answer": problem.answer}
        yield f"problem {index}", record


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix in _FILE_SUFFIXES and file.is_file())
    if not files:
        raise SourceError(f"no {', '.join(_FILE_SUFFIXES)} files in folder {path}")
    return files


def _file_records(file: Path) -> Iterator[tuple[str, Record | _Unusable]]:
    try:
        if file.suffix == ".json":
            yield from _json_records(file)
            return
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"line {number}", _line_record(line, number, plain=file.suffix == ".txt")
    except OSError as error:
        raise SourceError(f"{file} can't be read: {error.strerror}") from error


def _line_record(line: bytes, number: int, *, plain: bool) -> Record | _Unusable:
    try:
        text = line.decode("utf-8-sig").strip()
        return {"line": text} if plain else json.loads(text)
    except UnicodeDecodeError as error:
        return _Unusable(f"line {number} is not UTF-8: {error.reason} at byte {error.start}")
    except json.JSONDecodeError as error:
        return _Unusable(f"line {number} is malformed JSON: {error.msg} at column {error.colno}")
    except ValueError:
        return _Unusable(f"line {number} holds a number of too many digits")
    except RecursionError:
        return _Unusable(f"line {number} is malformed JSON: nested too deeply")


def _json_records(file: Path) -> Iterator[tuple[str, Record]]:
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file} is not one JSON document: {error}; a record a line is .jsonl") from error
    records = data if isinstance(data, list) else [data]
    for index, record in enumerate(records):
        yield f"record {index}", record


def _hub_records(source: Source) -> Iterator[tuple[str, Record]]:
    """Records of a Hub dataset, streamed. Not run where no Hub is reached: tested on a stand-in."""
    from datasets import load_dataset

    try:
        stream = load_dataset(source.location, source.config, split=source.split, streaming=True)
        for index, record in enumerate(stream):
            yield f"record {index}", dict(record)
    except RotError:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # what datasets and huggingface_hub raise derives from these
        raise SourceError(
            f"the Hub dataset {source.location} (config {source.config}, split {source.split}) can't be read: {error}; "
            "is it a file? then check its path"
        ) from error


def _hub_revision(dataset_id: str) -> str | None:
    """The dataset's current commit, so that a later run knows that it reads the same rows."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(dataset_id).sha
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"the Hub does not answer for dataset {dataset_id}: {error}") from error


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
