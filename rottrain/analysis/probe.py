"""Do the latents matter? Answers after the latents were changed, and what can be read in them.

Every change keeps question, number of latents and everything else; the answers are decoded by the path that answers
always take. Shares have Wilson's interval, changes in accuracy Newcombe's for paired proportions, both at 95%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tqdm import tqdm

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rottrain.analysis.interventions import INTERVENTIONS
from rottrain.analysis.position_probes import Position, in_words, read_positions
from rottrain.analysis.true_latents import TrueLatents, some_latents
from rottrain.config import Feedback
from rottrain.generation.generate import Budget, Generation, RoT
from rottrain.metrics import scoring
from rottrain.metrics.intervals import Estimate, paired_difference, share

MEANINGFUL = 0.05
"""A change in accuracy, and a share of answers that flip, from which on the verdict calls it an effect."""

Finding = Literal["carry", "carry a little", "move", "ignored", "unclear"]


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What became of the answers with something in the latents' place."""

    name: str
    says: str
    n: int
    """Questions, the same in every condition but for the true latents: those with a chain of thought."""
    accuracy: Estimate
    change: Estimate | None
    """In accuracy, against the model's own latents on the same questions; None for those themselves."""
    flips: Estimate | None
    """Share of answers that are not the same as after the model's own latents."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the changes say, in a word and in a sentence."""

    finding: Finding
    sentence: str


@dataclass(frozen=True, kw_only=True)
class Probed:
    """All that was found about the latents of a checkpoint on a corpus."""

    corpus: str
    budget: int
    """Latents of a thought, at most."""
    feedback: Feedback
    """What the model continued from."""
    seed: int
    verdict: Verdict
    conditions: list[Condition]
    positions: list[Position]
    """Those with enough characters to learn a probe from; none without chains of thought."""


def probe(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    rot: RoT,
    rows: Sequence[Row],
    *,
    corpus: str,
    truths: TrueLatents,
    budget: Budget = None,
    stop: float | None = None,
    feedback: Feedback | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Probed:
    """Ask the questions of `rows`, then answer each again after every change of its latents.

    Raises UsageError for fewer than two rows, or for a budget of 0.
    """
    if len(rows) < 2:
        raise UsageError(f"a question's latents are replaced by another's, so there must be two, got {len(rows)}")
    latents, fed_back = some_latents(rot, budget), rot.feedback(feedback)
    questions = [row.question for row in rows]
    kind: scoring.Kind = "math" if corpus.startswith("math") else "number"
    with tqdm(total=3 + len(INTERVENTIONS), unit="condition", disable=None) as bar:
        own = rot.generate(questions, budget=latents, stop=stop, feedback=fed_back, batch_size=batch_size)
        judged = _Judged(rows, own, kind)
        bar.update()
        thoughts = [made.latents_KD for made in own if made.latents_KD is not None]
        conditions = [judged.condition("own", "the model's own latents", own)]
        for number, intervention in enumerate(INTERVENTIONS):
            generator = torch.Generator().manual_seed(seed * len(INTERVENTIONS) + number)
            changed = intervention.change(thoughts, generator)
            answers = rot.answer(questions, changed, batch_size=batch_size)
            conditions.append(judged.condition(intervention.name, intervention.says, answers))
            bar.update()
        answers = rot.answer(questions, thoughts, hidden="latents", batch_size=batch_size)
        conditions.append(judged.condition("masked", "latents that the answer can't attend to", answers))
        bar.update()
        truth = truths.of(rows, latents)
        known = [number for number, each in enumerate(truth) if each is not None]
        if known:
            given = [each.latents_KD for each in truth if each is not None]
            answers = rot.answer([questions[number] for number in known], given, batch_size=batch_size)
            conditions.append(judged.condition("true", "the latents of the true strip", answers, known))
        bar.update()
    return Probed(
        corpus=corpus,
        budget=latents,
        feedback=fed_back,
        seed=seed,
        verdict=judge(conditions),
        conditions=conditions,
        positions=read_positions(rot, thoughts, truth, seed=seed),
    )


class _Judged:
    """Answers held against the references, and against those that the model gave from its own latents."""

    def __init__(self, rows: Sequence[Row], own: Sequence[Generation], kind: scoring.Kind) -> None:
        self._rows, self._kind = rows, kind
        self._own = [scoring.extract(made.reply) for made in own]
        self._right = self._correct(self._own, range(len(rows)))

    def condition(
        self, name: str, says: str, made: Sequence[Generation], numbers: Sequence[int] | None = None
    ) -> Condition:
        """The figures of some answers; `numbers` says of which rows, if not of all."""
        numbers = range(len(self._rows)) if numbers is None else numbers
        answers = [scoring.extract(each.reply) for each in made]
        right = self._correct(answers, numbers)
        itself = name == "own"
        flipped = [not self._same(answer, self._own[number]) for answer, number in zip(answers, numbers, strict=True)]
        return Condition(
            name=name,
            says=says,
            n=len(answers),
            accuracy=share(right),
            change=None if itself else paired_difference([self._right[number] for number in numbers], right),
            flips=None if itself else share(flipped),
        )

    def _correct(self, answers: Sequence[str], numbers: Sequence[int]) -> list[bool]:
        return [
            scoring.equal(answer, self._rows[number].answer, self._kind)
            for answer, number in zip(answers, numbers, strict=True)
        ]

    def _same(self, answer: str, other: str) -> bool:
        return answer == other or scoring.equal(answer, other, self._kind)


def judge(conditions: Sequence[Condition]) -> Verdict:
    """The verdict, from what another question's latents do: they look like latents and say something else.

    carry: accuracy falls by 5 points or more, by the interval's upper bound. carry a little: it falls, by any amount.
    move: it may not fall, but at least 5% of the answers change, by the lower bound. ignored: at most 5% change, by the
    upper bound, and so of answers that can't attend to latents. unclear: the intervals are too wide to tell.
    """
    by_name = {condition.name: condition for condition in conditions}
    own, swap, masked = (by_name[name] for name in ("own", "swap", "masked"))
    assert swap.change is not None
    assert swap.flips is not None
    assert masked.flips is not None
    figures = (
        f"with another question's latents accuracy goes from {100 * own.accuracy.value:.1f}% to "
        f"{100 * swap.accuracy.value:.1f}% ({swap.change.as_points()} points, 95% interval), and "
        f"{swap.flips.as_percent()} of the answers change"
    )
    if swap.change.high <= -MEANINGFUL:
        return Verdict(finding="carry", sentence=f"The latents carry the reasoning: {figures}.")
    if swap.change.high < 0:
        return Verdict(finding="carry a little", sentence=f"The latents carry a little of the reasoning: {figures}.")
    if swap.flips.low >= MEANINGFUL:
        return Verdict(
            finding="move", sentence=f"The latents move the answers, but not measurably to the right ones: {figures}."
        )
    if swap.flips.high <= MEANINGFUL and masked.flips.high <= MEANINGFUL:
        return Verdict(finding="ignored", sentence=f"The model ignores its latents: {figures}.")
    return Verdict(finding="unclear", sentence=f"{own.n} questions are too few to tell: {figures}.")


def as_table(probed: Probed) -> str:
    """The conditions as a Markdown table, what was read below it, and the verdict."""
    lines = [
        "| in the latents' place | n | accuracy | change in points | answers that change |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.says} | {each.n} | {each.accuracy.as_percent()} | {each.change.as_points() if each.change else '-'} "
        f"| {each.flips.as_percent() if each.flips else '-'} |"
        for each in probed.conditions
    ]
    if probed.positions:
        lines += ["", in_words(probed.positions)]
    return "\n".join([*lines, "", probed.verdict.sentence])
