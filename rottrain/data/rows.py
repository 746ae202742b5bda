"""Rows of shards by number, and the order in which an epoch takes them. Knows nothing of tensors and models.

Shapes: N rows.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from rotdata.errors import UsageError
from rotdata.shards import EmbeddingShards, Texts
from rotdata.shards.dataset import shuffle_rows

Group = TypeVar("Group")

_CACHED_GROUPS = 5
_SORTED_STEPS = 32  # steps whose rows are sorted by length together: more saves more padding, and mixes less
_WEIGHTED = re.compile(r"(?P<name>.+):(?P<weight>\d+(?:\.\d+)?)")


def parse_weighted(text: str) -> tuple[str, float]:
    """NAME[:WEIGHT], as --shards takes it -> name and weight; a folder whose very name ends so is that folder."""
    found = None if Path(text).expanduser().is_dir() else _WEIGHTED.fullmatch(text)
    if found is None:
        return text, 1.0
    weight = float(found["weight"])
    if not weight > 0:
        raise UsageError(f"--shards {text}: a weight is how often an epoch takes these rows, and more than 0")
    return found["name"], weight


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Rows of one folder of shards, and how often an epoch takes each of them."""

    shards: EmbeddingShards
    rows: range
    """Numbers of the rows within the folder."""
    weight: float = 1.0

    @classmethod
    def of(cls, shards: EmbeddingShards, *, weight: float = 1.0, limit: int | None = None) -> Selection:
        """The first `limit` rows of a folder, or all. Raises UsageError."""
        if limit is not None and limit < 1:
            raise UsageError(f"--limit counts rows to train on and is at least 1, got {limit}")
        rows = sum(shards.group_rows)
        return cls(shards=shards, rows=range(rows if limit is None else min(rows, limit)), weight=weight)

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, last: int) -> tuple[Selection, Selection]:
        """All but the last rows, and those."""
        cut = len(self) - last
        return replace(self, rows=self.rows[:cut]), replace(self, rows=self.rows[cut:])

    @property
    def group_sizes(self) -> list[int]:
        """Selected rows of each row group that has any."""
        ends = list(accumulate(self.shards.group_rows))
        starts = [0, *ends[:-1]]
        sizes = [
            min(end, self.rows.stop) - max(start, self.rows.start) for start, end in zip(starts, ends, strict=True)
        ]
        return [size for size in sizes if size > 0]

    @property
    def rows_an_epoch(self) -> int:
        """Rows that an epoch takes: each `weight` times, on average."""
        return max(1, round(self.weight * len(self))) if len(self) else 0


def hold_out(selections: Sequence[Selection], count: int) -> tuple[list[Selection], list[Selection]]:
    """Selections without `count` rows, and these: the last of each folder, as many as its share of all rows.

    Raises UsageError if none would be left.
    """
    total = sum(map(len, selections))
    if count >= total:
        raise UsageError(f"--validation-rows {count} of {total} rows leave none to train on: hold fewer out")
    ends = [round(count * end / total) for end in accumulate(map(len, selections))]
    shares = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    parts = [selection.split(share) for selection, share in zip(selections, shares, strict=True)]
    return [kept for kept, _ in parts], [held for _, held in parts]


class RowReader(Generic[Group]):
    """Rows of several selections under one number each; a few row groups of each folder are kept in memory."""

    def __init__(self, selections: Sequence[Selection], read: Callable[[EmbeddingShards, int], Group]) -> None:
        """`read` gives a row group of shards by its number."""
        self.selections = list(selections)
        self._read = read
        self._ends = list(accumulate(map(len, self.selections)))
        self._group_ends = [list(accumulate(selection.shards.group_rows)) for selection in self.selections]
        self._caches: list[OrderedDict[int, Group]] = [OrderedDict() for _ in self.selections]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def find(self, index: int) -> tuple[Group, int]:
        """A row group, and the place of row `index` in it. The least recently used group leaves memory first."""
        folder = bisect_right(self._ends, index)
        selection, ends = self.selections[folder], self._group_ends[folder]
        row = selection.rows[index - (self._ends[folder] - len(selection))]
        group = bisect_right(ends, row)
        return self._group(folder, group), row - (ends[group] - selection.shards.group_rows[group])

    def _group(self, folder: int, group: int) -> Group:
        cache = self._caches[folder]
        if group in cache:
            cache.move_to_end(group)
        else:
            cache[group] = self._read(self.selections[folder].shards, group)
            if len(cache) > _CACHED_GROUPS:
                cache.popitem(last=False)
        return cache[group]


def lengths_of_rows(selections: Sequence[Selection], length: Callable[[Texts, int], float]) -> NDArray[np.float64]:
    """The length of every row, of its group's texts and its place among them: [N]. Embeddings are not read."""
    reader = RowReader(selections, EmbeddingShards.read_texts)
    return np.array([length(*reader.find(index)) for index in range(len(reader))])


class RowOrder(Sampler[int]):
    """The rows of an epoch by seed and number of the epoch, evenly mixed over the folders.

    Each folder's rows come in an endless order of which an epoch takes the next piece: all of them, and each once, at
    weight 1. They are shuffled by row group, and rows within a few groups, so that each group is read once a round.
    With `lengths_N`, rows of similar length share a step of `step_rows` rows; the steps are shuffled.
    """

    def __init__(
        self,
        selections: Sequence[Selection],
        *,
        seed: int,
        lengths_N: NDArray[np.number] | None = None,
        step_rows: int = 1,
    ) -> None:
        self._sizes = [selection.group_sizes for selection in selections]
        self._counts = [selection.rows_an_epoch for selection in selections]
        self._seed = seed
        self._lengths_N = lengths_N
        self._step_rows = step_rows
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; the Trainer calls it."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._seed, self._epoch))
        folder_N = rng.permutation(np.repeat(np.arange(len(self._counts)), self._counts))
        order_N = np.empty(len(folder_N), dtype=np.int64)
        first = 0
        for folder, sizes in enumerate(self._sizes):
            order_N[folder_N == folder] = first + self._piece(folder)
            first += sum(sizes)
        if self._lengths_N is not None:
            order_N = self._by_length(order_N, self._lengths_N, rng)
        yield from order_N.tolist()

    def _piece(self, folder: int) -> NDArray[np.int64]:
        """The rows of one folder that this epoch takes, by their numbers among the selected ones."""
        count, rows = self._counts[folder], sum(self._sizes[folder])
        pieces: list[NDArray[np.int64]] = []
        at, end = self._epoch * count, (self._epoch + 1) * count
        while at < end:
            round_, start = divmod(at, rows)
            whole = shuffle_rows(self._sizes[folder], np.random.default_rng((self._seed, folder, round_)))
            pieces.append(whole[start : start + end - at])
            at += len(pieces[-1])
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)

    def _by_length(
        self, order_N: NDArray[np.int64], lengths_N: NDArray[np.number], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Sort some steps' rows by length at a time and shuffle the steps; what makes no whole step comes last."""
        window = self._step_rows * _SORTED_STEPS
        pieces = []
        for first in range(0, len(order_N), window):
            some = order_N[first : first + window]
            some = some[np.argsort(lengths_N[some], kind="stable")]
            whole = len(some) // self._step_rows * self._step_rows
            pieces += [rng.permutation(some[:whole].reshape(-1, self._step_rows)).reshape(-1), some[whole:]]
        return np.concatenate(pieces) if pieces else order_N
