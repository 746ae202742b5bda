"""What a training run learns from: rows of the shards, shaped, some of them held out; their statistics; the probe.

Shapes: L latents, D embedding width, S character slots of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotdata.encoders import load_encoder
from rotdata.encoders.models import ModelFolder
from rotdata.errors import ShardMismatch
from rotdata.shards import EmbeddingShards
from rottrain.config import LatentConfig
from rottrain.data.batches import Example, Shape, ShardRows
from rottrain.data.rows import RowReader, Selection, hold_out
from rottrain.model.backbone import Backbone
from rottrain.model.glyph_probe import Alphabet, GlyphProbe, train_probe
from rottrain.model.head import ProjectionHead

_SAMPLE = 2000
"""Rows, the first ones of each folder, that statistics and the probe are made from."""
_BLANK_LATENTS = 32
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
        wants_probe = recipe.glyph_weight > 0 or recipe.validation_rows > 0
        if recipe.glyph_weight > 0 and not has_spans:
            raise ShardMismatch(
                f"the latents in {selections[0].shards.folder} have no spans, so there are no characters to learn: set "
                "glyph_weight to 0, or embed without --resize"
            )
        alphabet = None
        if wants_probe and has_spans:
            alphabet = probe.alphabet if probe else _alphabet(selections)
        pads = recipe.budget is not None and recipe.fit == "pad"
        shape = Shape(
            budget=recipe.budget,
            fit=recipe.fit,
            blank_D=blank_latent(backbone.folder) if pads else None,
            alphabet=alphabet,
        )
        kept, held_out = hold_out(selections, recipe.validation_rows)
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


def blank_latent(folder: ModelFolder) -> NDArray[np.float32]:
    """The mean latent of a blank strip, [D]: the one time that training needs the vision tower."""
    encoder = load_encoder(folder, dtype="float32", device="cpu")
    side = encoder.geometry.factor_px
    (latents_KD,) = encoder.encode([np.full((side, _BLANK_LATENTS * side), 255, dtype=np.uint8)])
    mean: NDArray[np.float32] = latents_KD.mean(axis=0)
    return mean


def _alphabet(selections: Sequence[Selection]) -> Alphabet:
    """Characters of the first rows of each folder."""
    texts: list[str] = []
    spans: list[list[int]] = []
    for number, selection in enumerate(selections, start=1):
        for rows in selection.shards:
            texts += rows.cots
            spans += [row for row in rows.spans if row is not None]
            if len(texts) >= _SAMPLE * number / len(selections):
                break
    return Alphabet.of(texts, spans)
