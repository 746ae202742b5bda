"""Picture feedback, from strips to answers, on the embedded model."""

from dataclasses import replace
from itertools import pairwise
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
from rottrain.evaluation.modes import thinker
from rottrain.model.glyph_probe import OTHER
from tests.rottrain.samples import SUMS


def test_each_latent_is_what_the_tower_makes_of_its_own_picture(picture_shards: Path) -> None:
    shards = EmbeddingShards(picture_shards)
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
    rotdata.render_corpus(SUMS, out=tmp_path / "strips", style=StripStyle())
    with pytest.raises(UsageError, match="straddle latents"):
        rotdata.embed(tmp_path / "strips", tmp_path / "shards", model="tiny", context="latent")


def test_latents_of_their_own_are_not_pooled(picture_strips: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither"):
        rotdata.embed(picture_strips, tmp_path / "shards", model="tiny", context="latent", pool=2)


def test_latents_of_whole_strips_are_refused_for_picture_feedback(picture_strips: Path, tmp_path: Path) -> None:
    rotdata.embed(picture_strips, tmp_path / "shards", model="tiny")
    with pytest.raises(ShardMismatch, match="--context latent"):
        rottrain.stage1(shards=tmp_path / "shards", model="tiny", out=tmp_path / "s1", recipe="picture", max_steps=1)


def test_what_is_fed_back_is_the_picture_of_what_was_read(picture_checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(picture_checkpoint)
    [made] = rot.generate([SUMS[3]["question"]], budget=8)
    assert made.thought is not None
    assert made.latents_KD is not None
    assert len(made.thought.texts) == made.reasoning_tokens == len(made.latents_KD)
    for text, fed_D in zip(made.thought.texts, made.latents_KD, strict=True):
        strip = renderer(StripStyle(cells=6)).render(text)
        [drawn_1D] = load_encoder("tiny", dtype="float32").encode([strip.pixels[:, :32]])
        torch.testing.assert_close(fed_D, torch.from_numpy(drawn_1D[0]), atol=2e-2, rtol=0)


def test_thoughts_are_the_same_alone_and_in_a_batch_and_sampling_differs_by_seed(picture_checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(picture_checkpoint, precision="float32")
    questions = [row["question"] for row in SUMS[:6]]
    together = rot.generate(questions, budget=6, batch_size=6)
    alone = rot.generate(questions, budget=6, batch_size=1)
    assert [each.thought.text for each in together if each.thought] == [
        each.thought.text for each in alone if each.thought
    ]
    sampled = [rot.generate(questions, budget=6, temperature=2.0, seed=seed) for seed in (0, 0, 1)]
    first, again, other = ([each.thought.text for each in made if each.thought] for made in sampled)
    assert first == again != other


def test_a_thought_that_has_ended_stays_ended_at_any_budget(picture_checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(picture_checkpoint, precision="float32")
    questions, length = [row["question"] for row in SUMS[::4]], 4
    longest = rot.generate(questions, budget=4 * length)
    ended = [number for number, made in enumerate(longest) if made.reasoning_tokens <= length]
    assert ended
    for budget in (length, length + 1, 2 * length, 3 * length):
        found = rot.generate(questions, budget=budget)
        for number in ended:
            first, last = found[number], longest[number]
            assert (first.reply, first.reasoning_tokens) == (last.reply, last.reasoning_tokens)
            assert first.thought is not None
            assert last.thought is not None
            assert first.thought.texts == last.thought.texts
            torch.testing.assert_close(first.latents_KD, last.latents_KD, atol=1e-5, rtol=1e-4)


def test_what_can_not_be_named_is_fed_back_as_it_was_predicted_and_counted(picture_checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(picture_checkpoint, precision="float32")
    assert rot.glyphs is not None
    with torch.no_grad():
        rot.glyphs.leave.bias.view(rot.glyphs.alphabet.slots, -1)[0, OTHER] = 1e3
    questions = [row["question"] for row in SUMS[:3]]
    for made, as_predicted in zip(
        rot.generate(questions, budget=5), rot.generate(questions, budget=5, feedback="latent"), strict=True
    ):
        assert made.thought is not None
        assert (made.thought.unnamed, made.thought.drawn) == (5, 0)
        assert made.thought.text == 5 * "\ufffd"
        torch.testing.assert_close(made.latents_KD, made.thought.predicted_KD)
        torch.testing.assert_close(made.latents_KD, as_predicted.latents_KD, atol=1e-5, rtol=1e-4)
        assert made.reply == as_predicted.reply


def test_without_a_book_every_picture_is_drawn_and_thoughts_are_the_same(picture_checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(picture_checkpoint)
    bookless = rottrain.RoT(rot.backbone, rot.head, replace(rot.config, feedback="latent"), rot.glyphs)
    questions = [row["question"] for row in SUMS[:4]]
    assert all(made.thought is None for made in bookless.generate(questions, budget=6))
    known, drawn = (each.generate(questions, budget=6, feedback="picture") for each in (rot, bookless))
    assert [made.thought.text for made in known if made.thought] == [
        made.thought.text for made in drawn if made.thought
    ]
    assert sum(made.thought.drawn for made in drawn if made.thought) > 0
    assert [made.reply for made in known] == [made.reply for made in drawn]


def test_latents_that_are_no_pictures_of_their_own_are_not_fed_back_as_such(stage1_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="whole strips: `rotdata embed --context latent`"):
        rottrain.RoT.from_pretrained(stage1_checkpoint).generate(["?"], feedback="picture")


def test_without_a_glyph_probe_nothing_can_be_read(picture_checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(picture_checkpoint)
    rot.glyphs = None
    with pytest.raises(CheckpointError, match="needs a glyph probe, and this checkpoint has none: train it with"):
        rot.generate(["?"])


def test_a_thought_of_two_lines_a_latent_is_read_drawn_and_fed_back(tmp_path: Path) -> None:
    style = StripStyle(cells=6, lines=2, align_steps=True)
    rotdata.render_corpus(SUMS, out=tmp_path / "strips", style=style)
    rotdata.embed(tmp_path / "strips", tmp_path / "shards", model="tiny", dtype="float32", context="latent")
    rottrain.stage1(
        shards=tmp_path / "shards", model="tiny", out=tmp_path / "s1", recipe="picture", max_steps=4, lr=1e-3,
        batch_size=8,
    )  # fmt: skip
    rot = rottrain.RoT.from_pretrained(tmp_path / "s1")
    assert rot.config.alphabet is not None
    assert rot.config.alphabet["slots"] == 12
    [made] = rot.generate([SUMS[3]["question"]], budget=2)
    assert made.thought is not None
    assert made.latents_KD is not None
    encoder, plain = load_encoder("tiny", dtype="float32"), renderer(StripStyle(cells=6, lines=2))
    for text, fed_D in zip(made.thought.texts, made.latents_KD, strict=True):
        assert len(text) <= 12
        [drawn_1D] = encoder.encode([plain.render(text).pixels[:, :32]])
        torch.testing.assert_close(fed_D, torch.from_numpy(drawn_1D[0]), atol=2e-2, rtol=0)
    rows = EmbeddingShards(tmp_path / "shards").read_group(0)
    assert rows.spans[0] is not None
    assert [rows.cots[0][a:b] for a, b in pairwise(rows.spans[0])] == ["<<4+4=8>> ", "<<8*1=8>>"]


def test_an_evaluation_loads_the_tower_before_it_times_anything(picture_checkpoint: Path) -> None:
    rot = rottrain.RoT.from_pretrained(picture_checkpoint)
    thinker(rot, feedback="latent")
    assert "_pictures" not in vars(rot)
    thinker(rot)
    assert "_encoder" in vars(vars(rot)["_pictures"])
