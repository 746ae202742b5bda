"""The nearest pictures: found exactly, in whatever blocks, with their characters and columns of the strip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rotdata.corpora import Source
from rotdata.errors import UsageError
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import pipeline
from rotdata.shards import EmbeddedRows, EmbeddingShards
from rottrain.analysis import nearest
from rottrain.analysis.nearest import LatentIndex, Neighbour
from tests.helpers import StandInEncoder, storing


@pytest.fixture(scope="module")
def shards(embedded: Path) -> EmbeddingShards:
    return EmbeddingShards(embedded)


@pytest.fixture(scope="module")
def rows(shards: EmbeddingShards) -> list[EmbeddedRows]:
    return list(shards)


@pytest.fixture
def index(shards: EmbeddingShards) -> LatentIndex:
    return LatentIndex(shards)


def latents_of(group: EmbeddedRows, row: int) -> Tensor:
    return torch.from_numpy(group.embedding_LD[group.offsets[row] : group.offsets[row + 1]].astype(np.float32))


def everything(rows: list[EmbeddedRows]) -> list[tuple[str, int, Tensor]]:
    """Id, position and embedding of every latent."""
    return [
        (group.ids[row], position, latent)
        for group in rows
        for row in range(len(group))
        for position, latent in enumerate(latents_of(group, row))
    ]


def test_the_nearest_of_an_indexed_latent_is_itself_with_its_characters(
    index: LatentIndex, rows: list[EmbeddedRows]
) -> None:
    thoughts = [latents_of(group, row) for group in rows for row in range(len(group))]
    named = [(group.ids[row], group.cots[row]) for group in rows for row in range(len(group))]
    for found, (row_id, cot) in zip(index.nearest(thoughts), named, strict=True):
        assert [(near.id, near.position) for [near] in found] == [(row_id, k) for k in range(len(found))]
        assert "".join(near.characters for [near] in found) == cot
        assert all(near.cosine == pytest.approx(1, abs=1e-4) for [near] in found)
    assert index.latents == sum(map(len, thoughts))


@pytest.mark.parametrize("block", [3, 4096])
def test_neighbours_are_those_of_one_sorted_product(
    index: LatentIndex, rows: list[EmbeddedRows], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, "_BLOCK", block)
    asked = [torch.randn(2, 192), torch.randn(1, 192)]
    every = everything(rows)
    mean = torch.cat([latents_of(rows[0], row) for row in range(len(rows[0]))]).mean(dim=0)
    cosines = torch.stack(
        [
            torch.nn.functional.cosine_similarity(latent - mean, torch.cat(asked) - mean, dim=1)
            for _, _, latent in every
        ],
        dim=1,
    )
    found = [near for thought in index.nearest(asked, count=4) for near in thought]
    for neighbours, expected in zip(found, cosines, strict=True):
        order = expected.argsort(descending=True)[:4].tolist()
        assert [(near.id, near.position) for near in neighbours] == [every[number][:2] for number in order]
        assert_close([near.cosine for near in neighbours], expected[order].tolist(), atol=1e-5, rtol=1e-5)


def test_a_row_is_not_found_among_its_own_latents(index: LatentIndex, rows: list[EmbeddedRows]) -> None:
    both = [latents_of(rows[0], row) for row in (2, 3)]
    found = index.nearest(both, count=3, without=[rows[0].cots[2], rows[0].cots[3]])
    for neighbours, own in zip(found, (2, 3), strict=True):
        assert all(near.id != rows[0].ids[own] for each in neighbours for near in each)
    assert any(near.id == rows[0].ids[3] for each in found[0] for near in each)  # barred for the other row alone


def test_equal_chains_of_thought_are_indexed_once_wherever_they_stand(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    cots = ["1+1=2", "2+2=4", "1+1=2", "3+3=6", "2+2=4", "1+1=2"]
    source.write_text(
        "id,question,cot,answer\n" + "".join(f"row {n},q,{cot},{cot[-1]}\n" for n, cot in enumerate(cots))
    )
    pipeline.render(Source(location=str(source), corpus="generic"), StripStyle(), tmp_path / "s", rows_per_shard=4)
    pipeline.embed(tmp_path / "s", StandInEncoder(), tmp_path / "e")
    index = LatentIndex(EmbeddingShards(tmp_path / "e"))
    [found] = index.nearest([torch.ones(1, 4)], count=50)
    assert {near.id for near in found[0]} == {"row 0", "row 1", "row 3"}
    assert len(found[0]) == index.latents  # fewer than were asked for
    LatentIndex(EmbeddingShards(tmp_path / "e"), limit=5).nearest([torch.ones(1, 4)])


def test_an_index_goes_up_to_its_limit(shards: EmbeddingShards, rows: list[EmbeddedRows]) -> None:
    some = LatentIndex(shards, limit=5)
    [found] = some.nearest([torch.randn(1, 192)], count=99)
    assert {near.id for near in found[0]} == {*rows[0].ids, rows[1].ids[0]}
    with pytest.raises(UsageError, match="at least 1 row, got 0"):
        LatentIndex(shards, limit=0)


def test_likeness_is_measured_from_the_mean_and_whatever_the_length(
    index: LatentIndex, rows: list[EmbeddedRows]
) -> None:
    latent = latents_of(rows[0], 3)[1:2]
    stretched, opposite = (index.mean + factor * (latent - index.mean) for factor in (5, -1))
    [[[straight]], [[other]]] = index.nearest([stretched, opposite])
    assert (straight.id, straight.position) == (rows[0].ids[3], 1)
    assert (other.id, other.position) != (rows[0].ids[3], 1)


def test_pictures_are_columns_of_the_strips_themselves(index: LatentIndex, rows: list[EmbeddedRows]) -> None:
    cot = rows[0].cots[3]
    pixels = render(cot, StripStyle()).pixels
    tiles = [index.picture(Neighbour("", cot, position, "")) for position in range(pixels.shape[1] // 32)]
    assert np.array_equal(np.concatenate(tiles, axis=1), pixels)
    assert np.array_equal(index.strip(cot, 99), pixels)
    assert np.array_equal(index.strip(cot, 1), pixels[:, :32])


def test_context_is_spread_over_the_first_rows(index: LatentIndex, rows: list[EmbeddedRows]) -> None:
    every = index.context()
    assert len(every) == rows[0].offsets[-1]
    assert_close(index.context(3)[:2], every[[0, len(every) // 3]])


def test_latents_without_columns_are_not_indexed(toy_strips: Path, tmp_path: Path) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), tmp_path / "pooled", settings=storing(pool=2))
    with pytest.raises(UsageError, match="no picture stands for one"):
        LatentIndex(EmbeddingShards(tmp_path / "pooled"))
