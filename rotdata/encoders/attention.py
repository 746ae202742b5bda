"""Attention within each picture, or window, of a packed call: the one place that knows how it is computed.

Sequences of equal length share one dense, unpadded call. A kernel for sequences of any length would take the place of
`_grouped_attention`, with the same plans.

Shapes: P rows of a packed call, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GROUPED = "rot_grouped"


@dataclass(frozen=True, kw_only=True)
class AttentionPlan:
    """Which rows of a packed call attend to each other."""

    runs: Sequence[tuple[int, int]]
    """(How many sequences, rows of each), one after another."""
    gather: Tensor | None = None
    """[P]: the row of the call that stands at each place of the runs; None: they are in the runs' order already."""
    scatter: Tensor | None = None
    """[P]: the way back; None with `gather`."""


def use_grouped_attention(tower: PreTrainedModel) -> None:
    """Let the tower take `plans`, a plan for each of its attention modules, in its forward call."""
    from transformers import AttentionInterface

    AttentionInterface.register(_GROUPED, _grouped_attention)
    tower.set_attn_implementation(_GROUPED)


def _grouped_attention(
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
    _, heads, _, width = query.shape
    if plan.gather is not None:
        query, key, value = (packed[:, :, plan.gather] for packed in (query, key, value))
    outputs = []
    start = 0
    for count, length in plan.runs:
        stop = start + count * length
        queries, keys, values = (
            packed[0, :, start:stop].reshape(heads, count, length, width).transpose(0, 1)  # [count, H, length, d]
            for packed in (query, key, value)
        )
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=scaling)
        outputs.append(mixed.transpose(1, 2).reshape(count * length, heads, width))
        start = stop
    mixed = torch.cat(outputs)
    return (mixed if plan.scatter is None else mixed[plan.scatter])[None], None
