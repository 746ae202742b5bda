"""What is stored of latents: pooled, cut, in eight bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rotdata.errors import UsageError
from rotdata.shards.targets import TargetSettings, TooManyLatents, quantise, restore, shorten


def row(count: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Latents whose first value is their number, and spans of three characters each."""
    latents = np.random.default_rng(count).normal(size=(count, 5)).astype(np.float32)
    latents[:, 0] = np.arange(count)
    return latents, np.arange(0, 3 * count + 1, 3, dtype=np.int32)


@given(st.integers(1, 40), st.integers(1, 7))
def test_a_pooled_latent_is_the_mean_of_its_neighbours_and_spans_their_text(count: int, pool: int) -> None:
    latents, spans = row(count)
    pooled, covered = shorten(latents, spans, TargetSettings(pool=pool))
    assert covered is not None
    assert len(pooled) == len(covered) - 1 == -(-count // pool)
    for k, value in enumerate(pooled):
        np.testing.assert_allclose(value, latents[k * pool : (k + 1) * pool].mean(axis=0), rtol=0, atol=1e-5)
        assert covered[k] == spans[k * pool]
    assert covered[-1] == spans[-1]


@given(st.integers(1, 40), st.integers(1, 12))
def test_truncated_latents_are_the_first_ones(count: int, most: int) -> None:
    latents, spans = row(count)
    kept, covered = shorten(latents, spans, TargetSettings(max_latents=most, longer="truncate"))
    np.testing.assert_array_equal(kept, latents[:most])
    np.testing.assert_array_equal(covered, spans[: most + 1])


@given(st.integers(1, 40), st.integers(1, 12))
def test_resampled_latents_are_means_of_stretches_that_make_up_the_row(count: int, most: int) -> None:
    latents, spans = row(count)
    kept, covered = shorten(latents, spans, TargetSettings(max_latents=most, longer="resample"))
    assert covered is not None
    assert len(kept) == min(count, most)
    assert (covered[0], covered[-1]) == (0, 3 * count)
    sizes = np.diff(covered) // 3
    assert sizes.max() - sizes.min() <= 1
    for value, start, size in zip(kept, covered[:-1] // 3, sizes, strict=True):
        np.testing.assert_allclose(value, latents[start : start + size].mean(axis=0), rtol=0, atol=1e-5)


def test_a_row_of_too_many_latents_is_refused_after_pooling() -> None:
    latents, spans = row(9)
    with pytest.raises(TooManyLatents, match="9 latents, --max-latents is 4: --longer truncate or resample"):
        shorten(latents, spans, TargetSettings(max_latents=4))
    assert len(shorten(latents, spans, TargetSettings(max_latents=3, pool=3))[0]) == 3


def test_rows_without_spans_are_shortened_too() -> None:
    latents, _ = row(9)
    assert shorten(latents, None, TargetSettings(pool=2))[1] is None
    assert shorten(latents, None, TargetSettings(max_latents=2, longer="resample"))[1] is None


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), max_size=8))
def test_eight_bits_are_off_by_half_a_step_at_most(values: list[list[float]]) -> None:
    latents = np.array(values, dtype=np.float32).reshape(-1, 3)
    stored, scale = quantise(latents)
    assert (stored.dtype, scale.dtype) == (np.int8, np.float32)
    error = np.abs(restore(stored, scale) - latents)
    assert (error <= 0.501 * scale[:, None] + 1e-30).all()


@pytest.mark.parametrize("values", [{"pool": 0}, {"max_latents": 0}])
def test_settings_that_mean_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TargetSettings(**values)
