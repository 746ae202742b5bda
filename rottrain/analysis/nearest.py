"""The nearest pictures: target latents of shards, searched exactly, with the columns and characters they stand for.

Generated latents live in the space of rendered ones, so the nearest rendered latent has a picture and characters. The
shards themselves are the index: a search goes through them once, a row group in memory at a time, for all latents that
are asked for together. Rows whose chain of thought has been seen before are passed over.

Shapes: Q latents asked for, L latents of a row group, D embedding width, M neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it
from tqdm import tqdm

from rotdata.errors import UsageError
from rotdata.rendering.strips import Renderer, renderer_as
from rotdata.shards import EmbeddedRows, EmbeddingShards

_BLOCK = 4096
"""Indexed latents that are compared in one product."""
_NOTHING, _OF_NO_ROW = -1, -2


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An indexed latent near to one that was asked for."""

    id: str
    """Of its row."""
    cot: str
    position: int
    """Which latent of that row."""
    characters: str
    """What it shows; "" where the shards have no spans."""
    cosine: float = 0.0
    """After the mean of indexed latents is taken from both."""


class LatentIndex:
    """Latents of a folder of embedding shards."""

    def __init__(self, shards: EmbeddingShards, *, limit: int | None = None) -> None:
        """Index the first `limit` rows, or all. Raises UsageError for latents that no picture stands for."""
        if not shards.manifest.latent_is_a_factor:
            raise UsageError(
                f"the latents of {shards.folder} are pooled, resampled or of resized strips, so no picture stands for "
                "one: trace with shards that `rotdata embed` made without --pool, --longer resample and --resize"
            )
        if limit is not None and limit < 1:
            raise UsageError(f"the index has at least 1 row, got {limit}")
        self._shards = shards
        self._limit = limit
        self.latents = 0
        """How many different ones the last search went through."""

    @property
    def corpus(self) -> str:
        """Name of the corpus that the rows are of."""
        return self._shards.manifest.corpus

    @cached_property
    def draw(self) -> Renderer:
        """What drew the strips. Raises UsageError if they can't be drawn again here."""
        found = renderer_as(self._shards.manifest.style)
        if found is None:
            raise UsageError(
                f"the strips of {self._shards.folder} can't be drawn again here, since fonts, Pillow or FreeType "
                "differ: trace where they were drawn"
            )
        return found

    @cached_property
    def mean(self) -> Tensor:
        """Mean latent of the first row group, [D]."""
        return self.context().mean(dim=0)

    def context(self, count: int | None = None) -> Tensor:
        """Latents of the first row group, all or about `count` spread over it: [L, D]."""
        latents_LD = torch.from_numpy(self._shards.read_group(0).embedding_LD.astype(np.float32))
        return latents_LD if count is None else latents_LD[:: max(1, len(latents_LD) // count)]

    def nearest(
        self, thoughts: Sequence[Tensor], *, count: int = 1, without: Sequence[str] = ()
    ) -> list[list[list[Neighbour]]]:
        """For each row's latents [K, D] the nearest `count` indexed ones of each, the nearest first.

        `without` has a chain of thought for each row, whose own latents are not looked at for that row.
        """
        asked_QD = self._unit(torch.cat([thought.float().cpu() for thought in thoughts]))
        own = {cot: number for number, cot in enumerate(dict.fromkeys(without))}
        barred = [own[cot] for cot in without] or [_OF_NO_ROW] * len(thoughts)
        lengths = torch.tensor([len(thought) for thought in thoughts])
        search = _Search(asked_QD, torch.tensor(barred).repeat_interleave(lengths), count)
        for group, rows in self._groups():
            search.go_through(group, rows, self._unit, own)
        self.latents = search.latents
        found = search.found()
        ends = [0, *accumulate(map(len, thoughts))]
        return [found[first:last] for first, last in pairwise(ends)]

    def picture(self, neighbour: Neighbour) -> NDArray[np.uint8]:
        """The columns that an indexed latent stands for: [H, H]."""
        return self._tile(self.draw.render(neighbour.cot).pixels, neighbour.position)

    def strip(self, cot: str, most: int) -> NDArray[np.uint8]:
        """The columns of a chain of thought's first latents, at most so many, in one line: [H, K * H]."""
        drawn = self.draw.render(cot)
        tiles = [self._tile(drawn.pixels, position) for position in range(min(most, drawn.num_latents))]
        return np.concatenate(tiles, axis=1)

    def _tile(self, pixels: NDArray[np.uint8], position: int) -> NDArray[np.uint8]:
        """The square of a strip [H, W] that a latent covers, in reading order."""
        side = self.draw.style.height_px
        row, column = divmod(position, pixels.shape[1] // side)
        return pixels[row * side : (row + 1) * side, column * side : (column + 1) * side]

    def _unit(self, latents: Tensor) -> Tensor:
        return F.normalize(latents - self.mean, dim=-1)

    def _groups(self) -> Iterator[tuple[EmbeddedRows, list[int]]]:
        """Row groups within the limit, and which of their rows have a chain of thought that has not come before."""
        seen: set[int] = set()
        left = sum(self._shards.group_rows) if self._limit is None else self._limit
        for number in tqdm(range(len(self._shards.group_rows)), desc="search", unit="group", disable=None):
            if left <= 0:
                return
            group = self._shards.read_group(number)
            new = {hash(cot): row for row, cot in reversed(list(enumerate(group.cots[:left])))}
            yield group, sorted(row for digest, row in new.items() if digest not in seen)
            seen |= new.keys()
            left -= len(group)


class _Search:
    """The best so far of a search that goes through row groups in turn."""

    def __init__(self, asked_QD: Tensor, barred_Q: Tensor, count: int) -> None:
        """Look for `count` neighbours of unit vectors, not among latents of the row that each is barred from."""
        self._asked_QD = asked_QD
        self._barred_Q = barred_Q
        self._cosine_QM = torch.full((len(asked_QD), count), -torch.inf)
        self._number_QM = torch.full((len(asked_QD), count), _NOTHING)
        self._known: dict[int, Neighbour] = {}
        self.latents = 0

    def go_through(
        self, group: EmbeddedRows, rows: list[int], unit: Callable[[Tensor], Tensor], own: Mapping[str, int]
    ) -> None:
        """Compare with the latents of some rows of a group; `own` numbers the chains of thought that bar."""
        lengths = np.diff(group.offsets)[rows]
        row_L = np.repeat(np.array(rows, dtype=np.int64), lengths)
        place_L = np.arange(len(row_L)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        owner_L = torch.from_numpy(
            np.repeat(np.array([own.get(group.cots[row], _NOTHING) for row in rows], dtype=np.int64), lengths)
        )
        latents_LD = group.embedding_LD[group.offsets[row_L] + place_L]
        for start in range(0, len(latents_LD), _BLOCK):
            block = slice(start, start + _BLOCK)
            unit_LD = unit(torch.from_numpy(latents_LD[block].astype(np.float32)))
            cosine_QL = (self._asked_QD @ unit_LD.T).masked_fill(self._barred_Q[:, None] == owner_L[block], -torch.inf)
            self._keep(cosine_QL, torch.arange(start, start + len(unit_LD)) + self.latents)
        kept = set(self._number_QM.flatten().tolist()) - {_NOTHING}
        self._known = {number: found for number, found in self._known.items() if number in kept}
        for number in kept - self._known.keys():
            here = number - self.latents
            self._known[number] = _neighbour(group, int(row_L[here]), int(place_L[here]))
        self.latents += len(latents_LD)

    def found(self) -> list[list[Neighbour]]:
        """The neighbours of each, the nearest first."""
        return [
            [
                replace(self._known[number], cosine=cosine)
                for number, cosine in zip(numbers, cosines, strict=True)
                if number != _NOTHING
            ]
            for numbers, cosines in zip(self._number_QM.tolist(), self._cosine_QM.tolist(), strict=True)
        ]

    def _keep(self, cosine_QL: Tensor, number_L: Tensor) -> None:
        """The best of what was kept and of a block."""
        numbers = torch.where(cosine_QL > -torch.inf, number_L, _NOTHING)
        self._cosine_QM, chosen_QM = torch.cat([self._cosine_QM, cosine_QL], dim=1).topk(self._cosine_QM.shape[1])
        self._number_QM = torch.cat([self._number_QM, numbers], dim=1).gather(1, chosen_QM)


def _neighbour(rows: EmbeddedRows, row: int, position: int) -> Neighbour:
    spans, cot = rows.spans[row], rows.cots[row]
    characters = "" if spans is None else cot[spans[position] : spans[position + 1]]
    return Neighbour(id=rows.ids[row], cot=cot, position=position, characters=characters)
