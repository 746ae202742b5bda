"""The glyph probe: names the characters that a latent shows from that latent alone.

Learnt on true latents and then frozen, it is local, unlike a language model that reads a strip and computes what is
missing from the rest. So it can say whether a predicted latent carries its digit, and, as a loss, see to it.

Shapes: L latents, K latents of a row, D embedding width, S character slots of a latent, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rotdata.rendering.cells import EMPTY, REST

_MOST_CHARACTERS = 254
MOST_SLOTS = 128
"""Cells of a latent, all its lines together, at most."""
_MOST_BY_LENGTH = 8
"""Slots where the lengths of spans choose their number."""
_HIDDEN = 512
_STEPS, _BATCH, _LR, _NOISE = 800, 512, 2e-3, 0.1
NOTHING, OTHER = 0, 1
"""Classes of a slot that shows no character, and of characters that the alphabet does not have."""


class Alphabet:
    """Characters as classes: the most frequent ones of some texts."""

    def __init__(self, characters: str, slots: int) -> None:
        self.characters, self.slots = characters, slots
        self._class = {character: number for number, character in enumerate(characters, start=OTHER + 1)}
        self._points = np.array(list(map(ord, characters)), dtype=np.uint32)  # sorted, as the characters are

    @classmethod
    def of(cls, texts: Iterable[str], spans: Iterable[Sequence[int]], *, slots: int | None = None) -> Alphabet:
        """The alphabet of texts, by default with as many slots as all but one in a hundred latents need."""
        counts = Counter[str]()
        for text in texts:
            counts.update(text)
        if slots is None:
            lengths = sorted(stop - start for row in spans for start, stop in pairwise(row)) or [1]
            slots = max(1, min(_MOST_BY_LENGTH, lengths[len(lengths) * 99 // 100]))
        ranked = sorted(counts, key=lambda character: (-counts[character], character))
        return cls("".join(sorted(ranked[:_MOST_CHARACTERS])), slots)

    @property
    def classes(self) -> int:
        """C."""
        return OTHER + 1 + len(self.characters)

    def labels(self, text: str, spans: Sequence[int] | NDArray[np.int32]) -> NDArray[np.int64]:
        """Classes of what each latent of a row shows, by its text: [K, S]. Characters beyond the slots are left out."""
        classes = self._classes_of(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32))
        borders = np.asarray(spans, dtype=np.int64)
        index_KS = borders[:-1, None] + np.arange(self.slots)
        shown_KS = index_KS < borders[1:, None]
        found: NDArray[np.int64] = np.full(index_KS.shape, NOTHING, dtype=np.int64)
        found[shown_KS] = classes[index_KS[shown_KS]]
        return found

    def labels_of_cells(self, points_KS: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Classes of what each latent shows, as `rotdata.rendering.cells.shown` has it: [K, S]."""
        return np.where(points_KS == EMPTY, NOTHING, self._classes_of(points_KS))

    def _classes_of(self, points: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Classes of code points."""
        place = np.searchsorted(self._points, points).clip(max=max(0, len(self._points) - 1))
        known = self._points[place] == points if len(self._points) else np.zeros(points.shape, dtype=bool)
        return np.where(known, place + OTHER + 1, OTHER)

    def drawn(self, classes: Tensor) -> Tensor:
        """Classes [..., S] as pictures show them: nothing looks like a space, and is one."""
        space = self._class.get(" ")
        return classes if space is None else classes.masked_fill(classes == NOTHING, space)

    def blank(self, classes: Tensor) -> Tensor:
        """Whether a latent of these classes [..., S] shows nothing: [...]."""
        return self.blank_drawn(self.drawn(classes))

    def blank_drawn(self, drawn: Tensor) -> Tensor:
        """The same of classes as pictures show them."""
        return (drawn == self._class.get(" ", NOTHING)).all(dim=-1)

    def text(self, classes: Sequence[int]) -> str:
        """Characters of some slots; what the alphabet does not have is U+FFFD."""
        known = (number - OTHER - 1 for number in classes if number != NOTHING)
        read = "".join(self.characters[index] if index >= 0 else "\ufffd" for index in known)
        return read.replace(chr(REST), "")


class GlyphProbe(nn.Module):
    """A small MLP: scaled latents [..., D] -> logits [..., S, C]."""

    def __init__(self, width: int, alphabet: Alphabet) -> None:
        super().__init__()
        self.alphabet = alphabet
        self.enter = nn.Linear(width, _HIDDEN)
        self.leave = nn.Linear(_HIDDEN, alphabet.slots * alphabet.classes)

    def forward(self, scaled: Tensor) -> Tensor:
        """Logits of each slot's character."""
        logits = self.leave(F.gelu(self.enter(scaled.float())))
        return logits.view(*scaled.shape[:-1], self.alphabet.slots, self.alphabet.classes)


def train_probe(scaled_LD: Tensor, labels_LS: Tensor, alphabet: Alphabet, *, seed: int) -> GlyphProbe:
    """A probe learnt on true latents in standard deviations from their mean, frozen.

    A little noise on them keeps it from resting on values that a prediction can't have.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = GlyphProbe(scaled_LD.shape[1], alphabet)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=_LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / _STEPS)
    batch = min(_BATCH, len(scaled_LD))
    for _ in range(_STEPS):
        chosen = torch.randint(len(scaled_LD), (batch,), generator=generator)
        read = scaled_LD[chosen] + _NOISE * torch.randn(batch, scaled_LD.shape[1], generator=generator)
        loss = F.cross_entropy(probe(read).flatten(0, 1), labels_LS[chosen].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
    return probe.eval().requires_grad_(requires_grad=False)


def characters_right(logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Share of slots showing a character that are named rightly: [..., S, C], [..., S], [...] -> scalar."""
    counted = (labels != NOTHING) & mask[..., None]
    return ((logits.argmax(dim=-1) == labels) & counted).sum() / counted.sum().clamp(min=1)
