"""A finished folder of embeddings as a data set: rows by number, Arrow tables, padded tensors.

Shapes: N rows, K latents of a row, D embedding width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rotdata.errors import UsageError
from rotdata.extras import needing
from rotdata.shards.manifest import Manifest
from rotdata.shards.reader import EmbeddedRows, EmbeddingShards

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from rotdata.shards.tensors import TensorBatch, TorchRows

_CACHED_GROUPS = 5
_MIXED_GROUPS = 4  # row groups whose rows mix when they are shuffled; one fewer than are kept in memory


@dataclass(frozen=True, kw_only=True)
class EmbeddedRow:
    """One row of embedding shards."""

    id: str
    question: str
    cot: str
    answer: str
    spans: list[int] | None
    """[K + 1]: latent k covers cot[spans[k]:spans[k + 1]]; None where the geometry has no spans."""
    latents_KD: NDArray[np.floating[Any]] = field(repr=False)
    """Read-only; a view of Arrow's memory where that holds what is stored."""


class Shards:
    """Rows of embedding shards, on this disk or on the Hub; a few row groups are kept in memory."""

    def __init__(self, reader: EmbeddingShards) -> None:
        self.reader = reader
        self._ends = list(accumulate(reader.group_rows))
        self._kept: OrderedDict[int, EmbeddedRows] = OrderedDict()

    def __repr__(self) -> str:
        return f"<{len(self)} rows of {self.width} wide latents in {self.reader.folder}>"

    @property
    def manifest(self) -> Manifest:
        """All that decided the bytes of the folder."""
        return self.reader.manifest

    @property
    def width(self) -> int:
        """D, the embedding width."""
        return self.reader.width

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> EmbeddedRow:
        """A row by its number, from the end if that is negative. Raises IndexError, ShardError."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        index %= len(self)
        group = bisect_right(self._ends, index)
        rows = self._group(group)
        row = index - (self._ends[group] - len(rows))
        return EmbeddedRow(
            id=rows.ids[row],
            question=rows.questions[row],
            cot=rows.cots[row],
            answer=rows.answers[row],
            spans=rows.spans[row],
            latents_KD=rows.embedding_LD[rows.offsets[row] : rows.offsets[row + 1]],
        )

    def __iter__(self) -> Iterator[EmbeddedRow]:
        """Every row in order. Raises ShardError."""
        return (self[index] for index in range(len(self)))

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The row groups in order as they are stored, by default with all columns. Raises UsageError, ShardError."""
        if unknown := [name for name in columns or () if name not in self.manifest.schema.names]:
            known = ", ".join(self.manifest.schema.names)
            raise UsageError(f"there is no column {unknown[0]!r} in {self.reader.folder}: it has {known}")
        return (self.reader.read_columns(group, columns) for group in range(len(self._ends)))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows as one table, whose chunks are the row groups; nothing is copied. Raises as `tables` does."""
        wanted = self.manifest.schema.names if columns is None else list(columns)
        schema = pa.schema([self.manifest.schema.field(name) for name in wanted if name in self.manifest.schema.names])
        groups = list(self.tables(columns))
        return pa.concat_tables(groups) if groups else schema.empty_table()

    def torch_dataset(self) -> TorchRows:
        """The rows as torch's DataLoader takes them, with its `collate`. Raises MissingExtra without torch."""
        with needing("embed", "a torch dataset"):
            from rotdata.shards.tensors import TorchRows

        return TorchRows(self)

    def loader(
        self, batch_size: int = 16, *, shuffle: bool = False, seed: int = 0, **options: Any
    ) -> DataLoader[TensorBatch]:
        """Batches of padded tensors; `options` are DataLoader's.

        Shuffled rows mix within a few row groups at a time, so that each group is read once a pass; each pass has an
        order of its own, which follows from the seed. Raises MissingExtra without torch.
        """
        with needing("embed", "a loader"):
            from rotdata.shards.tensors import loader

        return loader(self, batch_size, shuffle=shuffle, seed=seed, **options)

    def shuffled(self, seed: int | Sequence[int]) -> NDArray[np.int64]:
        """The number of every row once, in an order for readers that keep a few row groups in memory: [N]."""
        return shuffle_rows(self.reader.group_rows, np.random.default_rng(seed))

    def _group(self, index: int) -> EmbeddedRows:
        if index in self._kept:
            self._kept.move_to_end(index)
        else:
            self._kept[index] = self.reader.read_group(index)
            if len(self._kept) > _CACHED_GROUPS:
                self._kept.popitem(last=False)
        return self._kept[index]


def shuffle_rows(group_rows: Sequence[int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Every row once: row groups shuffled, and rows within a few of them."""
    starts = np.concatenate([[0], np.cumsum(group_rows, dtype=np.int64)])
    order = rng.permutation(len(group_rows))
    pieces = []
    for first in range(0, len(order), _MIXED_GROUPS):
        rows = [np.arange(starts[group], starts[group + 1]) for group in order[first : first + _MIXED_GROUPS]]
        pieces.append(rng.permutation(np.concatenate(rows)))
    return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int64)
