"""Folders of shards -> tars as webdataset reads them, for those who stream: a sample a row, and an index of the tars.

A sample is KEY.json, the row without its picture or latents, and KEY.png or KEY.npy. KEY is the row's number, since a
corpus' ids may repeat and hold dots or slashes. The same shards give the same bytes.

Shapes: K latents of a row, D embedding width.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from rotdata import shards
from rotdata.errors import OutputOccupied, UsageError
from rotdata.output import being_written, write_atomically
from rotdata.shards import Manifest

INDEX = "index.json"
"""What the tars are of, and each with its rows and bytes: what those who stream split among their workers by."""

Sample = list[tuple[str, bytes]]
"""The files of a row in order, by suffix."""


@dataclass(frozen=True, kw_only=True)
class Tar:
    """A finished tar."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has left in its folder."""

    rows: int
    tars: int
    bytes: int
    made: int
    """Tars that were not there already."""


def export(folder: Path, out: Path, *, rows_per_tar: int | None = None, overwrite: bool = False) -> Exported:
    """Write the rows of a finished folder of strips or embeddings into tars in `out`; the same call resumes.

    `rows_per_tar` is by default that of the shards. Raises ShardError, UsageError for a part or a number of rows that
    means nothing, OutputOccupied if `out` holds other things.
    """
    manifest = Manifest.load_whole(folder, then="export")
    rows_per_tar = manifest.plan.rows_per_shard if rows_per_tar is None else rows_per_tar
    if rows_per_tar < 1:
        raise UsageError(f"--rows-per-tar is at least 1, got {rows_per_tar}")
    count = -(-manifest.total("rows") // rows_per_tar)
    names = [f"{manifest.name}-{index:05d}-of-{count:05d}.tar" for index in range(count)]
    source = {
        "fingerprint": manifest.fingerprint,
        "shards": [entry.sha256 for entry in manifest.entries],
        "rows_per_tar": rows_per_tar,
    }
    out.mkdir(parents=True, exist_ok=True)
    with shards.locked(out):
        done = _taken_over(out, source, names, overwrite=overwrite)
        kept = len(done)
        _write_index(out, manifest, source, done)
        samples = _samples(folder, manifest) if kept < count else iter(())
        for number, name in enumerate(tqdm(names, unit="tar", desc="export", disable=None)):
            some = islice(samples, rows_per_tar)
            if name in done:
                deque(some, maxlen=0)  # passed over
                continue
            done[name] = _write_tar(out / name, number * rows_per_tar, some)
            _write_index(out, manifest, source, done)
    return Exported(
        rows=sum(tar.rows for tar in done.values()),
        tars=len(done),
        bytes=sum(tar.bytes for tar in done.values()),
        made=len(done) - kept,
    )


def _taken_over(out: Path, source: dict[str, Any], names: list[str], *, overwrite: bool) -> dict[str, Tar]:
    """Whole tars that an earlier export of the same thing left. Raises OutputOccupied."""
    shards.remove_leftovers(out)
    there = {path.name for path in out.iterdir()}
    if not there:
        return {}
    try:
        index = json.loads((out / INDEX).read_bytes())
        same = index["source"] == source
        listed = [Tar(**each) for each in index["tars"]]
        ours = re.compile(re.escape(index["name"]) + r"-\d{5}-of-\d{5}\.tar")
    except (OSError, ValueError, KeyError, TypeError):
        raise OutputOccupied(
            f"{out} holds files but no {INDEX} of an export: choose an empty or new folder for --out"
        ) from None
    if strangers := [name for name in sorted(there) if name != INDEX and not ours.fullmatch(name)]:
        raise OutputOccupied(f"{out} holds other things ({', '.join(strangers[:5])}): choose another --out")
    if overwrite:
        for name in there - {INDEX}:
            (out / name).unlink()
        return {}
    if not same:
        raise OutputOccupied(
            f"{out} holds tars of other shards, or of another size: choose another --out, or --overwrite"
        )
    return {
        tar.file: tar
        for tar in listed
        if tar.file in names and shards.holds_bytes(out / tar.file, tar.bytes, tar.sha256)
    }


def _write_index(out: Path, manifest: Manifest, source: dict[str, Any], done: dict[str, Tar]) -> None:
    index = {"name": manifest.name, "source": source, "tars": [asdict(done[name]) for name in sorted(done)]}
    write_atomically(out / INDEX, (json.dumps(index, indent=1) + "\n").encode())


def _write_tar(path: Path, first: int, samples: Iterable[Sample]) -> Tar:
    """One tar of rows from number `first` on, whole or not at all."""
    count = 0
    with being_written(path) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, sample in enumerate(samples, start=first):
            for suffix, content in sample:
                entry = tarfile.TarInfo(f"{number:09d}.{suffix}")  # of no time and no owner
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            count += 1
    return Tar(file=path.name, rows=count, bytes=path.stat().st_size, sha256=shards.file_sha256(path))


def _samples(folder: Path, manifest: Manifest) -> Iterator[Sample]:
    """Every row in order. Raises ShardError."""
    for entry in manifest.entries:
        for table in shards.read_groups(folder, manifest, entry):
            contents = _pictures(table) if manifest.encoder is None else _latents(table, manifest)
            texts = table.select([name for name in table.column_names if name not in ("image", "embedding", "scale")])
            for row, files in zip(texts.to_pylist(), contents, strict=True):
                yield [("json", json.dumps(row, ensure_ascii=False).encode()), *files]


def _pictures(table: pa.Table) -> Iterator[Sample]:
    return ([("png", picture["bytes"])] for picture in table.column("image").to_pylist())


def _latents(table: pa.Table, manifest: Manifest) -> Iterator[Sample]:
    """Each row's latents [K, D] as they are stored; of eight bits, their scales [K] as well."""
    values_LD, offsets, scales_L = shards.stored_latents(table, manifest)
    for begin, end in pairwise(offsets.tolist()):
        files = [("npy", _npy(values_LD[begin:end]))]
        if scales_L is not None:
            files.append(("scale.npy", _npy(scales_L[begin:end])))
        yield files


def _npy(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(values), version=(1, 0), allow_pickle=False)
    return stream.getvalue()
