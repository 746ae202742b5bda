"""What each change of the latents is: the shapes stay, what it draws depends on the seed alone."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.testing import assert_close

from rottrain.analysis.interventions import INTERVENTIONS

THOUGHTS = [torch.randn(count, 6, generator=Generator().manual_seed(count)) for count in (4, 1, 3, 2, 5)]


def changed(name: str, thoughts: list[Tensor] = THOUGHTS, *, seed: int = 0) -> list[Tensor]:
    [intervention] = [each for each in INTERVENTIONS if each.name == name]
    return intervention.change(thoughts, Generator().manual_seed(seed))


def test_every_change_keeps_the_number_and_width_of_latents_and_leaves_the_given_ones_alone() -> None:
    before = [thought.clone() for thought in THOUGHTS]
    for intervention in INTERVENTIONS:
        made = changed(intervention.name)
        if intervention.name != "swap":
            assert [thought.shape for thought in made] == [thought.shape for thought in THOUGHTS]
        assert_close(made, changed(intervention.name))
    assert_close(THOUGHTS, before)


def test_zeros_and_the_mean_say_the_same_at_every_position() -> None:
    assert not torch.cat(changed("zeros")).any()
    assert_close(torch.cat(changed("mean")), torch.cat(THOUGHTS).mean(dim=0).expand(15, 6))


def test_noise_keeps_each_latent_s_norm_and_nothing_else() -> None:
    made, given = torch.cat(changed("noise")), torch.cat(THOUGHTS)
    assert_close(made.norm(dim=1), given.norm(dim=1))
    assert torch.cosine_similarity(made, given).abs().mean() < 0.6
    assert not torch.allclose(made, torch.cat(changed("noise", seed=1)))


def test_a_shuffle_moves_positions_wherever_there_are_two() -> None:
    for seed in range(5):
        for made, given in zip(changed("shuffle", seed=seed), THOUGHTS, strict=True):
            assert sorted(made.tolist()) == sorted(given.tolist())
            assert torch.equal(made, given) == (len(given) == 1)


def test_a_swap_gives_every_row_another_s_latents_and_loses_none() -> None:
    for seed in range(5):
        made = changed("swap", seed=seed)
        assert sorted(map(len, made)) == sorted(map(len, THOUGHTS))
        assert not any(mine is given for mine, given in zip(made, THOUGHTS, strict=True))


def test_a_repeat_has_the_first_latent_at_every_position() -> None:
    for made, given in zip(changed("repeat"), THOUGHTS, strict=True):
        assert_close(made, given[0].expand_as(given))
