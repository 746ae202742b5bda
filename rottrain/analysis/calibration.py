"""Does the model know when it has said all? What its halt says at every latent, against where the strips end.

Latents are the model's own, as in use; none is stopped at, so that every row is seen up to where its strip ends.

Shapes: B rows, K latents, N latents of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from rotdata.errors import UsageError
from rotdata.shards import EmbeddingShards
from rottrain.analysis.true_latents import check_shards, some_latents
from rottrain.config import Feedback
from rottrain.data.batches import pad_ids
from rottrain.generation.generate import Budget, RoT
from rottrain.generation.rollout import read_prompt

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Latents whose probability of being the last lies within a tenth."""

    probability: float
    """Its mean."""
    share: float
    """Share of them that are the last."""
    latents: int


@dataclass(frozen=True, kw_only=True)
class Halting:
    """How well a checkpoint's halt fits the rows' strips."""

    n: int
    budget: int
    stop: float
    feedback: Feedback
    """What the model continued from."""
    exact: float
    """Share of rows that a stop at this probability ends at their strip's last latent."""
    early: float
    late: float
    calibration_error: float
    """Mean distance of probability and share over the bins, each by its latents (expected calibration error)."""
    bins: list[Bin]


@torch.inference_mode()
def halting(
    rot: RoT,
    shards: EmbeddingShards,
    *,
    limit: int | None = None,
    budget: Budget = None,
    stop: float = 0.5,
    feedback: Feedback | None = None,
    batch_size: int = 32,
) -> Halting:
    """Compare the halt of a checkpoint with the strips of the last `limit` rows of `shards`, or of all.

    A strip of more latents than the budget ends with it, as in training. Raises UsageError, ShardMismatch, and
    CheckpointError for a checkpoint that has not learnt to stop.
    """
    rot.check_stop(stop)
    fed_back = rot.feedback(feedback)
    check_shards(rot.config, shards)
    latents = some_latents(rot, budget)
    rows = _last_rows(shards, limit)
    if not rows:
        raise UsageError(f"{shards.folder} holds no rows to compare with")
    chances, lasts, offs = [], [], []
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        last_B = torch.tensor([min(count, latents) - 1 for _, count in some])
        chance_BK = _chances(rot, [question for question, _ in some], latents, fed_back)
        index_BK = torch.arange(latents).expand_as(chance_BK)
        seen_BK = index_BK <= last_B[:, None]
        chances.append(chance_BK[seen_BK])
        lasts.append((index_BK == last_B[:, None])[seen_BK])
        offs.append(index_BK.masked_fill(chance_BK <= stop, latents - 1).amin(dim=1) - last_B)
    off_B = torch.cat(offs)
    found = bins(torch.cat(chances), torch.cat(lasts))
    return Halting(
        n=len(rows),
        budget=latents,
        stop=stop,
        feedback=fed_back,
        exact=(off_B == 0).float().mean().item(),
        early=(off_B < 0).float().mean().item(),
        late=(off_B > 0).float().mean().item(),
        calibration_error=sum(abs(each.probability - each.share) * each.latents for each in found)
        / sum(each.latents for each in found),
        bins=found,
    )


def bins(chance_N: Tensor, last_N: Tensor) -> list[Bin]:
    """Latents by tenths of their probability; tenths without any are left out."""
    tenth_N = (chance_N * BINS).long().clamp(max=BINS - 1)
    return [
        Bin(
            probability=chance_N[tenth_N == tenth].mean().item(),
            share=last_N[tenth_N == tenth].float().mean().item(),
            latents=int((tenth_N == tenth).sum()),
        )
        for tenth in range(BINS)
        if (tenth_N == tenth).any()
    ]


def as_table(found: Halting) -> str:
    """What was found, as Markdown for people."""
    sentence = (
        f"{found.n} rows, budget {found.budget}, stop {found.stop:g}: {found.exact:.1%} stop at their strip's last "
        f"latent, {found.early:.1%} before it, {found.late:.1%} after it; "
        f"calibration error {found.calibration_error:.3f}"
    )
    lines = [f"| {each.probability:.3f} | {each.share:.3f} | {each.latents} |" for each in found.bins]
    heads = ["| probability | share that is the last | latents |", "|---|---|---|"]
    return "\n".join([sentence, "", *heads, *lines])


def _last_rows(shards: EmbeddingShards, limit: int | None) -> list[tuple[str, int]]:
    """Questions of the last rows, and how many latents their strips have."""
    rows = [
        (question, int(stop - start))
        for group in shards
        for question, start, stop in zip(group.questions, group.offsets[:-1], group.offsets[1:], strict=True)
    ]
    return rows if limit is None else rows[-limit:]


def _chances(rot: RoT, questions: Sequence[str], budget: int, feedback: Feedback) -> Tensor:
    """Probability of each of the model's own latents to be the last: [B, K] on the CPU."""
    backbone = rot.backbone
    ids_BP, mask_BP = pad_ids([backbone.prompt_ids(each) for each in questions], backbone.pad_id, side="left")
    prompt = read_prompt(backbone, ids_BP.to(backbone.device), mask_BP.to(backbone.device))
    thought, _ = rot.think(prompt, questions, budget, feedback=feedback)
    chance_BK = rot.head.is_last(thought.hidden_BKD).sigmoid().float().cpu()
    ended_BK = torch.arange(chance_BK.shape[1]) >= thought.counts_B.cpu()[:, None]
    return pad(chance_BK.masked_fill(ended_BK, 0.0), (0, budget - chance_BK.shape[1]))  # what comes then is no latent
