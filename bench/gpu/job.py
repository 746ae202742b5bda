"""What every part needs: a deadline, lines that stay, a clock that waits for the device, the card's limits."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import platform
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch

from bench.gpu.sizes import SIZES, Size
from rotdata.encoders import default_device

ROOT = Path(__file__).resolve().parents[2]
_VERSIONS = ("torch", "transformers", "peft", "accelerate", "pyarrow", "pillow", "numpy", "huggingface_hub", "triton")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One part's run."""

    part: str
    out: Path
    size: Size
    device: torch.device
    ends: float
    """Of time.monotonic()."""
    base: str
    corpus: str
    questions: str
    """As `rottrain eval` takes them."""

    @classmethod
    def begin(  # noqa: PLR0913 -- keyword-only settings, as the command has them
        cls,
        part: str,
        *,
        out: Path,
        size: str,
        device: str | None = None,
        seconds: float | None = None,
        commit: str | None = None,
        base: str = "tiny",
        corpus: str = "toy:6-8",
        questions: str | None = None,
    ) -> Self:
        """Start the clock, and say what is measured on."""
        job = cls(
            part=part,
            out=out,
            size=SIZES[size],
            device=torch.device(device or default_device()),
            ends=time.monotonic() + (seconds or float("inf")),
            base=base,
            corpus=corpus,
            questions=questions or corpus,
        )
        job.write(figure="machine", commit=commit or _commit(), size=size, **job.machine())
        return job

    @property
    def on_gpu(self) -> bool:
        """Whether there is something to measure, and not only to try."""
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.ends - time.monotonic()

    def write(self, **line: Any) -> None:
        """Add a line, at once."""
        text = json.dumps({"part": self.part, **line})
        with self.out.open("a") as lines:
            lines.write(text + "\n")
        print(text, flush=True)

    def measure(self, figure: str, call: Callable[[], Mapping[str, Any]], *, needs: float = 0.0) -> bool:
        """Write what `call` finds, or why it was skipped: too little time left, or what it raised. Whether it found."""
        if self.left <= needs:
            self.write(figure=figure, skipped=f"{max(0.0, self.left):.0f} s are left, {needs:.0f} are needed")
            return False
        started = time.monotonic()
        try:
            found = dict(call())
        except Exception as error:  # noqa: BLE001 -- whatever breaks here, the next figure is worth a try
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = str(error).strip().partition("\n")[0][:300]
            where = f"{Path(place.filename).name}:{place.lineno}"
            self.write(figure=figure, skipped=f"{type(error).__name__}: {reason} ({where})")
            return False
        finally:
            self.clear()
        self.write(figure=figure, **found, took_s=round(time.monotonic() - started, 2))
        return True

    def seconds(
        self, call: Callable[[], object], *, rounds: int = 5, at_most_s: float = 10.0, warm: bool = True
    ) -> float:
        """Median time of a call until the device is done; fewer rounds where they would take too long."""
        if warm:
            call()
        self.synchronize()
        taken: list[float] = []
        while len(taken) < min(rounds, self.size.rounds) and (
            not taken or sum(taken) + taken[-1] < min(at_most_s, self.left)
        ):
            started = time.perf_counter()
            call()
            self.synchronize()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def clear(self) -> None:
        """Give back what nothing holds any more, and forget the peak."""
        gc.collect()
        if self.on_gpu and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_gib(self) -> float | None:
        """Most memory in tensors since `clear`; None without a GPU."""
        return round(torch.cuda.max_memory_allocated(self.device) / 2**30, 2) if self.on_gpu else None

    @cached_property
    def matrix_flop_s(self) -> float:
        """Rate of a large bf16 matrix product on random numbers, the limit that shares are of."""
        side = self.size.matrix
        left, right = (torch.randn(side, side, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        rate = 2 * side**3 / self.seconds(lambda: left @ right, rounds=20, at_most_s=2)
        self.write(figure="bf16 matrix product", side=side, tflop_s=round(rate / 1e12, 3))
        return rate

    @cached_property
    def memory_bytes_s(self) -> float:
        """Rate at which a large copy on the device reads and writes."""
        values = torch.randn(self.size.copied // 4, device=self.device)
        target = torch.empty_like(values)
        rate = 2 * values.nbytes / self.seconds(lambda: target.copy_(values), rounds=20, at_most_s=2)
        self.write(figure="copy on the device", gb_s=round(rate / 1e9, 1))
        return rate

    def machine(self) -> dict[str, Any]:
        """Device, driver, versions, date."""
        found: dict[str, Any] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "device": str(self.device)}
        if self.on_gpu:
            found["card"] = torch.cuda.get_device_name(self.device)
            with suppress(OSError, subprocess.SubprocessError):
                asked = ["nvidia-smi", "--query-gpu=driver_version,memory.total", "--format=csv,noheader"]
                found["driver"] = _said(asked)
        found["python"] = platform.python_version()
        for name in _VERSIONS:
            with suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
        return found


def _commit() -> str | None:
    """Of this checkout, if it is one."""
    with suppress(OSError, subprocess.SubprocessError):
        return _said(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"])
    return None


def _said(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
