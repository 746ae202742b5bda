"""Shards as a data set: rows by number, tables, shuffled orders and padded tensors."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from rotdata.errors import UsageError
from rotdata.runs import pipeline
from rotdata.shards import EmbeddingShards, Shards
from rotdata.shards.tensors import TorchRows
from tests.helpers import StandInEncoder, storing


@pytest.fixture
def reader(toy_embeddings: Path) -> EmbeddingShards:
    return EmbeddingShards(toy_embeddings)


@pytest.fixture
def shards(reader: EmbeddingShards) -> Shards:
    return Shards(reader)


def test_rows_stand_under_their_numbers(shards: Shards, reader: EmbeddingShards) -> None:
    assert (len(shards), shards.width, shards.manifest) == (10, 4, reader.manifest)
    found = list(shards)
    assert [row.id for row in found] == [each for group in reader for each in group.ids]
    assert [row.answer for row in found] == [each for group in reader for each in group.answers]
    latents = np.concatenate([row.latents_KD for row in found])
    np.testing.assert_array_equal(latents, np.concatenate([group.embedding_LD for group in reader]))
    assert all(row.spans is not None and row.spans[-1] == len(row.cot) for row in found)


def test_numbers_count_from_the_end_too_and_end(shards: Shards) -> None:
    assert (shards[-1].id, shards[-10].id) == (shards[9].id, shards[0].id)
    for index in (10, -11):
        with pytest.raises(IndexError, match=f"row {index} of 10"):
            _ = shards[index]


def test_latents_are_a_view_of_arrow_s_memory(shards: Shards) -> None:
    latents_KD = shards[5].latents_KD
    assert not latents_KD.flags.owndata
    assert not latents_KD.flags.writeable


def test_tables_are_the_row_groups_and_the_table_copies_none(shards: Shards, toy_embeddings: Path) -> None:
    assert [piece.num_rows for piece in shards.tables()] == [4, 4, 2]
    table = shards.table()
    assert (table.num_rows, table.column("embedding").num_chunks) == (10, 3)
    assert table.schema.equals(shards.manifest.schema)
    assert table.column("id").to_pylist() == [row.id for row in shards]
    chosen = shards.table(["answer", "num_latents"])
    assert chosen.column_names == ["answer", "num_latents"]
    assert chosen.column("num_latents").to_pylist() == [len(row.latents_KD) for row in shards]


def test_a_column_that_is_not_there_is_refused(shards: Shards) -> None:
    with pytest.raises(UsageError, match="no column 'image' in .*: it has id, question"):
        shards.table(["id", "image"])


def test_a_shuffled_order_has_every_row_once_and_follows_from_its_seed(shards: Shards) -> None:
    orders = [shards.shuffled(seed).tolist() for seed in range(5)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, orders))) == 5
    assert shards.shuffled(3).tolist() == orders[3]


def test_a_shuffled_pass_reads_each_row_group_once(reader: EmbeddingShards, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real = reader.read_group
    monkeypatch.setattr(reader, "read_group", lambda index: (read.append(index), real(index))[1])
    assert sum(len(batch["id"]) for batch in Shards(reader).loader(3, shuffle=True)) == 10
    assert sorted(read) == [0, 1, 2]


def test_collate_pads_latents_on_the_right_and_masks_them(shards: Shards) -> None:
    data = shards.torch_dataset()
    batch = TorchRows.collate([data[index] for index in range(len(data))])
    counts = [len(row.latents_KD) for row in shards]
    assert len(set(counts)) > 1
    assert batch["latents_BKD"].shape == (10, max(counts), 4)
    assert batch["latents_BKD"].dtype == torch.float32
    assert batch["mask_BK"].dtype == torch.bool
    assert batch["mask_BK"].sum(dim=1).tolist() == counts
    assert not batch["latents_BKD"][~batch["mask_BK"]].any()
    kept = torch.from_numpy(np.concatenate([row.latents_KD for row in shards]).astype(np.float32))
    torch.testing.assert_close(batch["latents_BKD"][batch["mask_BK"]], kept, rtol=0, atol=0)
    assert [batch[name] for name in ("id", "question", "cot", "answer")] == [
        [getattr(row, name) for row in shards] for name in ("id", "question", "cot", "answer")
    ]


def test_a_loader_gives_every_row_in_order_or_in_another_order_each_pass(shards: Shards) -> None:
    ids = [row.id for row in shards]
    plain = shards.loader(4)
    assert [len(batch["id"]) for batch in plain] == [4, 4, 2]
    assert [name for batch in plain for name in batch["id"]] == ids
    mixed = shards.loader(4, shuffle=True, seed=1)
    passes = [[name for batch in mixed for name in batch["id"]] for _ in range(2)]
    assert all(sorted(each) == ids for each in passes)
    assert passes[0] != passes[1]
    again = shards.loader(4, shuffle=True, seed=1)
    assert [name for batch in again for name in batch["id"]] == passes[0]


def test_options_of_a_data_loader_go_through(shards: Shards) -> None:
    assert [len(batch["id"]) for batch in shards.loader(4, drop_last=True)] == [4, 4]
    loader = DataLoader(shards.torch_dataset(), batch_size=5, collate_fn=TorchRows.collate, num_workers=1)
    assert [name for batch in loader for name in batch["id"]] == [row.id for row in shards]


def test_shards_can_be_sent_to_another_process(shards: Shards) -> None:
    assert shards[3].id == pickle.loads(pickle.dumps(shards))[3].id


def test_eight_bit_latents_come_as_they_are_trained_on(toy_strips: Path, tmp_path: Path) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), tmp_path / "bytes", settings=storing(store="int8"))
    found = Shards(EmbeddingShards(tmp_path / "bytes"))
    assert found[0].latents_KD.dtype == np.float32
    assert found.table().schema.field("embedding").type.value_type.value_type == pa.int8()


def test_datasets_gives_eight_bit_latents_as_floats_if_asked_so(toy_strips: Path, tmp_path: Path) -> None:
    import datasets

    pipeline.embed(toy_strips, StandInEncoder(), tmp_path / "bytes", settings=storing(store="int8"))
    files = sorted(map(str, (tmp_path / "bytes").glob("*.parquet")))
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.with_format("torch")[0]["embedding"].dtype == torch.int64  # by itself: the scales are apart
    rows = rows.with_format("torch", columns=["embedding", "scale"], dtype=torch.float32)
    for row, ours in zip(rows, Shards(EmbeddingShards(tmp_path / "bytes")), strict=True):
        latents_KD = row["embedding"] * row["scale"][:, None]
        torch.testing.assert_close(latents_KD, torch.from_numpy(ours.latents_KD.copy()), rtol=0, atol=0)
