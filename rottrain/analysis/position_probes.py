"""What a straight line reads in the latents of each position, beside the majority and the glyph probe.

Shapes: K latents of a row, D embedding width, S character slots, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rottrain.analysis.linear_probes import named_by_line, named_by_majority
from rottrain.analysis.true_latents import Truth
from rottrain.generation.generate import RoT
from rottrain.metrics.intervals import Estimate, share
from rottrain.model.glyph_probe import NOTHING, Alphabet

_FEWEST = 20
"""Rows with a character in a slot that a linear probe is made from."""


@dataclass(frozen=True, kw_only=True)
class Position:
    """What can be read in the latents of one position: shares of the characters that they should hold."""

    position: int
    characters: int
    """How many, of all rows."""
    line: Estimate
    """Named rightly by linear probes that have not seen the row."""
    majority: Estimate
    """Named rightly by the most frequent character of that place."""
    glyphs: Estimate | None
    """Named rightly by the checkpoint's glyph probe; None without one."""


def read_positions(rot: RoT, thoughts: Sequence[Tensor], truth: Sequence[Truth | None], *, seed: int) -> list[Position]:
    """What linear probes, the majority and the glyph probe read in each position's latents.

    Every slot of a position's characters has its own probe; rows are held out in turn.
    """
    shown = [(thought, each.shown) for thought, each in zip(thoughts, truth, strict=True) if each and each.shown]
    alphabet = rot.glyphs.alphabet if rot.glyphs else _alphabet([characters for _, characters in shown])
    labels = [torch.from_numpy(alphabet.labels(*_spelled(characters))) for _, characters in shown]
    positions = []
    for position in range(max((len(thought) for thought, _ in shown), default=0)):
        here = [row for row, (thought, _) in enumerate(shown) if position < min(len(thought), len(labels[row]))]
        if not here:
            continue
        latents_ND = torch.stack([shown[row][0][position] for row in here])
        labels_NS = torch.stack([labels[row][position] for row in here])
        found = _position(position, latents_ND, labels_NS, _named(rot, latents_ND), seed)
        if found is not None:
            positions.append(found)
    return positions


def _position(
    position: int, latents_ND: Tensor, labels_NS: Tensor, glyphs_NS: Tensor | None, seed: int
) -> Position | None:
    """The figures of one position, over its slots; None if no slot has enough characters."""
    line: list[bool] = []
    majority: list[bool] = []
    glyphs: list[bool] = []
    for slot in range(labels_NS.shape[1]):
        shows = labels_NS[:, slot] != NOTHING
        if int(shows.sum()) < _FEWEST:
            continue
        labels_N = labels_NS[shows, slot]
        line += (named_by_line(latents_ND[shows], labels_N, seed=seed) == labels_N).tolist()
        majority += (named_by_majority(labels_N, seed=seed) == labels_N).tolist()
        if glyphs_NS is not None:
            glyphs += (glyphs_NS[shows, slot] == labels_N).tolist()
    if not line:
        return None
    return Position(
        position=position,
        characters=len(line),
        line=share(line),
        majority=share(majority),
        glyphs=share(glyphs) if glyphs_NS is not None else None,
    )


@torch.inference_mode()
def _named(rot: RoT, latents_ND: Tensor) -> Tensor | None:
    """Classes that the glyph probe names in each slot, [N, S]."""
    if rot.glyphs is None:
        return None
    return rot.glyphs(rot.head.scaled(latents_ND.to(rot.backbone.device))).argmax(dim=-1).cpu()


def _spelled(characters: list[str]) -> tuple[str, list[int]]:
    """Characters of each latent as a text and its spans."""
    return "".join(characters), [0, *accumulate(map(len, characters))]


def _alphabet(shown: Sequence[list[str]]) -> Alphabet:
    texts, spans = zip(*map(_spelled, shown), strict=True) if shown else ((), ())
    return Alphabet.of(texts, spans)


def in_words(positions: Sequence[Position]) -> str:
    """What was read at all positions together, in a sentence."""
    total = sum(each.characters for each in positions)

    def mean(estimates: Sequence[Estimate | None]) -> float:
        weighted = (
            estimate.value * each.characters
            for estimate, each in zip(estimates, positions, strict=True)
            if estimate is not None
        )
        return 100 * sum(weighted) / total

    line, majority = mean([each.line for each in positions]), mean([each.majority for each in positions])
    glyphs = [each.glyphs for each in positions]
    probe_says = f", the glyph probe {mean(glyphs):.1f}%" if glyphs[0] is not None else ""
    return (
        f"Of {total} characters that the latents should hold, linear probes name {line:.1f}%, the most frequent "
        f"character of the place {majority:.1f}%{probe_says}."
    )
