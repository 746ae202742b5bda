"""Line charts: points where their values are, round numbers at the axes, and names that say nothing else."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rottrain.analysis.charts import Line, _Axis, line_chart

SIZES = st.floats(1e-6, 1e6)


def drawn(*lines: Line, percent: bool = False) -> ET.Element:
    return ET.fromstring(line_chart(lines, title="a < b", x="steps", y="loss", percent=percent))


def corners(element: ET.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"([-\d.]+),([-\d.]+)", element.attrib["points"])]


def test_points_stand_in_proportion_and_up_is_more() -> None:
    chart = drawn(Line(name="", points=[(0, 0.0), (5, 0.5), (10, 1.0)]), percent=True)
    (left, low), (middle, half), (right, high) = corners(next(chart.iter("polyline")))
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert half == pytest.approx((low + high) / 2, abs=0.1)
    assert left < right
    assert high < low
    assert "100%" in [text.text for text in chart.iter("text")]


def test_an_interval_is_drawn_around_its_line() -> None:
    chart = drawn(Line(name="", points=[(0, 0.5), (1, 0.6)], bands=[(0.4, 0.6), (0.5, 0.8)]), percent=True)
    shape = corners(next(chart.iter("polygon")))
    line = corners(next(chart.iter("polyline")))
    assert len(shape) == 4
    assert min(y for _, y in shape) < min(y for _, y in line) < max(y for _, y in line) < max(y for _, y in shape)


def test_names_are_told_apart_and_escaped() -> None:
    chart = drawn(Line(name="<b>", points=[(0, 1.0)]), Line(name="other", points=[(0, 2.0)]))
    names = {text.attrib["class"]: text.text for text in chart.iter("text") if "name" in text.attrib["class"]}
    assert names == {"name c0": "<b>", "name c1": "other"}


def test_many_points_are_a_line_alone() -> None:
    chart = drawn(Line(name="", points=[(step, 1.0) for step in range(200)]))
    assert not list(chart.iter("circle"))


@given(st.floats(-1e3, 1e3), SIZES)
def test_an_axis_has_a_few_round_numbers_within_it(low: float, size: float) -> None:
    axis = _Axis.over(low, low + size, 0, 100)
    assert 2 <= len(axis.ticks) <= 8
    assert all(low - 1e-6 * size <= tick <= axis.high + 1e-6 * size for tick in axis.ticks)
