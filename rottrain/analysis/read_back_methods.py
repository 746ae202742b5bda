"""Who reads latents back, side by side: the base model, the glyph probe, and the nearest pictures.

Shapes: K latents of a row, D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from rottrain.analysis.nearest import Neighbour
from rottrain.analysis.read_back import Piece, Reading, spell, transcribe
from rottrain.generation.generate import RoT
from rottrain.training.tiny import READ_PROMPT

Reader = Literal["base", "glyphs", "nearest"]
READERS: dict[Reader, str] = {
    "base": "the base model",
    "glyphs": "the glyph probe",
    "nearest": "the nearest pictures",
}
"""The readers, as people call them."""


def read_back(
    rot: RoT,
    thoughts: Sequence[Tensor],
    nearest: Sequence[Sequence[Sequence[Neighbour]]],
    *,
    prompt: str = READ_PROMPT,
    batch_size: int = 16,
) -> dict[Reader, list[Reading]]:
    """What each reader makes of rows of latents [K, D], whose nearest pictures have been looked up.

    A checkpoint without a glyph probe has no such reader. The confidence of a nearest picture is its cosine.
    """
    found: dict[Reader, list[Reading]] = {"base": transcribe(rot.base, thoughts, prompt=prompt, batch_size=batch_size)}
    if rot.glyphs is not None:
        found["glyphs"] = [spell(rot.glyphs, scaled(rot, thought_KD)) for thought_KD in thoughts]
    found["nearest"] = [
        Reading([Piece(each[0].characters, max(0.0, each[0].cosine)) if each else Piece("", 0.0) for each in row])
        for row in nearest
    ]
    return found


def scaled(rot: RoT, latents_KD: Tensor) -> Tensor:
    """Latents in standard deviations from the targets' mean, where the head is."""
    return rot.head.scaled(latents_KD.to(rot.backbone.device))
