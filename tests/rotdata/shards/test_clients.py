"""Others read our folders and latents without our code, and latents of their own are stored once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.dataset import dataset

from rotdata.corpora import Source
from rotdata.errors import ShardError
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import REJECTS, EmbeddingShards, Shards, read_table, verify, write_shard
from rotdata.shards.targets import TargetSettings
from tests.helpers import StandInEncoder, write_jsonl
from tests.rotdata.shards.samples import edit_manifest, replace_entry, shard_files

Rows = dict[str, Any]


def by_duckdb(file: str, cache: Path) -> Rows:
    return dict(duckdb.sql(f"SELECT id, embedding FROM '{file}'").fetchall())


def by_polars(file: str, cache: Path) -> Rows:
    return dict(pl.read_parquet(file, columns=["id", "embedding"]).iter_rows())


def by_pandas(file: str, cache: Path) -> Rows:
    rows = pd.read_parquet(file, columns=["id", "embedding"])
    return dict(zip(rows.id, rows.embedding, strict=True))


def by_datasets(file: str, cache: Path) -> Rows:
    import datasets

    rows = datasets.load_dataset("parquet", data_files=[file], split="train", cache_dir=str(cache))
    return {row["id"]: row["embedding"] for row in rows}


def by_streaming(file: str, cache: Path) -> Rows:
    import datasets

    rows = datasets.load_dataset("parquet", data_files=[file], split="train", streaming=True)
    return {row["id"]: row["embedding"] for row in rows}


@pytest.mark.parametrize("store", ["float16", "float32"])
@pytest.mark.parametrize("read", [by_duckdb, by_polars, by_pandas, by_datasets, by_streaming])
def test_others_read_latents_of_their_own_without_our_code(
    read: Callable[[str, Path], Rows], store: Any, toy_cells: Path, tmp_path: Path
) -> None:
    settings = EmbedSettings(targets=TargetSettings(store=store), context="latent")
    pipeline.embed(toy_cells, StandInEncoder(), tmp_path / "alone", settings=settings)
    groups = list(EmbeddingShards(tmp_path / "alone"))
    for group, file in zip(groups, shard_files(tmp_path / "alone"), strict=True):
        found = read(str(file), tmp_path / "cache")
        assert list(found) == group.ids
        for row, latents in enumerate(found.values()):
            values_KD = np.frombuffer(b"".join(latents), store).reshape(len(latents), -1)
            ours_KD = group.embedding_LD[group.offsets[row] : group.offsets[row + 1]]
            np.testing.assert_array_equal(values_KD, ours_KD)


Numbers = dict[str, Any]
"""A column's value by the id of its row."""


def folder_by_pandas(folder: Path, column: str) -> Numbers:
    rows = pd.read_parquet(folder, columns=["id", column])
    return dict(zip(rows.id, rows[column], strict=True))


def folder_by_pyarrow(folder: Path, column: str) -> Numbers:
    table = dataset(folder).to_table(columns=["id", column])
    return dict(zip(table["id"].to_pylist(), table[column].to_pylist(), strict=True))


def folder_by_polars(folder: Path, column: str) -> Numbers:
    rows = pl.scan_parquet(folder, hidden_file_prefix="_")
    return dict(rows.select("id", column).collect().iter_rows())


def files_by_polars(folder: Path, column: str) -> Numbers:
    return dict(pl.read_parquet(f"{folder}/*.parquet", columns=["id", column]).iter_rows())


def folder_by_duckdb(folder: Path, column: str) -> Numbers:
    return dict(duckdb.sql(f"SELECT id, {column} FROM read_parquet('{folder}')").fetchall())


def files_by_datasets(folder: Path, column: str) -> Numbers:
    import datasets

    rows = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train", streaming=True)
    return {row["id"]: row[column] for row in rows}


CLIENTS = [folder_by_pandas, folder_by_pyarrow, folder_by_polars, files_by_polars, folder_by_duckdb]


@pytest.fixture(scope="module")
def folders(toy_cells: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, as it stands: strips with a reject, embeddings by their type and context."""
    root = tmp_path_factory.mktemp("folders")
    rows = [{"question": "q", "cot": f"{n}+1={n + 1}", "answer": "a"} for n in range(9)]
    source = write_jsonl(root / "rows.jsonl", [*rows, {"question": "q"}])
    pipeline.render(Source(location=str(source), corpus="generic"), StripStyle(cells=6), root / "strips")
    assert (root / "strips" / REJECTS).exists()
    for store in ("float16", "float32", "int8"):
        for context in ("strip", "latent"):
            settings = EmbedSettings(targets=TargetSettings(store=store), context=context)
            pipeline.embed(toy_cells, StandInEncoder(), root / f"{store}-{context}", settings=settings)
    return {path.name: path for path in root.iterdir() if path.is_dir()}


@pytest.mark.parametrize("read", CLIENTS)
def test_others_read_a_folder_of_strips_as_it_stands(
    read: Callable[[Path, str], Numbers], folders: dict[str, Path]
) -> None:
    found = read(folders["strips"], "cot")
    assert sorted(found.values()) == sorted(f"{n}+1={n + 1}" for n in range(9))
    pictures = read(folders["strips"], "image")
    assert all(picture["bytes"].startswith(b"\x89PNG") for picture in pictures.values())


@pytest.mark.parametrize("kind", [f"{s}-{c}" for s in ("float16", "float32", "int8") for c in ("strip", "latent")])
@pytest.mark.parametrize("read", [*CLIENTS, files_by_datasets])
def test_others_read_a_folder_of_embeddings_as_it_stands(
    read: Callable[[Path, str], Numbers], kind: str, folders: dict[str, Path]
) -> None:
    shards = Shards(EmbeddingShards(folders[kind]))
    assert read(folders[kind], "num_latents") == {row.id: len(row.latents_KD) for row in shards}
    if read is folder_by_duckdb and kind == "float16-strip":
        return  # the one column that duckdb 2.0 does not read, see docs/shard-format.md
    found = read(folders[kind], "embedding")
    scales = read(folders[kind], "scale") if kind.startswith("int8") else None
    store = kind.partition("-")[0]
    for row in shards:
        latents = found[row.id]
        if kind.endswith("latent"):
            values_KD = np.frombuffer(b"".join(latents), store).reshape(len(latents), -1)
        else:
            values_KD = np.array([list(latent) for latent in latents], store)
        if scales is not None:
            values_KD = values_KD * np.array(scales[row.id], np.float32)[:, None]
        np.testing.assert_array_equal(values_KD, row.latents_KD)


def test_polars_turns_the_bytes_into_arrays_of_numbers(toy_alone: Path) -> None:
    [file, *_] = shard_files(toy_alone)
    latents = pl.read_parquet(file)["embedding"].explode().bin.reinterpret(dtype=pl.Array(pl.Float16, 4))
    np.testing.assert_array_equal(latents.to_numpy(), EmbeddingShards(toy_alone).read_group(0).embedding_LD)


def test_a_row_group_holds_each_different_latent_once(toy_alone: Path) -> None:
    groups = list(EmbeddingShards(toy_alone))
    for group, file in zip(groups, shard_files(toy_alone), strict=True):
        table = pq.ParquetFile(file, read_dictionary=["embedding.list.element"]).read_row_group(0)
        stored = table.column("embedding").chunk(0).values
        assert pa.types.is_dictionary(stored.type)
        different = {latent.tobytes() for latent in group.embedding_LD}
        assert sorted(stored.dictionary.to_pylist()) == sorted(different)
        assert len(different) < len(group.embedding_LD)


def test_latents_of_another_width_are_refused(toy_alone: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "alone"
    shutil.copytree(toy_alone, folder)
    shards = EmbeddingShards(folder)
    entry = shards.manifest.shards[0]
    table = read_table(folder, shards.manifest, entry)
    rows = [[latent[:-2] for latent in row] for row in table.column("embedding").to_pylist()]
    place = table.schema.get_field_index("embedding")
    narrow = table.set_column(
        place, table.schema.field("embedding"), pa.array(rows, table.schema.field("embedding").type)
    )
    written = write_shard(folder, entry.file, narrow)
    edit_manifest(folder, lambda manifest: replace_entry(manifest, 0, bytes=written.bytes, sha256=written.sha256))
    with pytest.raises(ShardError, match="not 4 values of float16"):
        EmbeddingShards(folder).read_group(0)
    assert "not 4 values of float16" in verify(folder)[1][0].problem
