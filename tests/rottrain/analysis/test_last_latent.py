"""Where a thought ends, as the model says it: from the hidden states that its latents came from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rottrain.analysis.last_latent import chances_of_last, told
from rottrain.generation.generate import RoT

QUESTIONS = ["2+2?", "Ann has 3 figs, finds 4. How many figs now?", "Why"]


@pytest.fixture(scope="module")
def rot(stage1_checkpoint: Path) -> RoT:
    """A random model whose config says that it has learnt to stop."""
    loaded = RoT.from_pretrained(stage1_checkpoint, precision="float32")
    run = loaded.config.run | {"recipe": loaded.config.run["recipe"] | {"halt_weight": 0.1}}
    loaded.config = replace(loaded.config, run=run)
    with torch.no_grad():
        loaded.head.halt.weight.normal_()
    return loaded


def test_chances_are_those_by_which_a_dynamic_stop_decides(rot: RoT, monkeypatch: pytest.MonkeyPatch) -> None:
    thoughts = [rot.generate([question], budget=4)[0].latents_KD for question in QUESTIONS]
    thoughts[2] = thoughts[2][:2]
    said: list[float] = []
    is_last = rot.head.is_last

    def noting(hidden_BD: torch.Tensor) -> torch.Tensor:
        logits = is_last(hidden_BD)
        said.append(float(logits[0].sigmoid()))
        return logits - 99  # never stop

    for size in (1, 3):
        found = chances_of_last(rot, QUESTIONS, thoughts, batch_size=size)
        for question, chances, thought in zip(QUESTIONS, found, thoughts, strict=True):
            with monkeypatch.context() as patch:
                patch.setattr(rot.head, "is_last", noting)
                said.clear()
                rot.generate([question], budget=len(thought) + 1, stop=0.5, max_answer_tokens=1)
            assert_close(chances, said, atol=1e-5, rtol=0)


def test_what_has_not_learnt_to_stop_says_nothing(stage1_checkpoint: Path) -> None:
    rot = RoT.from_pretrained(stage1_checkpoint, precision="float32")
    assert chances_of_last(rot, ["2+2?"], [torch.zeros(1, 192)]) is None


@pytest.mark.parametrize(
    ("chances", "count"), [([0.1, 0.6, 0.9], 2), ([0.5, 0.5], 2), ([0.9], 1), ([0.1, 0.2, 0.3], 3)]
)
def test_a_thought_ends_at_the_first_latent_that_is_likely_its_last(chances: list[float], count: int) -> None:
    assert told(chances) == count
