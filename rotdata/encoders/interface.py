"""What an encoder is to the rest of the toolkit.

Shapes: H picture height, W its width, K its latents, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rotdata.encoders.patches import PatchGeometry
from rotdata.errors import RotError

Precision = Literal["float32", "bfloat16"]
Kernel = Literal["grouped", "varlen", "flash-attn"]
"""How attention is computed; see rotdata.encoders.attention."""
VALUES = "tower_values_sha256"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tower runs, and how."""

    device: str = "cpu"
    """As torch names it: cpu, cuda, cuda:1."""
    dtype: Precision = "float32"
    kernel: Kernel = "grouped"


@dataclass(frozen=True, slots=True)
class TowerHashes:
    """Two hashes of one vision tower: manifests hold both, those of earlier releases the first alone."""

    stored: str
    """SHA-256 over its weights as they lie on disk: names, types, shapes and bytes in order of name."""
    values: str
    """The same over the numbers that they are: another type that holds the same ones changes nothing."""

    def beside(self, encoder: Mapping[str, Any]) -> tuple[str, str]:
        """This tower's hash and that in a manifest's encoder, both of values if that says them."""
        if VALUES in encoder:
            return self.values, str(encoder[VALUES])
        return self.stored, str(encoder.get("tower_sha256"))


@dataclass(frozen=True, kw_only=True)
class EncoderIdentity:
    """What decides an encoder's output; stands in the manifest of its shards."""

    model: str
    revision: str | None
    tower_sha256: str
    tower_values_sha256: str
    """Both as TowerHashes has them."""
    output: str
    factor: int
    width: int
    """D, the embedding width."""
    dtype: Precision
    """Arithmetic of the tower."""

    def as_json(self) -> dict[str, Any]:
        """The identity as the manifest holds it."""
        return asdict(self)

    @property
    def tower(self) -> TowerHashes:
        """The hashes of its tower."""
        return TowerHashes(self.tower_sha256, self.tower_values_sha256)

    def fits(self, encoder: Mapping[str, Any]) -> bool:
        """Whether a manifest's encoder gives what this one gives, whatever its model is called and wherever it lies."""
        ours, theirs = self.tower.beside(encoder)
        others = ("output", "factor", "width", "dtype")
        return ours == theirs and all(getattr(self, name) == encoder.get(name) for name in others)


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
