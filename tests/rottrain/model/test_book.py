"""The book finds pages by what pictures show."""

import torch

from rottrain.model.book import Book
from rottrain.model.glyph_probe import NOTHING, OTHER, Alphabet

ALPHABET = Alphabet(" 12", 3)
SPACE, ONE, TWO = (OTHER + 1 + place for place in range(3))


def test_a_page_is_found_by_its_characters_and_a_blank_slot_is_a_space() -> None:
    book = Book(ALPHABET, torch.tensor([[ONE, TWO, NOTHING], [NOTHING] * 3]), torch.tensor([[1.0], [0.0]]))
    asked = torch.tensor([[ONE, TWO, SPACE], [ONE, TWO, NOTHING], [SPACE] * 3, [TWO, ONE, NOTHING], [ONE, TWO, OTHER]])
    assert book.find(asked).tolist() == [0, 0, 1, -1, -1]


def test_a_page_that_was_added_is_found() -> None:
    book = Book(ALPHABET, torch.tensor([[NOTHING] * 3]), torch.zeros(1, 2, dtype=torch.float16))
    book.add(torch.tensor([[TWO, TWO, NOTHING]]), torch.tensor([[3.0, 4.0]]))
    page = book.find(torch.tensor([[TWO, TWO, SPACE]]))
    assert book.latents_ND[page].tolist() == [[3.0, 4.0]]
    assert len(book) == 2
