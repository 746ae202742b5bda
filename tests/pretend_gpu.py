"""A GPU that is none: tensors that say they lie on the GPU, computed on the CPU, and refused beside tensors that do.

What a GPU would refuse, a tensor here and one there in one call, raises on a machine without one, too. What makes the
host wait for the device is counted. Kernels, precision and memory are the CPU's: those only a GPU can test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Self, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

GPU, CPU = torch.device("meta"), torch.device("cpu")
"""A device that torch knows in every build; nothing here computes on it."""
Module = TypeVar("Module", bound=nn.Module)
_aten = torch.ops.aten
_MOVES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXED = {_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default}
"""A GPU takes indices from the host, and copies them."""
_WAITS = {_aten._local_scalar_dense.default, _aten.nonzero.default, _aten.equal.default}


class OnGPU(Tensor):
    """A tensor whose values are the host's, and whose device is the GPU."""

    values: Tensor
    __slots__: ClassVar[tuple[str, ...]] = ("values",)

    @staticmethod
    def __new__(cls, values: Tensor) -> OnGPU:
        """Take over values."""
        made = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device=GPU,
            requires_grad=False,
        )
        made.values = values
        return made

    def __repr__(self) -> str:
        return f"OnGPU({self.values})"

    def tolist(self) -> Any:
        """Values as Python has them, which torch gives of no subclass."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """As with the mode below, outside of it."""
        return _call(func, args, dict(kwargs or {}), Counter())


class PretendGPU(TorchDispatchMode):
    """While this lasts, what is made on or moved to the GPU lies there; `waits` counts what the host waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Begin."""
        made = torch.tensor

        def tensor(data: Any, *, device: Any = None, **settings: Any) -> Tensor:
            return made(data, **settings).to(device)

        def to(module: nn.Module, device: Any) -> nn.Module:
            assert torch.device(device) == GPU
            return move(module)

        self._patches = ExitStack()
        self._patches.enter_context(patch("torch.tensor", tensor))  # torch's own goes to a device past all modes
        self._patches.enter_context(patch.object(nn.Module, "to", to))  # and modules do not change tensors' classes
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        """End."""
        super().__exit__(*exception)
        self._patches.close()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Check, compute, and say where the result lies."""
        return _call(func, args, dict(kwargs or {}), self.waits)


def move(module: Module) -> Module:
    """Put a module's parameters and buffers there."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None and not isinstance(value, OnGPU):
                part._parameters[name] = nn.Parameter(OnGPU(value.detach()), requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None and not isinstance(value, OnGPU):
                part._buffers[name] = OnGPU(value)
    return module


def _call(func: Any, args: Sequence[Any], kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    """One call: on the GPU if a tensor of it is there or it is asked for there."""
    asked = kwargs.get("device")
    tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, OnGPU)]
    here = [each for each in tensors if not isinstance(each, OnGPU) and each.dim()]
    if there and here and func not in _MOVES | _INDEXED:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found the GPU and cpu")
    if func in _INDEXED and there and not isinstance(args[0], OnGPU):
        raise RuntimeError(f"{func}: indices should be on the same device as the indexed tensor, which is on the cpu")
    to_host = func is _aten._to_copy.default and there and asked is not None and asked.type == "cpu"
    if there and (func in _WAITS or to_host or (func in _INDEXED and _chooses_by_mask(args))):
        waits[str(func)] += 1
    if asked is not None:
        kwargs["device"] = CPU
    args, kwargs = pytree.tree_map_only(OnGPU, lambda each: each.values, (args, kwargs))
    found = func(*args, **kwargs)
    on_gpu = (
        (asked.type == GPU.type)
        if asked is not None
        else bool(there) and not (func is _aten.copy_.default and not isinstance(tensors[0], OnGPU))
    )
    if not on_gpu:
        return found
    same = {id(each.values): each for each in there}
    return pytree.tree_map_only(Tensor, lambda each: same.get(id(each)) if id(each) in same else OnGPU(each), found)


def _chooses_by_mask(args: Sequence[Any]) -> bool:
    return any(isinstance(each, Tensor) and each.dtype == torch.bool for each in args[1])
