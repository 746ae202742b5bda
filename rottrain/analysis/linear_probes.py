"""Linear probes: can a straight line through embedding space tell what a latent shows? Closed form, no training loop.

A probe is ridge regression onto one-hot labels, its penalty chosen by leave-one-out error, which has a closed form
too. Rows are held out in turn, so that every row is named by a probe that has not seen it.

Shapes: N rows, D embedding width, C classes, R rank of the features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

_FOLDS = 5
_PENALTIES = tuple(10.0**power for power in range(-3, 5))
"""Of features in standard deviations, times the number of rows."""

_Namer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Features and labels to learn from, features to name -> classes."""


def named_by_line(features_ND: Tensor, labels_N: Tensor, *, seed: int) -> Tensor:
    """The class that linear probes of the other folds name for each row: [N]."""
    return _crossed(features_ND.double(), labels_N, seed, _ridge)


def named_by_majority(labels_N: Tensor, *, seed: int) -> Tensor:
    """The class that is most frequent in the other folds, for each row: [N]; what a probe has to beat."""
    nothing_ND = torch.zeros(len(labels_N), 0, dtype=torch.float64, device=labels_N.device)
    return _crossed(nothing_ND, labels_N, seed, _majority)


def _crossed(features_ND: Tensor, labels_N: Tensor, seed: int, name: _Namer) -> Tensor:
    """Each fold's rows named from the others."""
    count = len(labels_N)
    if count < 2:
        raise ValueError(f"a probe needs rows to learn from and rows to name, got {count}")
    order_N = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    named_N = torch.empty_like(labels_N)
    for fold in order_N.chunk(min(_FOLDS, count)):
        held_out = torch.zeros(count, dtype=torch.bool)
        held_out[fold] = True
        named_N[held_out] = name(features_ND[~held_out], labels_N[~held_out], features_ND[held_out])
    return named_N


def _ridge(learnt_ND: Tensor, labels_N: Tensor, asked_ND: Tensor) -> Tensor:
    """Ridge regression onto one-hot classes; the largest output names the class."""
    mean_D, deviation_D = learnt_ND.mean(dim=0), learnt_ND.std(dim=0, correction=0).clamp(min=1e-9)
    onehot_NC = F.one_hot(labels_N, int(labels_N.max()) + 1).double()
    offset_C = onehot_NC.mean(dim=0)
    left_NR, spread_R, right_RD = torch.linalg.svd((learnt_ND - mean_D) / deviation_D, full_matrices=False)
    aim_RC = left_NR.T @ (onehot_NC - offset_C)
    penalty = min(_PENALTIES, key=lambda each: _left_out(left_NR, spread_R, aim_RC, onehot_NC - offset_C, each))
    weights_RC = (spread_R / (spread_R.square() + penalty * len(labels_N)))[:, None] * aim_RC
    return (((asked_ND - mean_D) / deviation_D) @ (right_RD.T @ weights_RC) + offset_C).argmax(dim=1)


def _left_out(left_NR: Tensor, spread_R: Tensor, aim_RC: Tensor, aimed_NC: Tensor, penalty: float) -> float:
    """Squared error of a ridge's rows, each left out in turn: its residual over one less its leverage."""
    kept_R = spread_R.square() / (spread_R.square() + penalty * len(left_NR))
    residual_NC = aimed_NC - left_NR @ (kept_R[:, None] * aim_RC)
    leverage_N = (left_NR.square() * kept_R).sum(dim=1) + 1 / len(left_NR)  # the offset's share, too
    return float((residual_NC / (1 - leverage_N).clamp(min=1e-9)[:, None]).square().sum())


def _majority(_: Tensor, labels_N: Tensor, asked_ND: Tensor) -> Tensor:
    return labels_N.bincount().argmax().expand(len(asked_ND))
