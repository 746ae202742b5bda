"""The looks of latents: sizes, similarities, the plane of a path, and where they settle."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from rottrain.metrics.latent_geometry import path, portrait, settled, sizes


def test_sizes_are_those_of_each_latent() -> None:
    found = sizes(torch.tensor([[3.0, 4.0], [1.0, 1.0]]))
    assert found.norm == [5, pytest.approx(2**0.5, abs=1e-4)]
    assert (found.mean, found.deviation) == ([3.5, 1], [0.5, 0])


def test_similarity_is_of_scaled_latents_and_heat_keeps_within_three_deviations() -> None:
    latents = torch.randn(3, 600)
    scaled = torch.randn(3, 600) * 2
    found = portrait(latents, scaled)
    expected = torch.nn.functional.cosine_similarity(scaled[:, None], scaled[None], dim=-1)
    assert_close(torch.tensor(found.similarity), expected, atol=1e-4, rtol=0)
    assert found.heat_step == 3
    assert_close(torch.tensor(found.heat), scaled[:, ::3].clamp(-3, 3), atol=0.01, rtol=0)
    assert found.sizes == sizes(latents)


def test_a_path_lies_in_the_plane_in_which_the_others_spread_most() -> None:
    context = torch.randn(200, 6) * torch.tensor([5.0, 0.1, 3.0, 0.1, 0.1, 0.1])
    found = path(context, torch.tensor([[10.0, 0, 0, 0, 0, 0], [0.0, 0, 10, 0, 0, 0]]), None)
    (first, second), true = found.generated, found.true
    centre = context.mean(dim=0)
    assert abs(first[0]) == pytest.approx(abs(10 - float(centre[0])), abs=0.5)
    assert abs(second[1]) == pytest.approx(abs(10 - float(centre[2])), abs=0.5)
    assert true == []
    assert len(found.context) == 200
    assert found.explained[0] > found.explained[1] > 0.1
    assert sum(found.explained) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [([[1.0, 0], [0, 1], [1, 0]], 3), ([[1.0, 0], [0, 1], [0, 2]], 2), ([[1.0, 0], [2, 0]], 1), ([[1.0, 0]], 1)],
)
def test_latents_settle_where_each_is_like_the_one_before(rows: list[list[float]], expected: int) -> None:
    assert settled(torch.tensor(rows)) == expected
