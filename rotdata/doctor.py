"""What this machine has for the line from corpus to answer, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rotdata.extras import installing
from rotdata.rendering.fallback import EAST_ASIAN, PACKAGES, fonts_for
from rotdata.rendering.fonts import shipped_fonts, shipped_sha256
from rotdata.rendering.strips import StripStyle, renderer
from rotdata.version import __version__

Status = Literal["ok", "note", "problem"]

_LIBRARIES = ("numpy", "pyarrow", "datasets", "huggingface_hub", "tokenizers")
_EXTRAS = {
    "embed": (("torch", "transformers"), "runs vision towers: rotdata embed"),
    "train": (("peft", "accelerate", "math-verify"), "trains, generates and evaluates: rottrain"),
    "serve": (("fastapi",), "serves a checkpoint: rottrain serve"),
    "ocr": (("rapidocr",), "reads strips back: rotdata render --check-ocr"),
    "report": (("matplotlib",), "draws plots: rotdata stats --plot"),
    "ray": (("ray",), "embeds on a cluster"),
    "http": (("aiohttp",), "reads corpora at https addresses"),
    "lm-eval": (("lm-eval",), "answers tasks of lm-evaluation-harness"),
}
_HUB_TIMEOUT_S = 5
_LOW_DISK_GB = 20
_WORTH_IT = 1.3  # times as fast, beyond what noise gives
_MATRIX = 1024


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    """What to do, where there is something to do."""


def examine() -> Iterator[Finding]:
    """Look at everything, the quick things first. A problem is what stops commands of what is installed here."""
    yield Finding(
        name="render-of-thought",
        status="ok",
        found=f"{__version__} on Python {platform.python_version()}, {sys.platform}",
    )
    yield from _libraries()
    yield from _extras()
    yield _fonts()
    yield _east_asian_fonts()
    yield _disk("free disk here", Path.cwd(), "choose an --out on a larger disk, or a smaller corpus (rotdata plan)")
    yield from _devices()
    yield _hub()
    yield _disk("free disk of the Hub's cache", _hub_cache(), "set HF_HOME to a larger disk")


def _libraries() -> Iterator[Finding]:
    from PIL import features

    for name in _LIBRARIES:
        try:
            yield Finding(name=name, status="ok", found=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name=name, status="problem", found="not installed", remedy="pip install render-of-thought")
    drawn_by = f"{importlib.metadata.version('pillow')}, FreeType {features.version('freetype2')}"
    yield Finding(name="pillow", status="ok", found=drawn_by)


def _extras() -> Iterator[Finding]:
    for extra, (packages, purpose) in _EXTRAS.items():
        for package in packages:
            try:
                yield Finding(name=package, status="ok", found=importlib.metadata.version(package))
            except importlib.metadata.PackageNotFoundError:
                found = f"not installed; {purpose}"
                yield Finding(name=package, status="note", found=found, remedy=installing(extra))


def _fonts() -> Finding:
    expected = dict(shipped_sha256())
    found = {face.path.name: face.sha256 for face in shipped_fonts()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        return Finding(
            name="fonts",
            status="problem",
            found=f"{', '.join(wrong)}: missing, or not the files that were shipped",
            remedy="install the package again: strips drawn now would have another fingerprint",
        )
    return Finding(name="fonts", status="ok", found=f"{len(found)} shipped, as listed in SHA256SUMS")


def _east_asian_fonts() -> Finding:
    some = dict.fromkeys(EAST_ASIAN, 1)
    names = fonts_for(some)
    lacking = "".join(renderer(StripStyle(fallback=names)).stand_ins(some)["missing"])
    return Finding(
        name="fonts for Chinese, Japanese, Korean",
        status="note" if lacking else "ok",
        found=f"{', '.join(names) or 'none'}{f', without {lacking}' if names and lacking else ''}",
        remedy=f"to draw these, install {PACKAGES}" if lacking else "",
    )


def _devices() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        if error.name == "torch" and isinstance(error, ModuleNotFoundError):
            return  # noted among the extras
        yield Finding(name="devices", status="problem", found=str(error), remedy="install torch anew")
        return
    from rotdata.encoders import default_kernel, default_precision

    threads = torch.get_num_threads()
    gain = _bfloat16_gain()
    chosen = default_precision("cpu")
    better = "bfloat16" if gain >= _WORTH_IT else "float32"
    yield Finding(
        name="cpu",
        status="ok",
        found=f"{os.cpu_count()} cores, {threads} threads; bfloat16 products run {gain:.1f} times as fast as float32; "
        f"embed computes in {chosen}",
        remedy="" if chosen == better else f"embed with --dtype {better} on this CPU",
    )
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            yield Finding(
                name=f"cuda:{index}",
                status="ok",
                found=f"{torch.cuda.get_device_name(index)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, "
                f"{'bfloat16' if torch.cuda.is_bf16_supported() else 'no bfloat16'}",
            )
        kernel = default_kernel("cuda", default_precision("cuda"))
        there = ", ".join(_cuda_attention()) or "plain"
        yield Finding(name="attention on cuda", status="ok", found=f"embed takes {kernel}; there are {there}")
    elif torch.backends.mps.is_available():
        yield Finding(name="mps", status="ok", found="available")
    else:
        yield Finding(
            name="gpu",
            status="note",
            found="none",
            remedy="tiny runs here; a tower of some hundred million weights wants a GPU (rotdata plan says how long)",
        )


def _bfloat16_gain() -> float:
    """How much faster the CPU multiplies matrices in bfloat16, from a quarter of a second of each."""
    import torch

    def rate(dtype: torch.dtype) -> float:
        left, right = (torch.ones(_MATRIX, _MATRIX, dtype=dtype) for _ in range(2))
        left @ right
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 0.25:
            left @ right
            count += 1
        return count / (time.perf_counter() - started)

    return rate(torch.bfloat16) / rate(torch.float32)


def _cuda_attention() -> list[str]:
    import torch

    backends: dict[str, Callable[[], bool]] = {
        "flash (torch)": torch.backends.cuda.flash_sdp_enabled,
        "memory-efficient (torch)": torch.backends.cuda.mem_efficient_sdp_enabled,
        "cudnn (torch)": torch.backends.cuda.cudnn_sdp_enabled,
    }
    found = [name for name, enabled in backends.items() if enabled()]
    with suppress(importlib.metadata.PackageNotFoundError):
        found.append(f"flash-attn {importlib.metadata.version('flash-attn')}")
    return found


def _hub() -> Finding:
    """Whether the Hub answers. A token is looked for, and neither shown nor sent."""
    from urllib.request import urlopen

    from huggingface_hub import constants, get_token

    token = "a token is set" if get_token() else "no token"
    if constants.HF_HUB_OFFLINE:
        return Finding(
            name="hub", status="note", found=f"offline mode, {token}", remedy="unset HF_HUB_OFFLINE to reach the Hub"
        )
    try:
        with urlopen(f"{constants.ENDPOINT}/api/models?limit=1", timeout=_HUB_TIMEOUT_S):  # noqa: S310 -- an endpoint
            pass
    except (OSError, ValueError) as error:
        return Finding(
            name="hub",
            status="note",
            found=f"{constants.ENDPOINT} does not answer ({type(error).__name__}), {token}",
            remedy="check the network or HF_ENDPOINT; corpora and models in local folders need no Hub",
        )
    return Finding(name="hub", status="ok", found=f"{constants.ENDPOINT} answers, {token}")


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _disk(name: str, folder: Path, remedy: str) -> Finding:
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    low = free < _LOW_DISK_GB
    return Finding(name=name, status="note" if low else "ok", found=f"{free:.1f} GB", remedy=remedy if low else "")
