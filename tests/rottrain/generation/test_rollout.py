"""The latent loop against a naive one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rottrain.config import ALL_SWEEPS, LoraSettings, Stage1Config, Stage2Config
from rottrain.data.batches import IGNORED, Batch, Example
from rottrain.generation import rollout
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner
from tests.rottrain.naive import (
    CLOSE,
    assert_same_step,
    loss_and_gradients,
    naive_answer,
    naive_own_step,
    naive_student,
    naive_teacher,
    opening,
)
from tests.rottrain.samples import as_batch, full_pass, random_examples, token_inputs, wake_adapter


def stage2(backbone: Backbone, head: ProjectionHead, **recipe: Any) -> Learner:
    """A stage-2 learner without dropout whose adapter does something and whose latents have a loss of their own."""
    backbone.add_adapter(LoraSettings(rank=2, dropout=0.0), train_tokens=False)
    wake_adapter(backbone)
    config = Stage2Config.paper(align_weight=5.0, **recipe)
    return Learner(backbone, head.requires_grad_(requires_grad=False), config)


@pytest.fixture
def examples(backbone: Backbone) -> list[Example]:
    return random_examples(backbone)


@pytest.fixture
def batch(backbone: Backbone, examples: list[Example]) -> Batch:
    return as_batch(backbone, examples)


def assert_rows(padded: Tensor, rows: Sequence[Tensor]) -> None:
    """Each row of a padded tensor begins with the values of that sample."""
    for row, expected in enumerate(rows):
        assert_close(padded[row, : len(expected)], expected, **CLOSE)


def student(backbone: Backbone, head: ProjectionHead, batch: Batch, gradient: rollout.Gradient = "head") -> Tensor:
    """The student's latents of a batch, [B, K, D]."""
    steps = batch["targets_BKD"].shape[1]
    return rollout.unroll(backbone, head, read(backbone, batch, gradient), steps, gradient=gradient).latents_BKD


def teacher(backbone: Backbone, head: ProjectionHead, batch: Batch) -> Tensor:
    """The latents of a sweep over the true ones, [B, K, D]."""
    return rollout.sweep(backbone, head, read(backbone, batch), batch["targets_BKD"]).latents_BKD


def read(backbone: Backbone, batch: Batch, gradient: rollout.Gradient = "head") -> rollout.Prompt:
    """A batch's prompts."""
    return rollout.read_prompt(backbone, batch["prompt_ids_BP"], batch["prompt_mask_BP"], gradient=gradient)


# Values.


@torch.no_grad()
def test_student_rollout_with_cache_equals_without(
    backbone: Backbone, head: ProjectionHead, examples: list[Example], batch: Batch
) -> None:
    latents = student(backbone, head, batch)
    assert latents.shape == (4, 5, backbone.width)
    assert_rows(latents, [naive_student(backbone, head, example) for example in examples])


@torch.no_grad()
def test_teacher_rollout_equals_a_plain_full_pass(
    backbone: Backbone, head: ProjectionHead, examples: list[Example], batch: Batch
) -> None:
    latents = teacher(backbone, head, batch)
    assert latents.shape == (4, 5, backbone.width)
    assert_rows(latents, [naive_teacher(backbone, head, example) for example in examples])


@torch.no_grad()
def test_answer_logits_equal_a_plain_full_pass(backbone: Backbone, examples: list[Example], batch: Batch) -> None:
    logits, labels = rollout.answer_pass(backbone, read(backbone, batch), batch, batch["targets_BKD"])
    for row, example in enumerate(examples):
        expected, expected_labels = naive_answer(backbone, example, torch.from_numpy(example.targets_KD))
        assert_close(logits[row, : len(expected)], expected, **CLOSE)
        assert labels[row].tolist() == expected_labels + [IGNORED] * (labels.shape[1] - len(expected_labels))


@torch.no_grad()
def test_an_answer_after_fewer_latents_is_that_of_a_shorter_row(
    backbone: Backbone, examples: list[Example], batch: Batch
) -> None:
    prompt, counts = read(backbone, batch), [max(1, len(example.targets_KD) - 1) for example in examples]
    logits, _ = rollout.answer_pass(backbone, prompt, batch, batch["targets_BKD"], torch.tensor(counts))
    for row, (example, count) in enumerate(zip(examples, counts, strict=True)):
        expected, _ = naive_answer(backbone, example, torch.from_numpy(example.targets_KD[:count]))
        assert_close(logits[row, : len(expected)], expected, **CLOSE)


def test_answers_are_drawn_from_the_last_latent_that_says_something_on(
    backbone: Backbone, head: ProjectionHead
) -> None:
    said = [2, 5, 1]
    batch = as_batch(backbone, random_examples(backbone, counts=(5, 5, 5)))
    batch["last_B"] = torch.tensor(said) - 1
    learner = Learner(backbone, head, Stage1Config.paper(answer_after="drawn")).train()
    drawn = torch.stack([learner.answered_after(batch) for _ in range(200)])
    assert [set(row.tolist()) for row in drawn.T] == [set(range(first, 6)) for first in said]
    assert learner.eval().answered_after(batch).tolist() == [5, 5, 5]
    whole = Learner(backbone, head, Stage1Config.paper()).train()
    assert whole.answered_after(batch).tolist() == [5, 5, 5]


@torch.no_grad()
def test_the_first_latent_of_both_rollouts_is_the_same(backbone: Backbone, head: ProjectionHead, batch: Batch) -> None:
    unrolled, forced = student(backbone, head, batch), teacher(backbone, head, batch)
    assert_close(unrolled[:, 0], forced[:, 0], **CLOSE)
    assert (unrolled[:2, 1] - forced[:2, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("sweeps", [0, 1, 2, 5, ALL_SWEEPS])
@torch.no_grad()
def test_each_jacobi_sweep_makes_one_more_latent_the_students(
    backbone: Backbone, head: ProjectionHead, batch: Batch, sweeps: int
) -> None:
    found = rollout.iterate(backbone, head, read(backbone, batch), batch["targets_BKD"], sweeps)
    expected = student(backbone, head, batch)
    assert_close(found[:, :sweeps], expected[:, :sweeps], **CLOSE)
    if sweeps < expected.shape[1]:
        assert (found[0, sweeps] - expected[0, sweeps]).abs().max() > 1e-4


@torch.no_grad()
def test_a_batch_of_single_latents_is_rolled_out(backbone: Backbone, head: ProjectionHead) -> None:
    examples = random_examples(backbone, counts=(1, 1))
    batch = as_batch(backbone, examples)
    expected = torch.stack([naive_student(backbone, head, example) for example in examples])
    assert_close(student(backbone, head, batch), expected, **CLOSE)
    assert_close(teacher(backbone, head, batch), expected, **CLOSE)


@torch.no_grad()
def test_what_is_unrolled_goes_on_as_a_full_pass_would(
    backbone: Backbone, head: ProjectionHead, examples: list[Example], batch: Batch
) -> None:
    prompt = read(backbone, batch)
    thought = rollout.unroll(backbone, head, prompt, 3)
    assert thought.cache.get_seq_length() == batch["prompt_ids_BP"].shape[1] + 1 + 2
    assert thought.counts_B.tolist() == [3] * 4
    fed = torch.cat([thought.latents_BKD[:, -1:], token_inputs(backbone, [backbone.end_id] * 4)[:, None]], dim=1)
    mask = thought.mask_after(prompt, 1)
    positions = (mask.long().cumsum(dim=1) - 1)[:, -2:]
    hidden = backbone.hidden(fed, mask_BT=mask, positions_BT=positions, cache=thought.cache)
    for row, example in enumerate(examples):
        parts = [opening(backbone, example), thought.latents_BKD[row], token_inputs(backbone, [backbone.end_id])]
        assert_close(hidden[row], full_pass(backbone, torch.cat(parts))[-2:], **CLOSE)


# Padding.


def widened(batch: Batch, *, prompt: int, latents: int, answer: int) -> Batch:
    """The same rows with more padding, which holds values that nothing may look at."""
    rows = len(batch["prompt_ids_BP"])
    wide = dict(batch)
    for name, pad, value in (("prompt_ids_BP", (prompt, 0), 7), ("answer_ids_BA", (0, answer), 7)):
        wide[name] = torch.nn.functional.pad(batch[name], pad, value=value)
    for name, pad in (
        ("prompt_mask_BP", (prompt, 0)),
        ("targets_mask_BK", (0, latents)),
        ("answer_mask_BA", (0, answer)),
    ):
        wide[name] = torch.nn.functional.pad(batch[name], pad)
    junk = torch.full((rows, latents, batch["targets_BKD"].shape[2]), 9.0)
    wide["targets_BKD"] = torch.cat([batch["targets_BKD"], junk], dim=1)
    return Batch(**wide)


@pytest.mark.parametrize("mode", ["student", "teacher"])
def test_more_padding_changes_neither_loss_nor_gradient(
    backbone: Backbone, head: ProjectionHead, batch: Batch, mode: str
) -> None:
    learner = Learner(backbone, head, Stage1Config.paper(rollout=mode))
    wide = widened(batch, prompt=6, latents=2, answer=3)
    results = [loss_and_gradients(learner, learner(**given)["loss"]) for given in (batch, wide)]
    assert_close(*results, **CLOSE)


def test_gaps_between_latents_and_answer_are_closed() -> None:
    first = torch.tensor([[1.0, 2, 3], [4, 9, 9]])[..., None]
    second = torch.tensor([[5.0, 6], [7, 8]])[..., None]
    closed = rollout.close_gaps(first, torch.tensor([[3], [1]]), second)[..., 0]
    assert closed.tolist() == [[1, 2, 3, 5, 6], [4, 7, 8, 8, 8]]


def test_a_window_repeats_the_last_value_past_the_end() -> None:
    values = torch.arange(8.0).view(2, 4, 1)
    assert rollout.window(values, torch.tensor([[0], [2]]), 3)[..., 0].tolist() == [[0, 1, 2], [6, 7, 7]]


# Steps: loss and gradients.


def test_a_stage_1_student_step_equals_the_naive_loop(
    backbone: Backbone, head: ProjectionHead, examples: list[Example]
) -> None:
    learner = Learner(backbone, head, Stage1Config.paper())
    assert {name.partition(".")[0] for name in learner.trained()} == {"head"}
    assert_same_step(learner, examples, naive_student)


def test_a_stage_1_teacher_step_equals_the_naive_loop(
    backbone: Backbone, head: ProjectionHead, examples: list[Example]
) -> None:
    assert_same_step(Learner(backbone, head, Stage1Config.paper(rollout="teacher")), examples, naive_teacher)


def test_a_stage_2_student_step_equals_the_naive_loop(
    backbone: Backbone, head: ProjectionHead, examples: list[Example]
) -> None:
    learner = stage2(backbone, head)
    assert all("lora_" in name for name in learner.trained())
    assert_same_step(learner, examples, naive_student)


def test_a_stage_2_student_step_without_cache_gradient_equals_the_loop_with_constant_memory(
    backbone: Backbone, head: ProjectionHead, examples: list[Example]
) -> None:
    assert_same_step(stage2(backbone, head, cache_gradient=False), examples, naive_own_step)


def test_a_stage_2_teacher_step_equals_the_naive_loop(
    backbone: Backbone, head: ProjectionHead, examples: list[Example]
) -> None:
    assert_same_step(stage2(backbone, head, rollout="teacher"), examples, naive_teacher)


def test_the_cache_passes_gradients_on_only_where_asked(
    backbone: Backbone, head: ProjectionHead, examples: list[Example]
) -> None:
    learner = stage2(backbone, head)
    batch = as_batch(backbone, examples)
    results = {}
    for gradient in ("through-cache", "own-step"):
        latents = student(backbone, head, batch, gradient)
        results[gradient] = loss_and_gradients(learner, latents.square().mean())
    (value, through), (same_value, own) = results.values()
    assert_close(value, same_value, **CLOSE)
    name = next(name for name in own if "k_proj" in name)
    assert (through[name] - own[name]).abs().max() > 1e-3 * through[name].abs().max()


def test_fed_back_latents_are_detached(backbone: Backbone, head: ProjectionHead, batch: Batch) -> None:
    latents = student(backbone, head, batch)
    expected = torch.autograd.grad(latents[:, -1].sum(), head.leave.bias)[0]
    assert torch.equal(expected, torch.full_like(expected, 4.0))
