"""THE CONTRACT between rotdata and rottrain: schemas of the shards, the manifest, writer, reader and verification.

A folder of shards holds manifest.json, NAME-00007-of-00385.parquet for each entry of its plan, and rejects.jsonl if
rows were refused. Everything that decides the bytes stands in the manifest; nothing in the folder depends on time, host
or number of workers. docs/shard-format.md describes the format for readers of other languages.

Shapes: N rows, L latents of all rows together, K latents of a row, D embedding width.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, BinaryIO, Literal, Protocol, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rotdata.errors import OutputOccupied, ShardError
from rotdata.shards.targets import Store, restore

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
REJECTS = "rejects.jsonl"

Kind = Literal["strips", "embeddings"]

_SHARD_FILE = re.compile(r".*-\d{5}-of-\d{5}\.parquet")
_SAFE_NAME = re.compile(r"\w[\w.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_COUNT = 1 << 63  # not reached
_WIDEST = 1 << 20  # values of a latent
_DEEPEST = 32  # levels within a manifest, whose readers recurse
_ROW_GROUP_BYTES = 64 << 20  # raw; the Hub viewer wants row groups below 100 MB


class Files(Protocol):
    """Where a folder of shards is: on this disk, or far away. Its str is what people call it."""

    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError, OSError."""

    def open(self, name: str) -> BinaryIO:
        """A file to read parts of. Raises OSError."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises OSError."""


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files of a folder on this disk."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, name: str) -> bytes:
        """A whole file."""
        return (self.folder / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """A file to read parts of."""
        return (self.folder / name).open("rb")

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.folder / name).stat().st_size


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How rows fall into shards: record i of a corpus belongs to shard i // rows_per_shard, embedded or not."""

    rows_in: int
    rows_per_shard: int
    num_shards: int
    """Shards of the whole run, those whose rows are all rejected included."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A finished shard: what its file must be."""

    file: str
    rows: int
    rejected: int
    latents: int
    bytes: int
    sha256: str
    truncated: int = 0
    """Rows of which only the beginning was drawn: their spans end before their text does."""
    added: int = 0
    """Rows beyond one a source row, since some were split."""
    rounding: float = 0.0
    """Of embeddings: what storing them changed, root mean square, relative to that of the values."""
    rejects_sha256: str = ""
    """Of its lines in rejects.jsonl, if there are any."""
    row_groups: list[int] = field(default_factory=list)
    """Rows of each of its row groups, so that a reader far away need not open it to know them."""
    halved: int = 0
    """Calls of the tower that ran out of memory and were made in two halves, which may change last bits."""


@dataclass(kw_only=True)
class Manifest:
    """All that decides the bytes of a folder, and its finished shards by index."""

    kind: Kind
    corpus: str
    split: str
    source: dict[str, Any]
    """What identifies the rows: hashes of the corpus files, or the Hub dataset and its commit."""
    style: dict[str, Any]
    """Style, font hashes and glyph hash of the strips: strips.Renderer.fingerprint."""
    settings: dict[str, Any]
    """Choices that decide bytes beside the above: max_latents, patches_per_call, ..."""
    plan: Plan
    encoder: dict[str, Any] | None = None
    """For embeddings: model, revision, tower hash, output field, factor, width, dtype."""
    survey: dict[str, Any] = field(default_factory=dict)
    """What the whole corpus is like: duplicates, characters drawn by a fallback font or as boxes. Decides no bytes."""
    part: list[int] | None = None
    """[i, n] in a folder that holds shards i - 1, i - 1 + n, ... of the plan only, to be merged with its likes."""
    shards: dict[int, ShardEntry] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def planned(self) -> range:
        """Indices of the shards that belong into this folder."""
        first, step = (0, 1) if self.part is None else (self.part[0] - 1, self.part[1])
        return range(first, self.plan.num_shards, step)

    @property
    def name(self) -> str:
        """Stem of the shard files."""
        return f"{self.corpus}-{self.split}"

    @property
    def finished(self) -> bool:
        """Whether every shard that belongs here is there."""
        return len(self.shards) == len(self.planned)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the bytes, the shards themselves aside."""
        return _digest(self._identity())

    @property
    def encoding_fingerprint(self) -> str:
        """SHA-256 of what a latent is: equal for shards that can be trained on together, whatever their corpus."""
        changed: dict[str, Any] = {name: self.settings[name] for name in ("pool", "resize") if name in self.settings}
        if self.settings.get("longer") == "resample":
            changed["resampled_to"] = self.settings["max_stored_latents"]
        return _digest({"style": self.style, "encoder": self.encoder} | changed)

    @property
    def latent_is_a_factor(self) -> bool:
        """Whether latent k stands for the k-th factor of its strip: not where latents are means, or strips resized."""
        resampled = self.settings.get("longer") == "resample"
        return self.settings.get("pool", 1) == 1 and not resampled and "resize" not in self.settings

    @property
    def schema(self) -> pa.Schema:
        """Columns of its shards."""
        if self.encoder is None:
            return strip_schema()
        return embedding_schema(self.encoder["width"], self.settings.get("store", "float16"))

    @property
    def entries(self) -> list[ShardEntry]:
        """The finished shards in order."""
        return [self.shards[index] for index in sorted(self.shards)]

    def shard_file(self, index: int) -> str:
        """File name of shard `index`."""
        return f"{self.name}-{index:05d}-of-{self.plan.num_shards:05d}.parquet"

    @property
    def rows_done(self) -> int:
        """Source rows that stand in a finished shard or were rejected."""
        return self.total("rows") - self.total("added") + self.total("rejected")

    def total(self, what: Literal["rows", "rejected", "latents", "bytes", "truncated", "added"]) -> int:
        """Sum of a column of the finished shards' table."""
        return sum(getattr(entry, what) for entry in self.shards.values())

    def differences(self, other: Manifest) -> list[str]:
        """What decides the bytes and is not the same in `other`, as "name: this | other"."""
        mine, theirs = _flatten(self._identity()), _flatten(other._identity())
        keys = list(mine) + sorted(theirs.keys() - mine.keys())  # kind and corpus first
        return [f"{key}: {mine.get(key)} | {theirs.get(key)}" for key in keys if mine.get(key) != theirs.get(key)]

    def save(self, folder: Path) -> None:
        """Write manifest.json, whole or not at all."""
        finished = {str(index): asdict(self.shards[index]) for index in sorted(self.shards)}
        content = self._identity() | {"survey": self.survey, "shards": finished}
        content["checksum"] = _digest(content)
        write_atomically(folder / MANIFEST, _manifest_bytes(content))

    @classmethod
    def load(cls, folder: Path | Files) -> Manifest:
        """Read and check manifest.json, which a stranger may have written.

        Raises ShardError if it is missing, damaged, of a later version, or not one that this toolkit writes.
        """
        file = f"{folder}/{MANIFEST}"
        try:
            stored = (LocalFiles(folder) if isinstance(folder, Path) else folder).read(MANIFEST)
            content = json.loads(stored)
        except FileNotFoundError:
            raise ShardError(
                f"{folder} holds no {MANIFEST}: it is no folder of shards, or its first run never began"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ShardError(f"{file} can't be read ({error}): restore it, or make the shards again") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ShardError(
                f"{file} has schema version {version!r}, this release reads up to {SCHEMA_VERSION}: upgrade it"
            )
        if _deeper(content, _DEEPEST):
            raise _untrusted(file, f"more than {_DEEPEST} levels")
        exact = stored == _manifest_bytes(content)
        checksum = content.pop("checksum", None)
        if not exact or checksum != _digest(content):
            raise ShardError(f"{file} does not match its own checksum: it was damaged or edited; make the shards again")
        try:
            content["plan"] = Plan(**content["plan"])
            content["shards"] = {int(i): ShardEntry(**entry) for i, entry in content["shards"].items()}
            manifest = cls(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{file} lacks or adds fields ({error}): it is of another release") from error
        if (strange := next(manifest._strange_values(), None)) is not None:
            raise _untrusted(file, strange)
        if names := manifest._strange_names():
            raise ShardError(f"{file} names files that can't be its own ({names[0]!r}): don't trust where it is from")
        return manifest

    def _strange_values(self) -> Iterator[str]:
        """Names of what no manifest of ours holds; to be asked for one by one, since later ones rely on the earlier."""
        yield from _misfits(Manifest, [self])
        yield from _misfits(Plan, [self.plan])
        yield from _misfits(ShardEntry, self.shards.values())
        if self.plan.rows_per_shard < 1 or self.plan.num_shards < 1:
            yield "plan"
        if self.part is not None and not (len(self.part) == 2 and 1 <= self.part[0] <= self.part[1]):
            yield "part"
        if not all(_SHA256.fullmatch(entry.sha256) for entry in self.shards.values()):
            yield "sha256"
        if (self.kind == "strips") != (self.encoder is None):
            yield "encoder"
        if self.encoder is not None:
            width = self.encoder.get("width")
            if type(width) is not int or not 0 < width <= _WIDEST:
                yield "encoder.width"
            if not _fits(self.settings.get("store", "float16"), Store):
                yield "settings.store"

    def _strange_names(self) -> list[str]:
        """Names of shards that the plan would not give, and so may lie outside of the folder."""
        if not _SAFE_NAME.fullmatch(self.name):
            return [self.name]
        return [
            entry.file
            for index, entry in self.shards.items()
            if index not in self.planned or entry.file != self.shard_file(index)
        ]

    def _identity(self) -> dict[str, Any]:
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        del content["shards"], content["survey"]
        if self.part is None:
            del content["part"]
        content["plan"] = asdict(self.plan)
        return content


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something in a folder that is not as the manifest says."""

    file: str
    problem: str


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


def strip_schema() -> pa.Schema:
    """Columns of a strip shard; the metadata makes the Hub and `datasets` show the image column as pictures."""
    columns = [
        pa.field("id", pa.string()),
        pa.field("question", pa.string()),
        pa.field("cot", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("width", pa.int32()),
        pa.field("num_latents", pa.int32()),
        pa.field("spans", pa.list_(pa.int32())),
    ]
    return _with_features(columns, image={"_type": "Image"})


def embedding_schema(width: int, store: Store) -> pa.Schema:
    """Columns of an embedding shard of D = `width`."""
    value = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}[store]
    columns = [
        pa.field("id", pa.string()),
        pa.field("question", pa.string()),
        pa.field("cot", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("num_latents", pa.int32()),
        pa.field("spans", pa.list_(pa.int32())),
        pa.field("embedding", pa.list_(pa.list_(value, width))),
    ]
    if store == "int8":
        columns.append(pa.field("scale", pa.list_(pa.float32())))
    inner = {"feature": {"dtype": store, "_type": "Value"}, "length": width, "_type": "List"}
    return _with_features(columns, embedding={"feature": inner, "_type": "List"})


def embedding_column(latents: Sequence[NDArray[Any]], schema: pa.Schema) -> pa.Array:
    """Rows' latents [K_i, D] as they are stored -> the embedding column of `schema`."""
    column = schema.field("embedding").type
    width = column.value_type.list_size
    offsets = np.zeros(len(latents) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in latents], out=offsets[1:])
    dtype = column.value_type.value_type.to_pandas_dtype()
    flat = (
        np.concatenate([row.astype(dtype, copy=False) for row in latents]) if latents else np.empty((0, width), dtype)
    )
    values = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), width)
    return pa.ListArray.from_arrays(pa.array(offsets), values).cast(column)


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
    values = "embedding.list.element.list.element"
    split = "embedding" in table.column_names and "scale" not in table.column_names
    group_size = max(1, min(table.num_rows, _ROW_GROUP_BYTES // per_row))
    temporary = folder / f".{file}.{secrets.token_hex(4)}.tmp"  # two hosts may be at it
    with pq.ParquetWriter(
        temporary,
        table.schema,
        compression="zstd",
        use_dictionary=[values] if "scale" in table.column_names else False,  # of 255 values, a byte each
        column_encoding={values: "BYTE_STREAM_SPLIT"} if split else None,
        write_page_index=True,
        write_page_checksum=True,
    ) as writer:
        if table.num_rows:  # `datasets` can't read a row group of no rows
            writer.write_table(table, row_group_size=group_size)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        size = stream.tell()
    temporary.replace(folder / file)
    _sync_folder(folder)
    groups = [min(group_size, table.num_rows - first) for first in range(0, table.num_rows, group_size)]
    return ShardFile(bytes=size, sha256=digest, row_groups=groups)


def read_table(
    folder: Path, entry: ShardEntry, columns: Sequence[str] | None = None, *, intact: bool = False
) -> pa.Table:
    """A finished shard as a table; with `intact`, only if it is byte for byte what the manifest says.

    Raises ShardError naming file and remedy.
    """
    path = folder / entry.file
    wanted = None if columns is None else list(columns)
    try:
        source: Any = path
        if intact:
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise _unreadable(path, "its SHA-256 is not the manifest's")
            source = pa.BufferReader(content)
        return pq.read_table(source, columns=wanted, page_checksum_verification=True)
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
            yield from read_table(folder, entry, columns).take(pa.array(here)).to_pylist()
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
        return _rows_of(self._table(index))

    def read_texts(self, index: int) -> Texts:
        """The texts of row group `index`; its embeddings are not read. Raises ShardError."""
        table = self._table(index, ["id", "question", "cot", "answer", "num_latents"])
        ids, questions, cots, answers, num_latents = (column.to_pylist() for column in table.columns)
        return Texts(ids=ids, questions=questions, cots=cots, answers=answers, num_latents=num_latents)

    def _table(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """Columns of a row group, by default all of them."""
        entry, group, _ = self._groups[index]
        try:
            with self._files.open(entry.file) as stream:
                file = pq.ParquetFile(
                    stream, metadata=self._footers.get(entry.file), page_checksum_verification=True, pre_buffer=False
                )
                self._footers[entry.file] = file.metadata
                if not file.schema_arrow.equals(self.manifest.schema):
                    raise ShardError(
                        f"{self.folder}/{entry.file} has other columns than its manifest says: don't trust it"
                    )
                return file.read_row_group(group, columns=columns)
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
            grouped = sum(entry.row_groups)
            raise ShardError(f"{self.folder}/{MANIFEST} has row groups of {grouped} rows in a shard of {entry.rows}")


def verify(folder: Path) -> tuple[Manifest | None, list[Mismatch]]:
    """Recompute hashes, counts and finiteness of a folder: its manifest and every mismatch found.

    A manifest that can't be trusted is the only mismatch then, and None comes in its place. Raises ShardError if there
    is no manifest at all.
    """
    try:
        manifest = Manifest.load(folder)
    except ShardError as error:
        if not (folder / MANIFEST).exists():
            raise
        return None, [Mismatch(MANIFEST, str(error))]
    found: list[Mismatch] = []
    for index in manifest.planned:
        entry = manifest.shards.get(index)
        if entry is None:
            found.append(Mismatch(manifest.shard_file(index), "not made yet: run the same command again"))
        else:
            found.extend(Mismatch(entry.file, problem) for problem in _problems(folder, manifest, entry))
    known = {MANIFEST, REJECTS, *map(manifest.shard_file, manifest.planned)}
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in known)
    found.extend(Mismatch(name, "not of this folder: remove it") for name in strangers)
    found.extend(Mismatch(REJECTS, problem) for problem in _rejects_problems(folder, manifest))
    if manifest.finished and manifest.part is None and manifest.rows_done != manifest.plan.rows_in:
        done = manifest.rows_done
        found.append(Mismatch(MANIFEST, f"{done} rows out and rejected, {manifest.plan.rows_in} rows in"))
    return manifest, found


def _rejects_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    try:
        rejects = read_rejects(folder)
    except ShardError as error:
        yield str(error)
        return
    if len(rejects) != manifest.total("rejected"):
        yield f"{len(rejects)} lines, the manifest counts {manifest.total('rejected')}"
        return
    stored = (folder / REJECTS).read_bytes() if rejects else b""
    if stored != b"".join(map(reject_line, rejects)):
        yield "not as it was written: it was damaged or edited"
        return
    by_shard = rejects_by_shard(rejects)
    for index, entry in sorted(manifest.shards.items()):
        if rejects_sha256(by_shard[index]) != entry.rejects_sha256:
            yield f"the lines of shard {index} have another SHA-256 than the manifest's"


def intact(folder: Path, entry: ShardEntry) -> bool:
    """Whether the shard's file is byte for byte what the manifest says."""
    return holds_bytes(folder / entry.file, entry.bytes, entry.sha256)


def holds_bytes(path: Path, size: int, sha256: str) -> bool:
    """Whether a file is there and holds these bytes."""
    try:
        return path.stat().st_size == size and _file_sha256(path) == sha256
    except OSError:
        return False


def is_shard_file(name: str) -> bool:
    """Whether a file is named like a shard, of whatever folder."""
    return _SHARD_FILE.fullmatch(name) is not None


def is_leftover(path: Path) -> bool:
    """Whether a file is what a killed run left half written."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def remove_leftovers(folder: Path) -> None:
    """Remove what a run left half written: a worker's too, if it was stopped in the middle."""
    for leftover in filter(is_leftover, folder.iterdir()):
        leftover.unlink()


def clear(folder: Path) -> None:
    """Remove what a run made: the manifest last, so that an interrupted removal is still recognised."""
    for path in folder.iterdir():
        if is_shard_file(path.name) and not path.is_dir():
            path.unlink()
    (folder / REJECTS).unlink(missing_ok=True)
    (folder / MANIFEST).unlink()


def read_rejects(folder: Path) -> list[dict[str, Any]]:
    """Lines of rejects.jsonl: shard, id, reason. Raises ShardError if the file is damaged."""
    file = folder / REJECTS
    try:
        rejects = [json.loads(line) for line in file.read_text().splitlines()]
        broken = not all(isinstance(reject, dict) and isinstance(reject.get("shard"), int) for reject in rejects)
    except FileNotFoundError:
        return []
    except (OSError, ValueError):
        broken = True
    if broken:
        raise ShardError(f"{file} is damaged: delete it, and run the command that made it again")
    return rejects


def write_rejects(folder: Path, rejects: Sequence[dict[str, Any]]) -> None:
    """Replace rejects.jsonl, whole or not at all; no rejects, no file."""
    file = folder / REJECTS
    if rejects:
        write_atomically(file, b"".join(map(reject_line, rejects)))
    else:
        file.unlink(missing_ok=True)


def rejects_by_shard(rejects: Iterable[dict[str, Any]]) -> defaultdict[int, list[dict[str, Any]]]:
    """Lines of rejects.jsonl by the index of their shard, each shard's in order."""
    found: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for reject in rejects:
        found[reject["shard"]].append(reject)
    return found


def reject_line(reject: dict[str, Any]) -> bytes:
    """A line of rejects.jsonl."""
    return json.dumps(reject, ensure_ascii=True).encode() + b"\n"


def rejects_sha256(rejects: Sequence[dict[str, Any]]) -> str:
    """What a shard's entry says of its lines in rejects.jsonl; nothing if it has none."""
    return hashlib.sha256(b"".join(map(reject_line, rejects))).hexdigest() if rejects else ""


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to a temporary name, sync, rename: a reader sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for writing; the system drops the lock with the process. Raises OutputOccupied if it is held."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputOccupied(f"another process is writing {folder}: wait for it, or choose another --out") from None
        yield
    finally:
        os.close(descriptor)


def _rows_of(table: pa.Table) -> EmbeddedRows:
    column = table.column("embedding").combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
    vectors = column.values
    values = vectors.values.to_numpy(zero_copy_only=True).reshape(-1, vectors.type.list_size)
    if "scale" in table.column_names:
        scales = table.column("scale").combine_chunks()
        scales = scales.chunk(0) if isinstance(scales, pa.ChunkedArray) and scales.num_chunks else scales
        values = restore(values, scales.flatten().to_numpy())
    return EmbeddedRows(
        ids=table.column("id").to_pylist(),
        questions=table.column("question").to_pylist(),
        cots=table.column("cot").to_pylist(),
        answers=table.column("answer").to_pylist(),
        spans=table.column("spans").to_pylist(),
        offsets=column.offsets.to_numpy().astype(np.int64),
        embedding_LD=values,
    )


def _problems(folder: Path, manifest: Manifest, entry: ShardEntry) -> Iterator[str]:
    path = folder / entry.file
    if not path.is_file():
        yield "missing"
        return
    if not intact(folder, entry):
        yield f"{path.stat().st_size} bytes with another SHA-256 than the manifest's {entry.bytes} bytes"
        return
    table = read_table(folder, entry)
    metadata = pq.read_metadata(path)
    row_groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if row_groups != entry.row_groups:
        yield f"row groups of {row_groups}, the manifest says {entry.row_groups}"
    if table.num_rows != entry.rows:
        yield f"{table.num_rows} rows, the manifest says {entry.rows}"
    latents = sum(table.column("num_latents").to_pylist())
    if latents != entry.latents:
        yield f"{latents} latents, the manifest says {entry.latents}"
    if manifest.kind == "embeddings":
        rows = _rows_of(table)
        counted = np.diff(rows.offsets).tolist()
        if counted != table.column("num_latents").to_pylist():
            yield "num_latents differs from the embeddings' lengths"
        if not np.isfinite(rows.embedding_LD).all():
            yield "embeddings that are not finite"


def _with_features(columns: list[pa.Field], **special: dict[str, Any]) -> pa.Schema:
    """A schema whose metadata tells `datasets` the features; those not in `special` follow from the Arrow types."""
    features = {}
    for column in columns:
        if column.name in special:
            features[column.name] = special[column.name]
        elif pa.types.is_list(column.type):
            inner = {"dtype": str(column.type.value_type), "_type": "Value"}
            features[column.name] = {"feature": inner, "_type": "List"}
        else:
            features[column.name] = {"dtype": str(column.type), "_type": "Value"}
    metadata = json.dumps({"info": {"features": features}})
    return pa.schema(columns, metadata={"huggingface": metadata})


def _unreadable(path: Path | str, error: Exception | str) -> ShardError:
    return ShardError(f"{path} can't be read ({error}): it is missing, truncated or damaged; make it again")


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _misfits(kind: type, records: Iterable[Any]) -> Iterator[str]:
    """Names of a dataclass's fields whose values, as JSON gave them, are not of their types."""
    types = get_type_hints(kind).items()
    return (name for record in records for name, expected in types if not _fits(getattr(record, name), expected))


def _fits(value: Any, expected: Any) -> bool:
    """Whether a value is of a field's type; an integer is a count, and true is none."""
    kind, inner = get_origin(expected) or expected, get_args(expected)
    if kind is Literal:
        return value in inner
    if kind is UnionType:
        return any(_fits(value, each) for each in inner)
    if kind is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if kind is int:
        return type(value) is int and 0 <= value < _LARGEST_COUNT
    return isinstance(value, kind)


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value read from JSON has more levels."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)


def _untrusted(file: str, strange: str) -> ShardError:
    return ShardError(f"{file} is not one that this toolkit writes ({strange}): don't trust where it is from")


def _manifest_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="surrogatepass")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
