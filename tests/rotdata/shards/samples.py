"""Folders of embedding shards made by hand, and manifests edited with a checksum that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from numpy.typing import NDArray

from rotdata.rendering.strips import StripStyle, renderer
from rotdata.shards import (
    Manifest,
    Plan,
    ShardEntry,
    embedding_column,
    embedding_schema,
    read_table,
    write_shard,
)
from tests.helpers import StandInEncoder

VALUE = datasets.Value
TEXT_FEATURES = {name: VALUE("string") for name in ("id", "question", "cot", "answer")}


def embedding_table(latents: list[NDArray[Any]], width: int, store: Any = "float16") -> pa.Table:
    """A shard's table of rows with these latents and no text to speak of."""
    schema = embedding_schema(width, store)
    columns = {name: [f"{name} {row}" for row in range(len(latents))] for name in TEXT_FEATURES}
    counts = [len(row) for row in latents]
    columns["cot"] = [text.ljust(count) for text, count in zip(columns["cot"], counts, strict=True)]
    columns |= {"num_latents": counts, "spans": [list(range(count + 1)) for count in counts]}
    table = pa.table(columns, schema=schema.remove(schema.get_field_index("embedding")))
    return table.append_column(schema.field("embedding"), embedding_column(latents, schema)).cast(schema)


def write_folder(folder: Path, tables: list[pa.Table], width: int, store: str = "float16") -> Manifest:
    """A finished folder of embedding shards."""
    rows = [table.num_rows for table in tables]
    manifest = Manifest(
        kind="embeddings",
        corpus="toy",
        split="train",
        source={},
        style=renderer(StripStyle()).fingerprint,
        settings={"max_latents": 4096, "too_long": "reject", "patches_per_call": 2048, "store": store},
        plan=Plan(rows_in=sum(rows), rows_per_shard=max(rows), num_shards=len(tables)),
        encoder=StandInEncoder(width=width).identity.as_json(),
    )
    for index, table in enumerate(tables):
        file = manifest.shard_file(index)
        stored = write_shard(folder, file, table)
        latents = sum(table.column("num_latents").to_pylist())
        manifest.shards[index] = ShardEntry(
            file=file, rows=table.num_rows, rejected=0, latents=latents, **dataclasses.asdict(stored)
        )
    manifest.save(folder)
    return manifest


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def edit_manifest(folder: Path, edit: Callable[[Manifest], object]) -> None:
    """Save the folder's manifest with something else in it and a checksum that fits."""
    manifest = Manifest.load(folder)
    edit(manifest)
    manifest.save(folder)


def change_shard(folder: Path, index: int, change: Callable[[pa.Table], pa.Table]) -> None:
    """Write a shard with other contents, and a manifest that vouches for it."""
    manifest = Manifest.load(folder)
    entry = manifest.shards[index]
    stored = write_shard(folder, entry.file, change(read_table(folder, manifest, entry)))
    manifest.shards[index] = dataclasses.replace(entry, **dataclasses.asdict(stored))
    manifest.save(folder)


def replace_entry(manifest: Manifest, index: int, **changes: Any) -> None:
    manifest.shards[index] = dataclasses.replace(manifest.shards[index], **changes)
