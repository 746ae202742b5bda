"""Folders of shards held against their manifests: hashes, counts and finiteness, every mismatch by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rotdata.errors import ShardError
from rotdata.shards.files import holds_bytes, manifest_file, rejects_file
from rotdata.shards.manifest import Manifest, ShardEntry
from rotdata.shards.rejects import read_rejects, reject_line, rejects_by_shard, rejects_sha256
from rotdata.shards.soundness import problems_of_file, problems_of_rows

_LISTED = 5


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something in a folder that is not as the manifest says."""

    file: str
    problem: str


def verify(folder: Path | str) -> tuple[Manifest | None, list[Mismatch]]:
    """Recompute hashes, counts and finiteness of a folder: its manifest and every mismatch found.

    A manifest that can't be trusted is the only mismatch then, and None comes in its place. Raises ShardError if there
    is no manifest at all.
    """
    folder = Path(folder)
    stated, refused = manifest_file(folder), rejects_file(folder).name
    try:
        manifest = Manifest.load(folder)
    except ShardError as error:
        if not stated.exists():
            raise
        return None, [Mismatch(stated.name, str(error))]
    found: list[Mismatch] = []
    for index in manifest.planned:
        entry = manifest.shards.get(index)
        if entry is None:
            found.append(Mismatch(manifest.shard_file(index), "not made yet: run the same command again"))
        else:
            found.extend(Mismatch(entry.file, problem) for problem in _problems(folder, manifest, entry))
    known = {stated.name, refused, *map(manifest.shard_file, manifest.planned)}
    strangers = sorted(path.name for path in folder.iterdir() if path.name not in known)
    found.extend(Mismatch(name, "not of this folder: remove it") for name in strangers)
    found.extend(Mismatch(refused, problem) for problem in _rejects_problems(folder, manifest))
    if manifest.finished and manifest.part is None and manifest.rows_done != manifest.plan.rows_in:
        done = manifest.rows_done
        found.append(Mismatch(stated.name, f"{done} rows out and rejected, {manifest.plan.rows_in} rows in"))
    return manifest, found


def listed(found: Sequence[Mismatch]) -> str:
    """The first mismatches in words, for a message."""
    first = "; ".join(f"{each.file}: {each.problem}" for each in found[:_LISTED])
    return f"{first} and {len(found) - _LISTED} more" if len(found) > _LISTED else first


def intact(folder: Path, entry: ShardEntry) -> bool:
    """Whether the shard's file is byte for byte what the manifest says."""
    return holds_bytes(folder / entry.file, entry.bytes, entry.sha256)


def _rejects_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    try:
        rejects = read_rejects(folder)
    except ShardError as error:
        yield str(error)
        return
    if len(rejects) != manifest.total("rejected"):
        yield f"{len(rejects)} lines, the manifest counts {manifest.total('rejected')}"
        return
    stored = rejects_file(folder).read_bytes() if rejects else b""
    if stored != b"".join(map(reject_line, rejects)):
        yield "not as it was written: it was damaged or edited"
        return
    by_shard = rejects_by_shard(rejects)
    for index, entry in sorted(manifest.shards.items()):
        if rejects_sha256(by_shard[index]) != entry.rejects_sha256:
            yield f"the lines of shard {index} have another SHA-256 than the manifest's"


def _problems(folder: Path, manifest: Manifest, entry: ShardEntry) -> Iterator[str]:
    path = folder / entry.file
    if not path.is_file():
        yield "missing"
        return
    if not intact(folder, entry):
        yield f"{path.stat().st_size} bytes with another SHA-256 than the manifest's {entry.bytes} bytes"
        return
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            of_file = list(problems_of_file(manifest, entry, file))
            yield from of_file
            if not of_file:
                yield from _problems_of_groups(manifest, entry, file)
    except (OSError, pa.ArrowException) as error:
        yield f"can't be read ({error})"


def _problems_of_groups(manifest: Manifest, entry: ShardEntry, file: pq.ParquetFile) -> Iterator[str]:
    """A shard's rows, a row group at a time."""
    found: dict[str, list[int]] = {}
    latents = 0
    for group in range(len(entry.row_groups)):
        table = file.read_row_group(group, use_threads=False)
        latents += pc.sum(table.column("num_latents")).as_py() or 0
        for problem in problems_of_rows(manifest, table):
            found.setdefault(problem, []).append(group)
    if latents != entry.latents and not found:
        yield f"{latents} latents, the manifest says {entry.latents}"
    for problem, groups in found.items():
        yield problem if len(entry.row_groups) == 1 else f"{problem}, in row group {groups[0]}"
