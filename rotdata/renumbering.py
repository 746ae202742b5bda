"""A corpus -> a file of its rows with other numbers, in the form of its corpus, and what was left out and why."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from rotdata.corpora import Reject, Row, Source, read, resolve
from rotdata.corpora.chains import Chain, wording_of
from rotdata.corpora.readers import Unusable
from rotdata.corpora.records import record_of
from rotdata.corpora.source import count_records
from rotdata.corpora.wordings import Wording, is_held_out
from rotdata.errors import SourceError, UsageError
from rotdata.output import being_written, check_output

UNREADABLE = "it can't be read"
EXHAUSTED = "no other numbers keep its results of their kind"


@dataclass(frozen=True, kw_only=True)
class Renumbering:
    """How rows are renumbered."""

    times: int = 1
    """Rows made of each row, with other numbers each time."""
    seed: int = 0
    chain: Chain = "own"
    largest: int | None = None
    """No number that is drawn and no result of it is larger."""
    hold_out: float = 0.0
    """Share of the wordings that is kept apart."""

    def __post_init__(self) -> None:
        """Raise UsageError for what can't be made."""
        if self.times < 1:
            raise UsageError(f"--times counts the rows made of each row and is at least 1, got {self.times}")
        if self.largest is not None and self.largest < 1:
            raise UsageError(f"--largest is a number that results may reach, at least 1, got {self.largest}")
        if not 0 <= self.hold_out < 1:
            raise UsageError(f"--hold-out is a share of the wordings below 100%, got {self.hold_out:.0%}")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What came of it."""

    rows_in: int
    rows_renumbered: int
    """Rows that at least one row was made of."""
    wordings: int
    """Of these, told apart by their words, names and numbers aside."""
    rows_out: int
    rows_held_out: int
    """Written into the file of held-out wordings."""
    rows_short: int
    """Rows that had fewer other numbers than were asked for."""
    left_out: dict[str, int]
    """Reason -> rows, the most frequent first."""
    seconds: float


def renumber(
    source: Source, out: Path, settings: Renumbering, *, held_out: Path | None = None, left_out: Path | None = None
) -> Summary:
    """Write the rows of a source with other numbers to `out`, those of held-out wordings to `held_out` alone.

    `left_out` gets a line a row that nothing is made of, with the reason. Raises SourceError if that is so of all.
    """
    source = resolve(replace(source, calc="keep"))
    form = source.corpus if settings.chain == "own" else "gsm8k-aug"
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    keys: set[str] = set()
    started = time.monotonic()
    for path, option in ((out, "--out"), (held_out, "--hold-out"), (left_out, "--left-out")):
        check_output(path, option)
    with ExitStack() as files:
        kept = files.enter_context(being_written(out))
        apart = held_out and files.enter_context(being_written(held_out))
        why = left_out and files.enter_context(being_written(left_out))
        total = count_records(source)
        for row in tqdm(read(source), total=total, unit="row", desc="renumber", disable=None):
            counts["in"] += 1
            try:
                wording = _wording(row, settings)
                made = list(wording.renumbered(settings.times, settings.seed))
                if not made:
                    raise Unusable(EXHAUSTED)  # noqa: TRY301 -- one place leaves out
            except Unusable as reason:
                reasons[UNREADABLE if isinstance(row, Reject) else str(reason)] += 1
                if why:
                    _write(why, {"id": row.id, "reason": str(reason)})
                continue
            keys.add(wording.key)
            file, place = (apart, "apart") if apart and is_held_out(wording.key, settings.hold_out) else (kept, "out")
            counts.update({"renumbered": 1, "short": len(made) < settings.times, place: len(made)})
            for each in made:
                _write(file, record_of(each, form))
        if not counts["renumbered"]:
            raise SourceError(_nothing(source, reasons))
    return Summary(
        rows_in=counts["in"],
        rows_renumbered=counts["renumbered"],
        wordings=len(keys),
        rows_out=counts["out"],
        rows_held_out=counts["apart"],
        rows_short=counts["short"],
        left_out=dict(reasons.most_common()),
        seconds=round(time.monotonic() - started, 3),
    )


def _wording(row: Row | Reject, settings: Renumbering) -> Wording:
    if isinstance(row, Reject):
        raise Unusable(row.reason)
    return wording_of(row, settings.chain, largest=settings.largest)


def _nothing(source: Source, reasons: Counter[str]) -> str:
    [(reason, count)] = reasons.most_common(1)
    return (
        f"no row of {source.location} can be renumbered, {count} of {reasons.total()} since {reason}: it takes "
        "questions in English with GSM8K's or GSM8k-Aug's marks <<...>>, or an equation, as SVAMP and MultiArith have"
    )


def _write(stream: IO[bytes], record: dict[str, Any]) -> None:
    stream.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
