"""Rows in memory as a source: written out once, so that all that reads files reads them, as often as it likes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rotdata.corpora.readers import Row
from rotdata.corpora.rows import resolve
from rotdata.corpora.source import AUTO, Source
from rotdata.errors import UsageError

Rows = Iterable[Row | Mapping[str, Any]]
"""Rows, or mappings with the fields of a corpus: a list, a generator, a `datasets.Dataset`."""

SPOOLED = "rows.jsonl"
"""What a manifest calls the file of rows that were in memory."""


@contextmanager
def opened(source: str | Path | Source | Rows, **reading: Any) -> Iterator[Source]:
    """What can be read as a source: a location, a Source, or rows, each of which is asked for once.

    `reading` are the other fields of a Source. Rows are identified by the SHA-256 of their JSON, a line each with its
    keys sorted: the same rows make the same shards, whatever held them. Question and answer do where no
    chain of thought is needed. Raises UsageError for what are no rows, and as `resolve` does.
    """
    if isinstance(source, Source):
        if reading:
            raise UsageError(f"a Source says itself how it is read: put {', '.join(reading)} into it")
        yield resolve(source)
    elif isinstance(source, str | Path):
        yield resolve(Source(location=str(source), **reading))
    else:
        with tempfile.TemporaryDirectory(prefix="rotdata-") as folder:
            file = Path(folder) / SPOOLED
            only_rows = _spool(source if reading.get("need_cot", True) else map(_asked, source), file)
            if only_rows and reading.get("corpus", AUTO) == AUTO:
                reading["corpus"] = "generic"
            yield resolve(Source(location=str(file), **reading))


def _asked(row: Any) -> Any:
    """A mapping of question and bare answer as one with a chain of thought, which is empty; else the row as it is."""
    bare = isinstance(row, Mapping) and {"question", "answer"} <= row.keys() <= {"question", "answer", "id"}
    return {**row, "cot": ""} if bare and "####" not in str(row["answer"]) else row


def _spool(rows: Rows, file: Path) -> bool:
    """Write rows as JSON lines; whether all of them are Rows, which are of no corpus' form."""
    only_rows = True
    with file.open("wb") as stream:
        for number, row in enumerate(rows):
            only_rows &= isinstance(row, Row)
            stream.write(_line(row, number))
    return only_rows


def _line(row: Any, number: int) -> bytes:
    if isinstance(row, Row):
        row = asdict(row)
    if not isinstance(row, Mapping) or not all(isinstance(name, str) for name in row):
        raise UsageError(
            f"row {number} is {type(row).__name__}, not a rotdata.Row or a mapping of field names to values: "
            'give a list of {"question": ..., "cot": ..., "answer": ...}'
        )
    try:
        return json.dumps(dict(row), sort_keys=True).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"row {number} holds what is neither text nor number ({error}): leave that field out"
        ) from None
