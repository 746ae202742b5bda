"""The sister of tiny: her drills, what she sees, what she goes on from; a training goes on where it stopped."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from reproduce import sister
from reproduce.sister import Eyes, Lesson, Problems, Recipe
from reproduce.words import drill
from rotdata.corpora import Row
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.errors import UsageError
from rotdata.rendering.strips import StripStyle, renderer
from rottrain.model.backbone import Backbone
from rottrain.training import tiny

pytestmark = pytest.mark.weights

ROWS = [
    Row("a", "Ann had 12 figs and found 66. She ate 9. How many are left?", "<<12+66=78>> <<78-9=69>>", "69"),
    Row("b", "Ben has 3 bags of 14 nuts. How many nuts has he?", "<<3*14=42>>", "42"),
]
ALIGNED = StripStyle(cells=6, align_steps=True, align_numbers=True)
SMALL = Recipe(steps=3, sums_first=1, sums=2, words=3, at_once=1, read=2, continued=2, warmup_steps=1)


def test_drills_are_right_and_of_sizes_that_people_ask_about() -> None:
    rng = random.Random(0)
    for row in (drill(rng) for _ in range(300)):
        steps = re.findall(r"<<(\d+)([-+*/])(\d+)=(\d+)>>", row.cot)
        assert 1 <= len(steps) <= 3
        assert int(re.search(r"Start with (\d+)", row.question)[1]) == int(steps[0][0])
        for left, sign, right, result in steps:
            assert eval(f"{left}{sign}{right}") == int(result) <= 200
            assert f" {right}" in row.question
        assert [left for left, *_ in steps[1:]] == [result for *_, result in steps[:-1]]
        assert row.answer == steps[-1][-1]


def test_each_corpus_has_its_share() -> None:
    drawn = Problems([[ROWS[0]], [ROWS[1]]], (0.6, 0.2, 0.2)).draw(random.Random(0), 2000)
    shares = [sum(row.id == name for row in drawn) / 2000 for name in ("a", "b", "drill")]
    assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


def test_latents_are_those_of_the_tower_alone_or_in_their_strip() -> None:
    encoder = load_encoder(find_model("tiny"), dtype="float32", device="cpu")
    text = ROWS[0].cot
    pixels = renderer(ALIGNED).render(text).pixels
    found = Eyes().strips([text, text, text], [ALIGNED] * 3, [True, False, True])
    [whole] = encoder.encode([pixels])
    tiles = [pixels[:, 32 * k : 32 * (k + 1)] for k in range(len(whole))]
    alone = torch.cat([torch.from_numpy(encoder.encode([tile])[0]) for tile in tiles])
    assert_close(found[1][0], torch.from_numpy(whole), atol=1e-4, rtol=1e-4)
    assert_close(found[0][0], alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(found[0][0], found[2][0])
    assert [text[:end] for end in found[0][1][:3]] == ["<<12", "<<12+66", "<<12+66=78>> "]


def test_of_sums_the_results_are_learnt() -> None:
    tokenizer = tiny.tokenizer_of(ROWS * 9, sister.VOCABULARY)
    lesson = Lesson(tokenizer, Problems([ROWS], (1.0, 0.0)), SMALL)
    task = lesson._sums(ROWS)
    whole = " ".join(row.cot for row in ROWS)
    assert tokenizer.decode(task.ids) == whole
    assert task.ids == tokenizer(whole).input_ids
    assert all(label in (sister.IGNORED, token) for token, label in zip(task.ids, task.labels, strict=True))
    learnt = tokenizer.decode([label for label in task.labels if label != sister.IGNORED])
    assert learnt == "78>>69>>42>>"


def test_what_is_continued_from_a_picture_is_the_rest_of_its_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny.tokenizer_of(ROWS * 9, sister.VOCABULARY)
    lesson = Lesson(tokenizer, Problems([ROWS], (1.0, 0.0)), Recipe(continued=40))
    seen: list[Any] = []
    monkeypatch.setattr(sister, "task_loss", lambda _, tasks, latents_KD: seen.append((tasks, latents_KD)))
    lesson._continuing(None, random.Random(1))
    [(tasks, latents_KD)] = seen
    pad = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert sum(task.ids.count(pad) for task in tasks) == len(latents_KD)
    rests = set()
    for task in tasks:
        whole = tokenizer.decode(task.ids)
        row = next(row for row in ROWS if row.question in whole)
        rest = tokenizer.decode([label for label in task.labels if label != sister.IGNORED])
        reasoning, _, answer = rest.rpartition("#### ")
        assert answer == f"{row.answer}<|im_end|>"
        assert row.cot.endswith(reasoning.removesuffix("\n"))
        rests.add(reasoning)
    assert "" in rests  # the whole strip
    assert len(rests) > 5


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, which would take longer than the steps."""
    monkeypatch.setattr(sister.shutil, "which", lambda _: None)


@pytest.mark.usefixtures("uncompiled")
def test_a_training_goes_on_where_it_stopped_and_its_model_loads(tmp_path: Path) -> None:
    corpora = [[row] * 5 for row in ROWS] + [ROWS]
    sister.train(SMALL, corpora, tmp_path / "straight")
    for until in (1, None):
        sister.train(SMALL, corpora, tmp_path / "stopped", until=until)
    assert weights(tmp_path / "straight") == weights(tmp_path / "stopped")
    backbone = Backbone.load(find_model(str(tmp_path / "straight")), dtype=torch.float32, device="cpu")
    assert backbone.width == 192
    assert len(backbone.model.model.language_model.layers) == sister.LAYERS
    mine, tinys = (
        load_encoder(find_model(name), dtype="float32", device="cpu") for name in (str(tmp_path / "straight"), "tiny")
    )
    assert mine.identity.tower_values_sha256 == tinys.identity.tower_values_sha256


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("other", ["recipe", "corpus"])
def test_a_state_of_another_recipe_or_corpus_is_not_gone_on_from(tmp_path: Path, other: str) -> None:
    corpora = [[row] * 5 for row in ROWS] + [ROWS]
    sister.train(SMALL, corpora, tmp_path, until=1)
    recipe = replace(SMALL, lr=1e-3) if other == "recipe" else SMALL
    with pytest.raises(UsageError, match="another recipe or corpus"):
        sister.train(recipe, corpora[::-1] if other == "corpus" else corpora, tmp_path)


@pytest.mark.usefixtures("uncompiled")
def test_every_weight_of_the_language_model_learns_and_the_tower_stays() -> None:
    torch.manual_seed(0)
    tokenizer = tiny.tokenizer_of(ROWS, sister.VOCABULARY)
    model = sister._new_model(len(tokenizer))
    lesson = Lesson(tokenizer, Problems([ROWS, ROWS, ROWS], SMALL.shares), SMALL)
    before = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = sister._optimizer(model, SMALL)
    assert sister._learn(model, optimizer, lesson, 0).keys() == {"sums"}
    losses: dict[str, Tensor] = sister._learn(model, optimizer, lesson, 1)
    assert losses.keys() == {"sums", "words", "at_once", "read", "continue"}
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]) == ("visual" in name), name
