"""Strips -> packed patches in the order in which Qwen-VL towers take them. Pure numpy; knows geometry, not models.

Shapes: H strip height, W its width, p patch side, m merge, C channels, T frames a patch spans; one strip has
(H/p) * (W/p) patches, and its merged latents lie in one row when H = p * m.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rotdata.errors import RotError, UsageError


class GeometryError(RotError):
    """A strip whose height or width is not what the encoder's patches need."""


@dataclass(frozen=True, kw_only=True)
class PatchGeometry:
    """How an encoder cuts and normalises pictures."""

    patch_px: int
    merge: int
    """Patches a side that the encoder merges into one latent."""
    frames: int = 2
    """Frames a patch spans in time; a still picture is repeated."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    @property
    def factor_px(self) -> int:
        """Side of the square that becomes one latent: the height of a strip."""
        return self.patch_px * self.merge

    @property
    def values_per_patch(self) -> int:
        """Length of a packed patch: C * T * p * p."""
        return len(self.mean) * self.frames * self.patch_px**2


def pack(strips: Sequence[NDArray[np.uint8]], geometry: PatchGeometry) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Grey strips [H, W_i] -> (patches [sum of patches, C*T*p*p], grid_thw [len(strips), 3]).

    Equal to the stock Qwen processors' output with resizing off, strip after strip on axis 0. Raises GeometryError.
    """
    tiles = np.concatenate([cut(pixels, geometry) for pixels in strips])
    return normalise(tiles, geometry), grid_thw([pixels.shape[1] for pixels in strips], geometry)


def cut(pixels: NDArray[np.uint8], geometry: PatchGeometry) -> NDArray[np.uint8]:
    """One grey strip [H, W] -> its patches [(H/p)*(W/p), p*p], merge block after merge block."""
    height, width = pixels.shape
    p, m, factor = geometry.patch_px, geometry.merge, geometry.factor_px
    if height != factor or width == 0 or width % factor:
        raise GeometryError(
            f"a strip of {width} x {height} px does not fit an encoder of factor {factor}: "
            f"render it {factor} px high, as with --height {factor}"
        )
    blocks = pixels.reshape(m, p, width // factor, m, p)
    return blocks.transpose(2, 0, 3, 1, 4).reshape(-1, p * p)


def normalise(tiles: NDArray[np.uint8], geometry: PatchGeometry) -> NDArray[np.float32]:
    """Grey patches [N, p*p] -> normalised values [N, C*T*p*p], the same picture in every channel and frame."""
    greys = np.arange(256, dtype=np.float32)[:, None] * np.float32(1 / 255)
    mean, std = np.array([geometry.mean, geometry.std], dtype=np.float32)
    table: NDArray[np.float32] = (greys - mean) / std  # [256, C]
    per_channel = np.stack([table[:, c][tiles] for c in range(table.shape[1])], axis=1)  # [N, C, p*p]
    return np.repeat(per_channel[:, :, None], geometry.frames, axis=2).reshape(len(tiles), -1)


def grid_thw(widths_px: Sequence[int], geometry: PatchGeometry) -> NDArray[np.int64]:
    """Widths of strips -> their grids (1 frame, rows, columns of patches), [len(widths_px), 3]."""
    return np.array([(1, geometry.merge, width // geometry.patch_px) for width in widths_px], dtype=np.int64)


def calls(num_patches: Sequence[int], patches_per_call: int) -> Iterator[list[int]]:
    """Indices of strips grouped into calls of at most `patches_per_call` patches, strips of similar width together.

    A strip larger than that goes alone. The grouping depends on the sizes only.
    """
    if patches_per_call < 1:
        raise UsageError(f"patches_per_call is at least 1, got {patches_per_call}")
    call: list[int] = []
    held = 0
    for i in sorted(range(len(num_patches)), key=lambda i: (num_patches[i], i)):
        if call and held + num_patches[i] > patches_per_call:
            yield call
            call, held = [], 0
        call.append(i)
        held += num_patches[i]
    if call:
        yield call
