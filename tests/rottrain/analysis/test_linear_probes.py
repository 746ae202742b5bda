"""Linear probes name what a line can tell, rows held out, and no more than the majority where there is nothing."""

from __future__ import annotations

import pytest
import torch

from rottrain.analysis.linear_probes import _PENALTIES, _left_out, named_by_line, named_by_majority

LABELS = torch.randint(4, (300,), generator=torch.Generator().manual_seed(1))
NOISE = torch.randn(300, 40, generator=torch.Generator().manual_seed(2))


def right(named: torch.Tensor) -> float:
    return (named == LABELS).float().mean().item()


def test_what_stands_on_a_line_is_named_and_noise_is_not() -> None:
    shown = NOISE.clone()
    shown[:, :4] += 4 * torch.nn.functional.one_hot(LABELS, 4)
    assert right(named_by_line(1e3 * shown + 7, LABELS, seed=0)) > 0.9
    assert right(named_by_line(NOISE, LABELS, seed=0)) < 0.4


def test_a_row_is_named_by_those_of_other_folds() -> None:
    alone = torch.eye(300)  # nothing that one row has is in another
    assert right(named_by_line(alone, LABELS, seed=0)) < 0.4


def test_the_majority_is_that_of_the_other_folds() -> None:
    labels = torch.tensor([0] * 40 + [3] * 20)
    assert named_by_majority(labels, seed=0).tolist() == [0] * 60


def test_the_left_out_error_is_that_of_leaving_each_row_out() -> None:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(12, 5, generator=generator).double()
    features = features - features.mean(dim=0)
    aimed = torch.randn(12, 2, generator=generator).double()
    aimed = aimed - aimed.mean(dim=0)
    left, spread, _ = torch.linalg.svd(features, full_matrices=False)
    for penalty in _PENALTIES[2:6]:
        total = 0.0
        for row in range(12):
            kept = torch.arange(12) != row
            # The penalised features and an offset that is not, solved anew without the row.
            design = torch.cat([features[kept], torch.ones(11, 1).double()], dim=1)
            ridge = penalty * 12 * torch.diag(torch.tensor([1.0] * 5 + [0.0])).double()
            weights = torch.linalg.solve(design.T @ design + ridge, design.T @ aimed[kept])
            asked = torch.cat([features[row], torch.ones(1).double()])
            total += (aimed[row] - asked @ weights).square().sum().item()
        assert _left_out(left, spread, left.T @ aimed, aimed, penalty) == pytest.approx(total)


def test_one_row_is_too_few() -> None:
    with pytest.raises(ValueError, match="got 1"):
        named_by_line(NOISE[:1], LABELS[:1], seed=0)
