"""The book: each different latent once, found by the characters that its picture shows.

There is one where latents are pictures of their own characters alone (shards of `--context latent`): then the
characters decide the latent, and whoever can read one can write it exactly. Look-ups stay on the device.

Shapes: N pages, L latents, D embedding width, S character slots of a latent.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from rottrain.model.glyph_probe import Alphabet

_ODD = 1


class Book:
    """Pages of characters, as classes of an alphabet, and of the latents that show them."""

    def __init__(self, alphabet: Alphabet, classes_NS: Tensor, latents_ND: Tensor) -> None:
        """Pages [N, S] and their latents [N, D], on one device; of equal pages the first one counts."""
        self.alphabet = alphabet
        self.classes_NS = alphabet.drawn(classes_NS.long())
        self.latents_ND = latents_ND
        self._index()

    def __len__(self) -> int:
        return len(self.classes_NS)

    def to(self, device: torch.device) -> Book:
        """The same book there."""
        return Book(self.alphabet, self.classes_NS.to(device), self.latents_ND.to(device))

    def find(self, classes_LS: Tensor) -> Tensor:
        """The page that shows these characters, [L]; -1 where there is none."""
        return self.find_drawn(self.alphabet.drawn(classes_LS))

    def find_drawn(self, drawn_LS: Tensor) -> Tensor:
        """The same of classes as pictures show them."""
        place_L = torch.searchsorted(self._codes_N, self._code(drawn_LS)).clamp(max=len(self) - 1)
        page_L = self._pages_N[place_L]
        same_L = (self.classes_NS[page_L] == drawn_LS).all(dim=-1)
        return torch.where(same_L, page_L, -1)

    def add(self, classes_LS: Tensor, latents_LD: Tensor) -> None:
        """More pages, with their latents."""
        self.classes_NS = torch.cat([self.classes_NS, self.alphabet.drawn(classes_LS)])
        self.latents_ND = torch.cat([self.latents_ND, latents_LD.to(self.latents_ND)])
        self._index()

    def _index(self) -> None:
        """Sort the pages by a number of 64 bits each, under which no two different ones fall together."""
        different = len(torch.unique(self.classes_NS, dim=0))
        for seed in range(100):
            odd = random.Random(seed)  # noqa: S311 -- no secret
            factors = [odd.getrandbits(63) | _ODD for _ in range(self.alphabet.slots)]
            self._factors_S = torch.tensor(factors, device=self.classes_NS.device)
            codes_N = self._code(self.classes_NS)
            if len(torch.unique(codes_N)) == different:
                break
        self._codes_N, self._pages_N = codes_N.sort(stable=True)

    def _code(self, classes_LS: Tensor) -> Tensor:
        return ((classes_LS + 1) * self._factors_S).sum(dim=-1)  # modulo 2^64, as integers wrap around
