"""Tokens after tokens, with a key-value cache: greedy, or sampled by each row's own random numbers.

A row's random numbers depend on the seed and on its question alone, so what it says depends neither on the batch it is
in nor on its place there. Knows nothing of latents.

Shapes: B rows, T positions: of what is fed, or of the cache and what is fed; D embedding width, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rotdata.errors import UsageError
from rottrain.model.backbone import Backbone

if TYPE_CHECKING:
    from transformers import Cache


LEAST = 1e-6
"""Temperatures and shares that are smaller, but not 0, are lost in float32."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen."""

    temperature: float = 0.0
    """0 takes the likeliest token; the paper samples at 1."""
    top_p: float = 1.0
    """Share of the probability, the likeliest tokens first, that is sampled from; the paper's is 0.9."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't be."""
        if self.temperature and not LEAST <= self.temperature <= 1 / LEAST:
            raise UsageError(f"a temperature is 0, or from {LEAST:g} to {1 / LEAST:g}, got {self.temperature}")
        if not LEAST <= self.top_p <= 1:
            raise UsageError(f"top-p is a share from {LEAST:g} to 1, got {self.top_p}")


GREEDY = Sampling()
Chooser = Callable[[Tensor], Tensor]
"""Logits [B, V] -> token ids [B]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What a row said."""

    ids: list[int]
    """Token ids, without the end of sequence."""
    complete: bool
    """Whether it ended by itself, not at the most tokens allowed."""


def chooser(questions: Sequence[str], sampling: Sampling) -> Chooser:
    """Chooses the next token of each question's row."""
    if not sampling.temperature:
        return greedy
    rngs = [random.Random(f"{sampling.seed}-{question}") for question in questions]  # noqa: S311 -- no secret

    def choose(logits_BV: Tensor) -> Tensor:
        drawn_B1 = torch.tensor([[rng.random()] for rng in rngs], device=logits_BV.device)
        return nucleus(logits_BV.float() / sampling.temperature, sampling.top_p, drawn_B1)

    return choose


def greedy(logits_BV: Tensor) -> Tensor:
    """The likeliest tokens."""
    return logits_BV.argmax(dim=-1)


def nucleus(logits_BV: Tensor, top_p: float, drawn_B1: Tensor) -> Tensor:
    """The tokens at `drawn` (from 0 to less than 1) of the likeliest tokens whose joint probability reaches top_p."""
    share_BV, order_BV = logits_BV.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    reached_BV = share_BV.cumsum(dim=-1)
    kept_B = (reached_BV - share_BV < top_p).sum(dim=-1, keepdim=True)
    mass_B1 = reached_BV.gather(1, kept_B - 1)
    place_B1 = torch.searchsorted(reached_BV, drawn_B1 * mass_B1, right=True)
    return order_BV.gather(1, place_B1.clamp(max=kept_B - 1))[:, 0]


def decode(
    backbone: Backbone,
    inputs_BTD: Tensor,
    mask: Tensor,
    positions: Tensor,
    cache: Cache,
    *,
    choose: Chooser,
    max_tokens: int,
) -> list[Said]:
    """Feed `inputs_BTD` after what the cache holds, and go on until each row has said its end or `max_tokens`.

    `mask` is of what the cache holds and of the inputs, `positions` are those of the inputs.
    """
    said: list[list[int]] = [[] for _ in range(len(inputs_BTD))]
    open_rows = set(range(len(said)))
    for _ in range(max_tokens):
        hidden = backbone.hidden(inputs_BTD, mask_BT=mask, positions_BT=positions, cache=cache)
        tokens = choose(backbone.logits(hidden[:, -1]))
        for row, token in enumerate(tokens.tolist()):
            if row in open_rows:
                if token == backbone.eos_id:
                    open_rows.discard(row)
                else:
                    said[row].append(token)
        if not open_rows:
            break
        inputs_BTD = backbone.embed(tokens)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return [Said(ids=ids, complete=row not in open_rows) for row, ids in enumerate(said)]


def positions_of(mask: Tensor, count: int) -> Tensor:
    """Positions of the last `count` of what a mask covers: [B, count]."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)[:, -count:]
