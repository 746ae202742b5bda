"""What a GPU computes is what a CPU does, but for rounding; skipped without one. `python -m bench.gpu smoke` runs it.

Tolerances: fp32 results, which differ in the order of sums alone, to 1e-3 of the largest value; bf16 ones, of eight
bits each, to 3% in norm.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rotdata
import rottrain
from bench.gpu.graphs import Stepper
from rotdata.encoders import CPU_PATCHES_PER_CALL, LazyEncoder, Placement, load_encoder, patches_that_fit
from rotdata.encoders.attention import _KERNELS, AttentionPlan, best_kernel
from rotdata.encoders.models import find_model
from rotdata.rendering.strips import StripStyle, render
from rottrain.config import RECIPES, Stage1Config
from rottrain.generation import rollout
from rottrain.model.backbone import Backbone
from rottrain.model.book import Book
from rottrain.model.glyph_probe import Alphabet, GlyphProbe
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner
from tests.rottrain.samples import QUESTIONS, as_batch, random_examples, random_head

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that CUDA reaches"),
]
FP32, BF16 = 1e-3, 3e-2
TEXTS = ("<<7+5=12>>", "A", "Ann has 3 figs and finds 4 more, so she has 3 + 4 = 7 figs.", "x" * 300)
PLAN = AttentionPlan(runs=[(2, 5), (1, 40), (3, 132)])


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """In the largest value for fp32, in norm for bf16."""
    found, expected = found.float().cpu(), expected.float().cpu()
    assert torch.isfinite(found).all()
    if tolerance == FP32:
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    else:
        assert (found - expected).norm() <= tolerance * expected.norm()


def strips() -> list[np.ndarray]:
    return [render(text, StripStyle()).pixels for text in TEXTS]


def encoded(folder: Path, **where: Any) -> Tensor:
    return torch.from_numpy(np.concatenate(load_encoder(str(folder), **where).encode(strips())))


@pytest.mark.parametrize("kernel", ["varlen", "flash-attn"])
def test_kernels_for_any_lengths_agree_with_grouped(kernel: Any, tiny_folder: Path) -> None:
    if kernel == "flash-attn":
        pytest.importorskip("flash_attn")
    rows = sum(count * length for count, length in PLAN.runs)
    packed = torch.randn(3, 16, rows, 64, generator=torch.Generator().manual_seed(0))
    exact = _KERNELS["grouped"](*packed, PLAN, 0.125)
    query, key, value = packed.to(device="cuda", dtype=torch.bfloat16)
    assert_near(_KERNELS[kernel](query, key, value, PLAN, 0.125), exact, BF16)
    found = encoded(tiny_folder, device="cuda", dtype="bfloat16", kernel=kernel)
    assert_near(found, encoded(tiny_folder, device="cuda", dtype="bfloat16", kernel="grouped"), BF16)


def test_a_kernel_for_any_lengths_is_chosen() -> None:
    assert best_kernel("cuda", torch.bfloat16) in ("flash-attn", "varlen")
    assert best_kernel("cuda", torch.float32) == "grouped"


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", FP32), ("bfloat16", BF16)])
def test_latents_of_pictures_are_those_of_the_cpu(dtype: Any, tolerance: float, tiny_folder: Path) -> None:
    expected = encoded(tiny_folder, device="cpu", dtype="float32")
    assert_near(encoded(tiny_folder, device="cuda", dtype=dtype), expected, tolerance)


def test_calls_under_way_at_once_keep_their_own_pinned_memory(tiny_folder: Path) -> None:
    encoder = load_encoder(str(tiny_folder), device="cuda")
    pictures = [render(str(n) * (3 + n), StripStyle()).pixels for n in range(40)]
    alone = [encoder.encode([each])[0] for each in pictures]
    waiting = [encoder.launch([each]) for each in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda collect: collect()[0], reversed(waiting)))[::-1]
    for mine, theirs in zip(found, alone, strict=True):
        assert np.array_equal(mine, theirs)


def test_a_call_that_fills_the_memory_it_may_take_runs(tiny_folder: Path) -> None:
    where = Placement(device="cuda", dtype="bfloat16", kernel=best_kernel("cuda", torch.bfloat16))
    encoder = LazyEncoder(find_model(str(tiny_folder)), where)
    patches = patches_that_fit(encoder)
    assert patches >= CPU_PATCHES_PER_CALL
    strip = np.full((32, 32 * 64), 255, np.uint8)
    assert len(encoder.launch([strip] * (patches // 256))()) == patches // 256


ALPHABET = Alphabet("+1", 2)
RECIPES_TRIED: dict[str, dict[str, Any]] = {
    "teacher": {"rollout": "teacher"},
    "student, the language model learns": {"rollout": "student", "trainable": "full"},
    "jacobi": {"rollout": "jacobi:2"},
    "picture": RECIPES["picture"][Stage1Config],
}


@pytest.mark.parametrize("name", RECIPES_TRIED)
def test_losses_and_gradients_are_those_of_the_cpu(name: str, tiny_folder: Path) -> None:
    same = {"input_noise": 0.0, "misread": 0.0, "answer_after": "budget", "glyph_weight": 0.0}
    recipe = Stage1Config(**RECIPES_TRIED[name] | same)
    found = {device: _step(tiny_folder, recipe, device, torch.float32) for device in ("cpu", "cuda")}
    for mine, theirs in zip(found["cuda"], found["cpu"], strict=True):
        assert_near(mine, theirs, FP32)
    coarse, _ = _step(tiny_folder, recipe, "cuda", torch.bfloat16)
    assert_near(coarse, found["cpu"][0], BF16)


def _step(folder: Path, recipe: Stage1Config, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Loss, and gradient of the head's last matrix."""
    backbone = Backbone.load(find_model(str(folder)), dtype=dtype, device=device)
    if recipe.trainable == "full":
        backbone.train_language(head_only=False)
    torch.manual_seed(0)
    pages = Book(ALPHABET, torch.tensor([[0, 0], [2, 2]]), torch.randn(2, backbone.width)).to(backbone.device)
    probe = GlyphProbe(backbone.width, ALPHABET).requires_grad_(requires_grad=False)
    learner = Learner(backbone, random_head(backbone.width), recipe, probe, book=pages).to(device)
    examples = [replace(each, said=len(each.targets_KD)) for each in random_examples(backbone)]
    batch = {name: value.to(device) for name, value in as_batch(backbone, examples).items() if name != "ids"}  # type: ignore[attr-defined]
    loss = learner(**batch)["loss"]
    loss.backward()
    assert learner.head.leave.weight.grad is not None
    return loss.detach(), learner.head.leave.weight.grad


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained on the GPU with picture feedback, and validated there."""
    folder = tmp_path_factory.mktemp("thinking")
    rows = [{"question": f"{n} and 1?", "cot": f"<<{n}+1={n + 1}>>", "answer": str(n + 1)} for n in range(24)]
    rotdata.render_corpus(rows, out=folder / "strips", style=StripStyle(cells=6, align_steps=True))
    rotdata.embed(folder / "strips", folder / "shards", model="tiny", context="latent")
    rottrain.stage1(
        shards=folder / "shards", model="tiny", out=folder / "s1", recipe="picture", max_steps=20, lr=1e-3,
        batch_size=8, validation_rows=4, validation_steps=10,
    )  # fmt: skip
    return folder / "s1"


@pytest.mark.parametrize("feedback", ["latent", "picture"])
def test_thoughts_and_answers_are_those_of_the_cpu(
    feedback: Any, thinking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"budget": 6, "feedback": feedback, "max_answer_tokens": 6}
    questions = [*QUESTIONS, "3 and 1?", "19 and 1?"]
    found = rottrain.RoT.from_pretrained(thinking, precision="float32").generate(questions, **asked)
    for place in ("rottrain.model.precision.default_device", "rotdata.encoders.loading.default_device"):
        monkeypatch.setattr(place, lambda: "cpu")
    expected = rottrain.RoT.from_pretrained(thinking, precision="float32").generate(questions, **asked)
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.thought and mine.thought.texts) == (theirs.thought and theirs.thought.texts)
        assert mine.latents_KD is not None
        assert theirs.latents_KD is not None
        # A latent that is read and written is the same; free-running ones drift apart by a little more each.
        torch.testing.assert_close(mine.latents_KD, theirs.latents_KD, rtol=0, atol=2e-2)
        assert mine.reply == theirs.reply


@torch.inference_mode()
def test_steps_replayed_from_a_graph_are_those_of_the_loop(tiny_folder: Path) -> None:
    backbone = Backbone.load(find_model(str(tiny_folder)), dtype=torch.float32, device="cuda")
    head: ProjectionHead = random_head(backbone.width).to("cuda").eval()
    batch = as_batch(backbone, random_examples(backbone))
    prompt = rollout.read_prompt(backbone, batch["prompt_ids_BP"].cuda(), batch["prompt_mask_BP"].cuda())
    expected_BKD = rollout.unroll(backbone, head, prompt, 5).latents_BKD
    stepper = Stepper(backbone, head, rows=len(QUESTIONS), capacity=prompt.mask_BT.shape[1] + 8, steps=5)
    assert_near(stepper.latents(prompt), expected_BKD, FP32)
    assert_near(stepper.latents(prompt), expected_BKD, FP32)
