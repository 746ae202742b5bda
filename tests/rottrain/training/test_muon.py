"""Muon for matrices, AdamW for the rest: each steps as it does alone, together they have one state."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from rottrain.training.muon import MuonAdamW

DECAYED = ("enter.weight", "leave.weight", "words.weight")
SETTINGS: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1}


class Model(nn.Module):
    """A matrix of each kind: an embedding, maps, one to a single value, output rows; and what is no matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.enter = nn.Linear(4, 6)
        self.leave = nn.Linear(6, 4, bias=False)
        self.halt = nn.Linear(4, 1)
        self.lm_head = nn.Linear(4, 5)
        self.frozen = nn.Linear(4, 4).requires_grad_(requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.leave(self.enter(self.words(ids)).relu())
        return self.halt(hidden).sum() + self.lm_head(hidden).square().sum()


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model()


def optimizer_of(model: nn.Module) -> MuonAdamW:
    return MuonAdamW(model, decayed=DECAYED, betas=(0.9, 0.98), **SETTINGS)


def learn(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 3, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        model(torch.randint(5, (7,), generator=generator)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_each_steps_as_it_does_alone(model: Model) -> None:
    apart = copy.deepcopy(model)
    muon = torch.optim.Muon([apart.enter.weight, apart.leave.weight], **SETTINGS, adjust_lr_fn="match_rms_adamw")
    rest = [apart.enter.bias, *apart.halt.parameters(), *apart.lm_head.parameters()]
    adamw = torch.optim.AdamW(
        [{"params": [apart.words.weight]}, {"params": rest, "weight_decay": 0.0}], **SETTINGS, betas=(0.9, 0.98)
    )
    learn(apart, muon, adamw)
    learn(model, optimizer_of(model))
    assert_close(dict(model.named_parameters()), dict(apart.named_parameters()), rtol=0, atol=0)


def test_what_is_frozen_stays_and_all_else_learns(model: Model) -> None:
    before = copy.deepcopy(model.state_dict())
    learn(model, optimizer_of(model))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("frozen"), name


def test_a_state_that_is_loaded_goes_on_as_if_never_stopped(model: Model) -> None:
    straight = copy.deepcopy(model)
    through = optimizer_of(straight)
    learn(straight, through)
    learn(straight, through, seed=2)
    first = optimizer_of(model)
    learn(model, first)
    state = copy.deepcopy(first.state_dict())
    again = optimizer_of(model)
    again.load_state_dict(state)
    learn(model, again, seed=2)
    assert_close(model.state_dict(), straight.state_dict(), rtol=0, atol=0)


def test_a_schedule_reaches_all_groups(model: Model) -> None:
    optimizer = optimizer_of(model)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.0)
    before = copy.deepcopy(model.state_dict())
    learn(model, optimizer, steps=1)
    assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_model_without_matrices_learns_by_adamw_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4))
    optimizer = MuonAdamW(model, decayed=(), betas=(0.9, 0.98), **SETTINGS)
    before = copy.deepcopy(model.state_dict())
    model(torch.tensor([1])).square().sum().backward()
    model[1].bias.grad = torch.ones(4)
    optimizer.step()
    assert not torch.equal(model[1].bias, before["1.bias"])
