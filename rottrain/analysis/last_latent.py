"""Which latent of a thought is its last that says something, in the model's own opinion.

Rows are trained to one budget, so what follows a short thought are blank latents. A reader that is shown them makes
something up; a checkpoint with a halt loss knows where they begin.

Shapes: B rows, P prompt tokens, K latents of a row, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rottrain.data.batches import pad_ids
from rottrain.generation.generate import RoT
from rottrain.generation.rollout import read_prompt, sweep


def chances_of_last(
    rot: RoT, questions: Sequence[str], thoughts: Sequence[Tensor], *, batch_size: int = 16
) -> list[list[float]] | None:
    """For each question's own latents [K, D] the probabilities of being the last; None if it has not learnt to stop."""
    if not rot.config.run["recipe"].get("halt_weight"):
        return None
    found: list[list[float]] = []
    for start in range(0, len(questions), batch_size):
        batch = slice(start, start + batch_size)
        found += _of_batch(rot, questions[batch], thoughts[batch])
    return found


def told(chances: Sequence[float]) -> int:
    """How many latents there are up to the first that is the last, more likely than not; all if none is."""
    return next((place for place, chance in enumerate(chances, 1) if chance > 1 / 2), len(chances))


@torch.inference_mode()
def _of_batch(rot: RoT, questions: Sequence[str], thoughts: Sequence[Tensor]) -> list[list[float]]:
    backbone = rot.backbone
    ids_BP, mask_BP = pad_ids([backbone.prompt_ids(each) for each in questions], backbone.pad_id, side="left")
    prompt = read_prompt(backbone, ids_BP.to(backbone.device), mask_BP.to(backbone.device))
    given_BKD = pad_sequence([thought.to(backbone.device) for thought in thoughts], batch_first=True)
    chances_BK = rot.head.is_last(sweep(backbone, rot.head, prompt, given_BKD).hidden_BKD).sigmoid()
    return [row[: len(thought)] for row, thought in zip(chances_BK.tolist(), thoughts, strict=True)]
