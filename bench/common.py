"""Timing, and the models and texts that several figures share."""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rotdata import corpora
from rotdata.corpora.toy import toy_problems


def compare(
    name: str,
    ours: Callable[[], object],
    baseline: Callable[[], object],
    *,
    units: int,
    unit: str,
    rounds: int = 3,
    clock: Callable[[], float] = time.perf_counter,
    **more: Any,
) -> dict[str, Any]:
    """Time both in turn, `rounds` times after one warm-up each; rates are medians of `units` a call.

    `time.process_time` as a clock measures work that one process does, whatever else the machine does.
    """
    ours()
    baseline()
    seconds: dict[str, list[float]] = {"ours": [], "baseline": []}
    for _ in range(rounds):
        for label, call in (("ours", ours), ("baseline", baseline)):
            started = clock()
            call()
            seconds[label].append(clock() - started)
    rates = {label: units / statistics.median(taken) for label, taken in seconds.items()}
    return {
        "name": name,
        "ratio": round(rates["ours"] / rates["baseline"], 2),
        "ours": round(rates["ours"], 2),
        "baseline": round(rates["baseline"], 2),
        "unit": unit,
        **more,
    }


def timed(call: Callable[[], object]) -> float:
    """Seconds of a second call."""
    call()
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def gsm8k_texts(limit: int) -> tuple[str, list[str]]:
    """Name and texts of GSM8K's chains of thought, from the folder that ROT_DATA names; else of the toy corpus."""
    folder = os.environ.get("ROT_DATA")
    if folder:
        source = corpora.Source(location=str(Path(folder) / "gsm8k_train.jsonl"), corpus="gsm8k", limit=limit)
        return "gsm8k", [row.cot for row in corpora.read(source) if isinstance(row, corpora.Row)]
    return "toy (ROT_DATA is not set)", toy_texts(limit)


def toy_texts(limit: int) -> list[str]:
    """Chains of thought of the toy corpus."""
    return [problem.cot for problem in islice(toy_problems("train"), limit)]


def print_figures(figures: Iterator[dict[str, Any]]) -> None:
    """One JSON line a figure, as soon as it is measured."""
    for figure in figures:
        print(json.dumps(figure), flush=True)


def plain(text: str) -> str:
    """Text on one line."""
    return re.sub(r"\s", " ", text)
