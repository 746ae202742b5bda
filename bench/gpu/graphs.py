"""Thinking and speaking one position at a time without Python between the kernels: one CUDA graph, replayed.

The loop of rottrain.generation launches a few hundred kernels a position, which a GPU waits for at small batches. Here
one position is captured once, over a cache and buffers that stay where they are, and replayed. On a CPU the same steps
run as they are: so the tests compare them with the loop.

Shapes: B rows, T positions of the cache, D embedding width, K latents, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import StaticCache

from rottrain.generation.rollout import Prompt
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead

_WARM_UPS = 3
_ALIGNED = 8
"""Positions that a row of a mask is a multiple of: attention kernels would copy another."""


class Stepper:
    """Latents and tokens of `rows` rows, each `steps` at most, in a cache of `capacity` positions."""

    def __init__(self, backbone: Backbone, head: ProjectionHead, *, rows: int, capacity: int, steps: int) -> None:
        self._backbone, self._head = backbone, head
        device, width, dtype = backbone.device, backbone.width, backbone.dtype
        capacity = -(-capacity // _ALIGNED) * _ALIGNED
        self._cache = StaticCache(config=backbone.model.config.get_text_config(), max_cache_len=capacity)
        self._mask_B11T = torch.zeros(rows, 1, 1, capacity, dtype=torch.bool, device=device)
        self._position_B1 = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._place, self._step = (torch.zeros(1, dtype=torch.long, device=device) for _ in range(2))
        self._hidden_BD = torch.zeros(rows, width, dtype=dtype, device=device)
        self._fed_BKD = torch.zeros(rows, steps, width, device=device)
        self._said_BK = torch.zeros(rows, steps, dtype=torch.long, device=device)
        self._begin()
        self._think, self._speak = self._captured(self._latent), self._captured(self._token)

    def latents(self, prompt: Prompt, count: int | None = None) -> Tensor:
        """The latents [B, K, D] that follow a prompt, each fed back as it was predicted."""
        self._read(prompt)
        for _ in range(count or self._fed_BKD.shape[1]):
            self._think()
        return self._fed_BKD[:, :count].clone()

    def tokens(self, prompt: Prompt, count: int | None = None) -> Tensor:
        """The likeliest tokens [B, K] that follow a prompt."""
        self._read(prompt)
        return self.more_tokens(count or self._said_BK.shape[1])

    def more_tokens(self, count: int) -> Tensor:
        """The likeliest tokens [B, K] that follow what was read last."""
        self._step.zero_()
        for _ in range(count):
            self._speak()
        return self._said_BK[:, :count].clone()

    def feed(self, ids: list[int]) -> None:
        """Read the same tokens in every row."""
        for token in ids:
            self._feed(self._backbone.embed(torch.full_like(self._position_B1[:, 0], token)))

    def _latent(self) -> None:
        latent_BD = self._head(self._hidden_BD)
        self._fed_BKD.index_copy_(1, self._step, latent_BD[:, None].to(self._fed_BKD.dtype))
        self._step.add_(1)
        self._feed(latent_BD)

    def _token(self) -> None:
        token_B = self._backbone.logits(self._hidden_BD).argmax(dim=-1)
        self._said_BK.index_copy_(1, self._step, token_B[:, None])
        self._step.add_(1)
        self._feed(self._backbone.embed(token_B))

    def _feed(self, inputs_BD: Tensor) -> None:
        """One position more."""
        self._mask_B11T.index_fill_(3, self._place, value=True)
        read = self._backbone.model.model.language_model(
            inputs_embeds=inputs_BD[:, None].to(self._backbone.dtype),
            attention_mask=self._mask_B11T,  # of four dimensions, it is taken as it is
            position_ids=self._position_B1,
            past_key_values=self._cache,
            use_cache=False,
        )
        self._hidden_BD.copy_(read.last_hidden_state[:, -1])
        self._position_B1.add_(1)
        self._place.add_(1)

    def _read(self, prompt: Prompt) -> None:
        """Take over what was read of prompts."""
        self._begin()
        length = prompt.mask_BT.shape[1]
        for kept, layer in zip(self._cache.layers, prompt.cache.layers, strict=True):
            kept.update(layer.keys, layer.values)
        self._mask_B11T[..., :length] = prompt.mask_BT[:, None, None].bool()
        self._position_B1.copy_(prompt.mask_BT.sum(dim=1, keepdim=True))
        self._place.fill_(length)
        self._hidden_BD.copy_(prompt.hidden_BD)

    def _begin(self) -> None:
        """Forget all."""
        for layer in self._cache.layers:
            layer.cumulative_length.zero_()
        self._mask_B11T.zero_()
        for counter in (self._position_B1, self._place, self._step):
            counter.zero_()

    def _captured(self, step: Callable[[], None]) -> Callable[[], object]:
        """A step as a graph that is replayed; on a CPU as it is."""
        if self._place.device.type != "cuda":
            return step
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                self._begin()
                step()
        torch.cuda.current_stream().wait_stream(aside)
        self._begin()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        self._begin()
        return graph.replay


def compile_parts(backbone: Backbone) -> None:
    """Compile norms and feed-forward layers: one compilation serves all layers, since none knows its number."""
    for layer in backbone.model.model.language_model.layers:
        attention = layer.self_attn
        for part in (
            layer.mlp,
            layer.input_layernorm,
            layer.post_attention_layernorm,
            attention.q_norm,
            attention.k_norm,
        ):
            part.compile()
