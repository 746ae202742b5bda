"""Picture feedback, from strips to answers, on the embedded model."""

from pathlib import Path

import numpy as np
import pytest
import torch

import rotdata
import rottrain
from rotdata.encoders import load_encoder
from rotdata.errors import CheckpointError, ShardMismatch, UsageError
from rotdata.rendering.strips import StripStyle, renderer
from rotdata.shards import EmbeddingShards
from rottrain.export import export

ROWS = [
    {"question": f"What is {a} and {b}?", "cot": f"<<{a}+{b}={a + b}>> <<{a + b}*1={a + b}>>", "answer": str(a + b)}
    for a in range(4, 8)
    for b in range(4, 12)
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose latents are pictures of their own."""
    folder = tmp_path_factory.mktemp("alone")
    rotdata.render_corpus(ROWS, out=folder / "strips", style=StripStyle(cells=6, align_steps=True))
    rotdata.embed(folder / "strips", folder / "shards", model="tiny", dtype="float32", context="latent")
    return folder


@pytest.fixture(scope="module")
def checkpoint(alone: Path) -> Path:
    """Trained for a few steps with picture feedback."""
    rottrain.stage1(
        shards=alone / "shards", model="tiny", out=alone / "s1", recipe="picture", max_steps=12, lr=1e-3, batch_size=8
    )
    return alone / "s1"


def test_each_latent_is_what_the_tower_makes_of_its_own_picture(alone: Path) -> None:
    shards = EmbeddingShards(alone / "shards")
    assert shards.manifest.settings["context"] == "latent"
    rows = shards.read_group(0)
    encoder = load_encoder("tiny", dtype="float32")
    for row in (0, 9):
        strip = renderer(StripStyle(cells=6, align_steps=True)).render(rows.cots[row])
        pictures = np.split(strip.pixels, strip.num_latents, axis=1)
        anew = np.concatenate([encoder.encode([picture])[0] for picture in pictures])
        stored = rows.embedding_LD[rows.offsets[row] : rows.offsets[row + 1]]
        np.testing.assert_allclose(stored, anew, atol=2e-2)


def test_strips_whose_glyphs_straddle_latents_are_refused(tmp_path: Path) -> None:
    rotdata.render_corpus(ROWS, out=tmp_path / "strips", style=StripStyle())
    with pytest.raises(UsageError, match="straddle latents"):
        rotdata.embed(tmp_path / "strips", tmp_path / "shards", model="tiny", context="latent")


def test_latents_of_their_own_are_not_pooled(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither"):
        rotdata.embed(alone / "strips", tmp_path / "shards", model="tiny", context="latent", pool=2)


def test_latents_of_whole_strips_are_refused_for_picture_feedback(alone: Path, tmp_path: Path) -> None:
    rotdata.embed(alone / "strips", tmp_path / "shards", model="tiny")
    with pytest.raises(ShardMismatch, match="--context latent"):
        rottrain.stage1(shards=tmp_path / "shards", model="tiny", out=tmp_path / "s1", recipe="picture", max_steps=1)


def test_what_is_fed_back_is_the_picture_of_what_was_read(checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(checkpoint)
    [made] = rot.generate([ROWS[3]["question"]], budget=8)
    assert made.thought is not None
    assert made.latents_KD is not None
    assert len(made.thought.texts) == made.reasoning_tokens == len(made.latents_KD)
    for text, fed_D in zip(made.thought.texts, made.latents_KD, strict=True):
        strip = renderer(StripStyle(cells=6)).render(text)
        [drawn_1D] = load_encoder("tiny", dtype="float32").encode([strip.pixels[:, :32]])
        torch.testing.assert_close(fed_D, torch.from_numpy(drawn_1D[0]), atol=2e-2, rtol=0)


def test_thoughts_are_the_same_alone_and_in_a_batch_and_sampling_differs_by_seed(checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(checkpoint, precision="float32")
    questions = [row["question"] for row in ROWS[:6]]
    together = rot.generate(questions, budget=6, batch_size=6)
    alone = rot.generate(questions, budget=6, batch_size=1)
    assert [each.thought.text for each in together if each.thought] == [
        each.thought.text for each in alone if each.thought
    ]
    sampled = [rot.generate(questions, budget=6, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([each.thought.text for each in made if each.thought] for made in sampled)
    assert first == again != other


def test_a_checkpoint_without_a_book_says_what_picture_feedback_needs(alone: Path, tmp_path: Path) -> None:
    rottrain.stage1(shards=alone / "shards", model="tiny", out=tmp_path / "s1", max_steps=1, budget=6)
    with pytest.raises(CheckpointError, match="--context latent"):
        rottrain.RoT.from_pretrained(tmp_path / "s1").generate(["?"], feedback="picture")


def test_an_export_that_could_not_feed_pictures_back_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pictures"):
        export(checkpoint, tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
