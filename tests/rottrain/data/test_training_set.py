"""What a run learns from: budgets, held-out rows, statistics, the probe."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rotdata
from rotdata.errors import UsageError
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.runs.embedding import EmbedSettings
from rotdata.shards import EmbeddingShards
from rottrain.config import Stage1Config
from rottrain.data.batches import Example, Shape, ShardRows
from rottrain.data.rows import Selection
from rottrain.data.training_set import Supply, blank_latent, book_of
from rottrain.model.backbone import Backbone
from rottrain.model.glyph_probe import NOTHING, OTHER, Alphabet
from rottrain.model.head import ProjectionHead
from tests.helpers import StandInEncoder
from tests.rottrain.samples import as_batch


def supply(embedded: Path, backbone: Backbone, **recipe: Any) -> Supply:
    return Supply.of([Selection.of(EmbeddingShards(embedded))], backbone, Stage1Config.paper(**recipe))


def row(latents: int) -> Example:
    values = np.arange(latents * 2, dtype=np.float32).reshape(latents, 2)
    return Example(id="row", prompt_ids=[1], targets_KD=values, answer_ids=[2])


def test_short_rows_are_padded_with_blanks_and_long_ones_cut() -> None:
    shape = Shape(budget=3, fit="pad", blank_D=np.array([-1, -2], dtype=np.float32), alphabet=Alphabet("abcd", 1))
    short = shape.example(row(2), "ab", [0, 1, 2])
    assert short.targets_KD.tolist() == [[0, 1], [2, 3], [-1, -2]]
    assert short.said == 2
    assert short.glyphs_KS is not None
    assert short.glyphs_KS.tolist() == [[2], [3], [NOTHING]]
    long = shape.example(row(4), "abcd", [0, 1, 2, 3, 4])
    assert long.targets_KD.tolist() == row(4).targets_KD[:3].tolist()
    assert long.said == 3


def test_long_rows_are_resampled_and_short_ones_left() -> None:
    shape = Shape(budget=2, fit="resample", alphabet=Alphabet("abcd", 2))
    found = shape.example(row(4), "abcd", [0, 1, 2, 3, 4])
    assert found.targets_KD.tolist() == [[1, 2], [5, 6]]
    assert found.glyphs_KS is not None
    assert found.glyphs_KS.tolist() == [[2, 3], [4, 5]]
    assert shape.example(row(1), "a", [0, 1]).targets_KD.tolist() == [[0, 1]]


def test_a_batch_says_where_each_row_ends(embedded: Path, backbone: Backbone) -> None:
    rows = supply(embedded, backbone, budget=5, glyph_weight=1.0).rows
    plain = ShardRows([Selection.of(EmbeddingShards(embedded))], backbone)
    batch = as_batch(backbone, [rows[index] for index in range(10)])
    own = [min(5, len(plain[index].targets_KD)) for index in range(10)]
    assert batch["targets_BKD"].shape[:2] == (10, 5)
    assert batch["targets_mask_BK"].all()
    assert batch["last_B"].tolist() == [count - 1 for count in own]
    assert (batch["glyphs_BKS"][own.index(1), 1:] == NOTHING).all()
    blank = torch.from_numpy(blank_latent(backbone.folder))
    torch.testing.assert_close(batch["targets_BKD"][own.index(1), 4], blank, atol=2e-3, rtol=2e-3)


def test_held_out_rows_are_the_last_and_not_trained_on(embedded: Path, backbone: Backbone) -> None:
    found = supply(embedded, backbone, validation_rows=3)
    every = ShardRows([Selection.of(EmbeddingShards(embedded))], backbone)
    assert [example.id for example in found.held_out] == [every[index].id for index in (7, 8, 9)]
    assert len(found.rows) == 7
    with pytest.raises(UsageError, match="leave none to train on"):
        supply(embedded, backbone, validation_rows=10)


def test_the_alphabet_and_the_book_are_of_training_rows_alone(backbone: Backbone, tmp_path: Path) -> None:
    cots = ["1+1=2", "1+2=3 1+1=2", "2+2=4", "1+1=2 9~9=0"]
    rows = [{"question": f"{cot}?", "cot": cot, "answer": cot[-1]} for cot in cots]
    rotdata.render_corpus(rows, out=tmp_path / "strips", style=StripStyle(cells=6))
    pipeline.embed(tmp_path / "strips", StandInEncoder(), tmp_path / "shards", settings=EmbedSettings(context="latent"))
    whole = Selection.of(EmbeddingShards(tmp_path / "shards"))
    recipe = Stage1Config.paper(validation_rows=1, glyph_weight=1.0)
    found = Supply.of([whole], backbone, recipe)
    assert found.alphabet is not None
    assert found.alphabet.characters == " +1234="
    [held_out] = found.held_out
    assert held_out.glyphs_KS is not None
    assert [OTHER in classes for classes in held_out.glyphs_KS.tolist()] == [False, True]
    shape = dataclasses.replace(found.shape, blank_D=np.zeros(4, np.float32))
    book, nameless = book_of(found.selections, shape)
    assert len(book) == 1 + len({"1+1=2", "1+2=3 ", "2+2=4"})
    assert (nameless.latents, nameless.of) == (0, 4)
    _, nameless = book_of([whole], shape)
    assert (nameless.latents, set(nameless.lacking)) == (1, {"9", "~", "0"})


@pytest.mark.parametrize("per_dimension", [True, False])
def test_scaled_targets_have_mean_zero_and_deviation_one(
    embedded: Path, backbone: Backbone, head: ProjectionHead, per_dimension: bool
) -> None:
    found = supply(embedded, backbone)
    head.set_scale(*found.scale(per_dimension=per_dimension))
    latents = torch.cat([torch.from_numpy(found.rows[index].targets_KD.astype(np.float32)) for index in range(10)])
    scaled = head.scaled(latents)
    torch.testing.assert_close(scaled.mean(dim=0), torch.zeros(head.width_out), atol=1e-4, rtol=0)
    spread = scaled.std(dim=0) if per_dimension else scaled.std()
    torch.testing.assert_close(spread, torch.ones_like(spread), atol=0.05, rtol=0)


def test_without_a_use_there_is_no_probe(embedded: Path, backbone: Backbone, head: ProjectionHead) -> None:
    assert supply(embedded, backbone).probe(head) is None
    probe = supply(embedded, backbone, validation_rows=2).probe(head)
    assert probe is not None
    assert set("0123456789+=") <= set(probe.alphabet.characters) | set("0123456789")


@pytest.fixture(scope="module")
def of_many_letters(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Shards of 260 letters, each once and six to a latent, after a row of signs that are there often."""
    folder = tmp_path_factory.mktemp("letters")
    letters = "".join(map(chr, range(0x100, 0x100 + 260)))
    cots = ["3+4=7 " * 4, *(letters[start : start + 60] for start in range(0, 260, 60))]
    rows = [{"question": f"{number}?", "cot": cot, "answer": "1"} for number, cot in enumerate(cots)]
    rotdata.render_corpus(rows, out=folder / "strips", style=rotdata.StripStyle(cells=6))
    rotdata.embed(folder / "strips", folder / "shards", model=str(tiny_folder), dtype="float32", context="latent")
    return folder / "shards"


def test_latents_of_characters_that_the_alphabet_lacks_are_counted_and_in_no_book(
    of_many_letters: Path, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Stage1Config(feedback="picture", rollout="teacher", input_noise=0.0)
    learnt = Supply.of([Selection.of(EmbeddingShards(of_many_letters))], backbone, recipe)
    assert learnt.alphabet is not None
    capsys.readouterr()
    book = learnt.book()
    said = capsys.readouterr().err
    assert book is not None
    assert len(learnt.alphabet.characters) == 254  # 6 signs and all letters but the last 12, which three latents show
    assert said.startswith("3 of 48 latents (6.2%) can't be named and are fed back as they are predicted: ")
    assert said.rstrip().endswith(f"are without {', '.join(map(ascii, map(chr, range(0x1F8, 0x200))))} and 4 others")
    assert len(book) == 1 + 1 + 44 - 3  # the blank page, the first row's, letters
    assert learnt.book(quiet=True) is not None
    assert capsys.readouterr().err == ""
