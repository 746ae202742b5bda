"""Rows of shards by number, their order, and how they are padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rotdata import pipeline
from rotdata.corpora import Source
from rotdata.errors import UsageError
from rotdata.shards import EmbeddedRows, EmbeddingShards
from rotdata.strips import StripStyle
from rottrain.backbone import Backbone
from rottrain.batches import Collator, Example, GroupShuffle, ShardRows, pad_ids
from tests.helpers import StandInEncoder, write_jsonl


@pytest.fixture
def rows(toy_embeddings: Path, backbone: Backbone) -> ShardRows:
    return ShardRows(EmbeddingShards(toy_embeddings), backbone)


@pytest.fixture
def many_groups(tmp_path: Path) -> EmbeddingShards:
    """Eight shards, and so eight row groups, of one row each."""
    pipeline.render(Source(location="toy", corpus="toy", limit=8), StripStyle(), tmp_path / "strips", rows_per_shard=1)
    pipeline.embed(tmp_path / "strips", StandInEncoder(), tmp_path / "embedded")
    return EmbeddingShards(tmp_path / "embedded")


@pytest.fixture
def read_groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The row groups read from disk while the test runs, in order."""
    groups: list[int] = []
    read_group = EmbeddingShards.read_group

    def note(shards: EmbeddingShards, index: int) -> EmbeddedRows:
        groups.append(index)
        return read_group(shards, index)

    monkeypatch.setattr(EmbeddingShards, "read_group", note)
    return groups


# Rows.


def test_rows_come_by_number_in_the_order_of_the_shards(rows: ShardRows, toy_embeddings: Path) -> None:
    expected = [row_id for group in EmbeddingShards(toy_embeddings) for row_id in group.ids]
    assert [rows[index].id for index in range(len(rows))] == expected
    assert len(rows) == 10


def test_a_row_is_its_prompt_its_latents_and_its_answer(
    rows: ShardRows, toy_embeddings: Path, backbone: Backbone
) -> None:
    group = EmbeddingShards(toy_embeddings).read_group(1)
    example = rows[5]
    assert example.prompt_ids == backbone.prompt_ids(group.questions[1])
    assert example.answer_ids == backbone.answer_ids(group.answers[1])
    assert np.array_equal(example.targets_KD, group.embedding_LD[group.offsets[1] : group.offsets[2]])


@pytest.mark.parametrize(("limit", "sizes"), [(None, [4, 4, 2]), (4, [4]), (5, [4, 1]), (99, [4, 4, 2])])
def test_a_limit_keeps_the_first_rows(
    toy_embeddings: Path, backbone: Backbone, limit: int | None, sizes: list[int]
) -> None:
    some = ShardRows(EmbeddingShards(toy_embeddings), backbone, limit=limit)
    assert some.group_sizes == sizes
    assert len(some) == sum(sizes)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(toy_embeddings: Path, backbone: Backbone, limit: int) -> None:
    with pytest.raises(UsageError, match=f"--limit counts rows to train on and is at least 1, got {limit}"):
        ShardRows(EmbeddingShards(toy_embeddings), backbone, limit=limit)


def test_shards_without_rows_are_no_rows(tmp_path: Path, backbone: Backbone) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [{"question": "q", "cot": "m" * 500, "answer": "7"}])
    source = Source(location=str(file), corpus="generic")
    pipeline.render(source, StripStyle(), tmp_path / "strips", max_latents=3)
    pipeline.embed(tmp_path / "strips", StandInEncoder(), tmp_path / "embedded")
    assert len(ShardRows(EmbeddingShards(tmp_path / "embedded"), backbone)) == 0


def test_a_row_group_is_read_once_while_it_is_in_use(rows: ShardRows, read_groups: list[int]) -> None:
    for index in (0, 5, 1, 6, 9, 2):
        assert rows[index]
    assert read_groups == [0, 1, 2]


def test_few_row_groups_stay_in_memory_and_the_least_recently_used_leaves(
    many_groups: EmbeddingShards, backbone: Backbone, read_groups: list[int]
) -> None:
    rows = ShardRows(many_groups, backbone)
    for index in (0, 1, 2, 3, 4, 0, 5, 0, 1):
        assert rows[index]
        assert len(rows._cache) <= 5
    assert read_groups == [0, 1, 2, 3, 4, 5, 1]


def test_an_epoch_reads_every_row_group_once(
    many_groups: EmbeddingShards, backbone: Backbone, read_groups: list[int]
) -> None:
    rows = ShardRows(many_groups, backbone)
    for index in GroupShuffle(rows.group_sizes, seed=0):
        assert rows[index]
    assert sorted(read_groups) == list(range(8))


# Order.


@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=12), seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_every_row_comes_once_an_epoch(sizes: list[int], seed: int, epoch: int) -> None:
    order = GroupShuffle(sizes, seed=seed)
    order.set_epoch(epoch)
    assert sorted(order) == list(range(sum(sizes)))
    assert len(order) == sum(sizes)


def shuffled(seed: int, epoch: int) -> list[int]:
    order = GroupShuffle([4, 4, 2, 5, 1, 6], seed=seed)
    order.set_epoch(epoch)
    return list(order)


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    assert shuffled(1, 2) == shuffled(1, 2)
    assert len({tuple(shuffled(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_rows_mix_within_a_few_row_groups_only() -> None:
    order = list(GroupShuffle([10] * 8, seed=0))
    halves = [{index // 10 for index in half} for half in (order[:40], order[40:])]
    assert [len(half) for half in halves] == [4, 4]
    assert halves[0].isdisjoint(halves[1])
    assert len({index // 10 for index in order[:8]}) > 1


# Padding.


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("left", [[1, 2, 3], [0, 0, 4]], [[True, True, True], [False, False, True]]),
        ("right", [[1, 2, 3], [4, 0, 0]], [[True, True, True], [True, False, False]]),
    ],
)
def test_ids_are_padded_on_the_side_asked_for(side: str, ids: list[list[int]], mask: list[list[bool]]) -> None:
    padded, where = pad_ids([[1, 2, 3], [4]], 0, side=side)
    assert (padded.tolist(), where.tolist()) == (ids, mask)


def test_a_batch_pads_prompts_on_the_left_and_the_rest_on_the_right() -> None:
    examples = [
        Example("a", [5, 6, 7], np.full((1, 2), 0.5, np.float16), [8]),
        Example("b", [5], np.full((3, 2), 0.25, np.float16), [8, 9]),
    ]
    batch = Collator(pad_id=0)(examples)
    assert batch["prompt_ids_BP"].tolist() == [[5, 6, 7], [0, 0, 5]]
    assert batch["prompt_mask_BP"].tolist() == [[True, True, True], [False, False, True]]
    assert batch["targets_BKD"].dtype == torch.float32
    assert batch["targets_BKD"][0].tolist() == [[0.5, 0.5], [0, 0], [0, 0]]
    assert batch["targets_mask_BK"].tolist() == [[True, False, False], [True, True, True]]
    assert batch["answer_ids_BA"].tolist() == [[8, 0], [8, 9]]
    assert batch["answer_mask_BA"].tolist() == [[True, False], [True, True]]
