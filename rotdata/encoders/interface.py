"""What an encoder is to the rest of the toolkit.

Shapes: H picture height, W its width, K its latents, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rotdata.encoders.patches import PatchGeometry
from rotdata.errors import RotError

Precision = Literal["float32", "bfloat16"]
Kernel = Literal["grouped", "varlen", "flash-attn"]
"""How attention is computed; see rotdata.encoders.attention."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tower runs, and how."""

    device: str = "cpu"
    """As torch names it: cpu, cuda, cuda:1."""
    dtype: Precision = "float32"
    kernel: Kernel = "grouped"


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


class CallTooLarge(RotError):
    """A call of the tower needs more memory than there is: fewer pictures may fit."""


class Drawn(Protocol):
    """What has been drawn, such as a strip."""

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """Grey values [H, W]."""


class Encoder(Protocol):
    """A frozen vision tower."""

    @property
    def geometry(self) -> PatchGeometry:
        """How it cuts pictures."""

    @property
    def identity(self) -> EncoderIdentity:
        """What decides its output."""

    @property
    def device(self) -> str:
        """Where it computes, as torch names it."""

    def launch(self, strips: Sequence[NDArray[np.uint8]]) -> Callable[[], list[NDArray[np.float32]]]:
        """Begin one call of the tower; what comes back waits for its end, in any thread, and gives the latents.

        Grey pictures [H_i, W_i] -> their latents [K_i, D], in the order given. Strips have one row of latents; those
        of higher pictures come in reading order. Raises CallTooLarge, GeometryError.
        """
