"""Rows of shards by number: selections, what is read and kept, and the order of an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from rotdata.corpora import Source
from rotdata.errors import UsageError
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.shards import EmbeddingShards
from rottrain.data.rows import RowOrder, RowReader, Selection, hold_out, parse_weighted
from tests.helpers import StandInEncoder


@pytest.fixture(scope="module")
def many_groups(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingShards:
    """Eight shards, and so eight row groups, of one row each."""
    folder = tmp_path_factory.mktemp("groups")
    pipeline.render(Source(location="toy", corpus="toy", limit=8), StripStyle(), folder / "strips", rows_per_shard=1)
    pipeline.embed(folder / "strips", StandInEncoder(), folder / "embedded")
    return EmbeddingShards(folder / "embedded")


class Groups:
    """Stands for shards of which only the sizes of the row groups matter."""

    def __init__(self, *rows: int) -> None:
        self.group_rows = list(rows)


def selection(*rows: int, weight: float = 1.0) -> Selection:
    return Selection.of(Groups(*rows), weight=weight)  # type: ignore[arg-type]


def noting(groups: list[tuple[int, int]]) -> RowReader[str]:
    """A reader of two folders that notes what it reads: (rows of the folder, group)."""

    def read(shards: EmbeddingShards, group: int) -> str:
        groups.append((sum(shards.group_rows), group))
        return f"{sum(shards.group_rows)}-{group}"

    return RowReader([selection(4, 4, 2), selection(*[1] * 8)], read)


# Selections.


@pytest.mark.parametrize(("limit", "sizes"), [(None, [4, 4, 2]), (4, [4]), (5, [4, 1]), (99, [4, 4, 2])])
def test_a_limit_keeps_the_first_rows(toy_embeddings: Path, limit: int | None, sizes: list[int]) -> None:
    some = Selection.of(EmbeddingShards(toy_embeddings), limit=limit)
    assert some.group_sizes == sizes
    assert len(some) == sum(sizes)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(toy_embeddings: Path, limit: int) -> None:
    with pytest.raises(UsageError, match=f"--limit counts rows to train on and is at least 1, got {limit}"):
        Selection.of(EmbeddingShards(toy_embeddings), limit=limit)


def test_rows_held_out_are_the_last_of_each_folder_by_its_share() -> None:
    kept, held_out = hold_out([selection(4, 4, 2), selection(20)], 6)
    assert [list(each.rows) for each in held_out] == [[8, 9], [16, 17, 18, 19]]
    assert [each.group_sizes for each in kept] == [[4, 4], [16]]
    assert [each.group_sizes for each in held_out] == [[2], [4]]
    with pytest.raises(UsageError, match="--validation-rows 30 of 30 rows leave none to train on"):
        hold_out([selection(10), selection(20)], 30)


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [
        ("shards", "shards", 1.0),
        ("shards:0.3", "shards", 0.3),
        ("owner/name@main/config/split:2", "owner/name@main/config/split", 2.0),
        ("hf://datasets/owner/name", "hf://datasets/owner/name", 1.0),
        ("hf://datasets/owner/name:4", "hf://datasets/owner/name", 4.0),
        ("a:b", "a:b", 1.0),
    ],
)
def test_a_weight_follows_the_last_colon(text: str, name: str, weight: float) -> None:
    assert parse_weighted(text) == (name, weight)


def test_a_folder_whose_name_ends_like_a_weight_is_that_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run:2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_weighted("run:2") == ("run:2", 1.0)
    assert parse_weighted("run:2:3") == ("run:2", 3.0)


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="--shards a:0: a weight is how often an epoch takes these rows"):
        parse_weighted("a:0")


# What is read and kept.


def test_rows_of_all_folders_come_under_one_number_each() -> None:
    reader = noting([])
    assert len(reader) == 18
    assert [reader.find(index) for index in (0, 5, 9, 10, 17)] == [
        ("10-0", 0), ("10-1", 1), ("10-2", 1), ("8-0", 0), ("8-7", 0),
    ]  # fmt: skip


def test_selected_rows_keep_their_place_in_the_folder() -> None:
    _, held_out = hold_out([selection(4, 4, 2)], 3)
    reader = RowReader(held_out, lambda _, group: group)
    assert [reader.find(index) for index in range(3)] == [(1, 3), (2, 0), (2, 1)]


def test_a_row_group_is_read_once_while_it_is_in_use_and_few_stay_in_memory() -> None:
    groups: list[tuple[int, int]] = []
    reader = noting(groups)
    for index in (0, 5, 1, 6, 9, 2):
        reader.find(index)
    assert groups == [(10, 0), (10, 1), (10, 2)]
    groups.clear()
    for index in (10, 11, 12, 13, 14, 10, 15, 10, 11, 0):
        reader.find(index)
    assert groups == [(8, group) for group in (0, 1, 2, 3, 4, 5, 1)]


def test_an_epoch_reads_every_row_group_once(many_groups: EmbeddingShards) -> None:
    groups: list[int] = []
    one = Selection.of(many_groups)
    reader = RowReader([one], lambda _, group: groups.append(group))
    for index in RowOrder([one], seed=0):
        reader.find(index)
    assert sorted(groups) == list(range(8))


def test_texts_are_those_of_the_rows_and_embeddings_are_not_read(many_groups: EmbeddingShards) -> None:
    rows, texts = many_groups.read_group(3), many_groups.read_texts(3)
    assert (texts.ids, texts.questions, texts.cots, texts.answers) == (
        rows.ids, rows.questions, rows.cots, rows.answers,
    )  # fmt: skip
    assert texts.num_latents == np.diff(rows.offsets).tolist()


# Order.


def of_epoch(selections: Sequence[Selection], epoch: int, *, seed: int = 0) -> list[int]:
    order = RowOrder(selections, seed=seed)
    order.set_epoch(epoch)
    assert len(list(order)) == len(order)
    return list(order)


@given(
    folders=st.lists(st.lists(st.integers(1, 7), min_size=1, max_size=6), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 9),
)
def test_every_row_comes_once_an_epoch(folders: list[list[int]], seed: int, epoch: int) -> None:
    order = of_epoch([selection(*sizes) for sizes in folders], epoch, seed=seed)
    assert sorted(order) == list(range(sum(map(sum, folders))))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    two = [selection(4, 4, 2, 5, 1, 6), selection(3)]
    assert of_epoch(two, 2, seed=1) == of_epoch(two, 2, seed=1)
    assert len({tuple(of_epoch(two, epoch, seed=seed)) for seed in range(3) for epoch in range(3)}) == 9


def test_rows_mix_within_a_few_row_groups_only() -> None:
    order = of_epoch([selection(*[10] * 8)], 0)
    halves = [{index // 10 for index in half} for half in (order[:40], order[40:])]
    assert [len(half) for half in halves] == [4, 4]
    assert halves[0].isdisjoint(halves[1])
    assert len({index // 10 for index in order[:8]}) > 1


def test_a_weight_is_how_often_a_row_comes_in_an_epoch_on_average() -> None:
    mixed = [selection(10), selection(4, weight=2.5), selection(20, weight=0.25)]
    seen = Counter(index for epoch in range(4) for index in of_epoch(mixed, epoch))
    assert {seen[index] for index in range(10)} == {4}
    assert {seen[index] for index in range(10, 14)} == {10}
    assert {seen[index] for index in range(14, 34)} == {1}


def test_folders_are_mixed_all_through_an_epoch() -> None:
    order = np.array(of_epoch([selection(900), selection(100)], 0))
    shares = (order.reshape(5, 200) >= 900).mean(axis=1)
    assert shares.min() > 0.03
    assert shares.max() < 0.2


@given(rows=st.integers(1, 300), step_rows=st.integers(1, 9), epoch=st.integers(0, 3))
def test_rows_of_similar_length_share_a_step(rows: int, step_rows: int, epoch: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 100, rows)
    order = RowOrder([selection(rows)], seed=0, lengths_N=lengths, step_rows=step_rows)
    order.set_epoch(epoch)
    found = np.array(list(order))
    assert sorted(found) == list(range(rows))
    window = 32 * step_rows
    for first in range(0, rows, window):
        steps = [lengths[found[at : at + step_rows]] for at in range(first, min(first + window, rows), step_rows)]
        ranges = sorted((step.min(), step.max()) for step in steps)
        assert all(left[1] <= right[0] for left, right in pairwise(ranges))


def test_steps_of_similar_rows_are_shuffled() -> None:
    order = RowOrder([selection(128)], seed=0, lengths_N=np.arange(128), step_rows=4)
    steps = np.array(list(order)).reshape(-1, 4)[:, 0]
    assert sorted(steps) == list(range(0, 128, 4))
    assert steps.tolist() != sorted(steps)


@pytest.mark.parametrize("by_length", [False, True])
def test_processes_take_equal_steps_of_rows_that_no_other_takes(by_length: bool) -> None:
    lengths = np.arange(24) % 7 if by_length else None
    order = RowOrder([selection(15), selection(9)], seed=0, lengths_N=lengths, step_rows=4)
    alone = [set(batch) for batch in BatchSampler(order, batch_size=4, drop_last=False)]
    ranks = [
        list(BatchSamplerShard(BatchSampler(order, batch_size=2, drop_last=False), num_processes=2, process_index=rank))
        for rank in range(2)
    ]
    together = [set(left) | set(right) for left, right in zip(*ranks, strict=True)]
    assert together == alone
    assert sorted(row for step in together for row in step) == list(range(24))
