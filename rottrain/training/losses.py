"""The losses of both stages, pure. Each is a mean over samples of a mean over each sample's own positions.

Shapes: B samples, K latents, D embedding width, T answer positions, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rottrain.data.batches import IGNORED


def alignment_loss(
    predicted_BKD: Tensor,
    target_BKD: Tensor,
    mask_BK: Tensor,
    *,
    kind: Literal["mse", "cosine", "huber"] = "mse",
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Distance over each sample's valid latents -> scalar.

    "mse" is the paper's L_align, with the mean over D as the reference has it; "huber" is half the square within one
    unit and linear beyond; "cosine" is one minus the cosine, to which `reduction` means nothing.
    """
    predicted_BKD, target_BKD = predicted_BKD.float(), target_BKD.float()
    if kind == "cosine":
        return mean_of_samples(1 - F.cosine_similarity(predicted_BKD, target_BKD, dim=-1), mask_BK)
    distance = F.mse_loss if kind == "mse" else F.huber_loss
    error_BK = distance(predicted_BKD, target_BKD, reduction="none").sum(dim=-1)
    return mean_of_samples(error_BK / target_BKD.shape[-1] if reduction == "mean" else error_BK, mask_BK)


def glyph_loss(logits_BKSC: Tensor, labels_BKS: Tensor, mask_BK: Tensor) -> Tensor:
    """Cross-entropy of the characters that each latent shows, mean over its slots -> scalar. C classes, S slots."""
    per_slot = F.cross_entropy(logits_BKSC.float().movedim(-1, 1), labels_BKS, reduction="none")
    return mean_of_samples(per_slot.mean(dim=-1), mask_BK)


def halt_loss(logits_BK: Tensor, last_B: Tensor) -> Tensor:
    """Cross-entropy at every latent up to the last that says something, `last_B`: is it this one? -> scalar."""
    index_BK = torch.arange(logits_BK.shape[1], device=logits_BK.device).expand_as(logits_BK)
    stop_BK = (index_BK == last_B[:, None]).float()
    per_latent = F.binary_cross_entropy_with_logits(logits_BK.float(), stop_BK, reduction="none")
    return mean_of_samples(per_latent, index_BK <= last_B[:, None])


def mean_of_samples(values_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """Mean over samples of the mean over each sample's own positions; a sample without any counts as 0."""
    per_sample = (values_BK * mask_BK).sum(dim=1) / mask_BK.sum(dim=1).clamp(min=1)
    return per_sample.mean()


def answer_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """Cross-entropy of end token and answer, labels of -100 left out -> scalar. Paper, L_pred."""
    per_token = F.cross_entropy(logits_BTV.float().transpose(1, 2), labels_BT, ignore_index=IGNORED, reduction="none")
    return mean_of_samples(per_token, labels_BT != IGNORED)
