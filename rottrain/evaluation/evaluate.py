"""Accuracy, reasoning tokens and time of a model on a corpus: thinking in latents, in words, or not at all.

A row whose generation fails counts as wrong, and so does one without an answer: no row leaves the denominator.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import fmean
from typing import Any

from tqdm import tqdm

from rotdata.console import say
from rotdata.corpora import Row, Source, read
from rotdata.corpora.tokens import TokenCounter
from rotdata.errors import UsageError
from rottrain.config import Feedback
from rottrain.evaluation.distributed import ALONE, Ranks
from rottrain.evaluation.modes import Answerer, Candidate, Mode, thinker, untaught
from rottrain.generation.decoding import GREEDY, Sampling
from rottrain.generation.feedback import UNSURE
from rottrain.generation.generate import Budget, Generation, RoT, Timings
from rottrain.metrics import scoring
from rottrain.metrics.intervals import Estimate, mean_share, share
from rottrain.training.trainer import is_main

MOST_VOTES = 10_000


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Rows to answer, and how."""

    corpus: str
    rows: Sequence[Row]
    samplings: Sequence[Sampling] = (GREEDY,)
    """One a run: several runs differ in their seeds."""
    votes: int = 1
    """Samples of each question in a run, by seeds of their own, of which the majority's answer counts."""
    batch_size: int = 32
    counter: TokenCounter | None = None
    """Counts the reasoning's text in tokens of another tokenizer than the model's."""

    def __post_init__(self) -> None:
        """Raise UsageError for what can't be answered."""
        if not self.rows:
            raise UsageError("there are no rows to evaluate on")
        if self.batch_size < 1:
            raise UsageError(f"the batch size is at least 1, got {self.batch_size}")
        if not 1 <= self.votes <= MOST_VOTES:
            raise UsageError(f"a question has 1 to {MOST_VOTES} votes, got {self.votes}")
        if self.votes > 1 and not all(each.temperature for each in self.samplings):
            raise UsageError(
                f"{self.votes} votes at temperature 0 are the same {self.votes} times: leave --votes out, or sample"
            )


def gradable_rows(source: Source) -> list[Row]:
    """Rows of a corpus that can be graded; of the others it is said that they are left out."""
    rows = []
    for row in read(source):
        if isinstance(row, Row):
            rows.append(row)
        elif is_main():
            say(f"left out, since it can't be graded: {row.id}: {row.reason}")
    return rows


def samplings(
    seeds: int, *, votes: int = 1, temperature: float | None = None, top_p: float | None = None
) -> list[Sampling]:
    """How each run is sampled: by default one greedily, several, and votes, as the paper does. Raises UsageError."""
    if seeds < 1:
        raise UsageError(f"--seeds counts runs and is at least 1, got {seeds}")
    several = seeds > 1 or votes > 1
    chosen = (1.0 if several else 0.0) if temperature is None else temperature
    if seeds > 1 and chosen == 0:
        raise UsageError(f"{seeds} runs at temperature 0 are the same {seeds} times: leave --seeds out, or sample")
    share_of = (0.9 if several else 1.0) if top_p is None else top_p
    return [Sampling(temperature=chosen, top_p=share_of, seed=seed) for seed in range(seeds)]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """One row of one run."""

    row: Row
    generation: Generation | None
    """None if it failed. Of several samples the first that says what the majority says."""
    answer: str
    """What the reply declares."""
    correct: bool
    flexible_answer: str = ""
    """Its last number, whatever stands around it; see `scoring.extract_flexible`."""
    flexible_correct: bool = False
    error: str | None = None
    samples: Sequence[Judged] = ()
    """What the majority is of; none where there was no vote."""
    votes: int | None = None
    """How many of them say the answer."""

    @property
    def made(self) -> list[Generation]:
        """All that was generated for the row."""
        return [each.generation for each in self.samples or [self] if each.generation is not None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the table."""

    mode: Mode
    corpus: str
    n: int
    accuracy: float
    """Share of rows whose declared answer is right, 0 to 1; the mean over runs."""
    reasoning_tokens: float
    """Mean over the rows that did not fail: latents, or text tokens before the answer mark; where there was a vote, of
    all samples together, as all other tokens and seconds are."""
    seconds_per_question: float
    budget: int | None
    """Latents allowed; None for modes without latents."""
    failures: int
    """Rows whose generation failed, in all runs; they count as wrong."""
    interval: dict[str, Any] | None = None
    """95% interval of the accuracy: low, high, method."""
    flexible_accuracy: float | None = None
    """The same for the last number of each reply."""
    flexible_interval: dict[str, Any] | None = None
    answered_by: str = ""
    seeds: int = 1
    """Runs."""
    accuracies: list[float] = field(default_factory=list)
    """Of each run."""
    temperature: float = 0.0
    top_p: float = 1.0
    stop: float | None = None
    feedback: Feedback | None = None
    """What the model continued from; None for modes without latents."""
    read: dict[str, int] | None = None
    """What picture feedback read, in all runs: latents; drawn, of characters that were not in the book; unnamed, fed
    back as they were predicted; unsure, below a confidence of UNSURE. None without it."""
    votes: int = 1
    """Samples of each question in a run; where there are several, accuracy is the majority's."""
    single_accuracy: float | None = None
    """Of the samples themselves; None where there was no vote."""
    agreement: float | None = None
    """Mean share of a question's samples that say what the majority says."""
    cut: int = 0
    """Replies, of all runs, that ended only at the most tokens allowed."""
    answer_tokens: float = 0.0
    """Mean tokens decoded, one pass each; in words the reasoning's among them."""
    timings: dict[str, float] = field(default_factory=dict)
    """Mean seconds of a question by part."""
    text_tokens: float | None = None
    """Mean tokens of the reasoning's text in `tokenizer`; None where it is no text."""
    tokenizer: str | None = None
    paper: dict[str, Any] | None = None
    """The paper's figure for the same, where asked for: model, accuracy, reasoning_tokens."""
    renumbered: dict[str, Any] | None = None
    """The same questions with other numbers, where asked for; see `renumbered.compare`."""


def evaluate(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    rot: RoT,
    rows: Sequence[Row],
    mode: Mode,
    *,
    corpus: str,
    budget: Budget = None,
    stop: float | None = None,
    feedback: Feedback | None = None,
    sampling: Sampling = GREEDY,
    votes: int = 1,
    batch_size: int = 32,
    keep_latents: bool = False,
) -> tuple[Result, list[Judged]]:
    """Answer every row once, or as often as it has votes, in one mode; in words and at once with the base model.

    Latents are dropped unless `keep_latents`: a thousand rows of them are a gigabyte at a width of 2560.
    """
    exam = Exam(corpus=corpus, rows=rows, samplings=[sampling], votes=votes, batch_size=batch_size)
    candidate = thinker(rot, budget=budget, stop=stop, feedback=feedback) if mode == "rot" else untaught(mode, rot.base)
    judged = poll(candidate, exam, sampling, keep_latents=keep_latents)
    return summarise(candidate, exam, [judged]), judged


def examine(candidate: Candidate, exam: Exam, ranks: Ranks = ALONE) -> tuple[Result, list[list[Judged]]]:
    """Take an exam as often as it has samplings, its rows shared out among the processes: the result, and every run."""
    runs = [
        ranks.gather(poll(candidate, dataclasses.replace(exam, rows=own), sampling, shown=ranks.is_main))
        if (own := ranks.share(exam.rows))
        else ranks.gather([])
        for sampling in exam.samplings
    ]
    return summarise(candidate, exam, runs), runs


def poll(
    candidate: Candidate, exam: Exam, sampling: Sampling, *, keep_latents: bool = False, shown: bool = True
) -> list[Judged]:
    """One run: every row answered and judged once, or sampled as often as it has votes and judged by their majority."""
    if exam.votes == 1:
        return take(candidate, exam, sampling, keep_latents=keep_latents, shown=shown)
    first = sampling.seed * exam.votes
    samples = [
        take(candidate, exam, dataclasses.replace(sampling, seed=seed), keep_latents=keep_latents, shown=shown)
        for seed in range(first, first + exam.votes)
    ]
    kind = scoring.kind_of(exam.corpus)
    return [_elected(of_row, kind) for of_row in zip(*samples, strict=True)]


def take(
    candidate: Candidate, exam: Exam, sampling: Sampling, *, keep_latents: bool = False, shown: bool = True
) -> list[Judged]:
    """Answer and judge every row once, in order."""
    kind = scoring.kind_of(exam.corpus)
    judged: list[Judged] = []
    label = f"{exam.corpus} {candidate.mode}" + (f" {candidate.budget}" if candidate.mode == "rot" else "")
    with tqdm(total=len(exam.rows), unit="question", desc=label, disable=None if shown else True) as bar:
        for start in range(0, len(exam.rows), exam.batch_size):
            batch = exam.rows[start : start + exam.batch_size]
            entries = _judge_batch(batch, candidate.answer, sampling, kind)
            judged += entries if keep_latents else map(_without_latents, entries)
            bar.update(len(batch))
    return judged


def summarise(candidate: Candidate, exam: Exam, runs: Sequence[Sequence[Judged]]) -> Result:
    """What the runs of a candidate come to."""
    answered = [entry.made for run in runs for entry in run if entry.generation is not None]
    everything = [each for made in answered for each in made]
    samples = [sample for run in runs for entry in run for sample in entry.samples]
    strict = [[entry.correct for entry in run] for run in runs]
    flexible = [[entry.flexible_correct for entry in run] for run in runs]
    counter = exam.counter if candidate.mode != "rot" else None
    sampling = exam.samplings[0]

    def mean(of: Callable[[Generation], float], digits: int) -> float:
        """Over the rows that did not fail, each with all of its samples."""
        return round(fmean(sum(map(of, made)) for made in answered), digits) if answered else 0.0

    def text_tokens(counter: TokenCounter) -> float:
        counts = counter.count([scoring.reasoning(each.reply) for each in everything])
        return round(sum(counts) / max(1, len(answered)), 2)

    return Result(
        mode=candidate.mode,
        corpus=exam.corpus,
        n=len(exam.rows),
        accuracy=_estimate(strict).value,
        interval=_interval(strict),
        flexible_accuracy=_estimate(flexible).value,
        flexible_interval=_interval(flexible),
        reasoning_tokens=mean(attrgetter("reasoning_tokens"), 2),
        seconds_per_question=mean(attrgetter("seconds"), 5),
        budget=candidate.budget,
        failures=sum(map(len, runs)) - len(answered),
        answered_by=candidate.name,
        seeds=len(runs),
        accuracies=[fmean(run) for run in strict],
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        stop=candidate.stop,
        feedback=candidate.feedback,
        read=_read(everything),
        votes=exam.votes,
        single_accuracy=fmean(sample.correct for sample in samples) if samples else None,
        agreement=fmean((entry.votes or 0) / exam.votes for run in runs for entry in run) if samples else None,
        cut=sum(not each.complete for each in everything),
        answer_tokens=mean(attrgetter("answer_tokens"), 2),
        timings={name: mean(attrgetter(f"timings.{name}"), 5) for name in vars(Timings())},
        text_tokens=text_tokens(counter) if counter else None,
        tokenizer=counter.name if counter else None,
    )


def _elected(samples: Sequence[Judged], kind: scoring.Kind) -> Judged:
    """What a row's samples come to: the first that says what most say, strictly and flexibly each."""
    strictly = scoring.elect([each.answer for each in samples], kind)
    flexibly = scoring.elect([each.flexible_answer for each in samples], kind)
    answered = [number for number, each in enumerate(samples) if each.generation is not None]
    first = samples[next(iter((*strictly, *answered, 0)))]
    flexible = samples[flexibly[0]] if flexibly else first
    return dataclasses.replace(
        first,
        flexible_answer=flexible.flexible_answer,
        flexible_correct=flexible.flexible_correct,
        samples=samples,
        votes=len(strictly),
    )


def _read(made: Sequence[Generation]) -> dict[str, int] | None:
    """What picture feedback read in all of these."""
    thoughts = [each.thought for each in made if each.thought is not None]
    if not thoughts:
        return None
    return {
        "latents": sum(len(thought.texts) for thought in thoughts),
        "drawn": sum(thought.drawn for thought in thoughts),
        "unnamed": sum(thought.unnamed for thought in thoughts),
        "unsure": sum(sum(thought.unsure(UNSURE)) for thought in thoughts),
    }


def _estimate(runs: Sequence[Sequence[bool]]) -> Estimate:
    return share(runs[0]) if len(runs) == 1 else mean_share([fmean(run) for run in runs])


def _interval(runs: Sequence[Sequence[bool]]) -> dict[str, Any]:
    seen = _estimate(runs)
    method = "Wilson over questions" if len(runs) == 1 else "Student's t over seeds"
    return {"low": round(seen.low, 5), "high": round(seen.high, 5), "method": method}


def _judge_batch(rows: Sequence[Row], answer: Answerer, sampling: Sampling, kind: scoring.Kind) -> list[Judged]:
    """Answer a batch; if that fails, each half on its own, so that one bad row fails alone."""
    try:
        generations = answer([row.question for row in rows], sampling)
    except (RuntimeError, ValueError, IndexError) as error:  # out of memory, too long for the model, ...
        if len(rows) > 1:
            halves = (rows[: len(rows) // 2], rows[len(rows) // 2 :])
            return [judged for half in halves for judged in _judge_batch(half, answer, sampling, kind)]
        return [
            Judged(row=rows[0], generation=None, answer="", correct=False, error=f"{type(error).__name__}: {error}")
        ]
    return [_judge(row, generation, kind) for row, generation in zip(rows, generations, strict=True)]


def _judge(row: Row, generation: Generation, kind: scoring.Kind) -> Judged:
    answer = scoring.extract(generation.reply)
    flexible = scoring.extract_flexible(generation.reply, kind)
    return Judged(
        row=row,
        generation=generation,
        answer=answer,
        correct=scoring.equal(answer, row.answer, kind),
        flexible_answer=flexible,
        flexible_correct=scoring.equal(flexible, row.answer, kind),
    )


def _without_latents(judged: Judged) -> Judged:
    if judged.generation is None:
        return judged
    thought = judged.generation.thought
    bare = None if thought is None else dataclasses.replace(thought, predicted_KD=None)
    return dataclasses.replace(judged, generation=dataclasses.replace(judged.generation, latents_KD=None, thought=bare))


def as_table(results: Sequence[Result]) -> str:
    """Results as a Markdown table for people."""
    lines = [
        "| mode | answered by | corpus | n | accuracy | flexible | reasoning tokens | s/question | budget |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        flexible = "-" if result.flexible_accuracy is None else f"{result.flexible_accuracy:.1%}"
        lines.append(
            f"| {result.mode} | {result.answered_by or '-'} | {result.corpus} | {result.n} | {percent(result)} "
            f"| {flexible} | {tokens([result])} | {result.seconds_per_question:.4f} "
            f"| {'-' if result.budget is None else result.budget} |"
        )
    return "\n".join(lines)


def notes(results: Sequence[Result]) -> str:
    """What a reader of the tables has to know."""
    said = [
        "Accuracy: the answer that a reply declares is right; flexible: its last number is. Failures count as wrong."
    ]
    if methods := sorted({result.interval["method"] for result in results if result.interval}):
        said.append(f"In brackets 95% intervals: {', '.join(methods)}.")
    if names := {result.tokenizer for result in results if result.tokenizer}:
        said.append(
            f"Reasoning tokens are latents, or the model's own text tokens; in brackets those of {names.pop()}."
        )
    said += [_of_votes(result) for result in results if result.votes > 1]
    if read := [result.read for result in results if result.read]:
        latents, drawn, unnamed, unsure = (
            sum(each[name] for each in read) for name in ("latents", "drawn", "unnamed", "unsure")
        )
        said.append(
            f"Of {latents} latents that were read, {drawn} showed characters that were not in the book, {unnamed} "
            f"could not be named and were fed back as predicted, {unsure} were read with a confidence below {UNSURE:g}."
        )
    if compared := [result.renumbered for result in results if result.renumbered]:
        left_out = max(sum(each["left_out"].values()) for each in compared)
        said.append(f"With other numbers: {compared[0]['times']} times each; up to {left_out} of a corpus can't be.")
    if failures := sum(result.failures for result in results):
        said.append(f"Generation failed for {failures} questions.")
    if cut := sum(result.cut for result in results):
        said.append(f"{cut} replies were cut at the most tokens allowed.")
    return " ".join(said)


def _of_votes(result: Result) -> str:
    """What a vote has given."""
    assert result.single_accuracy is not None
    assert result.agreement is not None
    return (
        f"{result.mode} on {result.corpus}: the majority of {result.votes} samples is right in {result.accuracy:.1%}, "
        f"a single sample in {result.single_accuracy:.1%}; {result.agreement:.1%} of them say what the majority says; "
        "tokens and seconds are those of all together."
    )


def percent(result: Result) -> str:
    """An accuracy with its 95% interval: "37.8% [35.2, 40.4]"."""
    if result.interval is None:
        return f"{result.accuracy:.1%}"
    return Estimate(result.accuracy, result.interval["low"], result.interval["high"]).as_percent()


def tokens(results: Sequence[Result]) -> str:
    """Mean reasoning tokens, latents or text tokens of the model; in brackets those of another tokenizer."""
    own = f"{fmean(result.reasoning_tokens for result in results):.1f}"
    counted = [result.text_tokens for result in results if result.text_tokens is not None]
    return f"{own} ({fmean(counted):.1f})" if counted else own
