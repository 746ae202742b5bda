"""Tables -> Parquet shards: the same table gives the same file. K latents of a row, D embedding width."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rotdata.output import replaceable, sync_folder

_ROW_GROUP_BYTES = 64 << 20  # raw; the Hub viewer wants row groups below 100 MB
_DICTIONARY_BYTES = 1 << 30  # beyond it Parquet writes values as they are; a row group has fewer
_VALUES = "embedding.list.element.list.element"
_LATENTS = "embedding.list.element"
_SCALES = "scale.list.element"


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """A shard's file as it was written."""

    bytes: int
    sha256: str
    row_groups: list[int]
    """Rows of each."""


def write_shard(folder: Path, file: str, table: pa.Table) -> ShardFile:
    """Write one Parquet shard, whole or not at all. The same table gives the same file."""
    per_row = max(1, table.nbytes // max(1, table.num_rows))
    group_size = max(1, min(table.num_rows, _ROW_GROUP_BYTES // per_row))
    target = replaceable(folder / file)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")  # two hosts may be at it
    with pq.ParquetWriter(
        temporary,
        table.schema,
        compression="zstd",
        **_encodings(table.schema),
        write_page_index=True,
        write_page_checksum=True,
    ) as writer:
        if table.num_rows:  # `datasets` can't read a row group of no rows
            writer.write_table(table, row_group_size=group_size)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
    temporary.replace(target)
    sync_folder(target.parent)
    groups = [min(group_size, table.num_rows - first) for first in range(0, table.num_rows, group_size)]
    return ShardFile(bytes=size, sha256=digest, row_groups=groups)


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """How the values of latents are written."""
    if "embedding" not in schema.names:
        return {"use_dictionary": False}
    if pa.types.is_large_binary(schema.field("embedding").type.value_type):
        return {
            "use_dictionary": [_LATENTS, _SCALES],
            "dictionary_pagesize_limit": _DICTIONARY_BYTES,
            "write_statistics": [name for name in schema.names if name != "embedding"],  # least and greatest bytes
        }
    if "scale" in schema.names:
        return {"use_dictionary": [_VALUES]}  # of 255 values, a byte each
    return {"use_dictionary": False, "column_encoding": {_VALUES: "BYTE_STREAM_SPLIT"}}


def embedding_column(latents: Sequence[NDArray[Any]], schema: pa.Schema) -> pa.Array:
    """Rows' latents [K_i, D] as they are stored -> the embedding column of `schema`."""
    column = schema.field("embedding").type
    offsets = np.zeros(len(latents) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in latents], out=offsets[1:])
    if pa.types.is_large_binary(column.value_type):
        return pa.ListArray.from_arrays(pa.array(offsets), _as_bytes(latents)).cast(column)
    width = column.value_type.list_size
    dtype = column.value_type.value_type.to_pandas_dtype()
    flat = (
        np.concatenate([row.astype(dtype, copy=False) for row in latents]) if latents else np.empty((0, width), dtype)
    )
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), width)
    return pa.ListArray.from_arrays(pa.array(offsets), values).cast(column)


def _as_bytes(latents: Sequence[NDArray[Any]]) -> pa.Array:
    """The bytes of each latent of all rows."""
    flat = np.concatenate(latents) if latents else np.empty((0, 1), np.float16)
    starts = np.arange(len(flat) + 1, dtype=np.int64) * (flat.shape[1] * flat.itemsize)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(flat), [None, pa.py_buffer(starts), pa.py_buffer(flat)]
    )
