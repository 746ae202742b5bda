"""How much of a thought can be read back: error rates of the readers over rows of shards.

A thought is read up to the latent that the model says is its last, if it has learnt to say so.

Each reader reads the model's latents; the true ones, which says how well it reads at all; and is held against another
row's chain of thought, which says what looks right without being. Latents of a row's own strip are left out of the
search. Error rates are edits over characters of all rows together, with a bootstrap over rows; shares have Wilson's
interval; both at 95%.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rotdata.shards import EmbeddingShards
from rottrain.analysis.last_latent import chances_of_last, told
from rottrain.analysis.nearest import LatentIndex
from rottrain.analysis.read_back import Reading, edits, plain, read_rightly
from rottrain.analysis.read_back_methods import READERS, Reader, read_back
from rottrain.analysis.true_latents import TrueLatents, some_latents
from rottrain.config import Feedback
from rottrain.generation.generate import Budget, RoT
from rottrain.metrics import scoring
from rottrain.metrics.intervals import Estimate, share
from rottrain.model.checkpoints import CheckpointConfig
from rottrain.training.tiny import READ_PROMPT

_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a reader reads."""

    reader: Reader
    errors: Estimate
    """Edits a character of the reference, reading the model's latents; lower is more traceable."""
    exact: Estimate
    """Share of rows read without an error."""
    errors_on_true: Estimate
    """The same of the true latents: what the reader itself gets wrong."""
    errors_against_another: Estimate
    """What was read in the model's latents, held against another row's chain of thought."""
    agrees: Estimate
    """Share of rows where the last number that was read is the answer that the model gave, right or wrong."""


@dataclass(frozen=True, kw_only=True)
class Traceability:
    """The readers' scores on rows of shards."""

    rows: int
    feedback: Feedback
    """What the model continued from."""
    trained_on: int | None
    """How many of them the checkpoint has learnt from; None if it can't be told."""
    accuracy: Estimate
    """Of the answers."""
    indexed: int
    """Different target latents that were searched."""
    scores: list[Score]
    confirmed: Estimate | None
    """Share of the references' characters that base model and glyph probe both read rightly: those it has not made up,
    since the other sees them in one latent alone. None without a glyph probe."""


def last_rows(shards: EmbeddingShards, count: int | None) -> list[Row]:
    """The last rows of shards, in order, or all: the ones that --validation-rows of the same number holds out."""
    found: list[Row] = []
    for number in reversed(range(len(shards.group_rows))):
        if count is not None and len(found) >= count:
            break
        group = shards.read_group(number)
        found[:0] = map(Row, group.ids, group.questions, group.cots, group.answers)
    return found if count is None else found[-count:]


def trained_on(config: CheckpointConfig, shards: EmbeddingShards, count: int) -> int | None:
    """How many of the last `count` rows of shards a checkpoint has learnt from; None if these were some of several."""
    learnt = config.run["shards"]
    folders = [learnt] if isinstance(learnt, str) else [fingerprint for fingerprint, _ in learnt]
    if shards.manifest.fingerprint not in folders:
        return 0
    if len(folders) > 1:  # how many each of them holds out depends on the others' sizes
        return None
    rows = sum(shards.group_rows)
    used = min(rows, config.run["limit"] or rows) - config.run["recipe"].get("validation_rows", 0)
    return max(0, used - (rows - count))


def traceability(  # noqa: PLR0913 -- keyword-only settings, as the command has them
    rot: RoT,
    shards: EmbeddingShards,
    index: LatentIndex,
    *,
    limit: int | None = None,
    budget: Budget = None,
    stop: float | None = None,
    feedback: Feedback | None = None,
    prompt: str = READ_PROMPT,
    batch_size: int = 16,
) -> Traceability:
    """Think about the last `limit` rows of shards, or all, and read the thoughts back. Raises UsageError."""
    rows = last_rows(shards, limit)
    if len({row.cot for row in rows}) < 2:
        raise UsageError(f"rows are held against each other, so there must be two different ones, got {len(rows)}")
    most, fed_back = some_latents(rot, budget), rot.feedback(feedback)
    questions = [row.question for row in rows]
    made = rot.generate(questions, budget=most, stop=stop, feedback=fed_back, batch_size=batch_size)
    thoughts = [each.latents_KD for each in made if each.latents_KD is not None]
    if (chances := chances_of_last(rot, questions, thoughts, batch_size=batch_size)) is not None:
        thoughts = [thought[: told(last)] for thought, last in zip(thoughts, chances, strict=True)]
    truths = [each for each in TrueLatents(rot, shards).of(rows, most) if each is not None]
    if any(truth.shown is None for truth in truths):
        raise UsageError(f"the latents in {shards.folder} have no spans, so it is not known what they show")
    references = [truth.text for truth in truths]
    cots = [row.cot for row in rows]
    read, read_of_true = (
        read_back(rot, latents, index.nearest(latents, without=cots), prompt=prompt, batch_size=batch_size)
        for latents in (thoughts, [truth.latents_KD[: truth.said] for truth in truths])
    )
    kind: scoring.Kind = "math" if index.corpus.startswith("math") else "number"
    answers = [scoring.extract(each.reply) for each in made]
    others = _others(references)
    return Traceability(
        rows=len(rows),
        feedback=fed_back,
        trained_on=trained_on(rot.config, shards, len(rows)),
        accuracy=share([scoring.equal(answer, row.answer, kind) for answer, row in zip(answers, rows, strict=True)]),
        indexed=index.latents,
        scores=[
            Score(
                reader=reader,
                errors=_errors(readings, references),
                exact=share([edits(each.text, text) == 0 for each, text in zip(readings, references, strict=True)]),
                errors_on_true=_errors(read_of_true[reader], references),
                errors_against_another=_errors(readings, others),
                agrees=share(
                    [
                        scoring.equal(scoring.extract_flexible(each.text, "number"), answer, kind)
                        for each, answer in zip(readings, answers, strict=True)
                    ]
                ),
            )
            for reader, readings in read.items()
        ],
        confirmed=_confirmed(read["base"], read["glyphs"], references) if "glyphs" in read else None,
    )


def _others(references: Sequence[str]) -> list[str]:
    """For each row the reference of the next row, in a ring, that says something else."""
    count = len(references)
    ahead = [[references[(row + step) % count] for step in range(1, count)] for row in range(count)]
    return [next(text for text in texts if text != own) for own, texts in zip(references, ahead, strict=True)]


def _errors(readings: Sequence[Reading], references: Sequence[str]) -> Estimate:
    """Edits a character."""
    return _a_character([edits(each.text, text) for each, text in zip(readings, references, strict=True)], references)


def _confirmed(one: Sequence[Reading], other: Sequence[Reading], references: Sequence[str]) -> Estimate:
    """Share of the characters that two readers both read rightly."""
    both = [
        sum(map(min, read_rightly(first.text, text), read_rightly(second.text, text)))
        for first, second, text in zip(one, other, references, strict=True)
    ]
    return _a_character(both, references)


def _a_character(counts: Sequence[int], references: Sequence[str]) -> Estimate:
    """Counts of rows over the characters of their references, all rows together, and a bootstrap over rows."""
    count_N, length_N = np.array(counts), np.array([max(1, len(plain(text))) for text in references])
    drawn_RN = np.random.default_rng(0).integers(0, len(counts), (_RESAMPLES, len(counts)))
    low, high = np.quantile(count_N[drawn_RN].sum(axis=1) / length_N[drawn_RN].sum(axis=1), (0.025, 0.975))
    return Estimate(float(count_N.sum() / length_N.sum()), float(low), float(high))


def as_table(found: Traceability) -> str:
    """The scores as a Markdown table, and what they are of."""
    lines = [
        "| reader | characters wrong | rows read exactly | in true latents | against another row | same answer |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {READERS[score.reader]} | {score.errors.as_percent()} | {score.exact.as_percent()} "
        f"| {score.errors_on_true.as_percent()} | {score.errors_against_another.as_percent()} "
        f"| {score.agrees.as_percent()} |"
        for score in found.scores
    ]
    seen = {None: "some of them perhaps", 0: "none of them"}.get(found.trained_on, f"{found.trained_on} of them")
    base = next(score for score in found.scores if score.reader == "base")
    wrong, by_chance = base.errors.as_percent(), base.errors_against_another.as_percent()
    return "\n".join([
        *lines,
        "",
        f"{found.rows} rows, {seen} trained on; {found.accuracy.as_percent()} answered rightly.",
        f"Shown its own latents as a picture, the model reads the reasoning back with {wrong} of the characters wrong;",
        f"held against another question's reasoning, {by_chance} would be.",
        *([f"The glyph probe confirms {found.confirmed.as_percent()} of the characters."] if found.confirmed else []),
    ])  # fmt: skip
