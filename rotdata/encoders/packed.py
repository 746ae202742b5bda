"""What all encoders share: a call of pictures is sorted by size and packed, and comes apart again.

All linear layers see the whole call packed; tables that depend on a picture's size alone are computed once for each.

Shapes: H picture height, W its width, K its latents, D embedding width, P patches of a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rotdata.encoders.attention import use_attention
from rotdata.encoders.interface import CallTooLarge, Drawn, EncoderIdentity, Placement, Precision
from rotdata.encoders.models import ModelFolder
from rotdata.encoders.patches import PatchGeometry, cut
from rotdata.encoders.weights import tower_hashes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LATENTS_A_STEP = 16
"""Calls are filled up to a multiple of this with a blank strip. oneDNN keeps what it has made for every number of rows
that it has ever seen, half a megabyte for each linear layer of tiny's: sizes of calls must be few."""


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

    def __init__(self, tower: PreTrainedModel, folder: ModelFolder, where: Placement) -> None:
        use_attention(tower, where.kernel)
        self._tower = tower.to(device=where.device, dtype=getattr(torch, where.dtype)).eval().requires_grad_(False)  # noqa: FBT003
        self.device = where.device
        self.geometry = folder.geometry()
        self.identity = self.identify(folder, where.dtype)

    @classmethod
    def identify(cls, folder: ModelFolder, dtype: Precision) -> EncoderIdentity:
        """What decides the output of the tower in that folder, without loading it. Raises UnknownModel."""
        tower = tower_hashes(folder)
        return EncoderIdentity(
            model=folder.name,
            revision=folder.revision,
            tower_sha256=tower.stored,
            tower_values_sha256=tower.values,
            output=cls.output,
            factor=folder.factor_px(),
            width=folder.embedding_width(),
            dtype=dtype,
        )

    @classmethod
    @abstractmethod
    def load(cls, folder: ModelFolder, where: Placement) -> Self:
        """Load the tower alone. Raises UnknownModel if a weight of it is missing from the folder."""

    def encode(self, strips: Sequence[NDArray[np.uint8] | Drawn]) -> list[NDArray[np.float32]]:
        """Strips, or grey pictures [H_i, W_i] -> their latents [K_i, D], in the order given; all in one call.

        Raises CallTooLarge, GeometryError for a picture that is no whole number of factors high and wide.
        """
        return self.launch([each if isinstance(each, np.ndarray) else each.pixels for each in strips])()

    def launch(self, strips: Sequence[NDArray[np.uint8]]) -> Callable[[], list[NDArray[np.float32]]]:
        """Begin one call of the tower; on a GPU it runs on while the caller prepares the next.

        Raises CallTooLarge, GeometryError.
        """
        if not strips:
            return list
        order = sorted(range(len(strips)), key=lambda i: strips[i].shape)
        factor = self.geometry.factor_px
        borders = np.cumsum([strips[i].size // factor**2 for i in order])
        pictures = [strips[i] for i in order]
        if missing := -int(borders[-1]) % _LATENTS_A_STEP:
            pictures.append(np.zeros((factor, factor * missing), np.uint8))
        tiles = np.concatenate([cut(picture, self.geometry) for picture in pictures])
        groups = [SameSize(size, len(list(same))) for size, same in groupby(picture.shape for picture in pictures)]
        try:
            merged, arrived = self._run(torch.from_numpy(tiles), groups)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
                raise
            raise CallTooLarge(
                f"{len(tiles)} patches in one call of the tower are too many for the memory of {self.device}: "
                "free some of it, or render with a lower --max-latents"
            ) from error

        def collect() -> list[NDArray[np.float32]]:
            arrived()
            latents: list[NDArray[np.float32]] = [np.empty((0, self.identity.width), np.float32)] * len(strips)
            *found, _blank = np.split(merged.float().numpy(), borders)
            for i, rows in zip(order, found, strict=True):
                latents[i] = rows
            return latents

        return collect

    @torch.inference_mode()
    def _run(self, tiles: Tensor, groups: Sequence[SameSize]) -> tuple[Tensor, Callable[[], object]]:
        """Latents [sum of K, D] on the host, and what waits until they are there."""
        if not self.device.startswith("cuda"):
            return self._forward(tiles.to(self.device), groups).cpu(), lambda: None
        with torch.cuda.device(self.device):
            merged = self._forward(tiles.pin_memory().to(self.device, non_blocking=True), groups)
            host = torch.empty(merged.shape, dtype=merged.dtype, pin_memory=True)
            host.copy_(merged, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        return host, event.synchronize

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
