"""True latents of chains of thought, brought to a budget as a checkpoint's training brought them.

They come from shards where those hold the row, or are made anew: the strip is drawn in the checkpoint's own style and
encoded by its own encoder.

Shapes: K latents of a row, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotdata import hub
from rotdata.corpora import Row
from rotdata.encoders.packed import PackedEncoder
from rotdata.encoders.patches import latent_pictures
from rotdata.errors import ShardMismatch, UsageError
from rotdata.pictures import load_tower_of
from rotdata.rendering.strips import Strip, renderer_as
from rotdata.shards import EmbeddingShards, Manifest, Plan
from rotdata.shards.targets import Longer, TargetSettings, shorten
from rottrain.data.training_set import blank_latent
from rottrain.generation.generate import Budget, RoT
from rottrain.model.checkpoints import CheckpointConfig

_STRIPS_A_CALL = 32
_Whole = tuple[NDArray[np.float32], list[int] | None]
"""All latents of a row, and their spans."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a row's latents should have been."""

    latents_KD: Tensor
    """In fp32 on the CPU."""
    said: int
    """How many there are before the blank ones that fill a short row up to the budget."""
    shown: list[str] | None
    """The characters of each latent, [K]; None where the shards have no spans."""

    @property
    def text(self) -> str:
        """What they show together: the chain of thought, or what of it fits into the budget."""
        return "".join(self.shown or ())


class TrueLatents:
    """Where the true latents for a checkpoint come from."""

    def __init__(self, rot: RoT, shards: EmbeddingShards | None = None) -> None:
        """Take them from `shards`, or make them. Raises ShardMismatch for shards of other latents."""
        if shards is not None:
            check_shards(rot.config, shards)
        self._rot = rot
        self._shards = shards

    def of(self, rows: Sequence[Row], budget: int) -> list[Truth | None]:
        """The truth of each row's chain of thought at a budget; None for one that the shards lack, or that is empty.

        Raises UsageError where they would have to be made and can't.
        """
        found = self._made(rows) if self._shards is None else self._stored(self._shards, rows)
        return [
            None if each is None else self._fitted(row.cot, *each, budget)
            for row, each in zip(rows, found, strict=True)
        ]

    def _stored(self, shards: EmbeddingShards, rows: Sequence[Row]) -> list[_Whole | None]:
        wanted: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            wanted.setdefault(row.cot, []).append(number)
        found: list[_Whole | None] = [None] * len(rows)
        for group in shards:
            for place, cot in enumerate(group.cots):
                for number in wanted.get(cot, ()):
                    own = slice(group.offsets[place], group.offsets[place + 1])
                    found[number] = group.embedding_LD[own].astype(np.float32), group.spans[place]
        return found

    def _made(self, rows: Sequence[Row]) -> list[_Whole | None]:
        config = self._rot.config
        draw = renderer_as(config.style)
        if draw is None or not _unchanged(config):
            raise UsageError(
                "the true latents of this checkpoint can't be made here, since fonts draw otherwise, or its shards "
                "were pooled, resampled or resized: give shards of this corpus with --shards"
            )
        encoder = load_tower_of(self._rot.backbone.folder, config.encoder)
        thought = [number for number, row in enumerate(rows) if row.cot]
        found: list[_Whole | None] = [None] * len(rows)
        for start in range(0, len(thought), _STRIPS_A_CALL):
            some = thought[start : start + _STRIPS_A_CALL]
            strips = [draw.render(rows[number].cot) for number in some]
            for number, strip, latents_KD in zip(some, strips, self._encoded(encoder, strips), strict=True):
                found[number] = latents_KD, strip.spans.tolist()
        return found

    def _encoded(self, encoder: PackedEncoder, strips: Sequence[Strip]) -> list[NDArray[np.float32]]:
        """Latents [K, D] of each strip, encoded with what those of the shards were."""
        if self._rot.config.context == "strip":
            return encoder.encode([strip.pixels for strip in strips])
        alone = [picture for strip in strips for picture in latent_pictures(strip.pixels)]
        latents_LD = np.concatenate(encoder.encode(alone))
        return np.split(latents_LD, np.cumsum([strip.num_latents for strip in strips])[:-1])

    def _fitted(self, cot: str, latents_KD: NDArray[np.float32], spans: list[int] | None, budget: int) -> Truth:
        """Cut to the budget, or resampled or followed by blank latents if the training did so."""
        recipe = self._rot.config.run["recipe"]
        borders = None if spans is None else np.array(spans, dtype=np.int32)
        fit = recipe["fit"] if recipe.get("budget") is not None else "truncate"
        longer: Longer = "resample" if fit == "resample" else "truncate"
        latents_KD, borders = shorten(latents_KD, borders, TargetSettings(max_latents=budget, longer=longer))
        shown = None if borders is None else [cot[start:stop] for start, stop in pairwise(borders.tolist())]
        said = len(latents_KD)
        if fit == "pad" and said < budget and self._rot.config.feedback == "latent":
            blank = np.broadcast_to(self._blank, (budget - said, latents_KD.shape[1]))
            latents_KD = np.concatenate([latents_KD, blank])
            shown = None if shown is None else shown + [""] * len(blank)
        return Truth(latents_KD=torch.from_numpy(latents_KD), said=said, shown=shown)

    @cached_property
    def _blank(self) -> NDArray[np.float32]:
        config = self._rot.config
        return blank_latent(self._rot.backbone.folder, _as_learnt(config))


def some_latents(rot: RoT, asked: Budget) -> int:
    """The budget that was asked for, if there are latents to look at then. Raises UsageError, CheckpointError."""
    budget = rot.budget(asked)
    if budget < 1:
        raise UsageError("with a budget of 0 there are no latents to look at: give one of 1 or more")
    return budget


def open_shards(where: str) -> EmbeddingShards:
    """Shards in a folder, or OWNER/NAME[@REVISION][/CONFIG[/SPLIT]] on the Hub. Raises ShardError."""
    return EmbeddingShards(hub.locate(where))


def check_shards(config: CheckpointConfig, shards: EmbeddingShards) -> None:
    """Raise ShardMismatch if the latents of `shards` are not of the kind that a checkpoint has learnt."""
    encoding = shards.manifest.encoding_fingerprint
    if encoding != config.encoding:
        raise ShardMismatch(
            f"the checkpoint has learnt latents of encoding {config.encoding[:12]}, the shards in {shards.folder} are "
            f"of {encoding[:12]}: give shards of the same style, encoder and pooling"
        )


def _unchanged(config: CheckpointConfig) -> bool:
    """Whether the latents that were learnt are those of strips as the tower gave them, neither pooled nor resized."""
    return _as_learnt(config).encoding_fingerprint == config.encoding


def _as_learnt(config: CheckpointConfig) -> Manifest:
    """A manifest of latents as the tower gives them, of the kind that a checkpoint has learnt."""
    return Manifest(
        kind="embeddings", corpus="", split="", source={}, style=config.style, encoder=config.encoder,
        settings={} if config.context == "strip" else {"context": config.context},
        plan=Plan(rows_in=0, rows_per_shard=1, num_shards=1),
    )  # fmt: skip
