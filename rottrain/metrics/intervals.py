"""Shares of rows, and means of several runs', with 95% intervals that hold at 0 and 1 and for few rows too. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_Z = 1.959964  # of a two-sided 95%
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5% quantiles of Student's t with 1 to 9 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    def as_percent(self) -> str:
        """As people read it: "12.3% [10.1, 14.9]"."""
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def as_points(self) -> str:
        """A difference of shares: "-12.3 [-14.9, -10.1]", in percentage points."""
        return f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


def share(hits: Sequence[bool]) -> Estimate:
    """The share of hits, with Wilson's interval (1927). Raises ValueError if there is nothing to count."""
    if not hits:
        raise ValueError("a share of no rows")
    count, found = len(hits), sum(hits) / len(hits)
    middle = found + _Z**2 / (2 * count)
    half = _Z * math.sqrt(found * (1 - found) / count + (_Z / (2 * count)) ** 2)
    width = 1 + _Z**2 / count
    low, high = max(0.0, (middle - half) / width), min(1.0, (middle + half) / width)
    return Estimate(found, min(found, low), max(found, high))  # at 0 and 1 rounding would leave the value outside


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> Estimate:
    """How much larger the second share is than the first, over the same rows in the same order.

    Newcombe's interval for paired proportions (1998, method 10): Wilson's of both, narrowed by their correlation. Its
    bounds differ from zero about when McNemar's test would say so. Raises ValueError for unequal lengths.
    """
    count = len(first)
    if count != len(second):
        raise ValueError(f"pairs of {count} and {len(second)} rows")
    before, after = share(first), share(second)
    correlation = _correlation(first, second)

    def reach(towards: float, away: float) -> float:
        return math.sqrt(max(0.0, towards**2 - 2 * correlation * towards * away + away**2))

    value = after.value - before.value
    low = value - reach(after.value - after.low, before.high - before.value)
    high = value + reach(after.high - after.value, before.value - before.low)
    return Estimate(value, max(-1.0, low), min(1.0, high))


def mean_share(shares: Sequence[float]) -> Estimate:
    """The mean of the shares that several runs gave, with Student's t interval, cut at 0 and 1."""
    value, half = statistics.fmean(shares), half_width(shares)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def mean_difference(differences: Sequence[float]) -> Estimate:
    """The mean of how much each of two or more things differs, with Student's t interval."""
    value, half = statistics.fmean(differences), half_width(differences)
    return Estimate(value, value - half, value + half)


def half_width(values: Sequence[float]) -> float:
    """Half of the 95% interval of the mean of two or more values, by Student's t."""
    freedom = len(values) - 1
    if freedom <= len(_T):
        quantile = _T[freedom - 1]
    else:  # the first terms of its expansion (Abramowitz and Stegun 26.7.5)
        quantile = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    return quantile * statistics.stdev(values) / math.sqrt(len(values))


def _correlation(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Phi of two columns of hits, corrected for continuity as Newcombe has it; 0 where a column is constant."""
    both = sum(a and b for a, b in zip(first, second, strict=True))
    only_first, only_second = sum(first) - both, sum(second) - both
    neither = len(first) - both - only_first - only_second
    product = (both + only_first) * (only_second + neither) * (both + only_second) * (only_first + neither)
    if not product:
        return 0.0
    determinant = float(both * neither - only_first * only_second)
    if determinant > 0:
        determinant = max(0.0, determinant - len(first) / 2)
    return determinant / math.sqrt(product)
