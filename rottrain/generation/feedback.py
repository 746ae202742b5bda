"""What a thought continues from: the latent that was predicted, or the picture of what was read in it.

A predicted latent is a little off what the tower makes of any picture, and errors add up. With picture feedback the
glyph probe names the characters of each predicted latent, and what the model continues from and answers from is the
latent of these characters: from the book, else drawn and encoded. A latent that shows nothing ends the thought.

Shapes: B rows, K latents, D embedding width, S character slots of a latent, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from rotdata.errors import UsageError
from rotdata.pictures import Pictures
from rottrain.generation.decoding import Chooser, greedy
from rottrain.model.book import Book
from rottrain.model.glyph_probe import NOTHING, OTHER, Alphabet, GlyphProbe
from rottrain.model.head import ProjectionHead

UNNAMED = "\ufffd"
"""What is read in a latent that can't be named."""
UNSURE = 0.8
"""A reading of less confidence is shown as unsure; where the figure comes from stands in docs/trace.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """What was read in a batch's latents."""

    classes_BKS: Tensor
    confidence_BK: Tensor
    """Of the least certain character of each, 0 to 1."""
    named_BK: Tensor
    """Whether the picture of what was read was fed back; where not, the predicted latent was."""
    missed_BK: Tensor
    """Whether what was read was not in the book."""

    def cpu(self) -> Read:
        """The same on the host."""
        return Read(**{each.name: getattr(self, each.name).cpu() for each in fields(self)})


class PictureFeedback:
    """Reads latents of one batch, step by step, and gives the pictures of what it read.

    Nothing is copied to the host unless `draw` is set: then characters that the book lacks are drawn at once, and stay
    in it. Without, they are fed back as they were predicted, and `missed` says so at the end.
    """

    def __init__(
        self,
        probe: GlyphProbe,
        head: ProjectionHead,
        book: Book,
        *,
        pictures: Pictures | None = None,
        choose: Chooser = greedy,
    ) -> None:
        self._probe, self._head, self.book, self._pictures, self._choose = probe, head, book, pictures, choose
        self._classes: list[Tensor] = []
        self._surprises: list[Tensor] = []
        """Negative logarithms of confidences."""
        self._known: list[Tensor] = []
        """Whether the book had what was read."""
        self._named: list[Tensor] = []

    def __call__(self, predicted_BD: Tensor) -> tuple[Tensor, Tensor]:
        """The next latents as predicted -> the latents to continue from, and which rows have ended: [B, D], [B]."""
        alphabet = self._probe.alphabet
        logits_BSC = self._probe(self._head.scaled(predicted_BD))
        classes_BS, chosen_BS = self._chosen(logits_BSC)
        drawn_BS = alphabet.drawn(classes_BS)
        page_B = self.book.find_drawn(drawn_BS)
        known_B = named_B = page_B >= 0
        if self._pictures is not None and not known_B.all():
            missed_B = ~known_B & (classes_BS != OTHER).all(dim=-1)
            if missed_B.any():
                self._draw(classes_BS[missed_B])
                page_B = self.book.find_drawn(drawn_BS)
                named_B = page_B >= 0
        written_BD = self.book.latents_ND[page_B.clamp(min=0)].to(predicted_BD.dtype)
        self._classes.append(classes_BS)
        self._surprises.append((logits_BSC.logsumexp(dim=-1) - chosen_BS).amax(dim=-1))
        self._known.append(known_B)
        self._named.append(named_B)
        return torch.where(named_B[:, None], written_BD, predicted_BD), alphabet.blank_drawn(drawn_BS)

    def read(self) -> Read:
        """What was read so far."""
        classes_BKS = torch.stack(self._classes, dim=1)
        return Read(
            classes_BKS=classes_BKS,
            confidence_BK=torch.stack(self._surprises, dim=1).neg().exp(),
            named_BK=torch.stack(self._named, dim=1),
            missed_BK=~torch.stack(self._known, dim=1) & (classes_BKS != OTHER).all(dim=-1),
        )

    def _chosen(self, logits_BSC: Tensor) -> tuple[Tensor, Tensor]:
        """The class of each slot, and its logit: [B, S] each. The likeliest ones are found in one call."""
        if self._choose is greedy:
            likeliest = logits_BSC.max(dim=-1)
            return likeliest.indices, likeliest.values
        classes_BS = torch.stack([self._choose(logits_BC) for logits_BC in logits_BSC.unbind(dim=1)], dim=1)
        return classes_BS, logits_BSC.gather(-1, classes_BS[..., None])[..., 0]

    def _draw(self, classes_LS: Tensor) -> None:
        """Make pages of characters that the book lacks; those that no one latent can show are left out."""
        assert self._pictures is not None
        different_NS = torch.unique(self.book.alphabet.drawn(classes_LS), dim=0)
        texts = [self.book.alphabet.text(classes) for classes in different_NS.tolist()]
        fitting = [number for number, text in enumerate(texts) if self._pictures.fits(text)]
        if fitting:
            latents = torch.from_numpy(self._pictures.latents([texts[number] for number in fitting]))
            self.book.add(different_NS[torch.tensor(fitting, device=different_NS.device)], latents)


def check_confidence(asked: float) -> None:
    """Raise UsageError if it is no probability."""
    if not 0 <= asked <= 1:
        raise UsageError(f"a confidence is a probability from 0 to 1, got {asked}")


def blank_book(alphabet: Alphabet, pictures: Pictures) -> Book:
    """A book of nothing but the blank page, to which all else is added as it is drawn."""
    return Book(alphabet, torch.full((1, alphabet.slots), NOTHING), torch.from_numpy(pictures.latents([""])))


def texts_of(book: Book, classes_KS: Tensor, named_K: Sequence[bool]) -> list[str]:
    """The characters of a row's latents as they were read; U+FFFD for those that can't be named."""
    return [
        book.alphabet.text(classes) if named else UNNAMED
        for classes, named in zip(classes_KS.tolist(), named_K, strict=True)
    ]
