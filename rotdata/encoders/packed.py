"""What all encoders share: a call of pictures is sorted by size and packed, and comes apart again.

All linear layers see the whole call packed; tables that depend on a picture's size alone are computed once for each.

Shapes: H picture height, W its width, K its latents, D embedding width, P patches of a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rotdata.encoders.attention import use_grouped_attention
from rotdata.encoders.interface import EncoderIdentity, Precision
from rotdata.encoders.weights import tower_sha256
from rotdata.models import ModelFolder
from rotdata.patches import PatchGeometry, cut

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class SameSize:
    """The pictures of one size in a call, which stand together."""

    size: tuple[int, ...]
    """Height and width."""
    count: int


class PackedEncoder(ABC):
    """A frozen tower that takes a call of grey pictures as one packed sequence of patches."""

    output: ClassVar[str]
    """What of the tower's output is the target; stands in the manifest."""

    def __init__(
        self, tower: PreTrainedModel, folder: ModelFolder, *, width: int, dtype: Precision, device: str
    ) -> None:
        use_grouped_attention(tower)
        self._tower = tower.to(device=device, dtype=getattr(torch, dtype)).eval().requires_grad_(requires_grad=False)
        self._device = device
        self.geometry = folder.geometry()
        self.identity = EncoderIdentity(
            model=folder.name,
            revision=folder.revision,
            tower_sha256=tower_sha256(folder),
            output=self.output,
            factor=self.geometry.factor_px,
            width=width,
            dtype=dtype,
        )

    @torch.inference_mode()
    def encode(self, strips: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Grey pictures [H_i, W_i] -> their latents [K_i, D], in the order given; all in one call of the tower."""
        if not strips:
            return []
        order = sorted(range(len(strips)), key=lambda i: strips[i].shape)
        tiles = np.concatenate([cut(strips[i], self.geometry) for i in order])
        groups = [SameSize(size, len(list(same))) for size, same in groupby(strips[i].shape for i in order)]
        merged = self._forward(torch.from_numpy(tiles).to(self._device), groups).float().cpu().numpy()  # [sum of K, D]
        borders = np.cumsum([strips[i].size // self.geometry.factor_px**2 for i in order])
        latents: list[NDArray[np.float32]] = [merged[:0]] * len(strips)
        for i, rows in zip(order, np.split(merged, borders[:-1]), strict=True):
            latents[i] = rows
        return latents

    @abstractmethod
    def _forward(self, tiles: Tensor, groups: Sequence[SameSize]) -> Tensor:
        """One call of the tower on grey patches [P, p*p], merge block after merge block -> [sum of K, D]."""


class GreyPatchEmbed(nn.Module):
    """A tower's patch embedding for grey pictures that stand still: [P, p*p] grey values -> [P, width].

    Channels and frames of such a patch are copies of one picture, so their weights add up: a sixth of the arithmetic,
    and of the bytes to move. In fp32, since the sum of weights is not among the tower's own rounded values.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d | nn.Conv3d, geometry: PatchGeometry) -> None:
        super().__init__()
        weight = convolution.weight.detach().float()  # [width, C, T, p, p], or without T
        per_channel = weight.flatten(start_dim=2).unflatten(2, (-1, geometry.patch_px**2)).sum(dim=2)  # [width, C, p*p]
        mean, std = (
            torch.tensor(values, device=per_channel.device)[:, None] for values in (geometry.mean, geometry.std)
        )
        self._dtype = convolution.weight.dtype
        # With x = 2 * grey / 255 - 1, a channel's normalised value is x / (2 * std) + (1 / 2 - mean) / std.
        self.register_buffer("weight", (per_channel / (2 * std)).sum(dim=1))
        offset = (per_channel * ((0.5 - mean) / std)).sum(dim=(1, 2))
        bias = 0 if convolution.bias is None else convolution.bias.detach().float()
        self.register_buffer("bias", offset + bias)

    def forward(self, tiles: Tensor) -> Tensor:
        """Embed grey patches."""
        values = tiles.float() / 127.5 - 1
        return F.linear(values, self.weight, self.bias).to(self._dtype)
