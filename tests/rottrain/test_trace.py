"""What a latent shows: the nearest of the rendered ones, its characters and its columns of the strip."""

from __future__ import annotations

import base64
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from rotdata import pipeline
from rotdata.corpora import Row
from rotdata.errors import UsageError
from rotdata.png import decode_png
from rotdata.shards import EmbeddedRows, EmbeddingShards
from rotdata.strips import StripStyle, render
from rottrain.evaluate import Judged
from rottrain.generate import Generation
from rottrain.trace import LatentIndex, Nearest, Trace, data_uri, latent_texts, trace
from tests.helpers import StandInEncoder, storing

STYLE = StripStyle()


@pytest.fixture
def rows(embedded: Path) -> EmbeddedRows:
    return EmbeddingShards(embedded).read_group(0)


@pytest.fixture
def index(embedded: Path) -> LatentIndex:
    return LatentIndex.load(embedded)


def latents_of(rows: EmbeddedRows, row: int) -> torch.Tensor:
    return torch.from_numpy(rows.embedding_LD[rows.offsets[row] : rows.offsets[row + 1]].astype(np.float32))


def decoded(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/png;base64"
    return decode_png(base64.b64decode(content))


def judged(rows: EmbeddedRows, latents: torch.Tensor | None) -> Judged:
    row = Row(rows.ids[3], rows.questions[3], rows.cots[3], rows.answers[3])
    made = Generation(question=row.question, reply="#### 3", reasoning_tokens=2, seconds=0.1, latents_KD=latents)
    return Judged(row=row, generation=made, answer="3", correct=True)


def test_the_nearest_of_an_indexed_latent_is_itself_with_its_characters(index: LatentIndex, rows: EmbeddedRows) -> None:
    for row, cot in enumerate(rows.cots):
        found = index.nearest(latents_of(rows, row))
        assert [(near.row, near.position) for near in found] == [(row, k) for k in range(len(found))]
        assert "".join(near.characters for near in found) == cot
        assert [near.characters for near in found] == latent_texts(cot, render(cot, STYLE))
        assert all(near.similarity == pytest.approx(1, abs=1e-4) for near in found)


def test_likeness_is_measured_from_the_mean_and_whatever_the_length(index: LatentIndex, rows: EmbeddedRows) -> None:
    mean = torch.from_numpy(rows.embedding_LD.astype(np.float32)).mean(dim=0)
    latent = latents_of(rows, 3)[1:2]
    [straight] = index.nearest(latent)
    [stretched] = index.nearest(mean + 5 * (latent - mean))
    assert (stretched.row, stretched.position) == (straight.row, straight.position) == (3, 1)
    [opposite] = index.nearest(2 * mean - latent)
    assert (opposite.row, opposite.position) != (3, 1)


def test_a_picture_holds_the_columns_of_the_strips_themselves(index: LatentIndex, rows: EmbeddedRows) -> None:
    whole = index.picture(index.nearest(latents_of(rows, 3)))
    assert np.array_equal(whole, render(rows.cots[3], STYLE).pixels)
    pair = [Nearest(row=r, position=k, characters="", similarity=1) for r, k in ((3, 1), (2, 0))]
    columns = [render(rows.cots[r], STYLE).pixels[:, 32 * k : 32 * (k + 1)] for r, k in ((3, 1), (2, 0))]
    assert np.array_equal(index.picture(pair), np.concatenate(columns, axis=1))


def test_an_index_is_the_first_row_group_up_to_a_limit(embedded: Path, rows: EmbeddedRows) -> None:
    assert len(LatentIndex.load(embedded)) == rows.offsets[-1]
    some = LatentIndex.load(embedded, limit=2)
    assert len(some) == rows.offsets[2]
    assert {near.row for near in some.nearest(latents_of(rows, 3))} <= {0, 1}


def test_latents_without_spans_have_no_characters(rows: EmbeddedRows) -> None:
    bare = LatentIndex(dataclasses.replace(rows, spans=[None] * len(rows)), STYLE)
    assert [near.characters for near in bare.nearest(latents_of(rows, 3))] == [""] * len(latents_of(rows, 3))


def test_a_trace_shows_what_was_thought_beside_the_reference(index: LatentIndex, rows: EmbeddedRows) -> None:
    found = trace(judged(rows, latents_of(rows, 2)), index)
    assert isinstance(found, Trace)
    assert found.thought == rows.cots[2]
    assert np.array_equal(decoded(found.thought_png), render(rows.cots[2], STYLE).pixels)
    assert np.array_equal(decoded(found.reference_png), render(rows.cots[3], STYLE).pixels)


def test_only_latents_can_be_traced(index: LatentIndex, rows: EmbeddedRows) -> None:
    for entry in (judged(rows, None), dataclasses.replace(judged(rows, None), generation=None)):
        with pytest.raises(ValueError, match="only a row answered with latents can be traced"):
            trace(entry, index)


def test_a_data_uri_holds_the_pixels() -> None:
    pixels = render("3+4=7", STYLE).pixels
    assert np.array_equal(decoded(data_uri(pixels)), pixels)


def test_latents_without_columns_are_not_indexed(toy_strips: Path, tmp_path: Path) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), tmp_path / "pooled", settings=storing(pool=2))
    with pytest.raises(UsageError, match="no picture stands for one"):
        LatentIndex.load(tmp_path / "pooled")
