"""The halt against where strips end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from rotdata.errors import CheckpointError, ShardMismatch, UsageError
from rotdata.shards import EmbeddingShards
from rottrain.analysis import calibration as module
from rottrain.analysis.calibration import Bin, Halting, as_table, bins, halting
from rottrain.generation.generate import RoT
from tests.helpers import Result
from tests.rottrain.samples import SUMS


@pytest.fixture
def rot(stage2_checkpoint: Path) -> RoT:
    """A checkpoint that says it has learnt to stop."""
    loaded = RoT.from_pretrained(stage2_checkpoint, precision="float32")
    loaded.config = replace(loaded.config, run={**loaded.config.run, "recipe": {"halt_weight": 0.1}})
    return loaded


def of_rows(counts: list[int], shift: int = 0) -> Callable[..., Tensor]:
    """Stands for the halt: sure of the latent that lies `shift` after each row's last, in the order of the rows."""
    rest = iter(counts)

    def chances(_: RoT, questions: list[str], budget: int, feedback: str) -> Tensor:
        sure_BK = torch.zeros(len(questions), budget)
        for row in range(len(questions)):
            place = next(rest) - 1 + shift
            if place < budget:
                sure_BK[row, place] = 1.0
        return sure_BK

    return chances


@pytest.fixture
def counts(embedded: Path) -> list[int]:
    shards = EmbeddingShards(embedded)
    return [
        int(stop - start) for group in shards for start, stop in zip(group.offsets, group.offsets[1:], strict=False)
    ]


def test_a_halt_that_knows_is_exact_and_calibrated(
    rot: RoT, embedded: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_chances", of_rows(counts))
    found = halting(rot, EmbeddingShards(embedded), budget=8, batch_size=3)
    assert (found.n, found.exact, found.early, found.late, found.calibration_error) == (10, 1, 0, 0, 0)
    assert [(each.probability, each.share) for each in found.bins] == [(0, 0), (1, 1)]
    assert sum(each.latents for each in found.bins) == sum(counts)


def test_a_halt_that_comes_a_latent_late_is_late(
    rot: RoT, embedded: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_chances", of_rows(counts, shift=1))
    found = halting(rot, EmbeddingShards(embedded), budget=8)
    assert (found.exact, found.late) == (0, 1)
    assert found.bins == [Bin(probability=0, share=pytest.approx(10 / sum(counts)), latents=sum(counts))]


def test_a_strip_of_more_latents_ends_with_the_budget_and_the_last_rows_count(
    rot: RoT, embedded: Path, counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [min(count, 2) for count in counts[-4:]]
    monkeypatch.setattr(module, "_chances", of_rows(kept))
    found = halting(rot, EmbeddingShards(embedded), limit=4, budget=2)
    assert (found.n, found.exact, sum(each.latents for each in found.bins)) == (4, 1, sum(kept))


def test_probabilities_are_the_same_in_any_batch(rot: RoT, embedded: Path) -> None:
    questions = [question for group in EmbeddingShards(embedded) for question in group.questions]
    together = module._chances(rot, questions, 4, "latent")
    alone = torch.cat([module._chances(rot, [question], 4, "latent") for question in questions])
    assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert together.shape == (10, 4)


def test_after_a_thought_has_ended_no_latent_is_its_last_in_any_batch(picture_checkpoint: Path) -> None:
    pictured = RoT.from_pretrained(picture_checkpoint, precision="float32")
    questions = [row["question"] for row in SUMS[:6]]
    lengths = [made.reasoning_tokens for made in pictured.generate(questions, budget=12)]
    together = module._chances(pictured, questions, 12, "picture")
    alone = torch.cat([module._chances(pictured, [question], 12, "picture") for question in questions])
    assert_close(together, alone, atol=1e-5, rtol=1e-4)
    assert min(lengths) < 12
    assert all(row[length:].max() == 0 for row, length in zip(together, lengths, strict=True) if length < 12)


def test_bins_are_tenths_and_one_belongs_to_the_last() -> None:
    found = bins(torch.tensor([0.0, 0.05, 0.95, 1.0]), torch.tensor([False, True, True, True]))
    assert [(round(each.probability, 3), each.share, each.latents) for each in found] == [
        (0.025, 0.5, 2),
        (0.975, 1.0, 2),
    ]


def test_what_can_not_be_compared_is_refused(
    rot: RoT, stage2_checkpoint: Path, embedded: Path, toy_embeddings: Path
) -> None:
    untaught = RoT.from_pretrained(stage2_checkpoint)
    with pytest.raises(CheckpointError, match="has not learnt to stop"):
        halting(untaught, EmbeddingShards(embedded))
    with pytest.raises(ShardMismatch, match="give shards of the same style"):
        halting(rot, EmbeddingShards(toy_embeddings))
    with pytest.raises(UsageError, match="between 0 and 1"):
        halting(rot, EmbeddingShards(embedded), stop=1.5)


def test_the_command_prints_a_table_or_json(
    run_rottrain: Callable[..., Result], embedded: Path, stage2_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Halting(
        n=4, budget=2, stop=0.5, feedback="latent", exact=0.75, early=0.25, late=0.0, calibration_error=0.1,
        bins=[Bin(probability=0.9, share=1.0, latents=4)],
    )  # fmt: skip
    monkeypatch.setattr(module, "halting", lambda *_, **__: found)
    arguments = ("calibrate", stage2_checkpoint, "--shards", embedded, "--limit", 4, "--budget", 2)
    assert run_rottrain(*arguments).out == as_table(found) + "\n"
    assert "75.0% stop at their strip's last latent" in as_table(found)
    assert json.loads(run_rottrain(*arguments, "--json").out)["bins"] == [
        {"probability": 0.9, "share": 1.0, "latents": 4}
    ]
