"""Rows of shards -> torch tensors: one row's latents, and batches of them padded on the right.

Shapes: B rows, K latents, D embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.dlpack import from_dlpack

if TYPE_CHECKING:
    from rotdata.shards.dataset import Shards


class TensorRow(TypedDict):
    """One row; latents are float32."""

    id: str
    question: str
    cot: str
    answer: str
    latents_KD: Tensor


class TensorBatch(TypedDict):
    """Rows beside each other; latents are float32 and followed by zeros where the mask is False."""

    id: list[str]
    question: list[str]
    cot: list[str]
    answer: list[str]
    latents_BKD: Tensor
    mask_BK: Tensor
    """Of bools: what is a latent of its row."""


class TorchRows(Dataset[TensorRow]):
    """Rows of shards by number."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return len(self.shards)

    def __getitem__(self, index: int) -> TensorRow:
        row = self.shards[index]
        return TensorRow(
            id=row.id,
            question=row.question,
            cot=row.cot,
            answer=row.answer,
            latents_KD=from_dlpack(row.latents_KD).to(torch.float32, copy=True),  # in half of numpy's time
        )

    @staticmethod
    def collate(rows: Sequence[TensorRow]) -> TensorBatch:
        """Pad rows into a batch."""
        latents = [row["latents_KD"] for row in rows]
        counts_B1 = torch.tensor([[len(each)] for each in latents])
        return TensorBatch(
            id=[row["id"] for row in rows],
            question=[row["question"] for row in rows],
            cot=[row["cot"] for row in rows],
            answer=[row["answer"] for row in rows],
            latents_BKD=pad_sequence(latents, batch_first=True),
            mask_BK=torch.arange(int(counts_B1.max())) < counts_B1,
        )


class ShuffledRows(Sampler[int]):
    """Rows in an order that differs in every pass and reads each row group once."""

    def __init__(self, shards: Shards, seed: int) -> None:
        self._shards = shards
        self._seed = seed
        self._passes = 0

    def __len__(self) -> int:
        return len(self._shards)

    def __iter__(self) -> Iterator[int]:
        order = self._shards.shuffled((self._seed, self._passes))
        self._passes += 1
        yield from order.tolist()


def loader(shards: Shards, batch_size: int, *, shuffle: bool, seed: int, **options: Any) -> DataLoader[TensorBatch]:
    """A DataLoader of batches."""
    rows = TorchRows(shards)
    order = ShuffledRows(shards, seed) if shuffle else None
    found: DataLoader[Any] = DataLoader(rows, batch_size, sampler=order, collate_fn=rows.collate, **options)
    return found
