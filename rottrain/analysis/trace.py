"""What did the model think? One question's latents: read back, looked up, drawn, and what the answer makes of them.

Two readers stand side by side. The model reads itself: its latents are a picture to the base model, which transcribes
them; the glyph probe reads each of them alone. And the nearest pictures: of each latent the target latents that lie
nearest, with the columns and characters that they stand for.

Shapes: K latents of a row, D embedding width.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rotdata.rendering.png import encode_png
from rotdata.shards import EmbeddingShards
from rottrain.analysis.attention import Attention, answer_attention
from rottrain.analysis.last_latent import chances_of_last, told
from rottrain.analysis.nearest import LatentIndex, Neighbour
from rottrain.analysis.read_back import Piece, Reading, error_rate, spell
from rottrain.analysis.read_back_methods import READERS, Reader, read_back, scaled
from rottrain.analysis.true_latents import TrueLatents, Truth, some_latents
from rottrain.config import Feedback
from rottrain.generation.feedback import UNNAMED, UNSURE, check_confidence
from rottrain.generation.generate import Budget, Generation, RoT
from rottrain.metrics import scoring
from rottrain.metrics.latent_geometry import Path, Portrait, Sizes, path, portrait, settled, sizes
from rottrain.training.tiny import READ_PROMPT

_NEIGHBOURS = 5
_CONTEXT = 400
"""Other rows' latents that a path is drawn among."""
_BUDGETS = 33
"""Answers at different budgets, at most."""


@dataclass(frozen=True, kw_only=True)
class ReadBack:
    """What one reader read in all the latents."""

    reader: Reader
    text: str
    pieces: list[Piece]
    """Tokens of the base model; of the others one piece a latent."""
    error_rate: float | None
    """Edits a character of the reference; None without one."""


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A target latent near to one of the thought's."""

    id: str
    position: int
    characters: str
    cosine: float
    picture: str
    """Data URI of its columns."""


@dataclass(frozen=True, kw_only=True)
class TracedLatent:
    """One latent of the thought."""

    nearest: list[Looked]
    glyphs: Piece | None
    """What the glyph probe reads in it, with picture feedback as it was predicted; None without one."""
    unsure: bool
    """Whether it was read with less confidence than was asked for."""
    unnamed: bool
    """Whether it was fed back as predicted, although pictures were to be, since what it shows has no name."""
    last: float | None
    """Probability that it is the last; None for a checkpoint that has not learnt to stop."""
    should_show: str | None
    """The reference's characters here; None without a reference."""
    to_truth: float | None
    """Cosine to the reference's latent here, after the targets' mean is taken from both."""


@dataclass(frozen=True, kw_only=True)
class AtBudget:
    """The answer after the first latents alone."""

    budget: int
    reply: str
    answer: str
    correct: bool | None


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One question and what was thought about it."""

    question: str
    id: str | None
    """Of the row; None for a question of no corpus."""
    feedback: Feedback
    """What the model continued from."""
    reply: str
    answer: str
    correct: bool | None
    reference: str | None
    """The chain of thought that should have been thought, as far as the budget goes."""
    reference_answer: str | None
    strip: str | None
    """Data URI of the reference's strip, as far as the budget goes."""
    strip_latents: int
    """Latents of that strip."""
    readings: list[ReadBack]
    confidence: float
    """Below it, a reading of the glyph probe is unsure."""
    told: int
    """Latents that were read: up to the one that the model says is its last, or all if it has not learnt to say so."""
    latents: list[TracedLatent]
    portrait: Portrait
    true_sizes: Sizes | None
    """Of the reference's latents."""
    path: Path
    settled: int
    """Latents after which each is nearly the same as the one before (cosine 0.99); K if it never comes to that."""
    attention: Attention
    budgets: list[AtBudget]
    indexed: int
    """Different target latents that were searched."""


def find_row(shards: EmbeddingShards, row_id: str) -> Row:
    """The first row of that id. Raises UsageError."""
    for group in shards:
        if row_id in group.ids:
            place = group.ids.index(row_id)
            return Row(row_id, group.questions[place], group.cots[place], group.answers[place])
    raise UsageError(f"no row {row_id!r} in {shards.folder}: `rotdata preview {shards.folder}` shows its ids")


def trace(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    rot: RoT,
    row: Row,
    index: LatentIndex,
    truths: TrueLatents,
    *,
    budget: Budget = None,
    stop: float | None = None,
    feedback: Feedback | None = None,
    confidence: float = UNSURE,
    prompt: str = READ_PROMPT,
) -> Trace:
    """Think about a row's question and look at the thought; without a chain of thought there is no reference.

    The row's own strip is left out of the search. Raises UsageError for a budget of 0, or a confidence that is none.
    """
    check_confidence(confidence)
    most, fed_back = some_latents(rot, budget), rot.feedback(feedback)
    [made] = rot.generate([row.question], budget=most, stop=stop, feedback=fed_back)
    thought_KD = made.latents_KD
    assert thought_KD is not None
    [truth] = truths.of([row], most) if row.cot else [None]
    [nearest] = index.nearest([thought_KD], count=_NEIGHBOURS, without=[row.cot] if row.cot else ())
    chances = chances_of_last(rot, [row.question], [thought_KD])
    last = None if chances is None else chances[0]
    said = len(thought_KD) if last is None else told(last)
    reference = truth.text if truth and truth.shown else None
    spelled = _spelled(rot, made)
    read = read_back(rot, [thought_KD[:said]], [nearest[:said]], prompt=prompt)
    if spelled is not None:
        read["glyphs"] = [Reading(spelled[:said])]
    readings = [
        ReadBack(
            reader=reader,
            text=reading.text,
            pieces=reading.pieces,
            error_rate=None if reference is None else error_rate(reading.text, reference),
        )
        for reader, [reading] in read.items()
    ]
    strip = index.strip(row.cot, most) if row.cot else None
    answers = _Answers(row, "math" if index.corpus.startswith("math") else "number")
    return Trace(
        question=row.question,
        id=row.id or None,
        feedback=fed_back,
        reply=made.reply,
        answer=scoring.extract(made.reply),
        correct=answers.correct(made.reply),
        reference=reference,
        reference_answer=row.answer or None,
        strip=None if strip is None else data_uri(strip),
        strip_latents=0 if strip is None else strip.shape[1] // strip.shape[0],
        readings=readings,
        confidence=confidence,
        told=said,
        latents=_latents(
            thought_KD, index, nearest, truth, last, spelled, confidence, pictures=made.thought is not None
        ),
        portrait=portrait(thought_KD, scaled(rot, thought_KD).cpu()),
        true_sizes=None if truth is None else sizes(truth.latents_KD),
        path=path(index.context(_CONTEXT), thought_KD, None if truth is None else truth.latents_KD),
        settled=settled(scaled(rot, thought_KD)),
        attention=answer_attention(rot, row.question, thought_KD, made.reply),
        budgets=answers.at_budgets(rot, thought_KD),
        indexed=index.latents,
    )


class _Answers:
    """Replies to a row's question, held against its answer if it has one."""

    def __init__(self, row: Row, kind: scoring.Kind) -> None:
        self._row, self._kind = row, kind

    def correct(self, reply: str) -> bool | None:
        if not self._row.answer:
            return None
        return scoring.equal(scoring.extract(reply), self._row.answer, self._kind)

    def at_budgets(self, rot: RoT, thought_KD: Tensor) -> list[AtBudget]:
        """Answers after the first latents alone, from none to all of them."""
        budgets = np.unique(np.linspace(0, len(thought_KD), _BUDGETS).round().astype(int)).tolist()
        made = rot.answer([self._row.question] * len(budgets), [thought_KD[:budget] for budget in budgets])
        return [
            AtBudget(
                budget=budget, reply=each.reply, answer=scoring.extract(each.reply), correct=self.correct(each.reply)
            )
            for budget, each in zip(budgets, made, strict=True)
        ]


def _spelled(rot: RoT, made: Generation) -> list[Piece] | None:
    """What was read in each latent and fed back; without picture feedback, what the glyph probe reads in it now."""
    if made.thought is not None:
        return list(map(Piece, made.thought.texts, made.thought.confidences))
    assert made.latents_KD is not None
    return None if rot.glyphs is None else spell(rot.glyphs, scaled(rot, made.latents_KD)).pieces


def _latents(
    thought_KD: Tensor,
    index: LatentIndex,
    nearest: Sequence[Sequence[Neighbour]],
    truth: Truth | None,
    last: Sequence[float] | None,
    spelled: Sequence[Piece] | None,
    confidence: float,
    *,
    pictures: bool,
) -> list[TracedLatent]:
    """What is known of each latent by itself."""
    shown = truth.shown if truth and truth.shown else []
    cosines: list[float] = []
    if truth is not None:
        count = min(len(truth.latents_KD), len(thought_KD))
        both = (thought_KD[:count] - index.mean, truth.latents_KD[:count] - index.mean)
        cosines = [round(cosine, 4) for cosine in F.cosine_similarity(*both, dim=1).tolist()]
    return [
        TracedLatent(
            nearest=[_looked(index, neighbour) for neighbour in nearest[place]],
            glyphs=spelled[place] if spelled else None,
            unsure=spelled is not None and spelled[place].confidence < confidence,
            unnamed=pictures and spelled is not None and spelled[place].text == UNNAMED,
            last=None if last is None else round(last[place], 4),
            should_show=shown[place] if place < len(shown) else None,
            to_truth=cosines[place] if place < len(cosines) else None,
        )
        for place in range(len(thought_KD))
    ]


def _looked(index: LatentIndex, neighbour: Neighbour) -> Looked:
    return Looked(
        id=neighbour.id,
        position=neighbour.position,
        characters=neighbour.characters,
        cosine=round(neighbour.cosine, 4),
        picture=data_uri(index.picture(neighbour)),
    )


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """A grey picture as a data URI for an <img>."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def _doubts(traced: Trace) -> list[str]:
    """The readings that are unsure, each with its latent's number and its confidence."""
    return [
        f"latent {number} {latent.glyphs.text!r} ({latent.glyphs.confidence:.0%})"
        for number, latent in enumerate(traced.latents[: traced.told], start=1)
        if latent.unsure and latent.glyphs
    ]


def as_text(traced: Trace) -> str:
    """Question, answer and what was read, for people at a terminal."""
    right = {True: ", right", False: f", wrong: it is {traced.reference_answer}", None: ""}[traced.correct]
    lines = [("question", traced.question), ("answer", f"{traced.answer or '(none)'}{right}")]
    if traced.reference is not None:
        lines.append(("reference", traced.reference))
    for reading in traced.readings:
        rate = "" if reading.error_rate is None else f"  ({reading.error_rate:.1%} wrong)"
        lines.append((READERS[reading.reader], f"{reading.text}{rate}"))
    lines += [("unsure", ", ".join(doubts))] if (doubts := _doubts(traced)) else []
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)
