"""Datasets on the Hub at one commit: what they hold, and the folder of shards in one, read where it is."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import unquote

from rotdata.errors import ShardError, UsageError
from rotdata.hub.client import HubError, check_repo, explained, patiently
from rotdata.shards import EARLIER, MANIFEST

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

LARGEST_READ = 64 << 20

_BLOCK_BYTES = 1 << 20  # read ahead: more than a footer, far less than a row group

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
SPLIT = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_ADDRESS = re.compile(
    r"(?P<hf>hf://datasets/)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?"
    r"(?:/(?P<config>[^/@]+))?(?:/(?P<split>[^/@]+))?/?"
)


@dataclass(frozen=True, kw_only=True)
class HubFiles:
    """A folder of a dataset at one commit, as shards.Files: read in ranges, nothing is kept on this disk."""

    repo: str
    commit: str
    folder: str
    """CONFIG/SPLIT."""
    sizes: Mapping[str, int] = field(repr=False)
    """Bytes of each of its files, as one listing had them."""

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo}@{self.commit}/{self.folder}".rstrip("/")

    def read(self, name: str) -> bytes:
        """A whole file of up to 64 MiB. Raises FileNotFoundError, ShardError for a larger one, HubError."""
        size = self.size(name)
        if size > LARGEST_READ:
            raise ShardError(f"{self}/{name} claims {size} bytes, more than any file of its kind: don't trust it")
        with self.open(name) as stream:
            return stream.read(size)

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return name in self.sizes

    def open(self, name: str) -> BinaryIO:
        """A file to read parts of; a read fetches little more than it asks for. Raises FileNotFoundError, HubError."""
        size, what = self.size(name), f"{self}/{name}"
        with explained(f"{what} can't be read"):
            from huggingface_hub import HfFileSystem

            stream = patiently(
                lambda: HfFileSystem().open(
                    what.removeprefix("hf://"), "rb", block_size=_BLOCK_BYTES, cache_type="readahead", size=size
                )
            )
        return cast(BinaryIO, _RemoteFile(stream, what))

    def size(self, name: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        try:
            return self.sizes[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "not in this commit", f"{self}/{name}") from None


class _RemoteFile(io.RawIOBase):
    """A stream of the client's, whose errors become ours."""

    def __init__(self, stream: Any, what: str) -> None:
        self._stream = stream
        self._what = what

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def readinto(self, buffer: Any) -> int:
        with explained(f"{self._what} can't be read"):
            content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


@dataclass(frozen=True, kw_only=True)
class Head:
    """A dataset at a commit, or one that is not there yet."""

    repo: str
    sha: str | None
    private: bool
    files: Mapping[str, RepoFile]

    def in_folder(self, folder: str) -> HubFiles:
        """The files right below a folder."""
        assert self.sha is not None
        below = f"{folder}/" if folder else ""
        sizes = {
            path.removeprefix(below): file.size
            for path, file in self.files.items()
            if path.startswith(below) and "/" not in path.removeprefix(below)
        }
        return HubFiles(repo=self.repo, commit=self.sha, folder=folder, sizes=sizes)

    def splits(self) -> dict[str, list[str]]:
        """The splits of each configuration that holds a manifest; names that are no plain names are passed over."""
        found: dict[str, dict[str, None]] = {}
        for path in sorted(self.files):
            config, _, rest = path.partition("/")
            split, _, name = rest.partition("/")
            if name in (MANIFEST, EARLIER[MANIFEST]) and NAME.fullmatch(config) and SPLIT.fullmatch(split):
                found.setdefault(config, {})[split] = None
        return {config: list(splits) for config, splits in found.items()}


def locate(name: str) -> Path | HubFiles:
    """What --shards names: a folder on this disk, or a folder of a dataset, pinned to the commit it has now.

    A dataset is OWNER/NAME[@REVISION][/CONFIG[/SPLIT]], with or without hf://datasets/ before it; the configuration and
    the split may be left out where there is one only. Raises UsageError, HubError.
    """
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    address = _ADDRESS.fullmatch(name)
    if address is None or folder.exists():
        raise UsageError(
            f"{name} is neither a folder here nor a dataset of the Hub, OWNER/NAME[@REVISION][/CONFIG[/SPLIT]]: "
            "check the path"
        )
    revision = address["revision"] and unquote(address["revision"])
    try:
        check_repo(address["repo"])
        return find_folder(address["repo"], address["config"], address["split"], revision)
    except HubError as error:
        if address["hf"]:
            raise
        raise HubError(f"there is no folder {name} here, and as a dataset of the Hub: {error}") from None


def find_folder(repo: str, config: str | None, split: str | None, revision: str | None) -> HubFiles:
    """The folder of a configuration and a split, or the only one. Raises UsageError with the choices, HubError."""
    with explained(f"{repo}{f' at {revision}' if revision else ''} can't be read"):
        head = read_head(repo, revision)
    found = head.splits()
    if not found:
        raise HubError(
            f"{repo} holds no CONFIG/SPLIT/{MANIFEST}: it was not published by rotdata push, or not to its end"
        )
    config = _chosen(config, sorted(found), f"configurations of {repo}", "--config")
    split = _chosen(split, sorted(found[config]), f"splits of {repo}/{config}", "--split")
    return head.in_folder(f"{config}/{split}")


def read_head(repo: str, revision: str | None = None) -> Head:
    """What a dataset holds at a revision. Raises the client's errors."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    info = patiently(lambda: api.dataset_info(repo, revision=revision))
    tree = api.list_repo_tree(repo, repo_type="dataset", revision=info.sha, recursive=True)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    return Head(repo=repo, sha=info.sha, private=bool(info.private), files=files)


def _chosen(asked: str | None, choices: Sequence[str], what: str, option: str) -> str:
    if asked is None and len(choices) == 1:
        return choices[0]
    if asked is None or asked not in choices:
        problem = "name one of" if asked is None else f"{asked!r} is none of"
        raise UsageError(f"{problem} the {what}, with {option} or after a slash: {', '.join(choices)}")
    return asked
