"""What an answer attends to while it is said: the latents, one by one, and everything else.

One pass over question, latents and answer with eager attention, the one that gives its weights; heads are averaged.

Shapes: K latents, A answer tokens, T positions, L layers, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rottrain.generation.generate import RoT
from rottrain.metrics.latent_geometry import rounded


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Weights with which the positions that say an answer's tokens attend, a mean over heads."""

    tokens: list[str]
    """The answer's, [A]; the last one is the end and has no text."""
    latents: list[list[list[float]]]
    """On each latent, [L, A, K]."""
    question: list[list[float]]
    """On the question and what stands around it, the begin token included, [L, A]."""
    rest: list[list[float]]
    """On the end token and on the answer so far, [L, A]."""


@torch.inference_mode()
def answer_attention(rot: RoT, question: str, latents_KD: Tensor, reply: str) -> Attention:
    """How a reply attends to the latents [K, D] that it was said after."""
    backbone = rot.backbone
    before = [*backbone.prompt_ids(question), backbone.begin_id]
    said = backbone.text_ids(reply)

    def embedded(ids: list[int]) -> Tensor:
        return backbone.embed(torch.tensor(ids, device=backbone.device))

    parts = [embedded(before), latents_KD.to(backbone.device, backbone.dtype), embedded([backbone.end_id, *said])]
    latents = slice(len(before), len(before) + len(latents_KD))
    # The end token says the first token, each token the next one.
    weights_LAT = backbone.attention(torch.cat(parts)[None])[:, 0, latents.stop :]
    on_latents_LAK = weights_LAT[:, :, latents]
    return Attention(
        tokens=[*(backbone.decode([token]) for token in said), ""],
        latents=rounded(on_latents_LAK),
        question=rounded(weights_LAT[:, :, : latents.start].sum(dim=-1)),
        rest=rounded(weights_LAT[:, :, latents.stop :].sum(dim=-1)),
    )
