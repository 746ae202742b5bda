"""Gradient checkpointing: a decoder layer keeps its input alone, and is run again when its gradients are due.

transformers has a switch for this that throws caches away, since a layer that is run again would extend them twice. All
passes here continue from a cache, so each run of a layer gets a copy of what it remembered before it.

Shapes: B rows, T positions, D embedding width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import Cache


def recompute(layers: Iterable[nn.Module]) -> None:
    """Let decoder layers, in their order, keep less and compute twice wherever there is a gradient."""
    for index, layer in enumerate(layers):
        layer.forward = _recomputed(layer.forward, index)


def _recomputed(forward: Callable[..., Tensor], index: int) -> Callable[..., Tensor]:
    @wraps(forward)
    def run(hidden_BTD: Tensor, *, past_key_values: Cache | None = None, **rest: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return forward(hidden_BTD, past_key_values=past_key_values, **rest)
        if past_key_values is None:
            return checkpoint(forward, hidden_BTD, past_key_values=None, use_reentrant=False, **rest)
        before = copy.copy(past_key_values.layers[index])

        def step(hidden_BTD: Tensor) -> tuple[Tensor, Any]:
            after = copy.copy(before)
            own = Cache(layers=[after] * (index + 1))  # it looks at its own index alone
            return forward(hidden_BTD, past_key_values=own, **rest), after

        # `step` must not hold the cache: its layers hold the graph, the graph holds `step`, and nothing would be freed.
        output_BTD, past_key_values.layers[index] = checkpoint(step, hidden_BTD, use_reentrant=False)
        return output_BTD

    return run
