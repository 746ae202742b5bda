"""Weights that FSDP has cut among processes, brought together to be looked at, written and replaced.

Every function here is for all processes at once; where nothing is cut they change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from rotdata.errors import UsageError


def check_sharded(*, sharded: bool) -> None:
    """Raise UsageError where a launcher asks for FSDP, and accelerate trains without: it has it for GPUs alone."""
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" and not sharded:
        raise UsageError("accelerate has FSDP for GPUs alone: launch without --use_fsdp here, or hide no GPU")


@contextmanager
def whole(module: nn.Module) -> Iterator[None]:
    """Every weight on every process while it lasts, but for those of a layer that has been computed meanwhile."""
    parts = [each for each in module.modules() if isinstance(each, FSDPModule)]
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


@torch.no_grad()
def put(value: Tensor, weight: Tensor) -> None:
    """Give a weight the values of a whole one."""
    if isinstance(weight, DTensor):
        value = distribute_tensor(value.to(weight.device, weight.dtype), weight.device_mesh, weight.placements)
    weight.copy_(value)


@torch.no_grad()
def gather(module: nn.Module, *, keep: bool) -> None:
    """Bring all weights together for good, to be written by a process that keeps them; nothing is computed any more."""
    for each in module.modules():
        for name, weight in list(each.named_parameters(recurse=False)):
            if isinstance(weight, DTensor):
                full = weight.full_tensor()
                if keep:
                    each.register_parameter(name, nn.Parameter(full.cpu(), requires_grad=weight.requires_grad))
