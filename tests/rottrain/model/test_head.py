"""The projection head: shapes, its formula, and every setting of it."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close

from rottrain.config import Activation
from rottrain.model.head import MAX_DEFAULT_HIDDEN, ProjectionHead


def make(activation: Activation = "swiglu", *, hidden: int | None = 5) -> ProjectionHead:
    return ProjectionHead(width_in=6, width_out=4, hidden=hidden, activation=activation)


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_leading_shapes_are_kept(shape: tuple[int, ...]) -> None:
    assert make()(torch.randn(shape)).shape == (*shape[:-1], 4)


def test_swiglu_is_its_formula() -> None:
    head, x = make(), torch.randn(3, 6)
    entered = F.linear(F.layer_norm(x, (6,), head.norm.weight, head.norm.bias), head.enter.weight, head.enter.bias)
    gate = F.linear(entered, head.gate.weight, head.gate.bias)
    up = F.linear(entered, head.up.weight, head.up.bias)
    expected = F.linear(gate * torch.sigmoid(gate) * up, head.leave.weight, head.leave.bias)
    assert_close(head(x), expected)


@pytest.mark.parametrize(("activation", "function"), [("gelu", F.gelu), ("relu", torch.relu)])
def test_the_other_activations_are_two_plain_layers(activation: Activation, function: object) -> None:
    head, x = make(activation), torch.randn(3, 6)
    assert head.gate is None
    assert head.up is None
    assert_close(head(x), head.leave(function(head.enter(head.norm(x)))))


def test_the_default_hidden_width_is_twice_the_model_s_up_to_the_paper_s() -> None:
    assert make(hidden=None).hidden == 12
    with torch.device("meta"):
        wide = ProjectionHead(width_in=2560, width_out=2560, hidden=None, activation="swiglu")
    assert wide.hidden == MAX_DEFAULT_HIDDEN == 4096


def test_hidden_states_in_bfloat16_are_projected_in_the_head_s_own_precision() -> None:
    head, x = make(), torch.randn(3, 6).bfloat16()
    assert head(x).dtype == torch.float32
    assert_close(head(x), head(x.float()))


def test_the_scale_of_a_hidden_state_does_not_matter() -> None:
    head, x = make(), torch.randn(3, 6)
    assert_close(head(x), head(1000 * x), rtol=1e-3, atol=1e-3)
