"""The projection head: hidden state of the language model -> the next latent, and whether it is the last.

Shapes: D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rottrain.config import Activation

MAX_DEFAULT_HIDDEN = 4096
"""The paper's hidden width, at a language model of 2560."""


class ProjectionHead(nn.Module):
    """LayerNorm, then a two-layer MLP: [..., width_in] -> [..., width_out]. Structure of the reference code.

    What the MLP gives counts in standard deviations from the targets' mean where `set_scale` was called.
    """

    mean_D: Tensor
    deviation_D: Tensor

    def __init__(self, *, width_in: int, width_out: int, hidden: int | None, activation: Activation) -> None:
        super().__init__()
        self.width_in, self.width_out = width_in, width_out
        self.hidden = hidden or min(2 * width_in, MAX_DEFAULT_HIDDEN)
        self.activation = activation
        self.norm = nn.LayerNorm(width_in)
        self.enter = nn.Linear(width_in, self.hidden)
        self.gate = nn.Linear(self.hidden, self.hidden) if activation == "swiglu" else None
        self.up = nn.Linear(self.hidden, self.hidden) if activation == "swiglu" else None
        self.leave = nn.Linear(self.hidden, width_out)
        self.halt = nn.Linear(width_in, 1)
        self.register_buffer("mean_D", torch.zeros(width_out))
        self.register_buffer("deviation_D", torch.ones(width_out))

    def set_scale(self, mean_D: Tensor, deviation_D: Tensor) -> None:
        """Predict latents of this mean and these standard deviations, all of them more than 0."""
        self.mean_D.copy_(mean_D)
        self.deviation_D.copy_(deviation_D)

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents [..., D] in standard deviations from the mean."""
        return (latents.float() - self.mean_D) / self.deviation_D

    def is_last(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., width_in] -> logits [...] of the latent predicted there being the last."""
        return self.halt(self.norm(hidden.to(self.norm.weight.dtype)))[..., 0]

    def forward(self, hidden: Tensor) -> Tensor:
        """Project hidden states of any leading shape."""
        x = self.enter(self.norm(hidden.to(self.norm.weight.dtype)))
        if self.gate is not None and self.up is not None:
            x = F.silu(self.gate(x)) * self.up(x)
        else:
            x = F.gelu(x) if self.activation == "gelu" else torch.relu(x)
        return self.leave(x) * self.deviation_D + self.mean_D
