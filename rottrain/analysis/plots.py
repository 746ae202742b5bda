"""Plots of what was found, as files; they need matplotlib, the extra `report`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rotdata.extras import needing
from rotdata.output import PLOTS, check_output, write_atomically
from rottrain.analysis.probe import Probed
from rottrain.metrics.intervals import Estimate

_BLUE, _GREEN, _GREY, _RED = "#2f6fde", "#1b7f4b", "#8b93a5", "#b3372f"


def plot_probe(probed: Probed, file: Path) -> None:
    """Draw accuracy and flips of every condition, and what can be read at each position.

    Raises MissingExtra, UsageError.
    """
    check_output(file, "--plot", PLOTS)
    with needing("report", "a plot"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, 2 if probed.positions else 1, squeeze=False)[0]
    _draw_conditions(probed, panels[0])
    if probed.positions:
        _draw_positions(probed, panels[1])
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=file.suffix[1:], metadata={"Date": None} if file.suffix == ".svg" else None)
    write_atomically(file, drawn.getvalue())


def _draw_conditions(probed: Probed, panel: Any) -> None:
    conditions = probed.conditions[::-1]
    accuracy = [100 * each.accuracy.value for each in conditions]
    places = range(len(conditions))
    colours = [_GREEN if each.name in ("own", "true") else _BLUE for each in conditions]
    panel.barh(places, accuracy, color=colours, alpha=0.85, height=0.5)
    panel.errorbar(accuracy, places, xerr=_reach([each.accuracy for each in conditions]), fmt="none", color="#1c2333")
    flips = [(place, each.flips) for place, each in enumerate(conditions) if each.flips]
    panel.errorbar(
        [100 * flip.value for _, flip in flips],
        [place - 0.36 for place, _ in flips],
        xerr=_reach([flip for _, flip in flips]),
        fmt="D",
        markersize=4,
        color=_RED,
    )
    panel.set_yticks(places, [each.says for each in conditions])
    panel.set_xlim(0, 100)
    panel.set(xlabel="accuracy (bars) and answers that change (diamonds), %")
    panel.set_title(f"{probed.corpus}, {probed.conditions[0].n} questions, 95% intervals", fontsize=10)


def _draw_positions(probed: Probed, panel: Any) -> None:
    places = [each.position + 1 for each in probed.positions]
    lines: list[tuple[str, str, list[Estimate | None]]] = [
        ("linear probes, rows held out", _BLUE, [each.line for each in probed.positions]),
        ("glyph probe", _GREEN, [each.glyphs for each in probed.positions]),
        ("most frequent character", _GREY, [each.majority for each in probed.positions]),
    ]
    for label, colour, found in lines:
        estimates = [each for each in found if each is not None]
        if len(estimates) < len(places):
            continue
        panel.plot(
            places, [100 * each.value for each in estimates], color=colour, marker="o", markersize=3, label=label
        )
        low, high = [100 * each.low for each in estimates], [100 * each.high for each in estimates]
        panel.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.set(xlabel="position of the latent", ylabel="characters named rightly (%)")
    panel.set_ylim(0, 102)
    panel.set_title("what the latents hold", fontsize=10)
    panel.legend(loc="best", frameon=False, fontsize=8)


def _reach(estimates: list[Estimate]) -> list[list[float]]:
    """How far an interval goes below and above its value, in percent, as errorbar takes it."""
    return [
        [100 * (each.value - each.low) for each in estimates],
        [100 * (each.high - each.value) for each in estimates],
    ]
