"""How a file is written: whole or not at all, and never in place of what its path leads to."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rotdata.errors import UsageError

PLOTS = (".png", ".svg", ".pdf")
"""Suffixes of pictures that can be drawn."""
_STANDARD = (1, 2)
"""Descriptors of stdout and stderr."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file as `being_written` does, in one piece."""
    with being_written(path) as stream:
        stream.write(content)


@contextmanager
def being_written(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to: under a temporary name, synced and renamed at the end, so that readers see all or nothing.

    A symlink stays one: what it leads to is written so. A device or a pipe, and this process's own stdout or stderr
    under whatever name, is written to as it is. Raises UsageError for a folder, OSError.
    """
    found = _found(path)
    if is_stream(path):
        with _through(path) as stream:
            yield stream
        return
    target = replaceable(path)
    temporary = target.with_name(f".{target.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            if found is not None:
                os.fchmod(stream.fileno(), stat.S_IMODE(found.st_mode))
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def replaceable(path: Path) -> Path:
    """The regular file, there or not yet, that may be renamed over to write `path`: not a symlink, but its target.

    Raises UsageError for what is no regular file.
    """
    found = _found(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        kind = "folder: name a file in it" if stat.S_ISDIR(found.st_mode) else "device or a pipe: name a file"
        raise UsageError(f"{path} is a {kind}")
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def is_stream(path: Path) -> bool:
    """Whether a path leads to a device, a pipe, or what this process prints to: written once, since it only grows."""
    found = _found(path)
    if found is None or stat.S_ISDIR(found.st_mode):
        return False
    return not stat.S_ISREG(found.st_mode) or _standard(found) is not None


def check_output(path: Path | None, option: str, suffixes: Sequence[str] = ()) -> None:
    """Raise UsageError, before hours are spent for it, for a file that can't be written: a folder, or in none."""
    if path is None:
        return
    if suffixes and path.suffix not in suffixes:
        *others, last = suffixes
        raise UsageError(f"{option} names a {', '.join(others)}{' or ' if others else ''}{last} file, got {path}")
    found = _found(path)
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{option} {path} is a folder: name a file in it")
    if not Path(os.path.realpath(path)).parent.is_dir():
        raise UsageError(f"the folder of {option} {path} does not exist: make it first")


def sync_folder(folder: Path) -> None:
    """Have the disk keep the folder's names, after a renaming say."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _found(path: Path) -> os.stat_result | None:
    """What a path leads to; None if there is nothing yet."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _standard(found: os.stat_result) -> int | None:
    """The descriptor by which a file is this process's stdout or stderr."""
    for descriptor in _STANDARD:
        with suppress(OSError):  # a closed one
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None


def _through(path: Path) -> IO[bytes]:
    """What is there, by the descriptor that this process has of it or by a new one."""
    descriptor = _standard(path.stat())
    sys.stdout.flush()
    sys.stderr.flush()
    return open(os.open(path, os.O_WRONLY) if descriptor is None else os.dup(descriptor), "wb")  # noqa: PTH123 -- its caller closes it
