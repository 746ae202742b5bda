"""What decides a training run: one frozen dataclass a stage; unknown keys are errors. Knows nothing of torch.

The defaults are the paper's recipe (docs/glossary.md gives sources).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from rotdata.errors import UsageError

Rollout = Literal["student", "teacher"]
Scheduler = Literal["constant", "linear", "cosine"]
Reduction = Literal["mean", "sum"]
Activation = Literal["swiglu", "gelu", "relu"]
Precision = Literal["auto", "float32", "bfloat16"]

_Config = TypeVar("_Config", bound="TrainConfig")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:  # a NaN is not, either
            raise UsageError(f"{name} is more than 0, got {value}")


def _check_choice(config: object, name: str, allowed: Sequence[str]) -> None:
    value = getattr(config, name)
    if value not in allowed:
        raise UsageError(f"{name} is {' or '.join(allowed)}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Shape of the projection head."""

    hidden: int | None = None
    """Width of its hidden layer; by default twice the language model's, at most the paper's 4096."""
    activation: Activation = "swiglu"

    def __post_init__(self) -> None:
        """Raise UsageError for values that make no head."""
        _check_positive(self, "hidden")
        _check_choice(self, "activation", get_args(Activation))


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """The adapter of stage 2."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05

    def __post_init__(self) -> None:
        """Raise UsageError for values that make no adapter."""
        _check_positive(self, "rank", "alpha")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is at least 0 and less than 1, got {self.dropout}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What both stages share."""

    rollout: Rollout = "student"
    """How a step's latents are produced: fed back on themselves, as the paper trains, or given the true ones."""
    batch_size: int = 16
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    epochs: float = 1.0
    max_steps: int | None = None
    """Stop after so many steps, whatever epochs says."""
    lr: float = 2e-5
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    scheduler: Scheduler = "constant"
    warmup_steps: int = 0
    seed: int = 0
    precision: Precision = "auto"
    """Arithmetic of the language model: auto is bfloat16 on a GPU, float32 on a CPU."""
    align_reduction: Reduction = "mean"
    """Over the dimensions of a latent: the mean, as the reference has it, or the sum, as the paper writes."""
    save_steps: int | None = None
    """Write a state to resume from every so many steps; by default only when stopped."""
    log_steps: int = 10

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't train."""
        _check_positive(
            self, "batch_size", "accumulate", "epochs", "max_steps", "lr", "max_grad_norm", "save_steps", "log_steps"
        )
        _check_choice(self, "rollout", get_args(Rollout))
        _check_choice(self, "scheduler", get_args(Scheduler))
        _check_choice(self, "precision", get_args(Precision))
        _check_choice(self, "align_reduction", get_args(Reduction))


@dataclass(frozen=True, kw_only=True)
class Stage1Config(TrainConfig):
    """Stage 1, visual alignment: the language model is frozen, the head learns to predict the strip's latents."""

    align_weight: float = 10.0
    """The paper's lambda, on the mean over dimensions."""
    answer_weight: float = 1.0
    """Weight of the cross-entropy of end token and answer, given the predicted latents."""
    head: HeadConfig = HeadConfig()


@dataclass(frozen=True, kw_only=True)
class Stage2Config(TrainConfig):
    """Stage 2, latent fine-tuning: the head is frozen, LoRA on the language model learns to answer from its latents."""

    epochs: float = 2.0
    align_weight: float = 0.0
    """The paper has no alignment loss here; more than 0 holds the latents to the strip's."""
    answer_weight: float = 1.0
    cache_gradient: bool = True
    """Whether gradients run back through the key-value cache of earlier latents, as in the reference."""
    train_tokens: bool = False
    """Whether the rows of the begin and end token are trained with the adapter."""
    lora: LoraSettings = LoraSettings()


def load_yaml(kind: type[_Config], file: Path | None, **overrides: Any) -> _Config:
    """A config of `kind` from a YAML file and overrides, of which None means "not given".

    Raises UsageError for unknown keys and values that can't be.
    """
    content: Any = {}
    if file is not None:
        import yaml

        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UsageError(f"the config {file} can't be read: {error}") from error
        if not isinstance(content, dict):
            raise UsageError(f"the config {file} holds no mapping of names to values")
    return from_dict(kind, content | {name: value for name, value in overrides.items() if value is not None})


def from_dict(kind: type[Any], content: dict[str, Any]) -> Any:
    """A dataclass of `kind` from plain values; nested mappings become nested configs. Raises UsageError."""
    hints = get_type_hints(kind)
    unknown = sorted(str(name) for name in content if name not in hints)
    if unknown:
        raise UsageError(f"unknown keys {', '.join(unknown)} for {kind.__name__}: known are {', '.join(hints)}")
    return kind(**{name: _coerce(name, value, hints[name]) for name, value in content.items()})


def _coerce(name: str, value: Any, hint: Any) -> Any:
    """`value` as a field of type `hint` has it: a dataclass, a Literal, or T or T | None. Raises UsageError."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value)
    allowed = get_args(hint) or (hint,)
    if get_origin(hint) is Literal or (value is None and NoneType in allowed):
        return value  # choices are checked where they are declared
    if float in allowed and isinstance(value, int | str) and not isinstance(value, bool):
        return _number(name, value)  # YAML reads 2e-5 as text
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{name} is of type {allowed[0].__name__}, got {value!r}")
    return value


def _number(name: str, value: int | str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{name} is a number, got {value!r}") from None
