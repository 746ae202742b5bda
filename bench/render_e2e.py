"""render-e2e: JSONL to finished Parquet shards against JSONL to a PNG a row; render-scaling: two workers against one.

One core each: a process with one thread. GSM8K where ROT_DATA names its folder, else the toy corpus as JSONL.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from bench.common import compare, plain
from rotdata.corpora import Source
from rotdata.corpora.cot_text import strip_calculator
from rotdata.corpora.toy import toy_problems
from rotdata.rendering.fonts import find_font
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline, resumable
from rotdata.shards import Manifest

ROWS = 2000
SCALING_ROWS = 60_000


def figures() -> Iterator[dict[str, Any]]:
    """The render-e2e and render-scaling figures."""
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    try:
        corpus, lines = corpus_lines()
        yield _end_to_end(folder, corpus, lines[:ROWS])
        yield _scaling(folder, corpus, lines)
    finally:
        shutil.rmtree(folder)


def _end_to_end(folder: Path, corpus: str, lines: list[str]) -> dict[str, Any]:
    file = folder / "rows.jsonl"
    file.write_text("".join(lines))
    style = StripStyle()
    font = ImageFont.truetype(str(find_font(style.font).path), style.font_size_px)
    pictures = folder / "pictures"
    pictures.mkdir()

    def obvious() -> None:
        """Read a record, draw it, save it under its number."""
        for number, line in enumerate(file.open()):
            text = plain(strip_calculator(json.loads(line)["answer"].rpartition("####")[0]).strip())
            width = int(font.getlength(text)) + 2 * style.padding_px
            image = Image.new("L", (-(-width // style.height_px) * style.height_px, style.height_px), 255)
            ImageDraw.Draw(image).text((style.padding_px, style.padding_px), text, fill=0, font=font)
            image.save(pictures / f"{number}.png")

    def ours() -> None:
        pipeline.render(
            Source(location=str(file), corpus="gsm8k"), style, folder / "out", mode=resumable.Mode(overwrite=True)
        )

    figure = compare("render-e2e", ours, obvious, units=len(lines), unit="rows/s", corpus=corpus)
    theirs = sum(path.stat().st_size for path in pictures.iterdir())
    own = Manifest.load(folder / "out").total("bytes")
    return figure | {"bytes_over_theirs": round(own / theirs, 3)}


def _scaling(folder: Path, corpus: str, lines: list[str]) -> dict[str, Any]:
    """The same rows over and over, since processes take a second to start."""
    file = folder / "many.jsonl"
    repeats = -(-SCALING_ROWS // len(lines))
    file.write_text("".join(lines) * repeats)
    source = Source(location=str(file), corpus="gsm8k", limit=SCALING_ROWS)

    def render(num_proc: int) -> None:
        pipeline.render(
            source, StripStyle(), folder / f"by{num_proc}", num_proc=num_proc, mode=resumable.Mode(overwrite=True)
        )

    figure = compare(
        "render-scaling",
        lambda: render(2),
        lambda: render(1),
        units=SCALING_ROWS,
        unit="rows/s",
        rounds=2,
        corpus=corpus,
        cores=os.cpu_count(),
    )
    same = all((folder / "by1" / path.name).read_bytes() == path.read_bytes() for path in (folder / "by2").iterdir())
    return figure | {"same_bytes": same}


def corpus_lines() -> tuple[str, list[str]]:
    """Name and lines of a corpus in GSM8K's form."""
    data = os.environ.get("ROT_DATA")
    if data:
        return "gsm8k", (Path(data) / "gsm8k_train.jsonl").read_text().splitlines(keepends=True)
    problems = islice(toy_problems("train"), 7500)
    plain = str.maketrans("", "", "<>")  # GSM8K's reader drops calculator marks, and toy has nothing else
    records = [
        {"question": each.question, "answer": f"{each.cot.translate(plain)}\n#### {each.answer}"} for each in problems
    ]
    return "toy (ROT_DATA is not set)", [json.dumps(record) + "\n" for record in records]
