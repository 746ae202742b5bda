"""Rows of shards as training needs them, and how they are padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rotdata.rendering.strips import StripStyle, render
from rotdata.shards import EmbeddingShards
from rottrain.data.batches import Collator, Example, Shape, ShardRows, pad_ids
from rottrain.data.rows import Selection
from rottrain.model.backbone import Backbone
from rottrain.model.glyph_probe import NOTHING, OTHER, Alphabet


@pytest.fixture
def rows(toy_embeddings: Path, backbone: Backbone) -> ShardRows:
    return ShardRows([Selection.of(EmbeddingShards(toy_embeddings))], backbone)


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


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_latents_of_their_own_are_labelled_by_what_is_drawn(line_break: str) -> None:
    style = StripStyle(cells=6)
    text = f"1+1=2{line_break}3\u0301"
    shape = Shape(alphabet=Alphabet(" +123=", 6), style=style)
    labels_KS = shape.labels(text, render(text, style).spans)
    assert labels_KS is not None
    assert labels_KS.tolist() == [[4, 3, 4, 7, 5, 2], [OTHER, *[NOTHING] * 5]]


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
