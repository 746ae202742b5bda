"""Files at an address (s3://, gs://, hf://, https://) -> files on this machine, by fsspec. Knows no contents."""

from __future__ import annotations

import atexit
import glob
import posixpath
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from rotdata.errors import SourceError
from rotdata.extras import installing

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def is_address(location: str) -> bool:
    """Whether a location is an address and no path."""
    return bool(_ADDRESS.match(location))


@cache
def fetched(address: str, wanted: Callable[[str], bool]) -> Path:
    """The file, or the folder of files, that an address names, copied here for as long as this process lives.

    Of a folder or a glob, which becomes a folder of what matches, come the files whose names are `wanted`. Raises
    SourceError, with what to install where a protocol needs it.
    """
    from fsspec.core import url_to_fs  # type: ignore[import-untyped]

    here = Path(tempfile.mkdtemp(prefix="rotdata-"))
    atexit.register(shutil.rmtree, here, ignore_errors=True)
    try:
        filesystem, path = url_to_fs(address)
        files = _files(filesystem, path, wanted)
        root = posixpath.dirname(files[0]) if len(files) == 1 else posixpath.commonpath(files or [path])
        for file in files:
            target = here / file.removeprefix(root).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(file, str(target))
    except ImportError as error:
        remedy = f"; {installing('http')}" if address.startswith(("http://", "https://")) else ""
        raise SourceError(f"{address} needs a package that is not installed: {error}{remedy}") from error
    except Exception as error:  # every protocol has a client, and errors, of its own
        raise SourceError(f"{address} can't be read: {str(error) or type(error).__name__}") from error
    if not files:
        raise SourceError(f"nothing is at {address}: check the address")
    return here / Path(files[0]).name if files == [path] else here


def _files(filesystem: Any, path: str, wanted: Callable[[str], bool]) -> list[str]:
    if glob.has_magic(path):
        found: list[str] = filesystem.glob(path)
    elif filesystem.info(path)["type"] == "directory":
        found = filesystem.find(path)
    else:
        return [path]
    return sorted(filter(wanted, found))
