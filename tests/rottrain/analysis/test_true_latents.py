"""True latents: out of shards or drawn and encoded anew, brought to a budget as training brought them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rotdata.corpora import Row
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.errors import ShardError, ShardMismatch, UsageError
from rotdata.runs import pipeline
from rotdata.shards import EmbeddingShards
from rottrain.analysis.true_latents import TrueLatents, check_shards, open_shards, some_latents
from rottrain.data.training_set import blank_latent
from rottrain.generation.generate import RoT
from tests.helpers import storing


@pytest.fixture(scope="module")
def rot(stage1_checkpoint: Path) -> RoT:
    return RoT.from_pretrained(stage1_checkpoint, precision="float32")


@pytest.fixture
def rows(embedded: Path) -> list[Row]:
    """All rows of the shards, one that they lack, and one without a chain of thought."""
    found = [
        Row(*fields)
        for group in EmbeddingShards(embedded)
        for fields in zip(group.ids, group.questions, group.cots, group.answers, strict=True)
    ]
    return [*found, Row("new", "3+3?", "3+3=6", "6"), Row("bare", "?", "", "0")]


def with_recipe(rot: RoT, **changes: object) -> RoT:
    run = rot.config.run | {"recipe": rot.config.run["recipe"] | changes}
    return RoT(rot.backbone, rot.head, replace(rot.config, run=run))


def test_latents_made_anew_are_those_of_the_shards(rot: RoT, rows: list[Row], embedded: Path) -> None:
    made = TrueLatents(rot).of(rows, 32)
    stored = TrueLatents(rot, EmbeddingShards(embedded)).of(rows, 32)
    assert [truth is None for truth in made] == [False] * 11 + [True]
    assert [truth is None for truth in stored] == [False] * 10 + [True] * 2
    for new, old, row in zip(made[:10], stored[:10], rows, strict=False):
        assert new is not None
        assert old is not None
        assert_close(new.latents_KD, old.latents_KD, atol=2e-3, rtol=2e-3)  # they are stored in 16 bits
        assert new.shown == old.shown
        assert new.text == row.cot


def test_a_budget_cuts_or_pads_as_the_training_did(rot: RoT, rows: list[Row]) -> None:
    [whole] = TrueLatents(rot).of(rows[9:10], 99)
    *cut, resampled = (
        TrueLatents(with_recipe(rot, budget=budget, fit=fit)).of(rows[9:10], 3)[0]
        for budget, fit in ((None, "pad"), (3, "pad"), (3, "truncate"), (3, "resample"))
    )
    assert len(whole.latents_KD) > 3
    for truth in cut:
        assert_close(truth.latents_KD, whole.latents_KD[:3])
        assert truth.shown == whole.shown[:3]
    assert (len(resampled.latents_KD), resampled.text) == (3, rows[9].cot)
    short = TrueLatents(with_recipe(rot, budget=4, fit="pad")).of(rows[:1], 4)[0]
    assert short is not None
    assert (short.said, short.shown) == (1, [rows[0].cot, "", "", ""])
    blank = torch.from_numpy(blank_latent(rot.backbone.folder))
    assert_close(short.latents_KD[1:], blank.expand(3, -1))


def test_shards_of_other_latents_are_refused(rot: RoT, short_strips: Path, tiny_folder: Path, tmp_path: Path) -> None:
    pipeline.embed(
        short_strips,
        load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu"),
        tmp_path,
        settings=storing(pool=2),
    )
    pooled = EmbeddingShards(tmp_path)
    with pytest.raises(ShardMismatch, match="of the same style, encoder and pooling"):
        TrueLatents(rot, pooled)
    learnt = RoT(rot.backbone, rot.head, replace(rot.config, encoding=pooled.manifest.encoding_fingerprint))
    check_shards(learnt.config, pooled)
    with pytest.raises(UsageError, match="give shards of this corpus with --shards"):
        TrueLatents(learnt).of([Row("a", "?", "1", "1")], 4)


def test_another_tower_makes_no_true_latents(rot: RoT) -> None:
    encoder = rot.config.encoder | {"tower_sha256": "0" * 64}
    other = replace(rot.config, encoder=encoder)
    manifest_of_it = RoT(rot.backbone, rot.head, other)
    with pytest.raises(UsageError, match="can't be made here"):  # its encoding is not of that tower either
        TrueLatents(manifest_of_it).of([Row("a", "?", "1", "1")], 4)


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="no _manifest"):
        open_shards(str(tmp_path))


def test_a_budget_of_none_has_no_latents_to_look_at(rot: RoT) -> None:
    assert some_latents(rot, 1) == 1
    assert some_latents(rot, None) == 32
    with pytest.raises(UsageError, match="give one of 1 or more"):
        some_latents(rot, 0)
