"""The columns are those that `datasets` would write, and it reads them."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from rotdata.corpora import Source, read
from rotdata.rendering.strips import StripStyle, render
from rotdata.shards import (
    Manifest,
    embedding_schema,
    read_table,
    strip_schema,
    write_shard,
)
from tests.rotdata.shards.samples import (
    TEXT_FEATURES,
    VALUE,
    shard_files,
)

STRIP_FEATURES = datasets.Features(
    TEXT_FEATURES
    | {
        "image": datasets.Image(),
        "width": VALUE("int32"),
        "num_latents": VALUE("int32"),
        "spans": datasets.List(VALUE("int32")),
    }
)


def embedding_features(width: int, store: str) -> datasets.Features:
    return datasets.Features(
        TEXT_FEATURES
        | {
            "num_latents": VALUE("int32"),
            "spans": datasets.List(VALUE("int32")),
            "embedding": datasets.List(datasets.List(VALUE(store), length=width)),
        }
    )


def test_strip_shards_have_the_schema_that_datasets_would_write() -> None:
    assert strip_schema().equals(STRIP_FEATURES.arrow_schema)
    assert datasets.Features.from_arrow_schema(strip_schema()) == STRIP_FEATURES


@pytest.mark.parametrize("store", ["float16", "float32"])
def test_embedding_shards_have_the_schema_that_datasets_would_write(store: Any) -> None:
    features = embedding_features(2560, store)
    assert embedding_schema(2560, store).equals(features.arrow_schema)
    assert datasets.Features.from_arrow_schema(embedding_schema(2560, store)) == features


def test_datasets_reads_a_strip_shard_as_pictures(toy_strips: Path, tmp_path: Path) -> None:
    data = datasets.Dataset.from_parquet(str(shard_files(toy_strips)[0]), cache_dir=str(tmp_path))
    assert data.features == STRIP_FEATURES
    rows = list(read(Source(location="toy", corpus="toy", limit=4)))
    for row, expected in zip(data, rows, strict=True):
        assert (row["id"], row["question"], row["cot"], row["answer"]) == dataclasses.astuple(expected)
        strip = render(expected.cot, StripStyle())
        assert isinstance(row["image"], Image.Image)
        np.testing.assert_array_equal(np.asarray(row["image"]), strip.pixels)
        assert (row["width"], row["num_latents"]) == (strip.pixels.shape[1], strip.num_latents)
        assert row["spans"] == strip.spans.tolist()


def test_datasets_loads_a_folder_of_embedding_shards(toy_embeddings: Path, tmp_path: Path) -> None:
    files = [str(file) for file in shard_files(toy_embeddings)]
    data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert data.features == embedding_features(4, "float16")
    assert len(data) == 10
    lengths = [(len(row["embedding"]), len(row["embedding"][0])) for row in data]
    assert lengths == [(row["num_latents"], 4) for row in data]


def test_datasets_loads_a_folder_with_a_shard_of_no_rows(toy_strips: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_strips, tmp_path / "strips")
    file = shard_files(tmp_path / "strips")[0].name
    manifest = Manifest.load(toy_strips)
    write_shard(tmp_path / "strips", file, read_table(toy_strips, manifest, manifest.shards[0]).slice(0, 0))
    rows = datasets.load_dataset("parquet", data_dir=str(tmp_path / "strips"), split="train", cache_dir=str(tmp_path))
    assert rows.features == STRIP_FEATURES
    assert len(rows) == 6
