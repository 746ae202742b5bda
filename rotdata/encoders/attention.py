"""Attention within each picture, or window, of a packed call: the one place that knows how it is computed.

`grouped` gives sequences of equal length one dense, unpadded call of torch's kernel: the choice on a CPU, where each
such call is large. `varlen` and `flash-attn` are kernels for sequences of any lengths, one launch a layer, for GPUs in
half precision: torch's own and the flash-attn package's. They have not been run: no GPU was at hand. So `best_kernel`
takes one only where it agrees with `grouped` on random sequences.

Shapes: P rows of a packed call, S sequences in it, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rotdata.encoders.interface import Kernel

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Which rows of a packed call attend to each other."""

    runs: Sequence[tuple[int, int]]
    """(How many sequences, rows of each), one after another."""
    gather: Tensor | None = None
    """[P]: the row of the call that stands at each place of the runs; None: they are in the runs' order already."""
    scatter: Tensor | None = None
    """[P]: the way back; None with `gather`."""

    @cached_property
    def borders(self) -> Tensor:
        """[S + 1], on the host: the row at which each sequence begins, and the last one ends."""
        lengths = [length for count, length in self.runs for _ in range(count)]
        return F.pad(torch.tensor(lengths, dtype=torch.int32).cumsum(0, dtype=torch.int32), (1, 0))

    @property
    def longest(self) -> int:
        """Rows of the longest sequence."""
        return max(length for _, length in self.runs)


def use_attention(tower: PreTrainedModel, kernel: Kernel) -> None:
    """Let the tower take `plans`, a plan for each of its attention modules, in its forward call."""
    from transformers import AttentionInterface

    def attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: None,  # noqa: ARG001 -- transformers passes it by name
        *,
        scaling: float,
        plans: Mapping[nn.Module, AttentionPlan],
        **_kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Attention as the module's plan has it: [1, H, P, d] three times -> [1, P, H, d]."""
        plan = plans[module]
        query, key, value = (
            packed[0] if plan.gather is None else packed[0][:, plan.gather] for packed in (query, key, value)
        )
        mixed = _KERNELS[kernel](query, key, value, plan, scaling)
        return (mixed if plan.scatter is None else mixed[plan.scatter])[None], None

    name = f"rot_{kernel.removeprefix('flash-')}"  # transformers would look for a package of its own behind "flash"
    AttentionInterface.register(name, attend)
    tower.set_attn_implementation(name)


def best_kernel(device: str, dtype: torch.dtype) -> Kernel:
    """The kernel to use there: one for any lengths where it runs and agrees with `grouped`, else that."""
    if device.startswith("cuda") and dtype in {torch.bfloat16, torch.float16}:
        for kernel in ("flash-attn", "varlen"):
            if _agrees(kernel, device, dtype):
                return kernel
    return "grouped"


def _agrees(kernel: Kernel, device: str, dtype: torch.dtype) -> bool:
    """Whether a kernel runs there and gives what `grouped` gives, but for rounding."""
    plan = AttentionPlan(runs=[(2, 5), (1, 40), (3, 132)])
    rows = sum(count * length for count, length in plan.runs)
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 4, rows, 64, generator=generator).to(device=device, dtype=dtype)
    try:
        found = _KERNELS[kernel](query, key, value, plan, 0.125)
    except (ImportError, RuntimeError, TypeError, AttributeError):  # not installed, not for this device, another API
        return False
    return torch.allclose(found.float(), _grouped(query, key, value, plan, 0.125).float(), rtol=0, atol=0.02)


def _grouped(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float) -> Tensor:
    """[H, P, d] three times -> [P, H, d]."""
    heads, _, width = query.shape
    outputs = []
    start = 0
    for count, length in plan.runs:
        stop = start + count * length
        queries, keys, values = (
            packed[:, start:stop].reshape(heads, count, length, width).transpose(0, 1)  # [count, H, length, d]
            for packed in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=scaling)
        outputs.append(mixed.transpose(1, 2).reshape(count * length, heads, width))
        start = stop
    return torch.cat(outputs)


def _varlen(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float) -> Tensor:
    """[H, P, d] three times -> [P, H, d]."""
    from torch.nn.attention.varlen import varlen_attn

    borders = plan.borders.to(query.device, non_blocking=True)
    query, key, value = (packed.transpose(0, 1).contiguous() for packed in (query, key, value))
    mixed = varlen_attn(query, key, value, borders, borders, plan.longest, plan.longest, scale=scaling)
    assert isinstance(mixed, Tensor)
    return mixed


def _flash_attn(query: Tensor, key: Tensor, value: Tensor, plan: AttentionPlan, scaling: float) -> Tensor:
    """[H, P, d] three times -> [P, H, d]."""
    from flash_attn import flash_attn_varlen_func

    borders = plan.borders.to(query.device, non_blocking=True)
    query, key, value = (packed.transpose(0, 1).contiguous() for packed in (query, key, value))
    mixed: Tensor = flash_attn_varlen_func(
        query, key, value, borders, borders, plan.longest, plan.longest, softmax_scale=scaling
    )
    return mixed


_KERNELS: Mapping[Kernel, Callable[[Tensor, Tensor, Tensor, AttentionPlan, float], Tensor]] = {
    "grouped": _grouped,
    "varlen": _varlen,
    "flash-attn": _flash_attn,
}
assert set(_KERNELS) == set(get_args(Kernel))
