"""The same questions with other numbers: how much of an accuracy is left when no answer can be remembered."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from rotdata.corpora import Row, Source, read
from rotdata.corpora.chains import wording_of
from rotdata.corpora.readers import Unusable
from rotdata.errors import SourceError
from rottrain.evaluation.distributed import ALONE, Ranks
from rottrain.evaluation.evaluate import Exam, Judged, Result, examine
from rottrain.evaluation.modes import Candidate
from rottrain.metrics.intervals import Estimate, mean_difference, mean_share, paired_difference, share

TOO_FEW = "it has too few other numbers"


@dataclass(frozen=True, kw_only=True)
class OtherNumbers:
    """Questions of a corpus that can be asked with other numbers, each so often."""

    times: int
    rows: dict[str, list[Row]]
    """Id -> its row with other numbers."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Why the other rows can't be: reason -> rows."""


def other_numbers(source: Source, times: int, seed: int = 0) -> OtherNumbers:
    """Rows of a source with other numbers; of repeated ids the first. Raises SourceError if there is none.

    The chain of thought is needed to compute the answers, calculator marks and all; its words are not.
    """
    rows: dict[str, list[Row]] = {}
    reasons: Counter[str] = Counter()
    for row in read(dataclasses.replace(source, calc="keep")):
        if not isinstance(row, Row) or row.id in rows:
            continue
        try:
            made = list(wording_of(row, "steps").renumbered(times, seed))
            if len(made) < times:
                raise Unusable(TOO_FEW)  # noqa: TRY301 -- one place leaves out
        except Unusable as reason:
            reasons[str(reason)] += 1
        else:
            rows[row.id] = made
    if not rows:
        why = f", since {reasons.most_common(1)[0][0]}" if reasons else ""
        raise SourceError(
            f"no question of {source.location} can be asked with other numbers{why}: --renumber takes corpora whose "
            "chains of thought have marks <<...>>, or an equation"
        )
    return OtherNumbers(times=times, rows=rows, left_out=dict(reasons.most_common()))


def examine_again(
    candidate: Candidate, exam: Exam, runs: Sequence[Sequence[Judged]], others: OtherNumbers, ranks: Ranks = ALONE
) -> tuple[dict[str, Any], Result, list[list[Judged]]]:
    """Ask an exam's questions with other numbers: how they compare with its runs; the result of that, and every run."""
    ids = list(dict.fromkeys(row.id for row in exam.rows if row.id in others.rows))
    again = dataclasses.replace(exam, rows=[row for each in ids for row in others.rows[each]])
    result, asked = examine(candidate, again, ranks)
    verdicts = [{entry.row.id: entry.correct for entry in reversed(run)} for run in runs]  # of repeated ids the first
    standing = [[run[each] for run in verdicts] for each in ids]
    drawn = [
        [entry.correct for run in asked for entry in run[start : start + others.times]]
        for start in range(0, len(again.rows), others.times)
    ]
    return compare(standing, drawn, others), result, asked


def compare(
    standing: Sequence[Sequence[bool]], drawn: Sequence[Sequence[bool]], others: OtherNumbers
) -> dict[str, Any]:
    """What the verdicts on each question come to: as it stands in each run, and with other numbers, run by run.

    Several verdicts on one question are no several questions: intervals are over questions. `n` counts those that can
    be asked with other numbers; the others are in no figure here.
    """
    differences = [fmean(after) - fmean(before) for before, after in zip(standing, drawn, strict=True)]
    if set(differences) <= {-1.0, 0.0, 1.0}:  # as they are of one verdict each
        difference = paired_difference([each[0] for each in standing], [each[0] for each in drawn])
        method = "Newcombe over pairs"
    else:
        difference, method = mean_difference(differences), "Student's t over questions"
    return {
        "times": others.times,
        "n": len(standing),
        **_accuracy("", standing),
        **_accuracy("renumbered_", drawn),
        "difference": difference.value,
        "difference_interval": _interval(difference, method),
        "accuracies": [
            fmean(verdict for each in drawn for verdict in each[time :: others.times]) for time in range(others.times)
        ],
        "left_out": others.left_out,
    }


def as_table(results: Sequence[Result]) -> str:
    """Comparisons as a Markdown table for people; empty without any."""
    lines = []
    for result in results:
        if found := result.renumbered:
            standing, drawn = (_estimate(found, name).as_percent() for name in ("accuracy", "renumbered_accuracy"))
            budget = "-" if result.budget is None else result.budget
            lines.append(
                f"| {result.mode} | {result.answered_by or '-'} | {result.corpus} | {budget} | {found['n']} "
                f"| {standing} | {drawn} | {_estimate(found, 'difference').as_points()} |"
            )
    if not lines:
        return ""
    head = "| mode | answered by | corpus | budget | questions | as they stand | other numbers | difference |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *lines])


def _accuracy(prefix: str, verdicts: Sequence[Sequence[bool]]) -> dict[str, Any]:
    shares = [fmean(each) for each in verdicts]
    if set(shares) <= {0.0, 1.0}:
        found, method = share([each[0] for each in verdicts]), "Wilson over questions"
    else:
        found, method = mean_share(shares), "Student's t over questions"
    return {f"{prefix}accuracy": found.value, f"{prefix}interval": _interval(found, method)}


def _interval(found: Estimate, method: str) -> dict[str, Any]:
    return {"low": round(found.low, 5), "high": round(found.high, 5), "method": method}


def _estimate(found: dict[str, Any], name: str) -> Estimate:
    interval = found[name.replace("accuracy", "interval") if "accuracy" in name else f"{name}_interval"]
    return Estimate(found[name], interval["low"], interval["high"])
