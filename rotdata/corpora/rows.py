"""A source -> its rows and rejects: its corpus recognised, each record read, treated and checked."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rotdata.corpora.cot_text import (
    Calc,
    Inconvertible,
    latex_to_unicode,
    only_calculator,
    strip_calculator,
    treat_asymptote,
)
from rotdata.corpora.files import Unreadable, find_files
from rotdata.corpora.readers import CORPORA, FieldsMissing, Row, Unusable
from rotdata.corpora.source import AUTO, Source, hub_revision, is_hub_id, records_of, toy_steps
from rotdata.corpora.toy import MAX_STEPS, MIN_STEPS
from rotdata.errors import SourceError

_PEEKED_RECORDS = 10
_REMEDY = (
    "name its fields with --corpus generic --question-field ... --cot-field ... --answer-field ...; where replies mark "
    "no answer, --last-number takes their last number"
)


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that can't be used: its id (or place in the source) and the reason."""

    id: str
    reason: str


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


def resolve(source: Source) -> Source:
    """`source` with its corpus recognised from its first records, and the commit of a Hub dataset pinned.

    Raises SourceError for records of no known form, naming the fields found.
    """
    source = _recognised(source)
    if source.corpus != "toy" and source.revision is None and is_hub_id(source):
        source = replace(source, revision=hub_revision(source.location))
    return source


def read(source: Source) -> Iterator[Row | Reject]:
    """Rows and rejects of `source` in its own order. Raises SourceError where the whole source can't be right."""
    source = _recognised(source)
    read_record = CORPORA[source.corpus]
    found = islice(records_of(source), source.limit)
    head = list(islice(found, _PEEKED_RECORDS))
    _check_head(head, source)
    for index, (place, record) in enumerate(chain(head, found)):
        fallback_id = f"{source.name}-{index:06d}"
        try:
            if isinstance(record, Unreadable):
                raise Unusable(record.reason)  # noqa: TRY301 -- one place makes rejects
            row = _treat(read_record(record, source.fields), source)
            row = row if row.id else Row(fallback_id, row.question, row.cot, row.answer)
            _check_text(row, source)
        except (Unusable, Inconvertible) as error:
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
        steps = toy_steps(source)
        named = {"steps": list(steps)} if steps and steps != (MIN_STEPS, MAX_STEPS) else {}
        return identity | {"generator": 1, "seed": source.seed} | named
    if source.corpus == "generic":
        identity["fields"] = [source.fields.question, source.fields.cot, source.fields.answer, source.fields.id]
    if source.fields.last_number:
        identity["last_number"] = True
    identity |= {"calc": _calc(source), "latex": source.latex, "asymptote": source.asymptote}
    root, files = find_files(source.location, source.split)
    if files:
        return identity | {"files": {file.relative_to(root).as_posix(): _file_sha256(file) for file in files}}
    return identity | {"hub": source.location, "config": source.config, "revision": source.revision}


def _recognised(source: Source) -> Source:
    if source.corpus != AUTO:
        return source
    if not Path(source.location).exists() and toy_steps(source):
        return replace(source, corpus="toy")
    return replace(source, corpus=_recognise(list(islice(records_of(source), _PEEKED_RECORDS)), source))


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
            CORPORA[source.corpus](record, source.fields)
        except (Unusable, Inconvertible) as error:
            reasons.append(error)
    others = {name: len(_rows(head, replace(source, corpus=name))) for name in CORPORA if name != "toy"}
    best = max(others, key=lambda name: others[name])
    remedy = f"it reads as --corpus {best}" if others[best] else _REMEDY
    if others[best] or isinstance(reasons[0], FieldsMissing):
        raise SourceError(f"{source.location} is not a {source.corpus} corpus: {reasons[0]}; {remedy}")


def _check_any(head: list[tuple[str, Any]], source: Source) -> None:
    if not head:
        raise SourceError(f"{source.location} holds no records: is it the right file or split?")


def _rows(head: list[tuple[str, Any]], source: Source) -> list[Row]:
    """Those of the first records that the source's corpus can read."""
    rows = []
    for _, record in head:
        if not isinstance(record, Unreadable):
            try:
                rows.append(CORPORA[source.corpus](record, source.fields))
            except (Unusable, Inconvertible):
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


def _check_text(row: Row, source: Source) -> None:
    """Refuse rows that can't be trained on: nothing to draw, nothing to answer, text that is not Unicode."""
    if source.need_cot and not row.cot.strip():
        raise Unusable("the chain of thought is empty")
    if not row.question.strip() or not row.answer.strip():
        raise Unusable("the question or the answer is empty")
    try:
        f"{row.id}{row.question}{row.cot}{row.answer}".encode()
    except UnicodeEncodeError as error:
        raise Unusable(f"a lone surrogate or a byte that is not UTF-8, at character {error.start}") from None


def _repeats(hashes: array[int]) -> int:
    return len(hashes) - len(np.unique(np.frombuffer(hashes, dtype=np.int64)))


def _file_sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
