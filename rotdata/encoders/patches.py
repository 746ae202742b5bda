"""Pictures -> packed patches in the order in which Qwen-VL towers take them. Pure numpy; knows geometry, not models.

A strip is a picture one factor high, whose latents lie in one row; the latents of a higher one are in reading order.

Shapes: H picture height, W its width, p patch side, m merge, C channels, T frames a patch spans; one picture has
(H/p) * (W/p) patches and K = H*W / (p*m)^2 latents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rotdata.errors import RotError, UsageError

_LARGEST_ASPECT = 200  # the stock processors refuse a picture beyond it


class GeometryError(RotError):
    """A picture whose height or width is not what the encoder's patches need."""


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


@dataclass(frozen=True, kw_only=True)
class ResizeLimits:
    """The areas between which a stock processor brings every picture."""

    min_pixels: int
    max_pixels: int


def pack(
    pictures: Sequence[NDArray[np.uint8]], geometry: PatchGeometry
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Grey pictures [H_i, W_i] -> (patches [sum of patches, C*T*p*p], grid_thw [len(pictures), 3]).

    Equal to the stock Qwen processors' output with resizing off, picture after picture on axis 0. Raises GeometryError.
    """
    tiles = np.concatenate([cut(pixels, geometry) for pixels in pictures])
    return normalise(tiles, geometry), grid_thw([pixels.shape for pixels in pictures], geometry)


def latent_pictures(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """A strip [H, K * H] -> the picture of each of its latents, [H, H]."""
    return np.split(pixels, pixels.shape[1] // pixels.shape[0], axis=1)


def cut(pixels: NDArray[np.uint8], geometry: PatchGeometry) -> NDArray[np.uint8]:
    """One grey picture [H, W] -> its patches [(H/p)*(W/p), p*p], merge block after merge block in reading order."""
    height, width = pixels.shape
    p, m, factor = geometry.patch_px, geometry.merge, geometry.factor_px
    if not height or not width or height % factor or width % factor:
        raise GeometryError(
            f"a picture of {width} x {height} px does not fit an encoder of factor {factor}: "
            f"render it {factor} px high, as with --height {factor}"
        )
    blocks = pixels.reshape(height // factor, m, p, width // factor, m, p)
    return blocks.transpose(0, 3, 1, 4, 2, 5).reshape(-1, p * p)


def normalise(tiles: NDArray[np.uint8], geometry: PatchGeometry) -> NDArray[np.float32]:
    """Grey patches [N, p*p] -> normalised values [N, C*T*p*p], the same picture in every channel and frame."""
    greys = np.arange(256, dtype=np.float32)[:, None] * np.float32(1 / 255)
    mean, std = np.array([geometry.mean, geometry.std], dtype=np.float32)
    table: NDArray[np.float32] = (greys - mean) / std  # [256, C]
    per_channel = np.stack([table[:, c][tiles] for c in range(table.shape[1])], axis=1)  # [N, C, p*p]
    return np.repeat(per_channel[:, :, None], geometry.frames, axis=2).reshape(len(tiles), -1)


def grid_thw(sizes_px: Sequence[tuple[int, ...]], geometry: PatchGeometry) -> NDArray[np.int64]:
    """Heights and widths of pictures -> their grids (1 frame, rows, columns of patches), [len(sizes_px), 3]."""
    p = geometry.patch_px
    return np.array([(1, height // p, width // p) for height, width in sizes_px], dtype=np.int64)


def calls(num_patches: Sequence[int], patches_per_call: int) -> Iterator[list[int]]:
    """Indices of pictures grouped into calls of at most `patches_per_call` patches, those of similar size together.

    A picture larger than that goes alone. The grouping depends on the sizes only.
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


def reference_resize(pixels: NDArray[np.uint8], geometry: PatchGeometry, limits: ResizeLimits) -> NDArray[np.uint8]:
    """A grey picture [H, W] as the stock Qwen processors resize it, bicubic, for comparison with strips as they are.

    Raises GeometryError where the stock processors raise too: for a side over 200 times the other.
    """
    height, width = pixels.shape
    height, width = reference_size(height, width, geometry.factor_px, limits)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def reference_size(height: int, width: int, factor_px: int, limits: ResizeLimits) -> tuple[int, int]:
    """The height and width that the stock Qwen processors give a picture. Raises GeometryError.

    Both become the nearest multiples of the factor; where that leaves the limits of area, both are scaled by what the
    area is off, and rounded to the inside.
    """
    if not height or not width or max(height, width) > _LARGEST_ASPECT * min(height, width):
        raise GeometryError(
            f"a picture of {width} x {height} px has a side over {_LARGEST_ASPECT} times the other, which the stock "
            "processor refuses: embed it without --resize reference"
        )
    rows, columns = round(height / factor_px), round(width / factor_px)
    area = rows * columns * factor_px**2
    if area > limits.max_pixels:
        shrink = math.sqrt(height * width / limits.max_pixels)
        rows, columns = (max(1, math.floor(side / shrink / factor_px)) for side in (height, width))
    elif area < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / (height * width))
        rows, columns = (math.ceil(side * grow / factor_px) for side in (height, width))
    return rows * factor_px, columns * factor_px
