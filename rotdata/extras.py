"""Libraries that only some commands need: which extra brings each, and what is said where one is not installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rotdata.errors import MissingExtra

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "embed": ("torch", "transformers", "safetensors"),
    "train": ("accelerate", "peft", "math_verify", "sympy"),
    "serve": ("fastapi", "uvicorn"),
    "report": ("matplotlib",),
    "ocr": ("rapidocr", "onnxruntime"),
    "ray": ("ray",),
    "http": ("aiohttp",),
    "lm-eval": ("lm_eval",),
}
"""Extra -> the modules that it brings and the package without extras lacks; `train` and `serve` bring `embed`'s too."""


def installing(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'render-of-thought[{extra}]'"


@contextmanager
def needing(extra: str, purpose: str) -> Iterator[None]:
    """Imports that an extra is there for. Raises MissingExtra."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(f"{purpose} needs an extra ({error}): {installing(extra)}") from error


def missing(error: ModuleNotFoundError, package: str) -> MissingExtra | None:
    """What to say where `package`, one of ours, did not find a module; None if no extra brings that."""
    module = (error.name or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if module in modules), None)
    if extra is None:
        return None
    if package == "rottrain" and extra == "embed":  # of which the others would be missed next
        extra = "train"
    return MissingExtra(f"{module} is not installed, which this needs: {installing(extra)}")
