"""Tensors of the host and of a GPU never meet, and thinking does not wait for a GPU: on a pretended one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import rotdata
from rotdata.rendering.strips import StripStyle
from rotdata.shards import EmbeddingShards
from rottrain.config import RECIPES, Stage1Config
from rottrain.data.batches import Batch, Example
from rottrain.data.rows import Selection
from rottrain.data.training_set import Supply
from rottrain.generation import rollout
from rottrain.generation.generate import RoT
from rottrain.model.backbone import Backbone
from rottrain.model.book import Book
from rottrain.model.checkpoints import CheckpointConfig
from rottrain.model.glyph_probe import Alphabet, GlyphProbe
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner
from rottrain.training.stages import _latent_lesson
from rottrain.training.validation import validate
from tests.pretend_gpu import GPU, PretendGPU, move
from tests.rottrain.samples import as_batch, random_examples

ALPHABET = Alphabet("+1", 2)
PAGES = [[0, 0], [2, 2], [2, 3], [3, 3]]
"""All that the alphabet can say but one."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGPU]:
    """A pretended GPU, without what knows real devices or plain tensors alone: autocast, waiting, inference mode."""
    monkeypatch.setattr(Backbone, "_computing", lambda _: nullcontext())
    monkeypatch.setattr("torch.accelerator.synchronize", lambda: None)
    monkeypatch.setattr(RoT, "_generate_batch", torch.no_grad()(RoT._generate_batch.__wrapped__))
    with PretendGPU() as device:
        yield device


@pytest.fixture
def backbone(backbone: Backbone) -> Backbone:
    """One layer of it will do: every call of torch passes through Python here."""
    backbone.model.model.language_model.layers = backbone.model.model.language_model.layers[:1]
    return backbone


@pytest.fixture
def probe(backbone: Backbone) -> GlyphProbe:
    return GlyphProbe(backbone.width, ALPHABET).eval().requires_grad_(requires_grad=False)


@pytest.fixture
def book(backbone: Backbone) -> Book:
    return Book(ALPHABET, torch.tensor(PAGES), 0.3 * torch.randn(len(PAGES), backbone.width))


@pytest.fixture
def examples(backbone: Backbone) -> list[Example]:
    rng = torch.Generator().manual_seed(0)
    return [
        replace(
            example,
            said=len(example.targets_KD),
            glyphs_KS=torch.randint(4, (len(example.targets_KD), 2), generator=rng).numpy(),
        )
        for example in random_examples(backbone)
    ]


def move_backbone(backbone: Backbone) -> Backbone:
    move(backbone.model)
    return backbone


def there(batch: Batch) -> dict[str, Any]:
    return {name: value.to(GPU) for name, value in batch.items() if isinstance(value, Tensor)}


RECIPES_TRIED = {
    "picture": RECIPES["picture"][Stage1Config],
    "student": {"rollout": "student", "trainable": "full"},
    "jacobi": {"rollout": "jacobi:2"},
    "paper": RECIPES["paper"][Stage1Config],
}


@pytest.mark.parametrize("name", RECIPES_TRIED)
def test_a_step_of_training_is_the_same_there(
    name: str, backbone: Backbone, head: ProjectionHead, probe: GlyphProbe, book: Book, examples: list[Example],
    gpu: PretendGPU,
) -> None:  # fmt: skip
    recipe = Stage1Config(**RECIPES_TRIED[name] | {"input_noise": 0.0, "misread": 0.0, "answer_after": "budget"})
    batch = as_batch(backbone, examples)
    batch.pop("ids")
    expected = Learner(backbone, head, recipe, probe, book=book)(**batch)["loss"]
    learner = move(Learner(backbone, head, recipe, probe, book=book.to(GPU)))
    loss = learner(**there(batch))["loss"]
    assert loss.device == GPU
    torch.testing.assert_close(loss.detach().cpu(), expected.detach())
    loss.backward()
    assert all(value.grad is not None and value.grad.device == GPU for value in learner.head.leave.parameters())


def test_noise_and_misreading_are_drawn_there(
    backbone: Backbone, head: ProjectionHead, probe: GlyphProbe, book: Book, examples: list[Example], gpu: PretendGPU
) -> None:
    recipe = Stage1Config(**RECIPES["picture"][Stage1Config] | {"input_noise": 0.3, "misread": 0.5})
    learner = move(Learner(backbone, head, recipe, probe, book=book.to(GPU)).train())
    batch = as_batch(backbone, examples)
    batch.pop("ids")
    assert torch.isfinite(learner(**there(batch))["loss"].detach().cpu())


def test_a_lesson_of_picture_feedback_lies_there_whole(
    backbone: Backbone, head: ProjectionHead, probe: GlyphProbe, tiny_folder: Path, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    rows = [{"question": f"{n} and 1?", "cot": "+1" * (n % 3 + 1), "answer": str(n)} for n in range(5)]
    rotdata.render_corpus(rows, out=tmp_path / "strips", style=StripStyle(cells=2))
    rotdata.embed(tmp_path / "strips", tmp_path / "shards", model=str(tiny_folder), dtype="float32", context="latent")
    recipe = Stage1Config(**RECIPES["picture"][Stage1Config] | {"validation_rows": 3, "trainable": "head"})
    supply = Supply.of([Selection.of(EmbeddingShards(tmp_path / "shards"))], backbone, recipe, probe=probe)
    expected = _latent_lesson(backbone, head, recipe, supply).validate()
    request.getfixturevalue("gpu")
    lesson = _latent_lesson(move_backbone(backbone), move(head), recipe, supply)
    move(lesson.learner)
    assert lesson.validate() == pytest.approx(expected, abs=1e-4)


def test_validation_with_latent_feedback_runs_there(
    backbone: Backbone, head: ProjectionHead, probe: GlyphProbe, examples: list[Example], gpu: PretendGPU
) -> None:
    expected = validate(Learner(backbone, head, Stage1Config(), probe), examples)
    assert validate(move(Learner(backbone, head, Stage1Config(), probe)), examples) == pytest.approx(expected, abs=1e-4)


def test_thinking_with_picture_feedback_waits_for_nothing(
    backbone: Backbone, head: ProjectionHead, probe: GlyphProbe, book: Book, examples: list[Example], gpu: PretendGPU
) -> None:
    backbone.model.model.language_model.set_attn_implementation("sdpa")  # as on a GPU
    rot = RoT(backbone, head, config(backbone), probe, book)
    batch = as_batch(backbone, examples)

    def thought(tensors: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            prompt = rollout.read_prompt(rot.backbone, tensors["prompt_ids_BP"], tensors["prompt_mask_BP"])
            gpu.waits.clear()
            made = rollout.unroll(rot.backbone, rot.head, prompt, 6, feedback=rot.reader(["?"] * 4, draws=False))
        return made.fed_BKD, made.counts_B

    expected_BKD, counts_B = thought(dict(batch))
    move(backbone.model)
    move(head)
    move(probe)
    rot.book = book.to(GPU)
    found_BKD, found_B = thought(there(batch))
    assert not gpu.waits
    torch.testing.assert_close(found_BKD.cpu(), expected_BKD)
    assert found_B.tolist() == counts_B.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("feedback", ["latent", "picture"])
def test_answers_are_the_same_there(
    feedback: Any, temperature: float, backbone: Backbone, head: ProjectionHead, probe: GlyphProbe, book: Book,
    gpu: PretendGPU, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    rot = RoT(backbone, head, config(backbone), probe, book)
    asked = {"budget": 5, "feedback": feedback, "temperature": temperature, "max_answer_tokens": 3}
    monkeypatch.setattr(RoT, "_pictures", Drawing(backbone.width))
    expected = rot.generate(["2+2?", "Ann has 3 figs."], **asked)
    move(backbone.model)
    move(head)
    move(probe)
    rot.book = Book(ALPHABET, torch.tensor(PAGES), book.latents_ND[: len(PAGES)]).to(GPU)
    for mine, theirs in zip(rot.generate(["2+2?", "Ann has 3 figs."], **asked), expected, strict=True):
        assert (mine.thought and mine.thought.texts) == (theirs.thought and theirs.thought.texts)
        assert mine.latents_KD is not None
        assert mine.latents_KD.device.type == "cpu"
        torch.testing.assert_close(mine.latents_KD, theirs.latents_KD)
        assert mine.reply == theirs.reply


class Drawing:
    """Draws what the book lacks: the same latent for every text."""

    def __init__(self, width: int) -> None:
        self.width = width

    def fits(self, text: str) -> bool:
        return True

    def latents(self, texts: list[str]) -> Any:
        return torch.full((len(texts), self.width), 0.1).numpy()


def config(backbone: Backbone) -> CheckpointConfig:
    return CheckpointConfig(
        stage="stage1", model="tiny", encoder={}, style={}, encoding="", prompt=backbone.prompt, head={}, run={},
        result={}, learnt=[], feedback="picture", context="latent",
    )  # fmt: skip
