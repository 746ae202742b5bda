"""Files, folders and globs -> records, in any of the formats that corpora come in. Knows bytes, not fields.

The format is told by the content, and by the name only where the content leaves it open. What can't be read is an
Unreadable in its place: the records before and after it are kept.
"""

from __future__ import annotations

import bz2
import codecs
import csv
import glob
import gzip
import io
import json
import lzma
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from rotdata.corpora.addresses import fetched, is_address
from rotdata.errors import SourceError

Record = dict[str, Any]
Format = Literal["jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow"]

LINE = "line"
"""Field that holds a line of a plain text file."""

_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "txt",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
"""Files by which a folder of `datasets.save_to_disk` is told, of one dataset and of its splits."""
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
_SPLITS |= {"dev": "validation"}
_PEEKED_BYTES = 1 << 16
_ROWS_PER_BATCH = 500
# What can't be decoded becomes lone surrogates, which no row may hold: rejects in their place.
_ERRORS = {"utf-8-sig": "surrogateescape", "utf-16": "surrogatepass"}
_BROKEN_OFF = (EOFError, OSError, zlib.error, lzma.LZMAError)  # OSError: gzip, bz2 and zstd, and the disk itself


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a stretch of a file is no record."""

    reason: str


def find_files(location: str, split: str) -> tuple[Path, list[Path]]:
    """The root and the files of a file, folder or glob, in order of name; none if nothing is there.

    Where names in a folder tell splits apart (train.jsonl, test/1.json), those of `split` are taken. Raises SourceError
    for a folder without files of a known format or of that split.
    """
    path = fetched(location, _is_named_like_one) if is_address(location) else Path(location)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        if saved := _saved(path, split):
            return path, saved
        files = sorted(file for file in path.rglob("*") if _is_named_like_one(file.name) and file.is_file())
        if not files:
            raise SourceError(f"no {', '.join(_SUFFIXES)} files in folder {path}")
        return path, _of_split(path, files, split)
    if glob.has_magic(location):
        found = sorted(map(Path, glob.glob(location, recursive=True)))  # noqa: PTH207 -- absolute patterns too
        files = [file for file in found if file.is_file()]
        if not files:
            raise SourceError(f"no file matches {location}")
        return _common_folder(files), files
    return path, []


def records(file: Path) -> Iterator[tuple[str, Record | Unreadable]]:
    """(place, record) pairs of a file; records may be other things than objects, as JSON allows.

    Raises SourceError where nothing of the file can be read.
    """
    try:
        kind = _format(file)
        if kind == "parquet":
            yield from _parquet_records(file)
        elif kind == "arrow":
            yield from _arrow_records(file)
        elif kind == "json":
            yield from _json_records(file)
        elif kind in ("csv", "tsv"):
            yield from _csv_records(file, "," if kind == "csv" else "\t")
        else:
            yield from _line_records(file, plain=kind == "txt")
    except OSError as error:
        raise SourceError(f"{file} can't be read: {error.strerror or error}") from error


def _of_split(root: Path, files: list[Path], split: str) -> list[Path]:
    named = {file: found for file in files if (found := _split_in(file.relative_to(root)))}
    if not named:
        return files
    wanted = _SPLITS.get(split, split)
    chosen = [file for file in files if named.get(file) == wanted]
    if not chosen:
        raise SourceError(
            f"the names of the files in {root} tell the splits {', '.join(sorted(set(named.values())))}, "
            f"not {split}: choose one with --split"
        )
    return chosen


def _saved(folder: Path, split: str) -> list[Path]:
    """The files of a folder that `datasets.save_to_disk` made, in their order; none if it is another folder.

    Raises SourceError for a split that it has not.
    """
    if (folder / _SAVED_SPLITS).is_file():
        splits = _saved_json(folder / _SAVED_SPLITS).get("splits", [])
        named = {_SPLITS.get(name, name): name for name in splits if isinstance(name, str)}
        wanted = named.get(_SPLITS.get(split, split))
        if wanted is None:
            raise SourceError(
                f"{folder} holds the splits {', '.join(named.values())}, not {split}: choose one with --split"
            )
        folder /= wanted
    if not (folder / _SAVED).is_file():
        return []
    names = [file.get("filename") for file in _saved_json(folder / _SAVED).get("_data_files", [])]
    files = [folder / name for name in names if isinstance(name, str)]
    if lacking := [file for file in files if not file.is_file()]:
        raise SourceError(f"{folder} names {lacking[0].name}, which is not there: copy the folder whole")
    return files


def _saved_json(file: Path) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SourceError(f"{file} can't be read: {error}; save the dataset again") from error


def _split_in(path: Path) -> str | None:
    """The split that the words of a relative path name, if they name just one."""
    words = {_SPLITS[word] for word in re.split(r"[^a-z]+", path.as_posix().lower()) if word in _SPLITS}
    return words.pop() if len(words) == 1 else None


def _common_folder(files: list[Path]) -> Path:
    parents = [file.parent for file in files]
    root = parents[0]
    while not all(parent.is_relative_to(root) for parent in parents):
        root = root.parent
    return root


def _is_named_like_one(name: str) -> bool:
    """Whether a file's name is that of a corpus, of whatever format, or tells how one was saved."""
    return _suffix(Path(name)) in _SUFFIXES


def _suffix(file: Path) -> str:
    """The suffix that tells the format, that of a compression aside."""
    name = file.name.lower()
    for compressed in _COMPRESSED:
        name = name.removesuffix(compressed)
    return Path(name).suffix


def _open_zstd(file: Path) -> IO[bytes]:
    import pyarrow as pa

    return cast("IO[bytes]", io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(file)), "zstd")))


_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\x28\xb5\x2f\xfd": _open_zstd,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
"""How a compressed file is opened, by its first bytes."""


def _open(file: Path) -> IO[bytes]:
    with file.open("rb") as stream:
        head = stream.read(8)
    compressed = next((opened for magic, opened in _OPENERS.items() if head.startswith(magic)), None)
    return cast("IO[bytes]", file.open("rb") if compressed is None else compressed(file))


def _peek(file: Path) -> bytes:
    """The first bytes of the content, as many as there are before a break."""
    head = b""
    with _open(file) as stream:
        try:
            while len(head) < _PEEKED_BYTES and (more := stream.read(512)):
                head += more
        except _BROKEN_OFF:
            pass  # told where the records end
    return head


def _encoding(head: bytes) -> Literal["utf-16", "utf-8-sig"]:
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig"


def _format(file: Path) -> Format:
    """What the content is; its name decides what the content leaves open."""
    head = _peek(file)
    if head.startswith(b"PAR1"):
        return "parquet"
    named = _SUFFIXES.get(_suffix(file))
    if named == "parquet":
        raise SourceError(f"{file} is no Parquet file: it is truncated, damaged, or named wrongly")
    if named == "arrow" or head.startswith(b"ARROW1"):
        return "arrow"
    text = head.decode(_encoding(head), errors="replace").replace("\r\n", "\n").replace("\r", "\n").lstrip()
    first, _, rest = text.partition("\n")
    if named not in ("csv", "tsv") and text.startswith("{") and rest.strip() and _is_json(first):
        return "jsonl"  # whatever it is called
    if named in ("csv", "tsv", "txt"):
        return named
    if text.startswith(("{", "[")):
        # A document may begin on a line of its own; a file of lines may begin with a broken one.
        one_line = named is None and (_is_json(text) or (text.startswith("[") and not rest.strip()))
        document = named == "json" or first.rstrip() in ("{", "[") or one_line
        return "json" if document else "jsonl"
    return named or ("txt" if "||" in first else "tsv" if "\t" in first else "csv")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _line_records(file: Path, *, plain: bool) -> Iterator[tuple[str, Record | Unreadable]]:
    number = 0
    with _open(file) as stream:
        try:
            for number, line in enumerate(_lines(stream, _peek(file)), start=1):
                if line.strip():
                    yield f"line {number}", _line_record(line, number, plain=plain)
        except (*_BROKEN_OFF, UnicodeDecodeError) as error:
            yield f"line {number + 1}", _broken_off(f"line {number}", error)


def _lines(stream: IO[bytes], head: bytes) -> Iterable[bytes]:
    """Lines as UTF-8, whatever the encoding; where no line feed ends lines, carriage returns do."""
    if _encoding(head) != "utf-16" and (b"\n" in head or b"\r" not in head):
        return stream
    return _reencoded(stream, head)


def _reencoded(stream: IO[bytes], head: bytes) -> Iterator[bytes]:
    errors = _ERRORS[_encoding(head)]
    with _decoded(stream, head, newline=None) as text:
        for line in text:
            yield line.encode("utf-8", errors)


def _decoded(stream: IO[bytes], head: bytes, newline: str | None) -> io.TextIOWrapper:
    encoding = _encoding(head)
    return io.TextIOWrapper(stream, encoding=encoding, errors=_ERRORS[encoding], newline=newline)


def _line_record(line: bytes, number: int, *, plain: bool) -> Record | Unreadable:
    try:
        text = line.decode("utf-8-sig").strip()
        return {LINE: text} if plain else json.loads(text)
    except UnicodeDecodeError as error:
        return Unreadable(f"line {number} is not UTF-8: {error.reason} at byte {error.start}")
    except json.JSONDecodeError as error:
        return Unreadable(f"line {number} is malformed JSON: {error.msg} at column {error.colno}")
    except ValueError:
        return Unreadable(f"line {number} holds a number of too many digits")
    except RecursionError:
        return Unreadable(f"line {number} is malformed JSON: nested too deeply")


def _json_records(file: Path) -> Iterator[tuple[str, Record]]:
    try:
        with _open(file) as stream:
            content = stream.read()
        data = json.loads(content.decode(_encoding(content)))
    except UnicodeDecodeError as error:
        raise SourceError(f"{file} is neither UTF-8 nor UTF-16: {error}; convert it, for example with iconv") from error
    except (*_BROKEN_OFF, ValueError, RecursionError) as error:
        raise SourceError(f"{file} is not one JSON document: {error}; a record a line is .jsonl") from error
    if isinstance(data, dict):
        lists = [value for value in data.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
        data = lists[0] if len(lists) == 1 else [data]  # {"data": [...]} holds records, any other object is one
    for index, record in enumerate(data if isinstance(data, list) else [data]):
        yield f"record {index}", record


def _csv_records(file: Path, delimiter: str) -> Iterator[tuple[str, Record | Unreadable]]:
    csv.field_size_limit(sys.maxsize)
    number = 0
    with _open(file) as stream:
        rows = csv.DictReader(_decoded(stream, _peek(file), newline=""), delimiter=delimiter)
        try:
            for number, row in enumerate(rows, start=1):
                if None in row:
                    yield f"record {number}", Unreadable(f"record {number} has more fields than the header")
                else:
                    yield f"record {number}", {name: value for name, value in row.items() if value is not None}
        except (*_BROKEN_OFF, csv.Error, UnicodeError) as error:
            yield f"record {number + 1}", _broken_off(f"record {number}", error)


def _parquet_records(file: Path) -> Iterator[tuple[str, Record | Unreadable]]:
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        columns = [field.name for field in parquet.schema_arrow if not _is_payload(field.type)]
        yield from parquet.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns, use_threads=False)

    return _table_records(file, "Parquet", batches())


def _arrow_records(file: Path) -> Iterator[tuple[str, Record | Unreadable]]:
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        with pa.memory_map(str(file)) as source:
            in_file = bytes(source.read(6)) == b"ARROW1"
            source.seek(0)
            if in_file:
                reader = pa.ipc.open_file(source)
                found = (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                found = iter(pa.ipc.open_stream(source))
            for batch in found:
                kept = [field.name for field in batch.schema if not _is_payload(field.type)]
                for start in range(0, len(batch), _ROWS_PER_BATCH):
                    yield batch.select(kept).slice(start, _ROWS_PER_BATCH)

    return _table_records(file, "Arrow", batches())


def _table_records(file: Path, kind: str, batches: Iterator[Any]) -> Iterator[tuple[str, Record | Unreadable]]:
    import pyarrow as pa

    number = -1
    try:
        for batch in batches:
            for row in _batch_records(batch):
                number += 1
                yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        if number < 0:
            raise SourceError(f"{file} is no {kind} file that can be read: {error}") from error
        yield f"row {number + 1}", _broken_off(f"row {number}", error)


def _batch_records(batch: Any) -> list[Record | Unreadable]:
    """The rows of a batch; a value that is none (bytes that are not UTF-8, a date out of range) spoils its row only."""
    try:
        return cast("list[Record | Unreadable]", batch.to_pylist())
    except (ValueError, OverflowError) as error:
        if len(batch) == 1:
            return [Unreadable(f"a value can't be read: {error}")]
    return [record for index in range(len(batch)) for record in _batch_records(batch.slice(index, 1))]


def _is_payload(kind: Any) -> bool:
    """Whether a column holds pictures or embeddings, which are no part of a record."""
    from pyarrow import types

    if types.is_list(kind) or types.is_large_list(kind):
        within = kind.value_type  # lists of lists are embeddings, lists of structs turns of a conversation
        return types.is_list(within) or types.is_large_list(within) or _is_payload(within)
    if types.is_struct(kind):  # a picture's bytes and its path; texts in a struct are a record's
        return any(_is_payload(kind.field(index).type) for index in range(kind.num_fields))
    bulky = (types.is_binary, types.is_large_binary, types.is_fixed_size_list)
    return any(is_bulky(kind) for is_bulky in bulky)


def _broken_off(after: str, error: Exception) -> Unreadable:
    return Unreadable(f"the file breaks off after {after}: {error}")
