"""Shards -> tables, and rows of embeddings as plain arrays; values are views of Arrow's memory where they can be.

Shapes: N rows, L latents of all rows together, K latents of a row, D embedding width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rotdata.errors import ShardError
from rotdata.shards.files import MANIFEST, Files, LocalFiles, called
from rotdata.shards.manifest import Manifest, ShardEntry
from rotdata.shards.soundness import problems_of_file, problems_of_rows, values_of
from rotdata.shards.targets import restore


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Rows of embedding shards without their embeddings."""

    ids: list[str]
    questions: list[str]
    cots: list[str]
    answers: list[str]
    num_latents: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class EmbeddedRows:
    """Rows of embedding shards as plain arrays; row i's latents are embedding_LD[offsets[i]:offsets[i + 1]]."""

    ids: list[str]
    questions: list[str]
    cots: list[str]
    answers: list[str]
    spans: list[list[int] | None]
    """Of each row, [K + 1]: latent k covers cot[spans[k]:spans[k + 1]]; None where the geometry has no spans."""
    offsets: NDArray[np.int64]
    embedding_LD: NDArray[np.floating[Any]]
    """[L, D], a view of Arrow's memory; restored to float32 where eight bits are stored."""

    def __len__(self) -> int:
        return len(self.ids)


def read_table(
    folder: Path, manifest: Manifest, entry: ShardEntry, columns: Sequence[str] | None = None, *, intact: bool = False
) -> pa.Table:
    """A finished shard as a table; with `intact`, only if it is byte for byte what the manifest says.

    Raises ShardError naming file and remedy.
    """
    path = folder / entry.file
    try:
        source: Any = path
        if intact:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise _unreadable(path, "its SHA-256 is not the manifest's")
            source = pa.BufferReader(content)
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            return _sound(folder, manifest, entry, file, range(len(entry.row_groups)), columns)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def read_groups(
    folder: Path, manifest: Manifest, entry: ShardEntry, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The row groups of a finished shard, one after another. Raises ShardError as `read_table` does."""
    path = folder / entry.file
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(len(entry.row_groups)):
                yield _sound(folder, manifest, entry, file, [group], columns)
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def sample(folder: Path, manifest: Manifest, count: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Up to `count` rows spread evenly over the finished shards, in order. Raises ShardError."""
    total = manifest.total("rows")
    wanted = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)) if total else np.empty(0)
    first = 0
    for entry in manifest.entries:
        here = wanted[(wanted >= first) & (wanted < first + entry.rows)] - first
        if len(here):
            yield from read_table(folder, manifest, entry, columns).take(pa.array(here)).to_pylist()
        first += entry.rows


class EmbeddingShards:
    """Reader of a finished folder of embeddings: rows by row group, values as views of Arrow's memory."""

    def __init__(self, folder: Path | Files) -> None:
        """Open `folder`; of a shard's file, only the size is looked at.

        Raises ShardError if it is no finished folder of embeddings or a file is not as long as it should be.
        """
        self.folder = folder
        self._files = LocalFiles(folder) if isinstance(folder, Path) else folder
        self.manifest = Manifest.load(folder)
        if self.manifest.kind != "embeddings" or self.manifest.encoder is None:
            raise ShardError(
                f"{folder} holds {self.manifest.kind}, not embeddings: make them with `rotdata embed {folder}`"
            )
        if not self.manifest.finished:
            done, planned = len(self.manifest.shards), len(self.manifest.planned)
            raise ShardError(
                f"{folder} has {done} of {planned} shards: run the same `rotdata embed` again to finish it"
            )
        self._groups: list[tuple[ShardEntry, int, int]] = []  # shard, row group within it, rows
        self._footers: dict[str, pq.FileMetaData] = {}
        for entry in self.manifest.entries:
            self._check(entry)
            self._groups.extend((entry, group, rows) for group, rows in enumerate(entry.row_groups))

    @property
    def width(self) -> int:
        """D, the embedding width."""
        assert self.manifest.encoder is not None
        return int(self.manifest.encoder["width"])

    @property
    def group_rows(self) -> list[int]:
        """Rows of each row group, in order."""
        return [rows for _, _, rows in self._groups]

    def read_group(self, index: int) -> EmbeddedRows:
        """Rows of row group `index` of the whole folder. Raises ShardError."""
        return rows_of(self.read_columns(index), self.manifest)

    def read_texts(self, index: int) -> Texts:
        """The texts of row group `index`; its embeddings are not read. Raises ShardError."""
        table = self.read_columns(index, ["id", "question", "cot", "answer", "num_latents"])
        ids, questions, cots, answers, num_latents = (column.to_pylist() for column in table.columns)
        return Texts(ids=ids, questions=questions, cots=cots, answers=answers, num_latents=num_latents)

    def read_columns(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Columns of row group `index` as they are stored, by default all of them. Raises ShardError."""
        entry, group, _ = self._groups[index]
        try:
            with self._files.open(entry.file) as stream:
                file = pq.ParquetFile(
                    stream, metadata=self._footers.get(entry.file), page_checksum_verification=True, pre_buffer=False
                )
                self._footers[entry.file] = file.metadata
                return _sound(self.folder, self.manifest, entry, file, [group], columns)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(f"{self.folder}/{entry.file}", error) from error

    def __iter__(self) -> Iterator[EmbeddedRows]:
        """Every row group in order."""
        return (self.read_group(index) for index in range(len(self._groups)))

    def _check(self, entry: ShardEntry) -> None:
        try:
            size = self._files.size(entry.file)
        except OSError as error:
            raise _unreadable(f"{self.folder}/{entry.file}", error) from error
        if size != entry.bytes:
            raise ShardError(
                f"{self.folder}/{entry.file} has {size} bytes, its manifest says {entry.bytes}: "
                "the same `rotdata embed` makes it anew"
            )
        if sum(entry.row_groups) != entry.rows:
            grouped, name = sum(entry.row_groups), called(MANIFEST, self._files)
            raise ShardError(f"{self.folder}/{name} has row groups of {grouped} rows in a shard of {entry.rows}")


def _sound(
    folder: Path | Files,
    manifest: Manifest,
    entry: ShardEntry,
    file: pq.ParquetFile,
    groups: Sequence[int],
    columns: Sequence[str] | None,
) -> pa.Table:
    """Row groups of a shard, if the file is what the manifest says and they hold what they must.

    Read by the thread that asks: processes that had read with Arrow's own threads beside torch, and ended at once,
    aborted in some runs. Nearly all of a shard is one column, which one thread reads anyway.
    """
    wanted = None if columns is None else list(columns)
    if (problem := next(problems_of_file(manifest, entry, file), None)) is None:
        table = file.read_row_groups(list(groups), columns=wanted, use_threads=False)
        problem = next(problems_of_rows(manifest, table), None)
        if problem is None:
            return table
    raise ShardError(
        f"{folder}/{entry.file} is not what its manifest says ({problem}): don't trust it, or make it again"
    )


def stored_latents(
    table: pa.Table, manifest: Manifest
) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float32] | None]:
    """Latents of a sound table as they are stored: values [L, D], offsets of the rows, scales [L] of eight bits."""
    column = table.column("embedding").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
    values, offsets = values_of(column.values, manifest), column.offsets.to_numpy().astype(np.int64)
    if "scale" not in table.column_names:
        return values, offsets, None
    scales = table.column("scale").combine_chunks()
    scales = scales.chunk(0) if isinstance(scales, pa.ChunkedArray) and scales.num_chunks else scales
    return values, offsets, scales.flatten().to_numpy()


def rows_of(table: pa.Table, manifest: Manifest) -> EmbeddedRows:
    """A sound table of an embedding shard as plain arrays."""
    values, offsets, scales = stored_latents(table, manifest)
    return EmbeddedRows(
        ids=table.column("id").to_pylist(),
        questions=table.column("question").to_pylist(),
        cots=table.column("cot").to_pylist(),
        answers=table.column("answer").to_pylist(),
        spans=table.column("spans").to_pylist(),
        offsets=offsets,
        embedding_LD=values if scales is None else restore(values, scales),
    )


def _unreadable(path: Path | str, error: Exception | str) -> ShardError:
    return ShardError(f"{path} can't be read ({error}): it is missing, truncated or damaged; make it again")
