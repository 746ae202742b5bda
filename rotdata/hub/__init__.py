"""Folders of shards on the Hugging Face Hub: publish one as a dataset, fetch one back, read one where it is.

A dataset holds CONFIG/SPLIT/ for each folder pushed to it, a picture of a strip for each CONFIG, and one card. Shards
go first and the manifest last, so a folder with a manifest is whole. What comes from the Hub is pinned to a commit and
trusted in nothing: names, sizes and contents are checked against the manifest, and no other file is fetched.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, cast
from urllib.parse import unquote

from tqdm import tqdm

from rotdata import shards
from rotdata.console import say
from rotdata.errors import OutputOccupied, RotError, ShardError, UsageError
from rotdata.hub.card import CARD, describe, write_card
from rotdata.shards import MANIFEST, REJECTS, Manifest

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.hf_api import RepoFile

T = TypeVar("T")

_FILES_PER_COMMIT = 50
_BYTES_PER_COMMIT = 5 << 30  # an interrupted push begins again at its last commit, though not its uploads
_LARGEST_READ = 64 << 20
_BLOCK_BYTES = 1 << 20  # read ahead: more than a footer, far less than a row group
_WAITS_S = (1.0, 3.0)
_PARTIAL = ".pull"  # within the folder, so that what has arrived is moved and not copied
_LISTED = 5

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPLIT = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_ADDRESS = re.compile(
    r"(?P<hf>hf://datasets/)?(?P<repo>\w[\w.-]*/\w[\w.-]*)(?:@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+))?"
    r"(?:/(?P<config>[^/@]+))?(?:/(?P<split>[^/@]+))?/?"
)


class HubError(RotError):
    """The Hub can't be reached, refuses, or does not hold what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did, or in a dry run would do."""

    repo: str
    config: str
    split: str
    files_uploaded: int
    bytes_uploaded: int
    files_unchanged: int
    """Files that the Hub had already."""
    commit: str | None
    """The commit that holds the folder; None in a dry run of a new dataset."""
    url: str
    dry_run: bool
    paths: tuple[str, ...] = ()
    """The files uploaded, as the dataset names them."""
    card: str = field(default="", repr=False)
    """The dataset's README.md."""


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
        if size > _LARGEST_READ:
            raise ShardError(f"{self}/{name} claims {size} bytes, more than any file of its kind: don't trust it")
        with self.open(name) as stream:
            return stream.read(size)

    def open(self, name: str) -> BinaryIO:
        """A file to read parts of; a read fetches little more than it asks for. Raises FileNotFoundError, HubError."""
        size, what = self.size(name), f"{self}/{name}"
        with _explained(f"{what} can't be read"):
            from huggingface_hub import HfFileSystem

            stream = _patiently(
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
        with _explained(f"{self._what} can't be read"):
            content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


# ---- push


def push(folder: Path, repo: str, *, config: str | None = None, private: bool = False, dry_run: bool = False) -> Pushed:
    """Publish a finished folder of strips or embeddings as CONFIG/SPLIT of the dataset `repo`, OWNER/NAME.

    Files that are there already stay, so the same command resumes and does nothing once it is done. A `config` that is
    given replaces what an earlier push of that name left there; the default name does not. A dry run writes nothing.

    Raises UsageError for a part and for names that can't be right or are taken, ShardError for a folder that is
    unfinished or not what its manifest says, HubError.
    """
    _check_repo(repo)
    manifest = _publishable(folder)
    place = _Place(repo, _checked_config(config) if config is not None else config_name(manifest), manifest.split)
    head = _head_of_dry_run(repo) if dry_run else _head_to_write(repo, private=private)
    if private and not head.private:
        raise UsageError(f"{repo} is public already: make it private in its settings, or push to another name")
    replaced = _check_vacant(head, place, manifest, replace=config is not None)
    parts = [_Upload(f"{place.folder}/{entry.file}", folder / entry.file, entry.sha256) for entry in manifest.entries]
    closing, card = _closing(folder, manifest, head, place, replaced=replaced)
    new_parts, new_closing = ([each for each in some if not head.holds(each)] for some in (parts, closing))
    new = [*new_parts, *new_closing]
    commits = list(_commits(new_parts, new_closing, _stale(head, place, {each.path for each in chain(parts, closing)})))
    if len(commits) > 1 and place.manifest in head.files and any(each.path == place.manifest for each in new):
        commits[0].deleted.append(place.manifest)  # else it would name shards that are being replaced
    return Pushed(
        repo=repo,
        config=place.config,
        split=place.split,
        files_uploaded=len(new),
        bytes_uploaded=sum(each.size for each in new),
        files_unchanged=len(parts) + len(closing) - len(new),
        commit=head.sha if dry_run else _send(repo, head.sha, commits, place.folder),
        url=f"{_endpoint()}/datasets/{repo}",
        dry_run=dry_run,
        paths=tuple(each.path for each in new),
        card=card,
    )


def push_model(folder: Path, repo: str, *, private: bool = False) -> str:
    """Publish the files of a folder as the model `repo`, OWNER/NAME, and return its address.

    Files that are there already are not sent again. Raises UsageError for a name that can't be right and for a public
    model that is to be private, HubError.
    """
    _check_repo(repo, kind="model")
    from huggingface_hub import HfApi

    with _explained(f"pushing to {repo} failed"):
        api = HfApi()
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.model_info(repo).private:
            raise UsageError(f"{repo} is public already: make it private in its settings, or push to another name")
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Checkpoint of {folder.name}")
    return f"{_endpoint()}/{repo}"


def config_name(manifest: Manifest) -> str:
    """CORPUS-MODEL-FONT-SIZEpx, or CORPUS-strips-..., in letters, digits, dots and hyphens."""
    style, settings = manifest.style["style"], manifest.settings
    model = "strips" if manifest.encoder is None else str(manifest.encoder["model"]).rpartition("/")[2]
    parts = [manifest.corpus, model, style["font"], f"{style['font_size_px']}px"]
    if settings.get("pool", 1) != 1:
        parts.append(f"pool{settings['pool']}")
    if settings.get("store", "float16") != "float16":
        parts.append(settings["store"])
    slug = re.sub(r"[^a-z0-9.]+", "-", "-".join(map(str, parts)).lower())
    return slug.strip("-.")[:96]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a dataset a folder goes."""

    repo: str
    config: str
    split: str

    def __post_init__(self) -> None:
        if not _SPLIT.fullmatch(self.split):
            raise UsageError(f"the Hub takes no split {self.split!r}: a split is a word, such as train or test")

    @property
    def folder(self) -> str:
        return f"{self.config}/{self.split}"

    @property
    def manifest(self) -> str:
        return f"{self.folder}/{MANIFEST}"


@dataclass(frozen=True, slots=True)
class _Upload:
    """A file to be, and its SHA-256 where that is known."""

    path: str
    content: Path | bytes
    sha256: str | None = None

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    def hash_as_lfs(self) -> str:
        """The hash by which the Hub knows a large file."""
        return self.sha256 or hashlib.sha256(self._bytes()).hexdigest()

    def hash_as_blob(self) -> str:
        """The hash by which git knows a small file."""
        return hashlib.sha1(b"blob %d\0" % self.size + self._bytes(), usedforsecurity=False).hexdigest()

    def _bytes(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True, kw_only=True)
class _Head:
    """A dataset at a commit, or one that is not there yet."""

    repo: str
    sha: str | None
    private: bool
    files: Mapping[str, RepoFile]

    def holds(self, upload: _Upload) -> bool:
        """Whether a file is there and has the same bytes."""
        there = self.files.get(upload.path)
        if there is None or there.size != upload.size:
            return False
        if there.lfs is not None:
            return there.lfs.sha256 == upload.hash_as_lfs()
        return there.blob_id == upload.hash_as_blob()

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
        found: dict[str, list[str]] = {}
        for path in sorted(self.files):
            config, _, rest = path.partition("/")
            split, _, name = rest.partition("/")
            if name == MANIFEST and _NAME.fullmatch(config) and _SPLIT.fullmatch(split):
                found.setdefault(config, []).append(split)
        return found


@dataclass(slots=True)
class _Commit:
    """Files that arrive and go together."""

    added: list[_Upload]
    deleted: list[str]

    @property
    def size(self) -> int:
        return sum(upload.size for upload in self.added)


def _publishable(folder: Path) -> Manifest:
    """The manifest of a folder that is whole, and as its manifest says. Raises UsageError for a part, ShardError."""
    manifest = Manifest.load(folder)
    if manifest.part is not None:
        raise UsageError(
            f"{folder} is a part: join all parts with `rotdata merge {folder.resolve().parent}`, then push that"
        )
    if not manifest.finished:
        done, planned = len(manifest.shards), len(manifest.planned)
        raise ShardError(
            f"{folder} has {done} of {planned} shards: finish it with the command that makes it, then push"
        )
    _, found = shards.verify(folder)
    if found:
        raise ShardError(
            f"{folder} is not what its manifest says ({_listed(found)}): the command that made it repairs it, then push"
        )
    return manifest


def _listed(found: Sequence[shards.Mismatch]) -> str:
    listed = "; ".join(f"{each.file}: {each.problem}" for each in found[:_LISTED])
    return f"{listed} and {len(found) - _LISTED} more" if len(found) > _LISTED else listed


def _check_repo(repo: str, *, kind: Literal["dataset", "model"] = "dataset") -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported at run time only

    try:
        validate_repo_id(repo)
        right = repo.count("/") == 1
    except HFValidationError:
        right = False
    if not right:
        raise UsageError(f"a {kind}'s name is OWNER/NAME in letters, digits, '-', '_' and '.', got {repo!r}")


def _checked_config(config: str) -> str:
    if not _NAME.fullmatch(config) or config.endswith("."):
        raise UsageError(f"a configuration's name is letters, digits, '-', '_' and '.', got {config!r}")
    return config


def _head(repo: str, revision: str | None = None) -> _Head:
    """What a dataset holds at a revision. Raises the client's errors."""
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()
    info = _patiently(lambda: api.dataset_info(repo, revision=revision))
    tree = api.list_repo_tree(repo, repo_type="dataset", revision=info.sha, recursive=True)
    files = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    return _Head(repo=repo, sha=info.sha, private=bool(info.private), files=files)


def _head_to_write(repo: str, *, private: bool) -> _Head:
    """What a dataset holds, which is made if it is not there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with _explained(f"{repo} can't be written"):
        try:
            return _head(repo)
        except RepositoryNotFoundError:
            HfApi().create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
            return _head(repo)


def _head_of_dry_run(repo: str) -> _Head:
    """What a dataset holds, or nothing if nobody can say."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        with _explained(f"{repo} can't be looked at"):
            try:
                return _head(repo)
            except RepositoryNotFoundError:
                pass
    except HubError as error:
        say(f"{error}; every file is taken for a new one")
    return _Head(repo=repo, sha=None, private=True, files={})


def _check_vacant(head: _Head, place: _Place, manifest: Manifest, *, replace: bool) -> bool:
    """Whether another folder is replaced. Raises UsageError if it must not be, or beside splits of another kind."""
    replaced = False
    for split in head.splits().get(place.config, []):
        there = Manifest.load(head.in_folder(f"{place.config}/{split}"))
        if split != place.split:
            if _sort(there) != _sort(manifest):
                raise UsageError(
                    f"{head.repo} has a split {split} of {place.config} of another corpus, style, encoder or type: "
                    "give this folder a name of its own with --config"
                )
        elif there.fingerprint != manifest.fingerprint:
            if not replace:
                raise UsageError(
                    f"{head.repo} holds another folder as {place.folder}: its fingerprint is {there.fingerprint[:12]}, "
                    f"this folder's {manifest.fingerprint[:12]}. Choose another name with --config, or replace it with "
                    f"--config {place.config}"
                )
            replaced = True
    return replaced


def _sort(manifest: Manifest) -> tuple[Any, ...]:
    """What the splits of a configuration have in common."""
    return manifest.kind, manifest.corpus, manifest.encoding_fingerprint, manifest.settings.get("store")


def _stale(head: _Head, place: _Place, wanted: set[str]) -> list[str]:
    """Shards and rejects that an earlier push of another plan left."""
    below = f"{place.folder}/"
    ours = (path for path in head.files if path.startswith(below) and path not in wanted)
    return sorted(path for path in ours if path == below + REJECTS or shards.is_shard_file(path.removeprefix(below)))


def _closing(
    folder: Path, manifest: Manifest, head: _Head, place: _Place, *, replaced: bool
) -> tuple[list[_Upload], str]:
    """What makes a folder of shards whole: manifest, rejects, a picture where there is none yet, and the card."""
    section = describe(folder, manifest, repo=place.repo, config=place.config, renew_example=replaced)
    card = write_card(_readme(head), section)
    closing = [_Upload(f"{place.folder}/{MANIFEST}", folder / MANIFEST), _Upload(CARD, card.encode())]
    if (folder / REJECTS).exists():
        closing.append(_Upload(f"{place.folder}/{REJECTS}", folder / REJECTS))
    if section.picture is not None and (replaced or section.picture_path not in head.files):
        closing.append(_Upload(section.picture_path, section.picture))
    return closing, card


def _readme(head: _Head) -> str | None:
    """The card that a dataset has."""
    if CARD not in head.files:
        return None
    try:
        return head.in_folder("").read(CARD).decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the {CARD} of {head.repo} is not UTF-8 ({error}): repair it there") from None


def _commits(parts: Sequence[_Upload], closing: Sequence[_Upload], stale: Sequence[str]) -> Iterator[_Commit]:
    """Shards some at a time; with the last of them all that makes the folder whole."""
    commit = _Commit([], [])
    for part in parts:
        if commit.added and (
            len(commit.added) == _FILES_PER_COMMIT or commit.size + part.size > _BYTES_PER_COMMIT
        ):  # fmt: skip
            yield commit
            commit = _Commit([], [])
        commit.added.append(part)
    last = _Commit([*commit.added, *closing], list(stale))
    if last.added or last.deleted:
        yield last


def _send(repo: str, parent: str | None, commits: Sequence[_Commit], what: str) -> str | None:
    """Make commits, each upon the one before; the last one's hash."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    total = sum(commit.size for commit in commits)
    with tqdm(total=total, unit="B", unit_scale=True, desc="push", disable=None) as bar:
        for number, commit in enumerate(commits, start=1):
            operations: list[CommitOperationAdd | CommitOperationDelete] = [
                *(CommitOperationAdd(each.path, each.content) for each in commit.added),
                *(CommitOperationDelete(path, is_folder=False) for path in commit.deleted),
            ]
            counted = f", part {number} of {len(commits)}" if len(commits) > 1 else ""
            with _explained(f"pushing to {repo} failed"):
                parent = HfApi().create_commit(
                    repo, operations, commit_message=f"{what}{counted}", repo_type="dataset", parent_commit=parent
                ).oid  # fmt: skip
            bar.update(commit.size)
    return parent


def _endpoint() -> str:
    from huggingface_hub import HfApi

    return HfApi().endpoint


# ---- pull


def pull(
    repo: str,
    out: Path,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Fetch CONFIG/SPLIT of a dataset into `out`, byte for byte what was pushed, and return its manifest.

    Only files that the manifest names are fetched; those that are there already stay, so the same command resumes.
    Without `config` or `split`, the only one there is.

    Raises UsageError for names that can't be right, OutputOccupied if `out` holds other things, ShardError if what is
    published is unfinished or not what its manifest says, HubError.
    """
    _check_repo(repo)
    files = _find(repo, config, split, revision)
    manifest = Manifest.load(files)
    wanted = _wanted(files, manifest)
    out.mkdir(parents=True, exist_ok=True)
    with shards.locked(out):
        _clear_for(out, manifest, wanted, overwrite=overwrite)
        missing = [each for each in wanted if not _arrived(out, each)]
        _check_room(out, files, missing)
        try:
            _fetch(files, missing, out)
            _check_columns(out, files, manifest)
        finally:
            shutil.rmtree(out / _PARTIAL, ignore_errors=True)
        if not manifest.total("rejected"):
            (out / REJECTS).unlink(missing_ok=True)
        manifest.save(out)
        _, found = shards.verify(out)
    if found:
        raise ShardError(
            f"{files} is not what its manifest says ({_listed(found)}): don't trust it, or have it pushed again"
        )
    return manifest


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A file to fetch; rejects have no hash of their own, verification checks them line by line."""

    name: str
    size: int
    sha256: str | None


def _wanted(files: HubFiles, manifest: Manifest) -> list[_Wanted]:
    """The files of a folder. Raises ShardError if they can't be what the manifest says."""
    if not manifest.finished:
        done, planned = len(manifest.shards), len(manifest.planned)
        raise ShardError(f"{files} has {done} of {planned} shards: it was published unfinished, have it pushed again")
    wanted = [_Wanted(entry.file, entry.bytes, entry.sha256) for entry in manifest.entries]
    for each in wanted:
        size = files.sizes.get(each.name)
        if size != each.size:
            there = "is missing" if size is None else f"has {size} bytes"
            raise ShardError(
                f"{files}/{each.name} {there}, its manifest says {each.size} bytes: don't trust it, or have it "
                "pushed again"
            )
    if manifest.total("rejected"):
        size = files.sizes.get(REJECTS, 0)
        if not 0 < size <= _LARGEST_READ:
            raise ShardError(
                f"{files}/{REJECTS} has {size} bytes for {manifest.total('rejected')} rejects: have it pushed again"
            )
        wanted.append(_Wanted(REJECTS, size, None))
    return wanted


def _clear_for(out: Path, manifest: Manifest, wanted: Sequence[_Wanted], *, overwrite: bool) -> None:
    """Make way in `out`. Raises OutputOccupied if it holds what neither this nor an earlier pull put there."""
    shards.remove_leftovers(out)
    shutil.rmtree(out / _PARTIAL, ignore_errors=True)
    if (out / MANIFEST).exists() and (reason := _conflict(out, manifest)):
        if not overwrite:
            raise OutputOccupied(f"{out} holds {reason}: choose another --out, or --overwrite")
        shards.clear(out)
    ours = {MANIFEST, REJECTS, *(each.name for each in wanted)}
    if strangers := sorted(path.name for path in out.iterdir() if path.name not in ours):
        raise OutputOccupied(
            f"{out} holds other things ({', '.join(strangers[:_LISTED])}): choose an empty or new folder"
        )


def _conflict(out: Path, manifest: Manifest) -> str | None:
    """What makes the folder's manifest another one than that to be fetched."""
    try:
        there = Manifest.load(out)
    except ShardError as error:
        return f"a folder that can't be read ({error})"
    if differences := there.differences(manifest):
        return f"another folder of shards, which differs in {'; '.join(differences[:_LISTED])}"
    if any(manifest.shards.get(index) != entry for index, entry in there.shards.items()):
        return "the same shards made elsewhere, whose bytes differ"
    return None


def _arrived(folder: Path, wanted: _Wanted) -> bool:
    """Whether a file is there, byte for byte as far as is known."""
    path = folder / wanted.name
    known = wanted.sha256 is not None and shards.holds_bytes(path, wanted.size, wanted.sha256)
    return known and not path.is_symlink()


def _check_room(out: Path, files: HubFiles, missing: Sequence[_Wanted]) -> None:
    needed, free = sum(each.size for each in missing), shutil.disk_usage(out).free
    if needed > free:
        raise HubError(
            f"{files} needs {needed / 1e9:.1f} GB more in {out}, whose disk has {free / 1e9:.1f} GB free: make room, "
            "choose another --out, or read it from the Hub as it is"
        )


def _fetch(files: HubFiles, missing: Sequence[_Wanted], out: Path) -> None:
    """Download files one by one, each moved into `out` once it is whole. Raises ShardError, HubError."""
    from huggingface_hub import hf_hub_download

    partial = out / _PARTIAL
    total = sum(each.size for each in missing)
    with tqdm(total=total, unit="B", unit_scale=True, desc="pull", disable=None) as bar:
        for each in missing:
            with _explained(f"{files}/{each.name} can't be fetched"):
                arrived = Path(
                    hf_hub_download(
                        files.repo,
                        f"{files.folder}/{each.name}",
                        repo_type="dataset",
                        revision=files.commit,
                        local_dir=partial,
                        tqdm_class=_forwarding(bar),
                    )
                )
            if not _arrived(arrived.parent, each) and each.sha256 is not None:
                raise ShardError(
                    f"{files}/{each.name} has another SHA-256 than its manifest says: don't trust it, or have it "
                    "pushed again"
                )
            arrived.replace(out / each.name)


def _check_columns(out: Path, files: HubFiles, manifest: Manifest) -> None:
    """Raise ShardError for a shard that has other columns than its kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for entry in manifest.entries:
        try:
            columns = pq.read_schema(out / entry.file)
        except (OSError, pa.ArrowException) as error:
            raise ShardError(f"{files}/{entry.file} is no Parquet file ({_tidy(str(error))}): don't trust it") from None
        if not columns.equals(manifest.schema):
            raise ShardError(f"{files}/{entry.file} has other columns than {manifest.kind} have: don't trust it")


def _forwarding(bar: tqdm) -> type[tqdm]:
    """A bar that shows nothing and tells another one its progress."""

    class Forwarding(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            return bar.update(n)

    return Forwarding


# ---- locate


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
        _check_repo(address["repo"])
        return _find(address["repo"], address["config"], address["split"], revision)
    except HubError as error:
        if address["hf"]:
            raise
        raise HubError(f"there is no folder {name} here, and as a dataset of the Hub: {error}") from None


def _find(repo: str, config: str | None, split: str | None, revision: str | None) -> HubFiles:
    """The folder of a configuration and a split, or the only one. Raises UsageError with the choices, HubError."""
    with _explained(f"{repo}{f' at {revision}' if revision else ''} can't be read"):
        head = _head(repo, revision)
    found = head.splits()
    if not found:
        raise HubError(
            f"{repo} holds no CONFIG/SPLIT/{MANIFEST}: it was not published by rotdata push, or not to its end"
        )
    config = _chosen(config, sorted(found), f"configurations of {repo}", "--config")
    split = _chosen(split, sorted(found[config]), f"splits of {repo}/{config}", "--split")
    return head.in_folder(f"{config}/{split}")


def _chosen(asked: str | None, choices: Sequence[str], what: str, option: str) -> str:
    if asked is None and len(choices) == 1:
        return choices[0]
    if asked is None or asked not in choices:
        problem = "name one of" if asked is None else f"{asked!r} is none of"
        raise UsageError(f"{problem} the {what}, with {option} or after a slash: {', '.join(choices)}")
    return asked


# ---- errors of the client

_REMEDIES = {
    401: "check the name; if it is private or to be written, log in with `hf auth login` or set HF_TOKEN",
    403: "log in with `hf auth login`, or set HF_TOKEN to a token with write access",
    404: "check the name, and that your token may see it (`hf auth login`)",
    409: "someone else changed it: run the same command again",
    412: "someone else committed meanwhile: the same command goes on from there",
    413: "it is more than the Hub takes: make smaller shards with --rows-per-shard, or see your quota",
    416: "the file ends before the size that the Hub told: don't trust it",
    429: "too many requests: the same command resumes in some minutes",
    507: "the Hub has no room left for you: see your quota; the same command resumes",
}


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the client's errors into a HubError of one line, free of tokens and of signed addresses."""
    try:
        yield
    except _client_errors() as error:
        raise HubError(f"{what}: {_reason(error)}") from None


def _client_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import DeviceCodeError, OIDCError, RevisionResolutionError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time only

    return (
        OSError, ValueError, RuntimeError, httpx.HTTPError, DeviceCodeError, OIDCError, RevisionResolutionError,
    )  # fmt: skip


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set: unset it"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            remedy = _REMEDIES.get(status, "the same command resumes" if status >= 500 else "check what was asked for")
            return f"the Hub answers {status} ({_tidy(cause.server_message or type(cause).__name__)}): {remedy}"
    for cause in causes:
        if isinstance(cause, (httpx.HTTPError, ConnectionError, TimeoutError)):
            return f"the Hub can't be reached ({type(cause).__name__}): the same command resumes once it can"
    return _tidy(str(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _tidy(text: str) -> str:
    """Words of others for a line of ours: short, printable, without what may be a token or a signed address."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            text = text.replace(token, "[token]")
    text = re.sub(r"\b(hf|api_org)_\w+|\beyJ[\w.-]+", "[token]", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= 240 else f"{text[:240]}..."


def _patiently(ask: Callable[[], T]) -> T:
    """Ask for something again after errors that pass; of the client's calls only some do so themselves."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    for wait_s in _WAITS_S:
        try:
            return ask()
        except (HfHubHTTPError, httpx.TransportError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in {429, 500, 502, 503, 504}:
                raise
        time.sleep(wait_s)
    return ask()
