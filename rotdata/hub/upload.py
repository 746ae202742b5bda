"""Folders of shards -> datasets of the Hub: shards first and the manifest last, so one with a manifest is whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from rotdata import shards
from rotdata.console import say
from rotdata.errors import ShardError, UsageError
from rotdata.hub.card import CARD, describe, write_card
from rotdata.hub.client import HubError, check_repo, endpoint, explained, patiently
from rotdata.hub.remote import NAME, SPLIT, Head, read_head
from rotdata.shards import EARLIER, MANIFEST, REJECTS, Manifest

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

_FILES_PER_COMMIT = 50
_BYTES_PER_COMMIT = 5 << 30  # an interrupted push begins again at its last commit, though not its uploads


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


def push(
    folder: Path | str, repo: str, *, config: str | None = None, private: bool = False, dry_run: bool = False
) -> Pushed:
    """Publish a finished folder of strips or embeddings as CONFIG/SPLIT of the dataset `repo`, OWNER/NAME.

    Files that are there already stay, so the same command resumes and does nothing once it is done. A `config` that is
    given replaces what an earlier push of that name left there; the default name does not. A dry run writes nothing.

    Raises UsageError for a part and for names that can't be right or are taken, ShardError for a folder that is
    unfinished or not what its manifest says, HubError.
    """
    check_repo(repo)
    folder = Path(folder)
    manifest = _publishable(folder)
    place = _Place(repo, _checked_config(config) if config is not None else config_name(manifest), manifest.split)
    head = _head_of_dry_run(repo) if dry_run else _head_to_write(repo, private=private)
    if private and not head.private:
        raise UsageError(f"{repo} is public already: make it private in its settings, or push to another name")
    replaced = _check_vacant(head, place, manifest, replace=config is not None)
    parts = [_Upload(f"{place.folder}/{entry.file}", folder / entry.file, entry.sha256) for entry in manifest.entries]
    closing, card = _closing(folder, manifest, head, place, replaced=replaced)
    new_parts, new_closing = ([each for each in some if not _holds(head, each)] for some in (parts, closing))
    new = [*new_parts, *new_closing]
    stale = _stale(head, place, {each.path for each in chain(parts, closing)})
    commits = list(_commits(new_parts, new_closing, stale))
    if len(commits) > 1 and any(each.path == place.manifest for each in new):
        there = [path for path in place.manifests if path in head.files]
        commits[0].deleted.extend(there)  # else they would name shards that are being replaced
        commits[-1].deleted = [path for path in commits[-1].deleted if path not in there]
    return Pushed(
        repo=repo,
        config=place.config,
        split=place.split,
        files_uploaded=len(new),
        bytes_uploaded=sum(each.size for each in new),
        files_unchanged=len(parts) + len(closing) - len(new),
        commit=head.sha if dry_run else _send(repo, head.sha, commits, place.folder),
        url=f"{endpoint()}/datasets/{repo}",
        dry_run=dry_run,
        paths=tuple(each.path for each in new),
        card=card,
    )


def push_model(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    files: Sequence[str] | None = None,
    stale: Sequence[str] = (),
    message: str | None = None,
) -> str:
    """Publish the files of a folder as the model `repo`, OWNER/NAME, and return its address.

    `files` are patterns of those that are published, by default all; those that match a pattern of `stale` are removed
    there if they are not here. Files that are there already are not sent again. Raises UsageError for a name that can't
    be right and for a public model that is to be private, HubError.
    """
    make_model(repo, private=private)
    from huggingface_hub import HfApi

    with explained(f"pushing to {repo} failed"):
        patiently(
            lambda: HfApi().upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=message or f"Checkpoint of {folder.name}",
                allow_patterns=None if files is None else list(files),
                delete_patterns=list(stale) or None,
            )
        )
    return f"{endpoint()}/{repo}"


def make_model(repo: str, *, private: bool = False) -> None:
    """See to it that there is a model `repo` that can be written. Raises UsageError and HubError as `push_model`."""
    check_repo(repo, kind="model")
    from huggingface_hub import HfApi

    with explained(f"pushing to {repo} failed"):
        api = HfApi()
        patiently(lambda: api.create_repo(repo, private=private or None, exist_ok=True))
        if private and not patiently(lambda: api.model_info(repo)).private:
            raise UsageError(f"{repo} is public already: make it private in its settings, or push to another name")


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
        if not SPLIT.fullmatch(self.split):
            raise UsageError(f"the Hub takes no split {self.split!r}: a split is a word, such as train or test")

    @property
    def folder(self) -> str:
        return f"{self.config}/{self.split}"

    @property
    def manifest(self) -> str:
        return f"{self.folder}/{MANIFEST}"

    @property
    def manifests(self) -> tuple[str, str]:
        """Its name, and that of earlier releases."""
        return self.manifest, f"{self.folder}/{EARLIER[MANIFEST]}"


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
    manifest = Manifest.load_whole(folder, then="push")
    _, found = shards.verify(folder)
    if found:
        raise ShardError(
            f"{folder} is not what its manifest says ({shards.listed(found)}): the command that made it repairs it, "
            "then push"
        )
    return manifest


def _holds(head: Head, upload: _Upload) -> bool:
    """Whether a file is there and has the same bytes."""
    there = head.files.get(upload.path)
    if there is None or there.size != upload.size:
        return False
    if there.lfs is not None:
        return there.lfs.sha256 == upload.hash_as_lfs()
    return there.blob_id == upload.hash_as_blob()


def _checked_config(config: str) -> str:
    if not NAME.fullmatch(config) or config.endswith("."):
        raise UsageError(f"a configuration's name is letters, digits, '-', '_' and '.', got {config!r}")
    return config


def _head_to_write(repo: str, *, private: bool) -> Head:
    """What a dataset holds, which is made if it is not there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with explained(f"{repo} can't be written"):
        try:
            return read_head(repo)
        except RepositoryNotFoundError:
            HfApi().create_repo(repo, repo_type="dataset", private=private or None, exist_ok=True)
            return read_head(repo)


def _head_of_dry_run(repo: str) -> Head:
    """What a dataset holds, or nothing if nobody can say."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        with explained(f"{repo} can't be looked at"):
            try:
                return read_head(repo)
            except RepositoryNotFoundError:
                pass
    except HubError as error:
        say(f"{error}; every file is taken for a new one")
    return Head(repo=repo, sha=None, private=True, files={})


def _check_vacant(head: Head, place: _Place, manifest: Manifest, *, replace: bool) -> bool:
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


def _stale(head: Head, place: _Place, wanted: set[str]) -> list[str]:
    """Shards and rejects that an earlier push of another plan left, and what an earlier release named otherwise."""
    below = f"{place.folder}/"
    ours = (path for path in head.files if path.startswith(below) and path not in wanted)
    names = {REJECTS, *EARLIER.values()}
    return sorted(
        path for path in ours if path.removeprefix(below) in names or shards.is_shard_file(path.removeprefix(below))
    )


def _closing(
    folder: Path, manifest: Manifest, head: Head, place: _Place, *, replaced: bool
) -> tuple[list[_Upload], str]:
    """What makes a folder of shards whole: manifest, rejects, a picture where there is none yet, and the card."""
    section = describe(folder, manifest, repo=place.repo, config=place.config, renew_example=replaced)
    card = write_card(_readme(head), section)
    closing = [_Upload(place.manifest, shards.manifest_file(folder)), _Upload(CARD, card.encode())]
    if (rejects := shards.rejects_file(folder)).exists():
        closing.append(_Upload(f"{place.folder}/{REJECTS}", rejects))
    if section.picture is not None and (replaced or section.picture_path not in head.files):
        closing.append(_Upload(section.picture_path, section.picture))
    return closing, card


def _readme(head: Head) -> str | None:
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
            with explained(f"pushing to {repo} failed"):
                parent = HfApi().create_commit(
                    repo, operations, commit_message=f"{what}{counted}", repo_type="dataset", parent_commit=parent
                ).oid  # fmt: skip
            bar.update(commit.size)
    return parent
