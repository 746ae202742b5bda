"""Latents of a strip -> what is stored of them to train on: pooled, cut to a budget, in eight bits. Pure numpy.

Shapes: K latents of a row, D embedding width; spans are [K + 1] offsets into its text, as in strips.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rotdata.errors import UsageError

Store = Literal["float16", "float32", "int8"]
Longer = Literal["reject", "truncate", "resample"]
Context = Literal["strip", "latent"]
"""What a latent was encoded with: its whole strip, or its own picture alone."""

_INT8_MAX = 127


@dataclass(frozen=True, kw_only=True)
class TargetSettings:
    """What is stored of a strip's latents. The defaults store them all, as float16."""

    store: Store = "float16"
    pool: int = 1
    """Means of so many neighbours are stored in their place; the last may be of fewer."""
    max_latents: int | None = None
    """Latents, after pooling, that a row may have."""
    longer: Longer = "reject"
    """What becomes of rows with more: none of them, the first ones, or means over as many equal stretches."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that mean nothing."""
        if self.pool < 1:
            raise UsageError(f"--pool counts neighbours and is at least 1, got {self.pool}")
        if self.max_latents is not None and self.max_latents < 1:
            raise UsageError(f"--max-latents is at least 1, got {self.max_latents}")

    def as_json(self) -> dict[str, Any]:
        """The settings that differ from the defaults, and the type; so that a manifest says nothing needless."""
        found: dict[str, Any] = {"store": self.store}
        if self.pool != 1:
            found["pool"] = self.pool
        if self.max_latents is not None:
            found |= {"max_stored_latents": self.max_latents, "longer": self.longer}
        return found


class TooManyLatents(Exception):
    """Why a row can't be stored."""


def shorten(
    latents_KD: NDArray[np.float32], spans: NDArray[np.int32] | None, settings: TargetSettings
) -> tuple[NDArray[np.float32], NDArray[np.int32] | None]:
    """Pool latents and bring them to the most that a row may have; spans follow. Raises TooManyLatents."""
    if settings.pool > 1:
        count = -(-len(latents_KD) // settings.pool)
        borders = np.minimum(np.arange(count + 1) * settings.pool, len(latents_KD))
        latents_KD, spans = _means(latents_KD, borders), None if spans is None else spans[borders]
    most = settings.max_latents
    if most is None or len(latents_KD) <= most:
        return latents_KD, spans
    if settings.longer == "reject":
        raise TooManyLatents(
            f"{len(latents_KD)} latents, --max-latents is {most}: --longer truncate or resample would keep it"
        )
    if settings.longer == "truncate":
        return latents_KD[:most], None if spans is None else spans[: most + 1]
    borders = np.arange(most + 1) * len(latents_KD) // most
    return _means(latents_KD, borders), None if spans is None else spans[borders]


def quantise(latents_KD: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Eight bits a value and one scale a latent, its largest magnitude over 127: [K, D] -> [K, D], [K]."""
    largest = np.abs(latents_KD).max(axis=1, initial=0)
    scale = np.where(largest > 0, largest / _INT8_MAX, 1).astype(np.float32)
    return np.rint(latents_KD / scale[:, None]).clip(-_INT8_MAX, _INT8_MAX).astype(np.int8), scale


def restore(values_LD: NDArray[np.int8], scale_L: NDArray[np.float32]) -> NDArray[np.float32]:
    """What `quantise` stored, as float32."""
    return values_LD * scale_L[:, None]


def _means(latents_KD: NDArray[np.float32], borders: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Means of the stretches between borders, none of them empty."""
    sums = np.add.reduceat(latents_KD, borders[:-1], axis=0, dtype=np.float32)
    return (sums / np.diff(borders)[:, None]).astype(np.float32)
