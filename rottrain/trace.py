"""What did the model think? Each generated latent beside the strip latents that lie nearest to it.

Generated latents live in the space of rendered ones, so the nearest rendered latent has a picture and characters: as
many columns of a strip as it is high, drawn anew from the shard's text and style.

Shapes: K generated latents, N indexed latents, D embedding width.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rotdata.png import encode_png
from rotdata.shards import EmbeddedRows, EmbeddingShards
from rotdata.strips import Renderer, Strip, StripStyle, renderer
from rottrain.evaluate import Judged

DEFAULT_INDEXED_ROWS = 1000


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The indexed latent closest to a generated one."""

    row: int
    """Number of the indexed row."""
    position: int
    """Which latent of that row."""
    characters: str
    similarity: float
    """Cosine, after the mean of the indexed latents is taken from both."""


class LatentIndex:
    """Latents of a folder of embedding shards, searched exactly."""

    def __init__(self, rows: EmbeddedRows, style: StripStyle) -> None:
        """Index every latent of `rows`, whose strips were drawn in `style`."""
        self._rows = rows
        self.draw: Renderer = renderer(style)
        latents_ND = torch.from_numpy(rows.embedding_LD.astype(np.float32))
        self._mean_D = latents_ND.mean(dim=0)
        self._unit_ND = torch.nn.functional.normalize(latents_ND - self._mean_D, dim=1)

    @classmethod
    def load(cls, folder: Path, *, limit: int = DEFAULT_INDEXED_ROWS) -> LatentIndex:
        """Index the first row group of `folder`, at most `limit` rows."""
        shards = EmbeddingShards(folder)
        if not shards.manifest.latent_is_a_factor:
            raise UsageError(
                f"the latents of {folder} are pooled, resampled or of resized strips, so no picture stands for one: "
                "trace with shards that `rotdata embed` made without --pool, --longer resample and --resize"
            )
        rows = shards.read_group(0)
        kept = min(limit, len(rows))
        end = int(rows.offsets[kept])
        some = EmbeddedRows(
            ids=rows.ids[:kept],
            questions=rows.questions[:kept],
            cots=rows.cots[:kept],
            answers=rows.answers[:kept],
            spans=rows.spans[:kept],
            offsets=rows.offsets[: kept + 1],
            embedding_LD=rows.embedding_LD[:end],
        )
        return cls(some, StripStyle(**shards.manifest.style["style"]))

    def __len__(self) -> int:
        return len(self._unit_ND)

    def nearest(self, latents_KD: Tensor) -> list[Nearest]:
        """The closest indexed latent of each of K latents."""
        unit_KD = torch.nn.functional.normalize(latents_KD.float() - self._mean_D, dim=1)
        similarity_K, index_K = (unit_KD @ self._unit_ND.T).max(dim=1)
        found = []
        for similarity, index in zip(similarity_K.tolist(), index_K.tolist(), strict=True):
            row = int(np.searchsorted(self._rows.offsets, index, side="right")) - 1
            position = index - int(self._rows.offsets[row])
            spans = self._rows.spans[row]
            characters = self._rows.cots[row][spans[position] : spans[position + 1]] if spans else ""
            found.append(Nearest(row=row, position=position, characters=characters, similarity=similarity))
        return found

    def picture(self, found: Sequence[Nearest]) -> NDArray[np.uint8]:
        """The columns that the latents stand for, side by side: [H, K * H]."""
        height = self.draw.style.height_px
        tiles = []
        for nearest in found:
            pixels = self.draw.render(self._rows.cots[nearest.row]).pixels
            tiles.append(pixels[:, nearest.position * height : (nearest.position + 1) * height])
        return np.concatenate(tiles, axis=1)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One question, what was thought about it and what should have been."""

    row: Row
    answer: str
    correct: bool
    latents: list[Nearest]
    thought_png: str
    """Data URI of the nearest latents' pictures side by side."""
    reference_png: str
    """Data URI of the strip of the reference chain of thought."""

    @property
    def thought(self) -> str:
        """The characters of the nearest latents, one after the other."""
        return "".join(nearest.characters for nearest in self.latents)


def trace(judged: Judged, index: LatentIndex) -> Trace:
    """Look up the latents of an evaluated row; its generation must have kept them."""
    if judged.generation is None or judged.generation.latents_KD is None:
        raise ValueError("only a row answered with latents can be traced")
    found = index.nearest(judged.generation.latents_KD)
    return Trace(
        row=judged.row,
        answer=judged.answer,
        correct=judged.correct,
        latents=found,
        thought_png=data_uri(index.picture(found)),
        reference_png=data_uri(index.draw.render(judged.row.cot).pixels),
    )


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """A grey picture as a data URI for an <img>."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def latent_texts(text: str, strip: Strip) -> list[str]:
    """The characters of each latent of a strip."""
    return [text[start:stop] for start, stop in zip(strip.spans[:-1], strip.spans[1:], strict=True)]
