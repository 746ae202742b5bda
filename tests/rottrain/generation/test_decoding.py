"""How the next token is chosen."""

from __future__ import annotations

import pytest
import torch

from rottrain.generation.decoding import GREEDY, Sampling, chooser, nucleus

SHARES = torch.tensor([[0.1, 0.5, 0.0, 0.4], [0.4, 0.1, 0.5, 0.0]])


def chosen(drawn: float, *, top_p: float) -> list[int]:
    return nucleus(SHARES.log(), top_p, torch.full((2, 1), drawn)).tolist()


@pytest.mark.parametrize(
    ("drawn", "top_p", "tokens"),
    [
        (0.0, 1.0, [1, 2]),
        (0.49, 1.0, [1, 2]),
        (0.51, 1.0, [3, 0]),
        (0.89, 1.0, [3, 0]),
        (0.91, 1.0, [0, 1]),
        (0.9999999, 1.0, [0, 1]),
        (0.9999999, 0.9, [3, 0]),
        (0.5, 0.9, [1, 2]),
        (0.9999999, 0.3, [1, 2]),
    ],
)
def test_tokens_are_drawn_from_the_likeliest_first(drawn: float, top_p: float, tokens: list[int]) -> None:
    assert chosen(drawn, top_p=top_p) == tokens


def test_samples_have_the_model_s_probabilities() -> None:
    rows = 2000
    choose = chooser([str(row) for row in range(rows)], Sampling(temperature=2.0))
    counts = choose(2 * SHARES[:1].log().expand(rows, -1)).bincount(minlength=4) / rows
    torch.testing.assert_close(counts, SHARES[0], atol=0.03, rtol=0)


def test_without_a_temperature_the_likeliest_token_is_taken() -> None:
    assert chooser(["a", "b"], GREEDY)(SHARES).tolist() == [1, 2]


def test_each_draw_is_another_one() -> None:
    choose = chooser(["a"], Sampling(temperature=1.0))
    assert len({int(choose(torch.zeros(1, 1000))) for _ in range(8)}) == 8
