"""Pages: the trace of one question, and the demo's report."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rotdata import corpora
from rotdata.output import write_atomically
from rotdata.pages import render_page
from rotdata.shards import EmbeddingShards
from rottrain.analysis.charts import Line, line_chart
from rottrain.analysis.nearest import LatentIndex
from rottrain.analysis.read_back import Reading, held_against
from rottrain.analysis.read_back_methods import READERS
from rottrain.analysis.trace import ReadBack, Trace, data_uri, trace
from rottrain.analysis.true_latents import TrueLatents
from rottrain.generation.generate import Budget, RoT
from rottrain.metrics import scoring
from rottrain.model.checkpoints import CheckpointConfig

_LEVELS = 5
"""Shades of confidence."""
_ASKED = 32
"""Test questions among which the report looks for one to show."""


def write_trace(page: Path, traced: Trace, config: CheckpointConfig) -> None:
    """Write the page of one question's trace."""
    content = render_page(
        "rottrain",
        "trace.html.j2",
        styles=["trace.css"],
        scripts=["trace.js"],
        trace=traced,
        readings=[_as_shown(reading, traced) for reading in traced.readings],
        data=dataclasses.asdict(traced),
        stage=config.stage,
        model=config.model,
    )
    write_atomically(page, content.encode())


def write_report(
    out: Path, record: dict[str, Any], *, embedded: Path, stages: Sequence[Path], budget: Budget = None
) -> Path:
    """Write out/report.html from the demo's JSON results, and out/trace.html of a test question; the report's path.

    `stages` are the checkpoints one after the other; the last one answers. The question is the first whose answer
    hangs on its latents: right with them, wrong without.
    """
    rot = RoT.from_pretrained(stages[-1])
    shards = EmbeddingShards(embedded)
    index = LatentIndex(shards)
    asked = corpora.Source(location="toy", corpus="toy", split="test", limit=_ASKED)
    rows = [row for row in corpora.read(asked) if isinstance(row, corpora.Row)]
    traced = trace(rot, _telling(rot, rows, budget), index, TrueLatents(rot), budget=budget)
    write_trace(out / "trace.html", traced, rot.config)
    sample = shards.read_group(0)
    strip = index.draw.render(sample.cots[0])
    page = render_page(
        "rottrain",
        "report.html.j2",
        styles=[],
        scripts=[],
        record=record,
        sample={
            "question": sample.questions[0],
            "png": data_uri(strip.pixels),
            "latents": [sample.cots[0][start:stop] for start, stop in pairwise(strip.spans.tolist())],
        },
        trace=traced,
        readings=[_as_shown(reading, traced) for reading in traced.readings],
        factor=index.draw.style.height_px,
        losses=_losses(stages),
        by_budget=_by_budget(record["budgets"]),
    )
    path = out / "report.html"
    write_atomically(path, page.encode())
    return path


def _telling(rot: RoT, rows: list[corpora.Row], budget: Budget) -> corpora.Row:
    """The first row that is answered rightly with its latents and wrongly without, or else simply the first."""
    questions = [row.question for row in rows]
    with_latents, without = (rot.generate(questions, budget=each) for each in (budget, 0))
    for row, thought, at_once in zip(rows, with_latents, without, strict=True):
        right, guessed = (
            scoring.equal(scoring.extract(made.reply), row.answer, "number") for made in (thought, at_once)
        )
        if right and not guessed:
            return row
    return rows[0]


def _losses(stages: Sequence[Path]) -> Markup:
    """The losses that make latents what they are, over the steps of all stages one after the other."""
    points: dict[str, list[tuple[float, float]]] = {"alignment": [], "glyphs": []}
    done = 0
    for stage in stages:
        history = [json.loads(line) for line in (stage / "history.jsonl").read_text().splitlines()]
        for name, line in points.items():
            line += [(done + entry["step"], entry[name]) for entry in history if name in entry]
        done += max((entry["step"] for entry in history), default=0)
    lines = [Line(name=name, points=line) for name, line in points.items() if line]
    return line_chart(lines, title="Loss against steps", x="step", y="loss")


def _by_budget(results: list[dict[str, Any]]) -> Markup:
    """Accuracy against the number of latents that the model may take."""
    points = [(result["budget"], result["accuracy"]) for result in results]
    bands = [(result["interval"]["low"], result["interval"]["high"]) for result in results]
    lines = [Line(name="", points=points, bands=bands)]
    return line_chart(lines, title="Accuracy against latents", x="latents at most", y="accuracy", percent=True)


def _as_shown(reading: ReadBack, traced: Trace) -> dict[str, Any]:
    """A reading in stretches: what differs from the reference, how certain it is, and whether that is unsure."""
    reference = reading.text if traced.reference is None else traced.reference
    stretches = held_against(Reading(reading.pieces), reference)
    doubtful = traced.confidence if reading.reader == "glyphs" else 0.0
    return {
        "who": READERS[reading.reader],
        "error_rate": reading.error_rate,
        "stretches": [
            dataclasses.asdict(stretch)
            | {"level": min(_LEVELS - 1, int(stretch.confidence * _LEVELS)), "unsure": stretch.confidence < doubtful}
            for stretch in stretches
        ],
    }
