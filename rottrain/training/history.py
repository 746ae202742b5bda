"""The course of a training: its losses and what validation found, as lines of history.jsonl beside the checkpoint.

A run that was stopped and resumed leaves the lines of one that never was. Knows nothing of what is trained.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, takewhile
from pathlib import Path

from rotdata.shards import write_atomically

HISTORY = "history.jsonl"
_DIGITS = 6


class Losses:
    """Loss and its parts of every batch, in order."""

    def __init__(self) -> None:
        self._lines: list[dict[str, float]] = []

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Enter a batch of `step`, counted from 1; where batches are accumulated, a step has several."""
        self._lines.append({"step": step, **values})

    def save(self, folder: Path) -> None:
        """Write them into a state that `load` goes on from."""
        write_atomically(folder / HISTORY, _as_lines(self._lines))

    def load(self, folder: Path) -> None:
        """Take those of a state in place of these."""
        self._lines = [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]

    def means(self, every: int) -> list[dict[str, float]]:
        """Means over windows of `every` steps, each under its last step."""
        found = []
        for _, window in groupby(self._lines, key=lambda line: (line["step"] - 1) // every):
            lines = list(window)
            means = {name: round(mean, _DIGITS) for name, mean in _means(lines).items()}
            found.append(means | {"step": lines[-1]["step"]})
        return found

    def latest(self, every: int) -> dict[str, float]:
        """Means over the last of these windows, to the last digit."""
        last = self._lines[-1]["step"]
        first = last - (last - 1) % every
        return _means(list(takewhile(lambda line: line["step"] >= first, reversed(self._lines)))[::-1])


def write_history(folder: Path, losses: Losses, validations: Iterable[Mapping[str, float]], *, every: int) -> None:
    """Write losses, as means over windows of `every` steps, and validations in the order of their steps."""
    lines = [*losses.means(every), *validations]
    write_atomically(folder / HISTORY, _as_lines(sorted(lines, key=lambda line: line["step"])))


def _means(lines: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each number but the step."""
    return {name: sum(line[name] for line in lines) / len(lines) for name in lines[0] if name != "step"}


def _as_lines(lines: Iterable[Mapping[str, float]]) -> bytes:
    return "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in lines).encode()
