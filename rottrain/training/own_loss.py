"""A loss of the caller's own, in place of a recipe's: what it is given, and by what a run is told that had it."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from rotdata.errors import UsageError

Loss = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]
"""Parts of the recipe's loss, not weighted, with the recipe's own `loss` among them; and the batch -> a scalar."""


def named(loss: Loss) -> str:
    """What a caller's loss is told by: its name, and the SHA-256 of its source where there is one."""
    function: Any = loss.func if isinstance(loss, partial) else loss
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    try:
        source = inspect.getsource(function if hasattr(function, "__qualname__") else type(function))
    except (OSError, TypeError):  # typed at a prompt, or not written in Python
        return name
    bound = repr((loss.args, sorted(loss.keywords.items()))) if isinstance(loss, partial) else ""
    return f"{name}@{hashlib.sha256((source + bound).encode()).hexdigest()}"


def checked(loss: Any) -> Tensor:
    """What a caller's loss came to. Raises UsageError if nothing can be learnt from it."""
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"{loss!r:.80}"
        raise UsageError(f"a loss is one number with a gradient, made of the parts that it is given; got {what}")
    return loss.reshape(())
