"""A shard written twice is the same file, in row groups that others can show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from rotdata.shards import (
    write_shard,
)
from tests.rotdata.shards.samples import (
    embedding_table,
    write_folder,
)


def test_row_groups_stay_below_what_the_hub_shows(tmp_path: Path) -> None:
    latents = [np.zeros((50, 2560), np.float16)] * 600  # 154 MB
    write_shard(tmp_path, "big.parquet", embedding_table(latents, 2560))
    metadata = pq.read_metadata(tmp_path / "big.parquet")
    sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    assert len(sizes) > 1
    assert max(sizes) < 100e6


def test_two_writes_are_byte_identical(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = embedding_table([rng.normal(size=(5, 16)).astype(np.float16) for _ in range(20)], 16)
    written = [write_shard(tmp_path, f"{name}.parquet", table) for name in "ab"]
    assert written[0] == written[1]
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_row_groups_of_the_manifest_are_those_of_the_files(tmp_path: Path) -> None:
    latents = [np.zeros((300, 2560), np.float16) for _ in range(100)]  # 150 MB
    manifest = write_folder(tmp_path, [embedding_table(latents, 2560)], 2560)
    metadata = pq.read_metadata(tmp_path / manifest.shards[0].file)
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert manifest.shards[0].row_groups == rows
    assert len(rows) > 1
