"""Files of tensors: checked when they are read, written whole or not at all. Knows nothing of what they are for."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rotdata.errors import CheckpointError
from rotdata.output import replaceable, sync_folder
from rotdata.shards import unwritable

AGAIN = "copy or fetch the checkpoint again, or train it again"
_FRACTIONS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_INTEGERS = {torch.int8, torch.int16, torch.int32, torch.int64}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITES = re.compile(r"unexpected pos|PytorchStreamWriter|iostream error")
_NEARLY_FULL = 1 << 20  # bytes


def load(file: Path, *, counts: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a file, finite numbers with a fraction all of them, those named in `counts` integers.

    Raises CheckpointError saying what is wrong with which tensor.
    """
    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} can't be read ({error}): {AGAIN}") from error
    for name, value in found.items():
        if problem := _problem(value, counts=name in counts):
            raise CheckpointError(f"{file}: {ascii(name)[1:-1]} {problem}: {AGAIN}")
    return found


def _problem(value: Tensor, *, counts: bool) -> str | None:
    """Why a tensor is no weight, or does not count."""
    kind = str(value.dtype).removeprefix("torch.")
    if counts:
        return None if value.dtype in _INTEGERS else f"holds {kind}, not integers"
    if value.dtype not in _FRACTIONS:
        return f"holds {kind}, not weights"
    strange = value.numel() - int(value.isfinite().sum())
    return f"holds {strange} values that are not finite" if strange else None


def save(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors to a temporary name, sync, rename; through a link to what it leads to. Raises UsageError."""
    target = replaceable(file)
    temporary = target.with_name(f".{target.name}.tmp")
    save_file(dict(tensors), temporary)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.chmod(0o644)  # safetensors writes files that only their owner can read
    temporary.replace(target)
    sync_folder(target.parent)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Raise FolderUnwritable where something in `folder` can't be written, in whatever library that comes to light."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        problem = unwritable(folder, _error_number(error, folder), too_large="raise that limit, and run it again")
        if problem is None:
            raise
        raise problem from error


def _error_number(error: Exception, folder: Path) -> int | None:
    """The system's number of an error: safetensors has it in words, torch has lost it."""
    if isinstance(error, OSError):
        path = folder if error.filename is None else Path(os.fsdecode(error.filename))
        return error.errno if folder in (path, *path.parents) else None
    if isinstance(error, SafetensorError):
        found = _OS_ERROR.search(str(error))
        return int(found[1]) if found else None
    if not _TORCH_WRITES.search(str(error)):
        return None
    limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return errno.EFBIG if limited and shutil.disk_usage(folder).free > _NEARLY_FULL else errno.ENOSPC
