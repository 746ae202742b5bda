"""Characters -> the latent of their picture: drawn in the style of some shards, encoded by their own tower.

Only where a latent is the picture of its own characters alone, and for characters that the book lacks: what shards hold
is there. The tower is loaded when it is first needed.

Shapes: L latents, D embedding width, H picture height, which is its width too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rotdata.encoders import load_encoder
from rotdata.encoders.models import ModelFolder, find_model
from rotdata.encoders.packed import PackedEncoder
from rotdata.encoders.patches import latent_pictures
from rotdata.errors import RotError, ShardMismatch, UsageError
from rotdata.rendering.strips import Renderer, renderer, renderer_as


class Pictures:
    """Draws and encodes what one latent shows."""

    def __init__(self, model: str | ModelFolder, *, style: Mapping[str, Any], encoder: Mapping[str, Any]) -> None:
        """The model whose tower encodes, and what the manifest of shards says of their style and encoder.

        Raises UnknownModel.
        """
        self._folder = find_model(model) if isinstance(model, str) else model
        self._fingerprint, self._identity = style, encoder

    def latents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The latent of each text, [L, D]. Raises UsageError where fonts here draw otherwise, ShardMismatch."""
        pictures = [self._picture(text) for text in texts]
        return np.concatenate(self._encoder.encode(pictures))

    def load(self) -> None:
        """Load the tower now, that nothing later waits for it; what is wrong is said when it is needed."""
        with suppress(RotError):
            _ = self._encoder

    def fits(self, text: str) -> bool:
        """Whether a text can be drawn in one latent."""
        return self._draw.count_latents(text) == 1

    def _picture(self, text: str) -> NDArray[np.uint8]:
        return latent_pictures(self._draw.render(text).pixels)[0]

    @cached_property
    def _draw(self) -> Renderer:
        draw = renderer_as(self._fingerprint)
        if draw is None:
            raise UsageError(
                "characters that the checkpoint's book lacks can't be drawn here, since fonts draw otherwise than "
                "where its strips were made: use the fonts and the Pillow of then, or --feedback latent"
            )
        if draw.style.aligns:  # a latent's characters stand from its beginning on
            return renderer(replace(draw.style, align_steps=False, align_numbers=False))
        return draw

    @cached_property
    def _encoder(self) -> PackedEncoder:
        return load_tower_of(self._folder, self._identity)


def load_tower_of(folder: ModelFolder, identity: Mapping[str, Any]) -> PackedEncoder:
    """A model's tower, if it is the one that `identity` is of. Raises ShardMismatch."""
    found = load_encoder(folder, dtype=identity["dtype"])
    ours, theirs = found.identity.tower.beside(identity)
    if ours != theirs:
        raise ShardMismatch(
            f"the vision tower of {folder.name} is not the one whose latents were learnt: give the right model with "
            "--model, or, where a command takes them, shards with --shards"
        )
    return found
