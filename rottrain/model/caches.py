"""What a language model remembers of the positions it has read: made for an architecture, forked, cut off, held.

Attention layers remember keys and values, a linear-attention layer (Qwen3.5) the last inputs of its convolution and one
matrix, its recurrent state. transformers changes these two in place, so that neither a copy of the layer nor a gradient
survives the next step; `RecurrentLayer` puts new ones in their place.

Shapes: B rows, C channels, W width of the convolution.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import LinearAttentionLayer


class RecurrentLayer(LinearAttentionLayer):
    """The state of a linear-attention layer; a copy of it goes its own way."""

    conv_states: dict[int, Tensor | None]
    recurrent_states: dict[int, Tensor | None]
    has_previous_state: dict[int, bool]
    held_B: Tensor | None = None
    """Rows whose state stays as it is: what they read now leaves no trace."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.record_past = True  # single steps then ask for the convolution's inputs, instead of changing them in place

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **_: Any
    ) -> Tensor:
        """New inputs of the convolution [B, C, T] -> the earlier ones that it still sees, and these: [B, C, W + T]."""
        assert conv_kernel_size is not None
        earlier = self.conv_states[state_idx]
        if earlier is None:
            earlier = conv_states.new_zeros(*conv_states.shape[:-1], conv_kernel_size)
        joined = torch.cat([earlier, conv_states], dim=-1)
        self.conv_states = {**self.conv_states, state_idx: self._moved(earlier, joined[..., -conv_kernel_size:])}
        self.has_previous_state = {**self.has_previous_state, state_idx: True}
        return joined

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **_: Any) -> Tensor:
        """Take over the state after the positions just read."""
        moved = self._moved(self.recurrent_states[state_idx], recurrent_states)
        self.recurrent_states = {**self.recurrent_states, state_idx: moved}
        return moved

    def detach(self) -> None:
        """Cut the gradient through the state."""
        self.conv_states = {i: None if state is None else state.detach() for i, state in self.conv_states.items()}
        self.recurrent_states = {
            i: None if state is None else state.detach() for i, state in self.recurrent_states.items()
        }

    def _moved(self, earlier: Tensor | None, later: Tensor) -> Tensor:
        """The later state, but the earlier one in rows that are held."""
        if self.held_B is None or earlier is None:
            return later
        return torch.where(self.held_B.view(-1, *[1] * (later.dim() - 1)), earlier, later)


def new_cache(config: Any) -> Cache:
    """An empty cache for a language model of that configuration."""
    cache = DynamicCache(config=config)
    cache.layers = [RecurrentLayer() if isinstance(layer, LinearAttentionLayer) else layer for layer in cache.layers]
    return cache


def fork(cache: Cache) -> Cache:
    """A cache of the same content that may be extended without changing this one."""
    forked = copy.copy(cache)
    forked.layers = [copy.copy(layer) for layer in cache.layers]
    return forked


def detach(cache: Cache) -> None:
    """Cut the gradient through what the cache holds."""
    for layer in cache.layers:
        if isinstance(layer, RecurrentLayer):
            layer.detach()
        else:
            layer.keys, layer.values = layer.keys.detach(), layer.values.detach()


def is_recurrent(cache: Cache) -> bool:
    """Whether it holds states of linear attention: what these have read can't be masked afterwards."""
    return any(isinstance(layer, RecurrentLayer) for layer in cache.layers)


@contextmanager
def held(cache: Cache, rows_B: Tensor) -> Iterator[None]:
    """While this lasts, what these rows read leaves no trace in the states of linear attention."""
    layers = [layer for layer in cache.layers if isinstance(layer, RecurrentLayer)]
    for layer in layers:
        layer.held_B = rows_B
    try:
        yield
    finally:
        for layer in layers:
            layer.held_B = None
