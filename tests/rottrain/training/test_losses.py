"""Losses against their formulas, written out row by row."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rottrain.data.batches import IGNORED
from rottrain.training.losses import alignment_loss, answer_loss, glyph_loss, halt_loss

PREDICTED = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 1.0], [9.0, 9.0]]])
TARGET = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [-9.0, 5.0]]])
MASK = torch.tensor([[True, True], [True, False]])


def test_alignment_is_the_mean_over_samples_of_the_mean_over_their_latents() -> None:
    first = ((0 + 4) / 2 + (9 + 16) / 2) / 2
    second = (4 + 1) / 2
    assert alignment_loss(PREDICTED, TARGET, MASK).item() == pytest.approx((first + second) / 2)


def test_the_sum_over_dimensions_is_the_mean_times_their_number() -> None:
    mean, total = (alignment_loss(PREDICTED, TARGET, MASK, reduction=name) for name in ("mean", "sum"))
    assert total.item() == pytest.approx(2 * mean.item())


def test_masked_latents_count_neither_above_nor_below_the_line() -> None:
    changed = PREDICTED.clone()
    changed[1, 1] = 1e6
    assert alignment_loss(changed, TARGET, MASK) == alignment_loss(PREDICTED, TARGET, MASK)
    alone = alignment_loss(PREDICTED[1:, :1], TARGET[1:, :1], MASK[1:, :1])
    assert alignment_loss(PREDICTED[1:], TARGET[1:], MASK[1:]) == alone


def test_masked_latents_get_no_gradient() -> None:
    predicted = PREDICTED.clone().requires_grad_()
    alignment_loss(predicted, TARGET, MASK).backward()
    assert predicted.grad[1, 1].tolist() == [0, 0]
    assert predicted.grad[0, 1].abs().min() > 0


def test_alignment_is_zero_where_all_is_predicted() -> None:
    assert alignment_loss(TARGET, TARGET, MASK) == 0


def test_answers_get_the_mean_over_samples_of_the_mean_over_their_tokens() -> None:
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[4, 0, 2], [1, IGNORED, IGNORED]])
    scores = logits.log_softmax(dim=-1)
    first = -(scores[0, 0, 4] + scores[0, 1, 0] + scores[0, 2, 2]) / 3
    assert_close(answer_loss(logits, labels), (first - scores[1, 0, 1]) / 2)


def test_ignored_labels_get_no_gradient() -> None:
    logits = torch.randn(1, 3, 5, requires_grad=True)
    answer_loss(logits, torch.tensor([[4, IGNORED, 2]])).backward()
    assert logits.grad[0, 1].abs().max() == 0
    assert logits.grad[0, 2].abs().max() > 0


def test_a_row_without_labels_is_no_nan() -> None:
    logits = torch.randn(2, 2, 5)
    alone = answer_loss(logits[:1], torch.tensor([[1, 2]]))
    assert_close(answer_loss(logits, torch.tensor([[1, 2], [IGNORED, IGNORED]])), alone / 2)


def test_both_losses_are_computed_in_fp32() -> None:
    assert alignment_loss(PREDICTED.bfloat16(), TARGET, MASK).dtype == torch.float32
    assert answer_loss(torch.randn(1, 1, 5).bfloat16(), torch.tensor([[1]])).dtype == torch.float32


def test_other_distances_are_by_formula() -> None:
    predicted, target = torch.tensor([[[0.5, 3.0], [1.0, 0.0]]]), torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    one, both = torch.tensor([[True, False]]), torch.tensor([[True, True]])
    assert_close(alignment_loss(predicted, target, one, kind="huber"), torch.tensor((0.5 * 0.25 + 2.5) / 2))
    assert_close(alignment_loss(predicted, predicted * 3, both, kind="cosine"), torch.tensor(0.0))
    second = torch.tensor([[False, True]])
    assert_close(alignment_loss(predicted, target, second, kind="cosine"), torch.tensor(1.0))


def test_the_glyph_loss_is_the_mean_cross_entropy_of_valid_latents() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, 4, generator=generator)
    labels = torch.randint(4, (2, 3, 2), generator=generator)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    named = -logits.log_softmax(dim=-1).gather(-1, labels[..., None])[..., 0]
    assert_close(glyph_loss(logits, labels, mask), (named[0, :2].mean() + named[1, 0].mean()) / 2)


def test_the_halt_loss_asks_at_every_latent_up_to_the_last() -> None:
    logits = torch.tensor([[0.3, -0.2, 9.0], [1.0, 0.5, -0.5]])
    go, stop = (lambda x: (1 + x.exp()).log()), (lambda x: (1 + (-x).exp()).log())
    first = (go(logits[0, 0]) + stop(logits[0, 1])) / 2
    second = (go(logits[1, 0]) + go(logits[1, 1]) + stop(logits[1, 2])) / 3
    assert_close(halt_loss(logits, torch.tensor([1, 2])), (first + second) / 2)
