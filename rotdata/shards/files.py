"""The files of a folder of shards: their names, read here or far away, held by a lock."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from rotdata.errors import FolderUnwritable, OutputOccupied

MANIFEST = "_manifest.json"
"""pandas, pyarrow and others that read a folder of Parquet files pass over names with an underscore."""
REJECTS = "_rejects.jsonl"
EARLIER = {MANIFEST: "manifest.json", REJECTS: "rejects.jsonl"}
"""Names in folders that an earlier release began: they are kept there."""

_REMEDIES = {
    errno.ENOSPC: "free some space, and run the same command again to go on where it stopped",
    errno.EDQUOT: "free some of your quota, and run the same command again to go on where it stopped",
    errno.EFBIG: "files are limited to that size here (ulimit -f)",
    errno.EROFS: "choose an --out that can be written",
    errno.EACCES: "choose an --out that can be written, or change its permissions",
    errno.EPERM: "choose an --out that can be written, or change its permissions",
}
_SHARD_FILE = re.compile(r".*-\d{5}-of-\d{5}\.parquet")


class Files(Protocol):
    """Where a folder of shards is: on this disk, or far away. Its str is what people call it."""

    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError, OSError."""

    def open(self, name: str) -> BinaryIO:
        """A file to read parts of. Raises OSError."""

    def size(self, name: str) -> int:
        """Bytes of a file. Raises OSError."""

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""


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

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.folder / name).exists()


def called(name: str, files: Files) -> str:
    """What MANIFEST or REJECTS is called in a folder: as in earlier releases if one of them began it."""
    begun_earlier = files.holds(EARLIER[MANIFEST]) and not files.holds(MANIFEST)
    return EARLIER[name] if begun_earlier else name


def manifest_file(folder: Path) -> Path:
    """The manifest of a folder, there or not yet."""
    return folder / called(MANIFEST, LocalFiles(folder))


def rejects_file(folder: Path) -> Path:
    """The rejects of a folder, there or not."""
    return folder / called(REJECTS, LocalFiles(folder))


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
    rejects_file(folder).unlink(missing_ok=True)
    manifest_file(folder).unlink()


def holds_bytes(path: Path, size: int | None, sha256: str) -> bool:
    """Whether a file is there and holds these bytes; their number, where it is known, spares reading others."""
    try:
        return size in (None, path.stat().st_size) and file_sha256(path) == sha256
    except OSError:
        return False


def unwritable(folder: Path, number: int | None, *, too_large: str) -> FolderUnwritable | None:
    """What to say of a folder where writing has failed with an error of that number; None if it is another failure.

    `too_large` is what to do about files that may not grow as large.
    """
    if number not in _REMEDIES:
        return None
    remedy = _REMEDIES[number] + (f"; {too_large}" if number == errno.EFBIG else "")
    return FolderUnwritable(f"{folder} can't be written ({os.strerror(number)}): {remedy}")


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
