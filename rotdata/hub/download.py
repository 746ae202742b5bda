"""Datasets of the Hub -> folders of shards, byte for byte what was pushed; no file is fetched but the manifest's."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rotdata import shards
from rotdata.errors import OutputOccupied, ShardError
from rotdata.hub.client import HubError, check_repo, explained
from rotdata.hub.remote import LARGEST_READ, HubFiles, find_folder
from rotdata.output import replaceable
from rotdata.shards import REJECTS, Manifest

_PARTIAL = ".pull"  # within the folder, so that what has arrived is moved and not copied
_LISTED = 5


def pull(
    repo: str,
    out: Path | str,
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
    check_repo(repo)
    out = Path(out)
    files = find_folder(repo, config, split, revision)
    manifest = Manifest.load(files)
    wanted = _wanted(files, manifest)
    out.mkdir(parents=True, exist_ok=True)
    with shards.locked(out):
        _clear_for(out, manifest, wanted, overwrite=overwrite)
        missing = [each for each in wanted if not _arrived(out, each)]
        _check_room(out, files, missing)
        try:
            _fetch(files, missing, out)
        finally:
            shutil.rmtree(out / _PARTIAL, ignore_errors=True)
        if not manifest.total("rejected"):
            shards.rejects_file(out).unlink(missing_ok=True)
        manifest.save(out)
        _, found = shards.verify(out)
    if found:
        raise ShardError(
            f"{files} is not what its manifest says ({shards.listed(found)}): don't trust it, or have it pushed again"
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
        name = shards.called(REJECTS, files)
        size = files.sizes.get(name, 0)
        if not 0 < size <= LARGEST_READ:
            raise ShardError(
                f"{files}/{name} has {size} bytes for {manifest.total('rejected')} rejects: have it pushed again"
            )
        wanted.append(_Wanted(name, size, None))
    return wanted


def _clear_for(out: Path, manifest: Manifest, wanted: Sequence[_Wanted], *, overwrite: bool) -> None:
    """Make way in `out`. Raises OutputOccupied if it holds what neither this nor an earlier pull put there."""
    shards.remove_leftovers(out)
    shutil.rmtree(out / _PARTIAL, ignore_errors=True)
    if shards.manifest_file(out).exists() and (reason := _conflict(out, manifest)):
        if not overwrite:
            raise OutputOccupied(f"{out} holds {reason}: choose another --out, or --overwrite")
        shards.clear(out)
    ours = {shards.manifest_file(out), shards.rejects_file(out), *(_here(out, each) for each in wanted)}
    if strangers := sorted(path.name for path in out.iterdir() if path not in ours):
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


def _here(out: Path, wanted: _Wanted) -> Path:
    """Where a file belongs; an earlier release may have pushed the rejects by another name."""
    return out / wanted.name if shards.is_shard_file(wanted.name) else shards.rejects_file(out)


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
            with explained(f"{files}/{each.name} can't be fetched"):
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
            arrived.replace(replaceable(_here(out, each)))


def _forwarding(bar: tqdm) -> type[tqdm]:
    """A bar that shows nothing and tells another one its progress."""

    class Forwarding(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            return bar.update(n)

    return Forwarding
