"""The projection head: hidden state of the language model -> the next latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rottrain.config import Activation

MAX_DEFAULT_HIDDEN = 4096
"""The paper's hidden width, at a language model of 2560."""


class ProjectionHead(nn.Module):
    """LayerNorm, then a two-layer MLP: [..., width_in] -> [..., width_out]. Structure of the reference code."""

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

    def forward(self, hidden: Tensor) -> Tensor:
        """Project hidden states of any leading shape."""
        x = self.enter(self.norm(hidden.to(self.norm.weight.dtype)))
        if self.gate is not None and self.up is not None:
            x = F.silu(self.gate(x)) * self.up(x)
        else:
            x = F.gelu(x) if self.activation == "gelu" else torch.relu(x)
        return self.leave(x)
