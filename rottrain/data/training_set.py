"""What a training run learns from: rows of the shards, shaped, some of them held out; their statistics; the probe.

Shapes: L latents, D embedding width, S character slots of a latent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotdata.console import say
from rotdata.encoders import load_encoder
from rotdata.encoders.models import ModelFolder
from rotdata.errors import ShardMismatch
from rotdata.pictures import Pictures
from rotdata.rendering.cells import characters_of, shown
from rotdata.rendering.style import StripStyle
from rotdata.shards import EmbeddedRows, EmbeddingShards, Manifest
from rottrain.config import LatentConfig
from rottrain.data.batches import Example, Shape, ShardRows
from rottrain.data.rows import RowReader, Selection, hold_out
from rottrain.model.backbone import Backbone
from rottrain.model.book import Book
from rottrain.model.glyph_probe import NOTHING, OTHER, Alphabet, GlyphProbe, train_probe
from rottrain.model.head import ProjectionHead

_SAMPLE = 2000
"""Rows, the first ones of each folder, that statistics and the probe are made from."""
_BLANK_LATENTS = 32
_BOOK_ROWS = 20_000
"""Rows, the first ones of each folder that are not held out, whose latents make the book."""
_MOST_PAGES = 16_384
_NAMED_CHARACTERS = 8
"""Characters that the alphabet lacks, the most frequent ones, that are named."""
_QUANTILES = (0.5, 0.9, 0.95, 1.0)


@dataclass(frozen=True, kw_only=True)
class Supply:
    """Rows to train on and rows to validate on, none in both."""

    rows: ShardRows
    selections: list[Selection]
    """Where those are."""
    shape: Shape
    held_out: list[Example]
    recipe: LatentConfig
    alphabet: Alphabet | None
    known: GlyphProbe | None
    """A probe that an earlier stage has learnt."""
    _sampled: list[Example] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        selections: Sequence[Selection],
        backbone: Backbone,
        recipe: LatentConfig,
        *,
        probe: GlyphProbe | None = None,
    ) -> Supply:
        """Selected rows as the recipe wants them. Raises ShardMismatch, UsageError."""
        has_spans = all("resize" not in each.shards.manifest.settings for each in selections)
        ends_blank = recipe.feedback == "picture"
        wants_probe = ends_blank or recipe.glyph_weight > 0 or recipe.validation_rows > 0
        if recipe.glyph_weight > 0 and not has_spans:
            raise ShardMismatch(
                f"the latents in {selections[0].shards.folder} have no spans, so there are no characters to learn: set "
                "glyph_weight to 0, or embed without --resize"
            )
        manifest = selections[0].shards.manifest
        alone = manifest.context == "latent"
        if ends_blank and not alone:
            raise ShardMismatch(
                f"the latents in {selections[0].shards.folder} were encoded with their whole strips, so characters do "
                "not decide them: embed with --context latent, or train by another --recipe"
            )
        kept, held_out = hold_out(selections, recipe.validation_rows)
        style = StripStyle(**manifest.style["style"]) if alone and recipe.fit != "resample" else None
        alphabet = None
        if wants_probe and has_spans:
            alphabet = probe.alphabet if probe else _alphabet(kept, style)
        pads = ends_blank or (recipe.budget is not None and recipe.fit == "pad")
        shape = Shape(
            budget=recipe.budget,
            fit=recipe.fit,
            blank_D=blank_latent(backbone.folder, manifest) if pads else None,
            ends_blank=ends_blank,
            alphabet=alphabet,
            style=style,
        )
        last = ShardRows(held_out, backbone, shape=shape)
        return cls(
            rows=ShardRows(kept, backbone, shape=shape),
            selections=kept,
            shape=shape,
            held_out=[last[index] for index in range(len(last))],
            recipe=recipe,
            alphabet=alphabet,
            known=probe,
        )

    def book(self, *, quiet: bool = False) -> Book | None:
        """Latents of the first rows by what they show, each once; None unless pictures are to be fed back.

        Says, unless it is to be quiet, how many have no name.
        """
        if self.recipe.feedback == "latent":
            return None
        book, nameless = book_of(self.selections, self.shape)
        if nameless.latents and not quiet:
            say(nameless.as_words(book.alphabet))
        return book

    def scale(self, *, per_dimension: bool) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the targets, [D] each; one deviation for all unless `per_dimension`."""
        latents_LD = self._latents()
        mean_D, deviation_D = latents_LD.mean(dim=0), latents_LD.std(dim=0)
        whole = deviation_D.square().mean().sqrt()
        return mean_D, deviation_D.clamp(min=1e-3 * whole) if per_dimension else whole.expand_as(mean_D)

    def probe(self, head: ProjectionHead) -> GlyphProbe | None:
        """The glyph probe of latents as `head` scales them, if one is wanted and there are spans."""
        if self.alphabet is None:
            return None
        if self.known is not None:
            return self.known.to(head.mean_D.device)
        labels_LS = torch.from_numpy(
            np.concatenate([row.glyphs_KS for row in self._sample() if row.glyphs_KS is not None])
        )
        scaled_LD = head.scaled(self._latents().to(head.mean_D.device)).cpu()
        return train_probe(scaled_LD, labels_LS, self.alphabet, seed=self.recipe.seed).to(head.mean_D.device)

    def _latents(self) -> Tensor:
        return torch.from_numpy(np.concatenate([row.targets_KD for row in self._sample()]).astype(np.float32))

    def _sample(self) -> list[Example]:
        if not self._sampled:
            first = 0
            for selection in self.selections:
                count = min(len(selection), -(-_SAMPLE // len(self.selections)))
                self._sampled.extend(self.rows[first + index] for index in range(count))
                first += len(selection)
        return self._sampled


def lengths_of(selections: Sequence[Selection], budget: int | None) -> dict[str, int]:
    """Latents that rows say something in, by quantile: at least such a share of the first rows has no more."""
    said: list[int] = []
    for selection in selections:
        reader = RowReader([selection], EmbeddingShards.read_texts)
        for index in range(min(len(selection), -(-_SAMPLE // len(selections)))):
            texts, row = reader.find(index)
            said.append(texts.num_latents[row] if budget is None else min(texts.num_latents[row], budget))
    return {f"{share:g}": int(np.quantile(said, share, method="inverted_cdf")) for share in _QUANTILES}


@dataclass(kw_only=True)
class Nameless:
    """Latents that show what no class of an alphabet stands for, so that they can't be named and not be in a book."""

    latents: int = 0
    of: int = 0
    """All latents that were looked at."""
    lacking: Counter[str] = field(default_factory=Counter)
    """Latents by the characters of theirs that the alphabet does not have."""

    def as_words(self, alphabet: Alphabet) -> str:
        """How many there are, and why."""
        some = ", ".join(ascii(character) for character, _ in self.lacking.most_common(_NAMED_CHARACTERS))
        others = f" and {rest} others" if (rest := len(self.lacking) - _NAMED_CHARACTERS) > 0 else ""
        why = f"the {len(alphabet.characters)} characters of the alphabet are without {some}{others}"
        return (
            f"{self.latents} of {self.of} latents ({self.latents / self.of:.1%}) can't be named and are fed back as "
            f"they are predicted: {why if some else 'they show characters with marks over them'}"
        )


def book_of(selections: Sequence[Selection], shape: Shape) -> tuple[Book, Nameless]:
    """The book of the first selected rows of some shards, with the blank page first, and what can't be in it."""
    assert shape.alphabet is not None
    assert shape.blank_D is not None
    pages: dict[bytes, NDArray[Any]] = {}
    nothing = np.full(shape.alphabet.slots, NOTHING, dtype=np.int64)
    pages[nothing.tobytes()] = shape.blank_D
    nameless, known = Nameless(), set(shape.alphabet.characters)
    for selection in selections:
        for group, row in _first_rows(selection, _BOOK_ROWS):
            spans = group.spans[row]
            labels_KS = shape.labels(group.cots[row], None if spans is None else np.array(spans, dtype=np.int32))
            assert labels_KS is not None
            latents_KD = group.embedding_LD[group.offsets[row] : group.offsets[row + 1]]
            named_K = (labels_KS != OTHER).all(axis=1)
            nameless.of += len(named_K)
            for latent in np.flatnonzero(~named_K):
                nameless.latents += 1
                nameless.lacking.update(sorted(shape.characters(group.cots[row], spans, int(latent)) - known))
            for latent in np.flatnonzero(named_K):
                page = labels_KS[latent].tobytes()
                if page not in pages and len(pages) < _MOST_PAGES:
                    pages[page] = latents_KD[latent].copy()  # a view would keep its whole row group
    stored = selections[0].shards.manifest.settings.get("store", "float16")
    latents = np.stack(list(pages.values())).astype(np.float16 if stored == "float16" else np.float32)
    classes = np.stack([np.frombuffer(page, dtype=np.int64) for page in pages])
    return Book(shape.alphabet, torch.from_numpy(classes.copy()), torch.from_numpy(latents)), nameless


def _first_rows(selection: Selection, most: int) -> Iterator[tuple[EmbeddedRows, int]]:
    """The first of the selected rows, as row groups and places in them; rows that are held out are none of them."""
    reader = RowReader([selection], EmbeddingShards.read_group)
    return (reader.find(index) for index in range(min(len(reader), most)))


def blank_latent(folder: ModelFolder, manifest: Manifest | None = None) -> NDArray[np.float32]:
    """The latent of a blank picture, or the mean one of a blank strip, [D]: all that training needs the tower for."""
    if manifest is not None and manifest.context == "latent":
        assert manifest.encoder is not None
        alone: NDArray[np.float32] = Pictures(folder, style=manifest.style, encoder=manifest.encoder).latents([""])[0]
        return alone
    encoder = load_encoder(folder, dtype="float32", device="cpu")
    side = encoder.geometry.factor_px
    (latents_KD,) = encoder.encode([np.full((side, _BLANK_LATENTS * side), 255, dtype=np.uint8)])
    mean: NDArray[np.float32] = latents_KD.mean(axis=0)
    return mean


def _alphabet(selections: Sequence[Selection], style: StripStyle | None) -> Alphabet:
    """Characters of the first selected rows of each folder: that cells show, or, without a style, of their texts."""
    texts: list[str] = []
    spans: list[list[int]] = []
    for selection in selections:
        for group, row in _first_rows(selection, -(-_SAMPLE // len(selections))):
            cot, borders = group.cots[row], group.spans[row]
            texts.append(cot if style is None else characters_of(shown(cot, style)))
            spans += [] if borders is None else [borders]
    return Alphabet.of(texts, spans, slots=None if style is None else style.cells_a_latent)
