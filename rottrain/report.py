"""The demo's page: one self-contained HTML file with the table, a strip and the traces of a few answers."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rotdata import corpora
from rotdata.shards import EmbeddingShards, write_atomically
from rottrain.evaluate import Result, evaluate
from rottrain.generate import RoT
from rottrain.trace import LatentIndex, data_uri, latent_texts, trace

TRACED_QUESTIONS = 4


def write_report(out: Path, record: dict[str, Any], *, embedded: Path, checkpoint: Path, budget: int) -> Path:
    """Write out/report.html from the demo's JSON results and a few fresh traces; its path."""
    rot = RoT.from_pretrained(checkpoint)
    index = LatentIndex.load(embedded)
    source = corpora.Source(location="toy", corpus="toy", split="test", limit=TRACED_QUESTIONS)
    questions = [row for row in corpora.read(source) if isinstance(row, corpora.Row)]
    _, judged = evaluate(rot, questions, "rot", corpus="toy", budget=budget, keep_latents=True)
    sample = EmbeddingShards(embedded).read_group(0)
    strip = index.draw.render(sample.cots[0])
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            record=record,
            results=[dataclasses.asdict(Result(**result)) for result in record["eval"]],
            sample={
                "question": sample.questions[0],
                "cot": sample.cots[0],
                "png": data_uri(strip.pixels),
                "latents": latent_texts(sample.cots[0], strip),
            },
            traces=[trace(entry, index) for entry in islice(judged, TRACED_QUESTIONS)],
            budget=budget,
            factor=index.draw.style.height_px,
            indexed=len(index),
        )
    )
    path = out / "report.html"
    write_atomically(path, page.encode())
    return path


def environment() -> Environment:
    """Templates of this package; every value is escaped, an unknown name is an error."""
    return Environment(
        loader=PackageLoader("rottrain", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
