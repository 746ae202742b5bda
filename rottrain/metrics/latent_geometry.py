"""The looks of a row's latents: how alike they are, how large, which path they take. Pure.

Shapes: K latents of a row, D embedding width, N latents of other rows, C columns of a heat map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

_HEAT_COLUMNS = 256
_HEAT_LIMIT = 3.0  # standard deviations
_SAME = 0.99


@dataclass(frozen=True, kw_only=True)
class Path:
    """A plane through other rows' latents, the one in which they spread most, and what lies where in it."""

    context: list[tuple[float, float]]
    """The other rows' latents."""
    generated: list[tuple[float, float]]
    true: list[tuple[float, float]]
    """The reference's latents; empty without one."""
    explained: tuple[float, float]
    """Share of the context's variance along each axis."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of each latent of a row, over its dimensions."""

    norm: list[float]
    mean: list[float]
    deviation: list[float]


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """Figures of one row's latents, by position."""

    sizes: Sizes
    similarity: list[list[float]]
    """Cosine of every two, after the mean of the targets is taken from both: [K, K]."""
    heat: list[list[float]]
    """In standard deviations of the targets, within 3 of their mean: [K, C], every n-th of D dimensions."""
    heat_step: int
    """n."""


def portrait(latents_KD: Tensor, scaled_KD: Tensor) -> Portrait:
    """Figures of latents, also given in standard deviations from the targets' mean."""
    unit_KD = F.normalize(scaled_KD.float(), dim=-1)
    step = max(1, -(-scaled_KD.shape[1] // _HEAT_COLUMNS))
    return Portrait(
        sizes=sizes(latents_KD),
        similarity=rounded(unit_KD @ unit_KD.T),
        heat=rounded(scaled_KD[:, ::step].clamp(-_HEAT_LIMIT, _HEAT_LIMIT), digits=2),
        heat_step=step,
    )


def sizes(latents_KD: Tensor) -> Sizes:
    """How large the latents of a row are."""
    return Sizes(
        norm=rounded(latents_KD.norm(dim=1)),
        mean=rounded(latents_KD.mean(dim=1)),
        deviation=rounded(latents_KD.std(dim=1, correction=0)),
    )


def path(context_ND: Tensor, generated_KD: Tensor, true_KD: Tensor | None) -> Path:
    """Project latents onto the first two principal axes of `context_ND`, three or more of other rows."""
    mean_D = context_ND.mean(dim=0)
    _, spread, axes = torch.linalg.svd(context_ND - mean_D, full_matrices=False)
    variance = spread.square() / spread.square().sum().clamp(min=1e-30)

    def points(latents: Tensor) -> list[tuple[float, float]]:
        return [(x, y) for x, y in rounded((latents - mean_D) @ axes[:2].T)]

    return Path(
        context=points(context_ND),
        generated=points(generated_KD),
        true=[] if true_KD is None else points(true_KD),
        explained=(round(float(variance[0]), 4), round(float(variance[1]), 4)),
    )


def settled(latents_KD: Tensor) -> int:
    """After how many latents each is nearly the same as the one before, with a cosine of 0.99 or more; at most K."""
    unit_KD = F.normalize(latents_KD.float(), dim=-1)
    moving = (unit_KD[1:] * unit_KD[:-1]).sum(dim=-1) < _SAME
    return int(moving.nonzero()[-1]) + 2 if moving.any() else 1


def rounded(values: Tensor, *, digits: int = 4) -> Any:
    """As nested lists of short numbers."""
    return torch.round(values.double(), decimals=digits).tolist()
