"""What an encoder is to the rest of the toolkit.

Shapes: H picture height, W its width, K its latents, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rotdata.models import ModelFolder
from rotdata.patches import PatchGeometry

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What decides an encoder's output; stands in the manifest of its shards."""

    model: str
    revision: str | None
    tower_sha256: str
    output: str
    factor: int
    width: int
    """D, the embedding width."""
    dtype: Precision
    """Arithmetic of the tower."""

    def as_json(self) -> dict[str, Any]:
        """The identity as the manifest holds it."""
        return asdict(self)


class Encoder(Protocol):
    """A frozen vision tower."""

    @property
    def geometry(self) -> PatchGeometry:
        """How it cuts pictures."""

    @property
    def identity(self) -> EncoderIdentity:
        """What decides its output."""

    @classmethod
    def load(cls, folder: ModelFolder, *, dtype: Precision, device: str) -> Encoder:
        """Load the tower alone. Raises UnknownModel if a weight of it is missing from the folder."""

    def encode(self, strips: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        """Grey pictures [H_i, W_i] -> their latents [K_i, D], in the order given; all in one call of the tower.

        Strips have one row of latents; those of higher pictures come in reading order.
        """
