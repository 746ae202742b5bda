"""What is put in the place of latents to see whether they matter. Pure.

Shapes: K latents of a row, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

Thoughts = list[Tensor]
"""Rows of latents [K, D] in fp32 on the CPU."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """A change to all rows' latents; what it draws comes from the generator."""

    name: str
    says: str
    """What stands in the latents' place."""
    change: Callable[[Thoughts, Generator], Thoughts]


def _zeros(thoughts: Thoughts, _: Generator) -> Thoughts:
    return [torch.zeros_like(thought) for thought in thoughts]


def _mean(thoughts: Thoughts, _: Generator) -> Thoughts:
    mean_D = torch.cat(thoughts).mean(dim=0)
    return [mean_D.expand_as(thought) for thought in thoughts]


def _noise(thoughts: Thoughts, generator: Generator) -> Thoughts:
    drawn = []
    for thought in thoughts:
        noise = torch.randn(thought.shape, generator=generator)
        drawn.append(noise * (thought.norm(dim=1) / noise.norm(dim=1))[:, None])
    return drawn


def _shuffle(thoughts: Thoughts, generator: Generator) -> Thoughts:
    return [thought[_moved(len(thought), generator)] for thought in thoughts]


def _swap(thoughts: Thoughts, generator: Generator) -> Thoughts:
    """Every row's latents go to another row: places in a random order, each taking from the next."""
    order = torch.randperm(len(thoughts), generator=generator).tolist()
    given = list(thoughts)
    for place, number in enumerate(order):
        given[number] = thoughts[order[place - 1]]
    return given


def _repeat(thoughts: Thoughts, _: Generator) -> Thoughts:
    return [thought[:1].expand_as(thought) for thought in thoughts]


def _moved(count: int, generator: Generator) -> Tensor:
    """A random order of positions, not the one they are in unless there is but one."""
    while True:
        order = torch.randperm(count, generator=generator)
        if count < 2 or not torch.equal(order, torch.arange(count)):
            return order


INTERVENTIONS: Sequence[Intervention] = (
    Intervention("zeros", "zeros", _zeros),
    Intervention("mean", "the mean of all questions' latents", _mean),
    Intervention("noise", "Gaussian noise, each latent's norm kept", _noise),
    Intervention("shuffle", "the same latents in another order", _shuffle),
    Intervention("swap", "another question's latents", _swap),
    Intervention("repeat", "the first latent at every position", _repeat),
)
