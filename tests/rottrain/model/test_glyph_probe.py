"""The glyph probe: labels of a row's latents, and a probe that reads what is there and nothing that is not."""

from __future__ import annotations

import numpy as np
import torch

from rotdata.rendering.cells import EMPTY, REST, characters_of
from rottrain.model.glyph_probe import NOTHING, OTHER, Alphabet, characters_right, train_probe


def test_an_alphabet_has_the_most_frequent_characters_and_slots_for_nearly_all_latents() -> None:
    alphabet = Alphabet.of(["aab", "ba"], [[0, 2, 3], [0, 1, 2]])
    assert (alphabet.characters, alphabet.slots, alphabet.classes) == ("ab", 2, 4)
    many = Alphabet.of([chr(0x4E00 + number) * (300 - number) for number in range(300)], [[0, 30]])
    assert (len(many.characters), many.slots) == (254, 8)
    assert chr(0x4E00) in many.characters
    assert chr(0x4E00 + 299) not in many.characters


def test_labels_name_what_each_latent_shows() -> None:
    alphabet = Alphabet("12=", 2)
    labels = alphabet.labels("1=2x21", [0, 1, 4, 4, 6])
    one, two, equals = (OTHER + 1 + number for number in range(3))
    assert labels.tolist() == [[one, NOTHING], [equals, two], [NOTHING, NOTHING], [two, one]]
    assert [alphabet.text(row) for row in labels.tolist()] == ["1", "=2", "", "21"]
    assert alphabet.labels("é", [0, 1])[0, 0] == OTHER
    assert alphabet.text([OTHER]) == "\ufffd"


def test_the_second_cell_of_a_character_is_a_class_of_its_own_and_no_text() -> None:
    points = np.array([[ord("数"), REST, ord("a"), EMPTY]], dtype=np.uint32)
    alphabet = Alphabet.of([characters_of(points[0])], [], slots=4)
    [classes] = alphabet.labels_of_cells(points)
    assert len(set(classes)) == 4
    assert alphabet.text(classes.tolist()) == "数a"


def test_a_probe_learns_to_read_latents_and_stays_as_it_is() -> None:
    alphabet = Alphabet("0123456789", 1)
    generator = torch.Generator().manual_seed(0)
    digits = torch.randint(10, (500,), generator=generator)
    glyphs = torch.randn(10, 16, generator=generator)
    latents = glyphs[digits] + 0.05 * torch.randn(500, 16, generator=generator)
    labels = (digits + OTHER + 1)[:, None]
    state = torch.get_rng_state()
    probe = train_probe(latents, labels, alphabet, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    everything = torch.ones(500, dtype=torch.bool)
    assert characters_right(probe(latents), labels, everything) == 1
    assert characters_right(probe(latents[torch.randperm(500)]), labels, everything) < 0.3
    assert not any(value.requires_grad for value in probe.parameters())
    again = train_probe(latents, labels, alphabet, seed=3)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in probe.state_dict().items())


def test_slots_without_a_character_and_padding_do_not_count() -> None:
    labels = torch.tensor([[[2, NOTHING]], [[3, 2]]])
    logits = torch.nn.functional.one_hot(torch.tensor([[[2, 5]], [[3, 3]]]), 6).float()
    assert characters_right(logits, labels, torch.tensor([[True], [True]])) == torch.tensor(2 / 3)
    assert characters_right(logits, labels, torch.tensor([[True], [False]])) == 1
