"""Encoders of a model's folder: where and how they run if nobody says, loaded at once or at the first call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from rotdata.encoders.interface import EncoderIdentity, Kernel, Placement, Precision
from rotdata.encoders.models import ModelFolder, find_model
from rotdata.encoders.patches import PatchGeometry
from rotdata.errors import UsageError
from rotdata.extras import needing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from rotdata.encoders.packed import PackedEncoder

CPU_PATCHES_PER_CALL = 2048
"""What a CPU's caches like."""
_MOST_PATCHES = 65_536
_PROBE_LATENTS = 64  # of each strip of the probe
_SHARE_OF_MEMORY = 0.4  # of what is free, for one call: the rest is for the next one, for results and for neighbours


def default_device() -> str:
    """Where a tower runs if nobody says: a GPU if there is one. Raises MissingExtra without torch."""
    with needing("embed", "running a tower"):
        import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raise UsageError for a device that torch does not know, or that is not in this machine; MissingExtra."""
    with needing("embed", "running a tower"):
        import torch

    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise UsageError(f"the device {device[:80]!r} can't be used here, cpu can: {reason}") from error


def default_precision(device: str) -> Precision:
    """bf16 where the hardware multiplies it faster: on GPUs that have it, on CPUs with AVX-512 BF16 or AMX."""
    import torch

    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # noqa: SLF001 -- no public way
        return "bfloat16" if fast else "float32"
    return "float32"


def default_kernel(device: str, dtype: Precision) -> Kernel:
    """The attention kernel to use there."""
    import torch

    from rotdata.encoders.attention import best_kernel

    return best_kernel(device, getattr(torch, dtype))


def load_encoder(
    model: str | ModelFolder,
    *,
    dtype: Precision | Literal["auto"] = "auto",
    device: str | None = None,
    kernel: Kernel | None = None,
) -> PackedEncoder:
    """The frozen tower of a model: `tiny`, a short name, a folder, a Hub id.

    By default on a GPU if there is one, in the precision and with the attention that are fastest there.
    Raises UnknownModel, and UsageError for a device that is not here.
    """
    if device is not None:
        check_device(device)
    folder = find_model(model) if isinstance(model, str) else model
    where = placement(device or default_device(), dtype=dtype, kernel=kernel)
    return _encoder_class(folder).load(folder, where)


def placement(device: str, *, dtype: Precision | Literal["auto"] = "auto", kernel: Kernel | None = None) -> Placement:
    """A device with the precision and kernel asked for, or those that are fastest there."""
    precision = default_precision(device) if dtype == "auto" else dtype
    return Placement(device=device, dtype=precision, kernel=kernel or default_kernel(device, precision))


@dataclass(frozen=True)
class LazyEncoder:
    """An encoder that loads its tower at the first call: what a run that has nothing left to do spares itself.

    Sent to another process, it goes without the tower, which that process loads for itself.
    """

    folder: ModelFolder
    where: Placement
    threads: int | None = None
    """Threads of a CPU for the tower's process, torch's own choice by default."""

    @property
    def geometry(self) -> PatchGeometry:
        """How it cuts pictures."""
        return self.folder.geometry()

    @cached_property
    def identity(self) -> EncoderIdentity:
        """What decides its output. Raises UnknownModel."""
        return _encoder_class(self.folder).identify(self.folder, self.where.dtype)

    @property
    def device(self) -> str:
        """Where it computes."""
        return self.where.device

    @cached_property
    def loaded(self) -> PackedEncoder:
        """The encoder itself."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return _encoder_class(self.folder).load(self.folder, self.where)

    def launch(self, strips: Sequence[NDArray[np.uint8]]) -> Callable[[], list[NDArray[np.float32]]]:
        """Begin one call of the tower, as Encoder has it."""
        return self.loaded.launch(strips)

    def on(self, device: str, *, threads: int | None = None) -> LazyEncoder:
        """The same encoder elsewhere."""
        return replace(self, where=replace(self.where, device=device), threads=threads)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "loaded"}


def patches_that_fit(encoder: LazyEncoder) -> int:
    """Patches of one call: on a CPU what its caches like, on a GPU what fits into its free memory, by a probe.

    The GPU's part has not been run: no GPU was at hand.
    """
    if not encoder.device.startswith("cuda"):
        return CPU_PATCHES_PER_CALL
    import numpy as np
    import torch

    factor = encoder.geometry.factor_px
    strip = np.full((factor, factor * _PROBE_LATENTS), 255, np.uint8)
    strips = [strip] * 16
    patches = sum(each.size for each in strips) // encoder.geometry.patch_px**2
    with torch.cuda.device(encoder.device):
        encoder.launch(strips)()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        encoder.launch(strips)()
        a_patch = (torch.cuda.max_memory_allocated() - before) / patches
        free, _ = torch.cuda.mem_get_info()
    return largest_call(free, a_patch)


def largest_call(free_bytes: float, bytes_a_patch: float) -> int:
    """The power of two of patches, no more than pays off, whose call takes its share of the free memory."""
    fitting = max(1, int(_SHARE_OF_MEMORY * free_bytes / max(1.0, bytes_a_patch)))
    return min(_MOST_PATCHES, 1 << (fitting.bit_length() - 1))


def _encoder_class(folder: ModelFolder) -> type[PackedEncoder]:
    module, _, name = folder.family().encoder.partition(":")
    found: type[PackedEncoder] = getattr(import_module(f"rotdata.encoders.{module}"), name)
    return found
