"""The processes that torchrun has started for one evaluation: each answers some of the rows, the first one says how."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch

from rottrain.training.trainer import leave_group

_Item = TypeVar("_Item")
_NOTHING: Any = object()


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among `count`."""

    rank: int
    count: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that reports."""
        return self.rank == 0

    def share(self, rows: Sequence[_Item]) -> Sequence[_Item]:
        """Every `count`-th row: this process's own."""
        return rows[self.rank :: self.count]

    def gather(self, own: list[_Item]) -> list[_Item]:
        """What all processes made of their shares, in the order of the rows; the same in each process."""
        if self.count == 1:
            return own
        parts: list[list[_Item]] = [[]] * self.count
        torch.distributed.all_gather_object(parts, own)
        return [item for item in chain.from_iterable(zip_longest(*parts, fillvalue=_NOTHING)) if item is not _NOTHING]


ALONE = Ranks(rank=0, count=1)


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the other processes, each with a GPU of its own where there are any; alone without torchrun."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("gloo")  # what is gathered are Python objects
    yield Ranks(rank=torch.distributed.get_rank(), count=count)
    leave_group()  # not after an error: the others would be waited for, and torchrun ends them
