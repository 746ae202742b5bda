"""The losses of both stages, pure. Each is a mean over samples of a mean over each sample's own positions.

Shapes: B samples, K latents, D embedding width, T answer positions, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

IGNORED = -100


def alignment_loss(
    predicted_BKD: Tensor, target_BKD: Tensor, mask_BK: Tensor, *, reduction: Literal["mean", "sum"] = "mean"
) -> Tensor:
    """Squared error over each sample's valid latents -> scalar. Paper, L_align; mean over D as the reference has it."""
    error_BK = (predicted_BKD.float() - target_BKD.float()).square().sum(dim=-1)
    if reduction == "mean":
        error_BK = error_BK / target_BKD.shape[-1]
    per_sample = (error_BK * mask_BK).sum(dim=1) / mask_BK.sum(dim=1).clamp(min=1)
    return per_sample.mean()


def answer_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Cross-entropy of end token and answer, labels of -100 left out -> scalar. Paper, L_pred."""
    per_token = F.cross_entropy(logits_BTV.float().transpose(1, 2), labels_BT, ignore_index=IGNORED, reduction="none")
    counted = labels_BT != IGNORED
    per_sample = per_token.sum(dim=1) / counted.sum(dim=1).clamp(min=1)
    return per_sample.mean()
