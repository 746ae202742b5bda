"""Figures of a model in training: against answers decoded one by one, and on latents made to collapse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rottrain.config import Stage1Config
from rottrain.data.batches import Example
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.training.objective import Learner
from rottrain.training.validation import collapse, kept, validate, warnings_of
from tests.rottrain.samples import as_batch, full_pass, random_examples, token_inputs


def learner(backbone: Backbone, head: ProjectionHead, **recipe: Any) -> Learner:
    return Learner(backbone, head, Stage1Config.paper(**recipe))


@torch.no_grad()
def greedy(judged: Learner, example: Example, count: int) -> list[int]:
    """Tokens decoded one by one after the model's own latents, each from a full pass."""
    backbone = judged.backbone
    prompt = judged.read(as_batch(backbone, [example]))
    latents = judged.unroll(prompt, len(example.targets_KD)).latents_BKD[0]
    tokens: list[int] = []
    for _ in range(count):
        start, end = token_inputs(backbone, [*example.prompt_ids, backbone.begin_id]), [backbone.end_id, *tokens]
        inputs = torch.cat([start, latents, token_inputs(backbone, end)])
        tokens.append(int(backbone.logits(full_pass(backbone, inputs)[-1]).argmax()))
    return tokens


def test_accuracy_is_that_of_answers_decoded_greedily(backbone: Backbone, head: ProjectionHead) -> None:
    judged = learner(backbone, head)
    right = [replace(example, answer_ids=greedy(judged, example, 4)) for example in random_examples(backbone)]
    wrong = [replace(example, answer_ids=[*example.answer_ids[:3], 7]) for example in right]
    assert validate(judged, right)["accuracy"] == 1
    assert validate(judged, wrong)["accuracy"] == 0
    assert validate(judged, [right[0], *wrong[1:]])["accuracy"] == 0.25


def test_the_exposure_gap_is_there_and_validation_leaves_no_trace(backbone: Backbone, head: ProjectionHead) -> None:
    judged = learner(backbone, head, halt_weight=1.0).train()
    state, weights = torch.get_rng_state(), {name: value.clone() for name, value in judged.state_dict().items()}
    figures = validate(judged, random_examples(backbone))
    assert judged.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in judged.state_dict().items())
    assert figures["alignment_free"] != figures["alignment_forced"]
    assert 0 <= figures["halt"] <= 1
    assert "glyphs_free" not in figures


def test_figures_do_not_depend_on_who_shares_a_batch(
    backbone: Backbone, head: ProjectionHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = random_examples(backbone)
    whole = validate(learner(backbone, head, halt_weight=1.0), examples)
    monkeypatch.setattr("rottrain.training.validation._BATCH", 1)
    assert validate(learner(backbone, head, halt_weight=1.0), examples) == pytest.approx(whole, abs=2e-5)


def test_collapse_is_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    lively = [torch.randn(20, 8, generator=generator) for _ in range(30)]
    figures = collapse(lively)
    assert abs(figures["cosine"]) < 0.1
    assert 7 < figures["rank"] <= 8
    assert figures["saturation"] == 1
    stuck = [torch.cat([row[:5], row[4:5].expand(15, -1)]) for row in lively]
    assert collapse(stuck)["saturation"] == pytest.approx(5 / 20)
    one = torch.randn(8, generator=generator)
    same = collapse([one.expand(20, -1) + 1e-3 * row for row in lively])
    assert same["cosine"] > 0.99
    assert collapse([one[None] * row[:, :1] for row in lively])["rank"] == pytest.approx(1, abs=0.01)


def test_warnings_name_each_collapse() -> None:
    fine = {"cosine": 0.3, "rank": 20.0, "rank_true": 40.0, "saturation": 0.9}
    assert warnings_of(fine) == []
    for name, value, said in (
        ("cosine", 0.95, "nearly the same"),
        ("rank", 5.0, "few directions"),
        ("saturation", 0.2, "stop changing after 20%"),
    ):
        [warning] = warnings_of(fine | {name: value})
        assert said in warning


@pytest.mark.parametrize(
    ("found", "step"),
    [
        ([(0.07, 0.9), (0.05, 0.7), (0.06, 0.5)], 3),  # chance: the closest latents
        ([(0.30, 0.9), (0.90, 0.7), (0.60, 0.5)], 2),  # beyond a standard error accuracy decides
        ([(0.50, 0.5), (0.53, 0.6), (0.57, 0.7)], 3),  # an earlier one falls behind the best by more than that
        ([(0.50, 0.5), (0.50, 0.5)], 2),  # the latest of equals
        ([(1.00, 0.5), (0.99, 0.4)], 1),  # there is no doubt about all rows
    ],
)
def test_the_weights_kept_are_the_best_beyond_chance(found: list[tuple[float, float]], step: int) -> None:
    for name in ("alignment_free", "loss"):
        figures = [
            {"accuracy": accuracy, name: distance, "step": place}
            for place, (accuracy, distance) in enumerate(found, start=1)
        ]
        assert kept(figures, 128)["step"] == step
