"""Strips -> what a reader from outside makes of them: an OCR model that knows nothing of fonts, styles or latents.

The recogniser is RapidOCR's, which comes with its weights. It reads short lines, so a strip is cut where its widest
blank stretches are, which are the spaces between words, and to the height of its ink, as a detector would. Errors are
counted without white space, and after compatibility normalisation (NFKC), since a recogniser is free to choose among
forms of one character.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from rotdata import shards
from rotdata.errors import UsageError
from rotdata.extras import needing
from rotdata.rendering.cells import unfold
from rotdata.rendering.png import decode_png

if TYPE_CHECKING:
    from rapidocr import RapidOCR

_PIECE_PX = (320, 640)  # a piece of a line of height 32 ends at the widest blank stretch between these
_WORST = 5


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A strip, what it says and what was read from it."""

    id: str
    text: str
    read: str
    characters: int
    """Of the text, white space aside."""
    errors: int
    """Characters to insert, delete or replace to make one of the other."""


@dataclass(frozen=True, kw_only=True)
class Legibility:
    """How well strips can be read."""

    strips: int
    characters: int
    errors: int
    worst: list[Reading]

    @property
    def rate(self) -> float:
        """Character error rate: errors over characters."""
        return self.errors / max(1, self.characters)

    def as_json(self) -> dict[str, Any]:
        """The counts and the worst strips."""
        worst = [{"id": each.id, "errors": each.errors, "text": each.text, "read": each.read} for each in self.worst]
        return {
            "strips": self.strips,
            "characters": self.characters,
            "errors": self.errors,
            "character_error_rate": round(self.rate, 5),
            "worst": worst,
        }


def check_folder(folder: Path, count: int) -> Legibility:
    """Read `count` strips of a folder of strip shards, spread evenly over it.

    Raises MissingExtra, ShardError, or UsageError for a folder without lines of text.
    """
    manifest = shards.Manifest.load(folder)
    if manifest.kind != "strips" or manifest.style["style"]["layout"] != "line":
        raise UsageError(f"{folder} holds no strips of one line: only these are read back")
    rows = shards.sample(folder, manifest, count, ["id", "cot", "image", "spans"])
    lines = manifest.style["style"].get("lines", 1)
    return judge(
        read_strip(row["id"], row["cot"][: row["spans"][-1]], unfold(decode_png(row["image"]["bytes"]), lines))
        for row in rows
    )


def judge(readings: Iterable[Reading]) -> Legibility:
    """Sum up readings."""
    kept = list(readings)
    return Legibility(
        strips=len(kept),
        characters=sum(each.characters for each in kept),
        errors=sum(each.errors for each in kept),
        worst=[each for each in sorted(kept, key=lambda each: -each.errors)[:_WORST] if each.errors],
    )


def read_strip(name: str, text: str, pixels: NDArray[np.uint8]) -> Reading:
    """Read the pixels [H, W] of a strip of `text`, one line."""
    read = " ".join(_recognise(piece) for piece in pieces(pixels))
    expected = _comparable(text)
    return Reading(
        id=name,
        text=text,
        read=read,
        characters=len(expected),
        errors=Levenshtein.distance(expected, _comparable(read)),
    )


def pieces(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """A strip [H, W] in stretches that a recogniser takes, side by side and in order, cut in its widest blanks."""
    blank = (pixels == pixels[:, :1]).all(axis=0)  # the first column is padding
    shortest, longest = (limit * len(pixels) // 32 for limit in _PIECE_PX)
    start, width = 0, pixels.shape[1]
    while width - start > longest:
        stop = start + shortest + _widest_run(blank[start + shortest : start + longest])
        yield pixels[:, start:stop]
        start = stop
    yield pixels[:, start:]


def load_reader() -> None:
    """Load the recogniser. Raises MissingExtra with the remedy."""
    _reader()


def _widest_run(blank: NDArray[np.bool_]) -> int:
    """The middle of the longest run of blank columns; the end if there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], blank.astype(np.int8), [0]])))
    if not len(edges):
        return len(blank)
    starts, stops = edges[::2], edges[1::2]
    widest = int(np.argmax(stops - starts))
    return int(starts[widest] + stops[widest]) // 2


def _recognise(piece: NDArray[np.uint8]) -> str:
    inked = np.flatnonzero((piece != piece[0, 0]).any(axis=1))
    if not len(inked):
        return ""
    margin = (inked[-1] - inked[0]) // 5 + 1
    line = piece[max(0, inked[0] - margin) : inked[-1] + margin + 1]
    colours = np.repeat(np.ascontiguousarray(line)[:, :, None], 3, axis=2)
    found: Any = _reader()(colours, use_det=False, use_cls=False, use_rec=True, text_score=0.0)
    return " ".join(found.txts or ())


@cache
def _reader() -> RapidOCR:
    with needing("ocr", "reading strips"):
        from rapidocr import RapidOCR
    reader = RapidOCR(
        params={
            "Global.use_det": False,
            "Global.use_cls": False,
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )
    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    return reader


def _comparable(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())
