"""What a shard must hold: its file beside its manifest, and its rows. One check for verifying and for reading.

A stranger may have written the file, with hashes that fit: nothing is taken from it before it is looked at here.

Shapes: L latents of all rows together, D embedding width.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rotdata.shards.manifest import Manifest, ShardEntry

_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_INFINITE = {"float16": (np.int16, np.uint16, 0x7C00), "float32": (np.int32, np.uint32, 0x7F800000)}


def problems_of_file(manifest: Manifest, entry: ShardEntry, file: pq.ParquetFile) -> Iterator[str]:
    """What of a shard's columns and row groups is not as the manifest says; no row is read."""
    if not file.schema_arrow.equals(manifest.schema):
        yield _other_columns(file.schema_arrow, manifest.schema)
    groups = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if groups != entry.row_groups:
        yield f"row groups of {_shown(groups)} rows, the manifest says {_shown(entry.row_groups)}"
    if sum(groups) != entry.rows:
        yield f"{sum(groups)} rows, the manifest says {entry.rows}"


def problems_of_rows(manifest: Manifest, table: pa.Table) -> Iterator[str]:
    """What of rows' values no shard of ours holds, as far as that shows in the columns that were read.

    The columns are the manifest's own, as `problems_of_file` finds. Where a value is missing, no more is looked for.
    """
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        yield f"values that are none of their column's ({error})"
        return
    columns = {name: _whole(table.column(name)) for name in table.column_names}
    resized = "resize" in manifest.settings
    missing = [problem for name, column in columns.items() for problem in _missing(name, column, resized=resized)]
    yield from missing
    if missing:
        return
    counts = columns["num_latents"].to_numpy() if "num_latents" in columns else None
    if counts is not None and len(counts) and counts.min() < 1:
        yield f"a row of {counts.min()} latents"
    if "spans" in columns and not resized:
        yield from _problems_of_spans(columns["spans"], counts, columns.get("cot"))
    if "image" in columns:
        yield from _problems_of_pictures(columns["image"], counts, columns.get("width"), manifest)
    for name in ("embedding", "scale"):
        if name in columns:
            yield from _problems_of_numbers(name, columns[name], counts, manifest)


def all_finite(values: NDArray[Any]) -> bool:
    """Whether no value is infinite or a NaN.

    Of floats that is asked of their bits, which takes a fifth of numpy's own time: what is not finite is, of either
    sign, no smaller than infinity.
    """
    if values.dtype.name not in _INFINITE or not values.size:
        return True
    signed, unsigned, infinity = _INFINITE[values.dtype.name]
    sign = 1 << (8 * values.itemsize - 1)
    return bool(values.view(signed).max() < infinity and values.view(unsigned).max() < sign + infinity)


def _other_columns(found: pa.Schema, expected: pa.Schema) -> str:
    """How columns differ, by the first that does."""
    if found.names != expected.names:
        return f"columns {_shown(found.names)}, the manifest's are {_shown(expected.names)}"
    wrong = next(each for each in expected if not found.field(each.name).equals(each))
    return f"its column {wrong.name} is {found.field(wrong.name).type}, the manifest's is {wrong.type}"


def _missing(name: str, column: pa.Array, *, resized: bool) -> Iterator[str]:
    """Where a column lacks a value. Paths of pictures are never there, spans not where strips were resized."""
    if name == "spans" and resized:
        if column.null_count != len(column):
            yield "spans, though resized strips have none"
        return
    if column.null_count:
        yield f"{name} is null in row {pc.index(column.is_null(), value=True)}"
        return
    while pa.types.is_nested(column.type):
        column = column.field("bytes") if pa.types.is_struct(column.type) else column.flatten()
        if column.null_count:
            yield f"{name} with a null in it"
            return


def _problems_of_spans(spans: pa.Array, counts: NDArray[Any] | None, cots: pa.Array | None) -> Iterator[str]:
    """Offsets that are no K + 1 places of their text in order."""
    lengths, values = _lengths(spans), spans.flatten().to_numpy()
    if len(lengths) and lengths.min() < 2:
        yield "spans of no latent"
        return
    if counts is not None and not np.array_equal(lengths, counts + 1):
        yield "spans of another number of latents than num_latents"
    first = np.cumsum(lengths) - lengths
    falls = np.diff(values) < 0
    falls[first[1:] - 1] = False  # from a row's last to the next row's first
    if falls.any() or (values[first] < 0).any():
        yield "spans that fall, or begin before their text"
    if cots is not None and (values[first + lengths - 1] > pc.utf8_length(cots).to_numpy()).any():
        yield "spans that end beyond their text"


def values_of(latents: pa.Array, manifest: Manifest) -> NDArray[Any]:
    """The values of sound latents as they are stored, [L, D]: a view of Arrow's memory."""
    assert manifest.encoder is not None
    if not pa.types.is_large_binary(latents.type):
        vectors: NDArray[Any] = latents.flatten().to_numpy(zero_copy_only=True)
        return vectors.reshape(-1, manifest.encoder["width"])
    value = np.dtype(manifest.store)
    if not len(latents):
        return np.empty((0, manifest.encoder["width"]), value)
    _, ends, content = latents.buffers()
    first, end = np.frombuffer(ends, np.int64, len(latents) + 1, 8 * latents.offset)[[0, -1]].tolist()
    return np.frombuffer(content, value, (end - first) // value.itemsize, first).reshape(-1, manifest.encoder["width"])


def _problems_of_numbers(
    name: str, numbers: pa.Array, counts: NDArray[Any] | None, manifest: Manifest
) -> Iterator[str]:
    """Numbers that are not finite, of another number of latents than their row says, or not as wide as all are."""
    if counts is not None and not np.array_equal(_lengths(numbers), counts):
        yield f"num_latents differs from the {name}s' lengths"
    numbers = numbers.flatten()
    if pa.types.is_large_binary(numbers.type):
        assert manifest.encoder is not None
        width, value = manifest.encoder["width"], np.dtype(manifest.store)
        if (pc.binary_length(numbers).to_numpy() != width * value.itemsize).any():
            yield f"latents that are not {width} values of {value}"
            return
    if not all_finite(numbers.to_numpy() if name == "scale" else values_of(numbers, manifest)):
        yield f"{name}s that are not finite"


def _problems_of_pictures(
    pictures: pa.Array, counts: NDArray[Any] | None, widths: pa.Array | None, manifest: Manifest
) -> Iterator[str]:
    """Strips of another size than their row says, by the PNG's own header."""
    headers = pc.binary_slice(pictures.field("bytes"), 0, len(_PNG) + 8).to_pylist()
    if not all(header.startswith(_PNG) and len(header) == len(_PNG) + 8 for header in headers):
        yield "a picture that is no PNG"
        return
    sizes = np.array([struct.unpack(">II", header[len(_PNG) :]) for header in headers], dtype=np.int64).reshape(-1, 2)
    if widths is not None and not np.array_equal(sizes[:, 0], widths.to_numpy()):
        yield "width differs from the picture's"
    factor = manifest.style["style"]["height_px"]
    if counts is not None and not np.array_equal(sizes.prod(axis=1), counts * np.int64(factor) ** 2):
        yield "num_latents differs from what the picture holds"


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    """The number of items of each list."""
    return np.diff(lists.offsets.to_numpy()).astype(np.int64)


def _shown(listed: list[Any]) -> str:
    """The beginning of a list, for a message."""
    return f"[{', '.join(map(str, listed[:12]))}{', ...' if len(listed) > 12 else ''}]"
