"""Packing against the stock Qwen image processor, and the grouping of strips into calls."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rotdata.encoders.patches import GeometryError, PatchGeometry, calls, cut, grid_thw, normalise, pack
from rotdata.errors import UsageError
from rotdata.rendering.strips import StripStyle, render

QWEN3 = PatchGeometry(patch_px=16, merge=2)
QWEN25 = PatchGeometry(patch_px=14, merge=2)
TEXTS = [
    "",
    "7+5=12",
    "Natalia sold 48/2 = 24 clips in May.",
    "\\frac{\\pi}{2} \N{N-ARY SUMMATION} \N{CRAB}",
    "m" * 300,
]


def random_strips(*num_latents: int, factor_px: int = 32) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (factor_px, factor_px * k), dtype=np.uint8) for k in num_latents]


def assert_packed_as_by_stock_processor(strips: list[NDArray[np.uint8]], geometry: PatchGeometry) -> None:
    stock = Qwen2VLImageProcessorPil(
        do_resize=False,
        patch_size=geometry.patch_px,
        temporal_patch_size=geometry.frames,
        merge_size=geometry.merge,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    expected = stock([np.repeat(strip[..., None], 3, axis=2) for strip in strips], return_tensors="np")
    patches, grid = pack(strips, geometry)
    np.testing.assert_allclose(patches, expected["pixel_values"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(grid, expected["image_grid_thw"])


@pytest.mark.parametrize("geometry", [QWEN3, QWEN25], ids=["factor 32", "factor 28"])
def test_rendered_strips_are_packed_as_by_the_stock_processor(geometry: PatchGeometry) -> None:
    style = StripStyle(height_px=geometry.factor_px)
    assert_packed_as_by_stock_processor([render(text, style).pixels for text in TEXTS], geometry)


@pytest.mark.parametrize("geometry", [QWEN3, QWEN25], ids=["factor 32", "factor 28"])
def test_random_greys_are_packed_as_by_the_stock_processor(geometry: PatchGeometry) -> None:
    assert_packed_as_by_stock_processor(random_strips(3, 1, 7, 250, factor_px=geometry.factor_px), geometry)


def test_mean_and_deviation_are_a_channel_each() -> None:
    geometry = PatchGeometry(patch_px=16, merge=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    patches, _ = pack([np.full((32, 32), 255, np.uint8)], geometry)
    channels = patches.reshape(4, 3, 2, 16, 16)
    for channel, value in enumerate((0.9 / 0.5, 0.8 / 0.25, 0.7 / 0.125)):
        np.testing.assert_allclose(channels[:, channel], value, rtol=1e-6)


def test_packing_is_cutting_then_normalising() -> None:
    strips = random_strips(2, 5)
    tiles = np.concatenate([cut(strip, QWEN3) for strip in strips])
    np.testing.assert_array_equal(pack(strips, QWEN3)[0], normalise(tiles, QWEN3))


def test_a_strip_has_one_merged_row_and_a_latent_a_factor() -> None:
    grid = grid_thw([(32, 32), (32, 64), (32, 3200)], QWEN3)
    assert grid.tolist() == [[1, 2, 2], [1, 2, 4], [1, 2, 200]]
    assert (grid.prod(axis=1) // 4).tolist() == [1, 2, 100]


@pytest.mark.parametrize("shape", [(28, 64), (48, 64), (32, 40), (32, 0), (16, 32)])
def test_a_strip_of_another_size_is_refused_with_the_remedy(shape: tuple[int, int]) -> None:
    with pytest.raises(GeometryError, match=rf"{shape[1]} x {shape[0]} px .* factor 32: .*--height 32"):
        pack([np.zeros(shape, np.uint8)], QWEN3)


sizes = st.lists(st.integers(1, 60), max_size=40)


@given(sizes, st.integers(1, 100))
def test_calls_cover_every_strip_once_and_keep_to_the_cap(num_patches: list[int], cap: int) -> None:
    grouped = list(calls(num_patches, cap))
    assert sorted(index for call in grouped for index in call) == list(range(len(num_patches)))
    assert all(len(call) == 1 or sum(num_patches[i] for i in call) <= cap for call in grouped)


@given(sizes, st.integers(1, 100))
def test_strips_of_similar_width_share_a_call(num_patches: list[int], cap: int) -> None:
    order = [num_patches[i] for call in calls(num_patches, cap) for i in call]
    assert order == sorted(num_patches)


@given(sizes, st.integers(1, 100))
def test_no_call_would_have_fitted_into_the_one_before(num_patches: list[int], cap: int) -> None:
    grouped = list(calls(num_patches, cap))
    for before, after in pairwise(grouped):
        assert sum(num_patches[i] for i in before) + num_patches[after[0]] > cap


def test_a_huge_strip_goes_alone() -> None:
    assert list(calls([4, 1000, 4, 4], 12)) == [[0, 2, 3], [1]]


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="patches_per_call is at least 1, got 0"):
        list(calls([1], 0))
