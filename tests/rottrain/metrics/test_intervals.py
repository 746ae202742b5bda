"""Shares and their paired differences, against published examples and a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from rottrain.metrics.intervals import Estimate, paired_difference, share


def hits(*counts: tuple[bool, bool, int]) -> tuple[list[bool], list[bool]]:
    """Two columns of pairs, each as often as it says."""
    pairs = [(first, second) for first, second, count in counts for _ in range(count)]
    return [first for first, _ in pairs], [second for _, second in pairs]


@pytest.mark.parametrize(
    ("found", "count", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_a_share_has_wilson_s_interval(found: int, count: int, low: float, high: float) -> None:
    made = share([True] * found + [False] * (count - found))
    assert made.value == found / count
    assert (made.low, made.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    # Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired
    # data", table II, method 10: pairs (+,+), (+,-), (-,+), (-,-).
    [
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((0, 0, 0, 50), -0.0713, 0.0713),
        ((54, 0, 0, 0), -0.0664, 0.0664),
    ],
)
def test_a_paired_difference_has_newcombe_s_interval(counts: tuple[int, ...], low: float, high: float) -> None:
    first, second = hits(*zip((True, False, True, False), (True, True, False, False), counts, strict=True))
    made = paired_difference(first, second)
    assert made.value == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert (made.low, made.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_paired_difference_is_about_a_bootstrap_s() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(400) < 0.6
    second = np.where(rng.random(400) < 0.2, rng.random(400) < 0.3, first)
    made = paired_difference(first.tolist(), second.tolist())
    drawn = rng.integers(0, 400, (4000, 400))
    differences = second[drawn].mean(axis=1) - first[drawn].mean(axis=1)
    low, high = np.quantile(differences, (0.025, 0.975))
    assert (made.low, made.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))


def test_what_can_not_be_compared_is_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        share([])
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([True, False], [True])


def test_estimates_are_said_in_percent_and_in_points() -> None:
    assert Estimate(0.5, 0.25, 1).as_percent() == "50.0% [25.0, 100.0]"
    assert Estimate(-0.123, -0.2, 0.01).as_points() == "-12.3 [-20.0, +1.0]"


def test_an_interval_of_any_share_holds_it() -> None:
    for count in range(1, 60):
        for hits in range(count + 1):
            estimate = share([True] * hits + [False] * (count - hits))
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
