"""Tables in the layout of the paper (arXiv 2601.14750), and its own figures beside ours where asked for.

Its figures: Qwen3-VL-4B-Instruct, accuracy in percent at temperature 1.0 and top-p 0.9, mean of five seeds; #L is the
mean number of reasoning tokens, latents for Render-of-Thought and text tokens of Qwen3's tokenizer for CoT.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from rottrain.evaluation.evaluate import Result, percent, tokens
from rottrain.evaluation.modes import Mode

SOURCE = "arXiv 2601.14750"
MODEL = "Qwen3-VL-4B"
GRADE_SCHOOL = ("GSM8k-Aug", "GSM-Hard", "SVAMP", "MultiArith")
MATH = "MATH"
_COLUMNS = {
    "gsm8k": "GSM8k-Aug",
    "gsm8k-aug": "GSM8k-Aug",
    "gsm8k-aug-nl": "GSM8k-Aug",
    "gsm-hard": "GSM-Hard",
    "svamp": "SVAMP",
    "multiarith": "MultiArith",
    "math": MATH,
}
"""Corpus -> column."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A line of the paper's main table."""

    method: str
    mode: Mode
    percent: dict[str, float]
    """By column."""
    average: float
    grade_school_tokens: float
    math_tokens: float


PAPER = (
    Published(
        method="SFT without CoT",
        mode="no-cot",
        percent={"GSM8k-Aug": 26.2, "GSM-Hard": 9.48, "SVAMP": 70.0, "MultiArith": 85.6, MATH: 29.4},
        average=47.8,
        grade_school_tokens=0,
        math_tokens=0,
    ),
    Published(
        method="SFT-CoT",
        mode="cot",
        percent={"GSM8k-Aug": 81.2, "GSM-Hard": 53.4, "SVAMP": 84.3, "MultiArith": 98.3, MATH: 55.8},
        average=79.3,
        grade_school_tokens=108.4,
        math_tokens=291.5,
    ),
    Published(
        method="RoT",
        mode="rot",
        percent={"GSM8k-Aug": 37.8, "GSM-Hard": 14.1, "SVAMP": 72.7, "MultiArith": 97.2, MATH: 33.2},
        average=55.4,
        grade_school_tokens=32,
        math_tokens=64,
    ),
)


def beside(result: Result) -> Result:
    """A result with the paper's figure for the same mode and corpus, if it has one."""
    column = _COLUMNS.get(result.corpus)
    [published] = [line for line in PAPER if line.mode == result.mode]
    if column is None:
        return result
    spent = published.math_tokens if column == MATH else published.grade_school_tokens
    figure = {
        "source": SOURCE,
        "model": MODEL,
        "accuracy": round(published.percent[column] / 100, 4),
        "reasoning_tokens": spent,
    }
    return dataclasses.replace(result, paper=figure)


def paper_table(results: Sequence[Result]) -> str:
    """A line a method and budget, a column a corpus, as the paper has it, in Markdown.

    The paper's own lines follow where results have its figures beside them; empty if no corpus has a column.
    """
    columns = [name for name in (*GRADE_SCHOOL, MATH) if any(_COLUMNS.get(each.corpus) == name for each in results)]
    if not columns:
        return ""
    schooled = [name for name in columns if name in GRADE_SCHOOL]
    head = [*schooled]
    if schooled:
        head += [*(["avg"] if len(schooled) == len(GRADE_SCHOOL) else []), "#L"]
    if MATH in columns:
        head += [MATH, "#L"]
    lines = [_line(["method", *head]), _line(["---"] * (len(head) + 1))]
    methods = dict.fromkeys((each.mode, each.budget, each.stop, each.answered_by) for each in results)
    for key in methods:
        own = {
            _COLUMNS[each.corpus]: each
            for each in results
            if (each.mode, each.budget, each.stop, each.answered_by) == key and each.corpus in _COLUMNS
        }
        if own:
            lines.append(_line([_method(next(iter(own.values()))), *_cells(own, columns)]))
    if any(each.paper for each in results):
        modes = {each.mode for each in results}
        lines += [
            _line([f"{line.method}, {MODEL} ({SOURCE})", *_published(line, columns)])
            for line in PAPER
            if line.mode in modes
        ]
    return "\n".join(lines)


def _method(result: Result) -> str:
    names = {"rot": "RoT", "cot": "CoT in words", "no-cot": "without CoT"}
    spent = "" if result.budget is None else f", {result.budget} latents"
    stopped = "" if result.stop is None else f" at most, stop {result.stop:g}"
    return f"{names[result.mode]} ({result.answered_by}{spent}{stopped})"


def _cells(own: dict[str, Result], columns: Sequence[str]) -> list[str]:
    schooled = [name for name in columns if name in GRADE_SCHOOL]
    cells = [percent(own[name]) if name in own else "-" for name in schooled]
    if schooled:
        if len(schooled) == len(GRADE_SCHOOL):
            whole = all(name in own for name in schooled)
            cells.append(f"{100 * fmean(own[name].accuracy for name in schooled):.1f}%" if whole else "-")
        answered = [own[name] for name in schooled if name in own]
        cells.append(tokens(answered) if answered else "-")
    if MATH in columns:
        cells += [percent(own[MATH]), tokens([own[MATH]])] if MATH in own else ["-", "-"]
    return cells


def _published(line: Published, columns: Sequence[str]) -> list[str]:
    schooled = [name for name in columns if name in GRADE_SCHOOL]
    cells = [f"{line.percent[name]:.3g}%" for name in schooled]
    if schooled:
        if len(schooled) == len(GRADE_SCHOOL):
            cells.append(f"{line.average:.3g}%")
        cells.append(f"{line.grade_school_tokens:g}")
    if MATH in columns:
        cells += [f"{line.percent[MATH]:.3g}%", f"{line.math_tokens:g}"]
    return cells


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
