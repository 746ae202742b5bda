"""Accuracy, reasoning tokens and time of a checkpoint, and of its base model in words and at once.

A row whose generation fails counts as wrong: no row leaves the denominator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

from tqdm import tqdm

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rottrain import generate, scoring
from rottrain.generate import Generation, RoT

Mode = Literal["rot", "cot", "no-cot"]
MODES: tuple[Mode, ...] = ("rot", "cot", "no-cot")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One row of an evaluation."""

    row: Row
    generation: Generation | None
    """None if it failed."""
    answer: str
    correct: bool
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table."""

    mode: Mode
    corpus: str
    n: int
    accuracy: float
    """Share of rows answered correctly, 0 to 1."""
    reasoning_tokens: float
    """Mean over the rows that did not fail: latents, or text tokens before the answer mark."""
    seconds_per_question: float
    budget: int | None
    """Latents allowed; None for modes without latents."""
    failures: int
    """Rows whose generation failed; they count as wrong."""


def evaluate(
    rot: RoT,
    rows: Sequence[Row],
    mode: Mode,
    *,
    corpus: str,
    budget: generate.Budget = None,
    stop: float | None = None,
    batch_size: int = 32,
    keep_latents: bool = False,
) -> tuple[Result, list[Judged]]:
    """Answer every row in one mode. cot and no-cot use the base model, without the checkpoint's adapter.

    Latents are dropped unless `keep_latents`: a thousand rows of them are a gigabyte at a width of 2560.
    """
    if not rows:
        raise UsageError("there are no rows to evaluate on")
    if batch_size < 1:
        raise UsageError(f"the batch size is at least 1, got {batch_size}")
    answer: dict[Mode, Callable[[list[str]], list[Generation]]] = {
        "rot": lambda questions: rot.generate(questions, budget=budget, stop=stop, batch_size=batch_size),
        "cot": lambda questions: generate.in_words(rot.base, questions, batch_size=batch_size),
        "no-cot": lambda questions: generate.at_once(rot.base, questions, batch_size=batch_size),
    }
    kind: scoring.Kind = "math" if corpus.startswith("math") else "number"
    judged: list[Judged] = []
    with (
        nullcontext() if mode == "rot" else rot.base.base(),
        tqdm(total=len(rows), unit="question", desc=mode, disable=None) as bar,
    ):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            judged += [
                entry if keep_latents else _without_latents(entry) for entry in _judge_batch(batch, answer[mode], kind)
            ]
            bar.update(len(batch))
    made = [entry.generation for entry in judged if entry.generation is not None]
    count = max(1, len(made))
    result = Result(
        mode=mode,
        corpus=corpus,
        n=len(rows),
        accuracy=sum(entry.correct for entry in judged) / len(rows),
        reasoning_tokens=round(sum(generation.reasoning_tokens for generation in made) / count, 2),
        seconds_per_question=round(sum(generation.seconds for generation in made) / count, 5),
        budget=rot.budget(budget) if mode == "rot" else None,
        failures=len(rows) - len(made),
    )
    return result, judged


def _judge_batch(
    rows: Sequence[Row], answer: Callable[[list[str]], list[Generation]], kind: scoring.Kind
) -> list[Judged]:
    """Answer a batch; if that fails, each row on its own, so that one bad row fails alone."""
    try:
        generations = answer([row.question for row in rows])
    except (RuntimeError, ValueError, IndexError) as error:  # out of memory, too long for the model, ...
        if len(rows) > 1:
            return [judged for row in rows for judged in _judge_batch([row], answer, kind)]
        return [
            Judged(row=rows[0], generation=None, answer="", correct=False, error=f"{type(error).__name__}: {error}")
        ]
    return [_judge(row, generation, kind) for row, generation in zip(rows, generations, strict=True)]


def _judge(row: Row, generation: Generation, kind: scoring.Kind) -> Judged:
    answer = scoring.extract(generation.reply)
    correct = scoring.equal(answer, row.answer, kind)
    return Judged(row=row, generation=generation, answer=answer, correct=correct)


def _without_latents(judged: Judged) -> Judged:
    if judged.generation is None:
        return judged
    return dataclasses.replace(judged, generation=dataclasses.replace(judged.generation, latents_KD=None))


def as_table(results: Sequence[Result]) -> str:
    """Results as a Markdown table for people."""
    lines = [
        "| mode | corpus | n | accuracy | reasoning tokens | s/question | budget |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {result.mode} | {result.corpus} | {result.n} | {result.accuracy:.1%} | {result.reasoning_tokens:.1f} "
        f"| {result.seconds_per_question:.4f} | {result.budget or '-'} |"
        for result in results
    ]
    return "\n".join(lines)
