"""What decides a training run: one frozen dataclass a stage; unknown keys are errors. Knows nothing of torch.

The defaults are the recipe `fast`, the best that was found here for latents of whole strips; RECIPES says what the
others change in them, the paper's and, for latents that are pictures of their own characters alone, `picture`
(docs/glossary.md gives its sources).
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from rotdata.console import MOST
from rotdata.errors import UsageError

Recipe = Literal["paper", "fast", "picture"]
Trainable = Literal["head", "lora", "full", "lm-head"]
Scaling = Literal["none", "global", "dimension"]
Alignment = Literal["mse", "cosine", "huber"]
Fit = Literal["pad", "truncate", "resample"]
AnswerAfter = Literal["budget", "drawn"]
OptimizerName = Literal["adamw", "muon"]
Scheduler = Literal["constant", "linear", "cosine"]
Reduction = Literal["mean", "sum"]
Activation = Literal["swiglu", "gelu", "relu"]
SftMode = Literal["cot", "no-cot"]
Precision = Literal["auto", "float32", "bfloat16", "mixed"]
Experts = Literal["frozen", "adapted"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"]
Feedback = Literal["latent", "picture"]
"""What a model continues from: the latent that it predicted, or the picture of what was read in it."""

MOST_LATENTS = 1 << 16
"""A row's or a question's latents are no more: the longest contexts hold as many."""
MOST_WIDTH = 1 << 16
"""Of a hidden layer, or the rank of an adapter."""

_Config = TypeVar("_Config", bound="TrainConfig")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:  # a NaN is not, either
            raise UsageError(f"{name} is more than 0, got {value}")


def _check_not_negative(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= 0:
            raise UsageError(f"{name} is at least 0, got {value}")


def _check_at_most(config: object, most: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value <= most:
            raise UsageError(f"{name} is at most {most:g}, got {value!s:.40}")


def _check_choice(config: object, name: str, allowed: Sequence[str]) -> None:
    value = getattr(config, name)
    if value not in allowed:
        raise UsageError(f"{name} is {' or '.join(allowed)}, got {value!r}")


OURS_OF_TRAINER: Mapping[str, str] = {
    "per_device_train_batch_size": "batch_size", "gradient_accumulation_steps": "accumulate",
    "num_train_epochs": "epochs", "max_steps": "max_steps", "learning_rate": "lr", "weight_decay": "weight_decay",
    "adam_beta2": "adam_beta2", "max_grad_norm": "max_grad_norm", "warmup_steps": "warmup_steps", "seed": "seed",
    "gradient_checkpointing": "gradient_checkpointing", "activation_checkpointing": "gradient_checkpointing",
    "torch_compile": "torch_compile", "use_liger_kernel": "liger",
    "save_steps": "save_steps", "logging_steps": "log_steps", "eval_steps": "validation_steps",
}  # fmt: skip
"""Fields of transformers.TrainingArguments, and the key of a recipe that is the same."""
_DECIDES_NOTHING = re.compile(
    r"(logging_|log_|save_|skip_memory|trackio_|dataloader_(p|multi)|ddp_(bucket|timeout)).*|run_name|project|debug"
)
"""Fields of transformers.TrainingArguments that change nothing that is learnt."""

_LATER = {
    "optimizer": "adamw",
    "attn": "auto",
    "torch_compile": False,
    "liger": False,
    "load_in_4bit": False,
    "trainer": {},
}
_LATER_OF_LORA = {"targets": None, "rslora": False, "dora": False}

MIXED = "jacobi:0-1, jacobi:0-3@0.7, jacobi:all@0.9"
"""What the rollout `mixed` stands for, in stage 2 the best that was found: true latents until sums are learnt, its own
ones once these are mostly right (docs/log.md)."""

ALL_SWEEPS = 10**9
"""More sweeps than any row has latents: what they read then are the student's latents."""

_PHASE = re.compile(
    r"(teacher|student|jacobi:(?:(?P<all>all)|(?P<least>\d{1,9})(?:-(?P<most>\d{1,9}))?))(?:@(?P<start>[\d.]+))?"
)


@dataclass(frozen=True, slots=True)
class Phase:
    """How latents are produced from some share of the training on."""

    start: float
    sweeps: tuple[int, int] | None
    """Least and most Jacobi sweeps on the model's own predictions, drawn anew for each step; None for the student."""


def rollout_phases(text: str) -> list[Phase]:
    """`teacher`, `student`, `jacobi:N`, `jacobi:N-M`, `jacobi:all`, `mixed`, or several with the share they start at.

    "teacher, jacobi:0-3@0.4, student@0.9" begins with true latents, draws 0 to 3 sweeps from 40% of the steps on, and
    ends with student forcing. Raises UsageError.
    """
    phases: list[Phase] = []
    for part in (MIXED if text.strip() == "mixed" else text).split(","):
        found = _PHASE.fullmatch(part.strip())
        if not found:
            raise UsageError(
                f"rollout {part.strip()!r} is none of teacher, student, jacobi:N, jacobi:N-M, jacobi:all, mixed, "
                "or several of them as in 'teacher, student@0.5'"
            )
        least = ALL_SWEEPS if found["all"] else int(found["least"] or 0)
        sweeps = None if found[1] == "student" else (least, int(found["most"] or least))
        phases.append(Phase(start=_number("rollout", found["start"] or "0"), sweeps=sweeps))
    starts = [phase.start for phase in phases]
    if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
        raise UsageError(f"the phases of rollout {text!r} start at 0 and at rising shares below 1, got {starts}")
    if any(phase.sweeps and phase.sweeps[0] > phase.sweeps[1] for phase in phases):
        raise UsageError(f"a rollout's sweeps go from few to many, got {text!r}")
    return phases


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Shape of the projection head."""

    hidden: int | None = None
    """Width of its hidden layer; by default twice the language model's, at most the paper's 4096."""
    activation: Activation = "swiglu"

    def __post_init__(self) -> None:
        """Raise UsageError for values that make no head."""
        _check_positive(self, "hidden")
        _check_at_most(self, MOST_WIDTH, "hidden")
        _check_choice(self, "activation", get_args(Activation))


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """An adapter of the language model's projections."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    experts: Experts = "frozen"
    """Whether the experts of a mixture are adapted too, each of them; peft can do it without dropout alone."""
    targets: tuple[str, ...] | None = None
    """Names of the language model's projections that are adapted, as q_proj; by default all that docs/training.md
    lists."""
    rslora: bool = False
    """Whether alpha is divided by the root of the rank (arXiv 2312.03732)."""
    dora: bool = False
    """Whether the adapted weights' magnitudes learn apart from their directions (arXiv 2402.09353)."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that make no adapter."""
        _check_positive(self, "rank", "alpha")
        _check_at_most(self, MOST_WIDTH, "rank", "alpha")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout is at least 0 and less than 1, got {self.dropout}")
        _check_choice(self, "experts", get_args(Experts))
        if self.experts == "adapted" and self.dropout:
            raise UsageError(f"adapters of experts have no dropout: set dropout to 0, not {self.dropout}")
        if self.experts == "adapted" and self.dora:
            raise UsageError("adapters of experts have no dora: leave one of them out")
        if self.targets is not None and not all(re.fullmatch(r"\w+", str(each)) for each in self.targets or ("",)):
            raise UsageError(f"targets are names of projections, as q_proj, got {list(self.targets)!s:.80}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What all training shares."""

    trainable: Trainable = "full"
    """What learns beside what a stage always trains: nothing, LoRA, all of the language model, or its output rows."""
    lora: LoraSettings = LoraSettings()
    batch_size: int = 16
    group_by_length: bool = False
    """Whether rows of similar length share a batch: less padding, a less random order."""
    accumulate: int = 1
    """Batches whose gradients are averaged into one step."""
    epochs: float = 1.0
    max_steps: int | None = None
    """Stop after so many steps, whatever epochs says."""
    optimizer: OptimizerName = "adamw"
    """adamw, or muon: Muon for matrices and AdamW for the rest. Another one is named by trainer.optim."""
    lr: float = 2e-5
    weight_decay: float = 1e-2
    adam_beta2: float = 0.98
    max_grad_norm: float = 1.0
    scheduler: Scheduler = "constant"
    warmup_steps: int | float = 50
    """Steps over which the learning rate rises; below 1, their share of the run."""
    seed: int = 0
    precision: Precision = "auto"
    """Of the language model: float32; bfloat16, its weights too; or mixed, with weights, gradients and optimizer in
    float32 and passes in bfloat16. What learns beside it is float32 in any case. auto: where bfloat16 is fast (GPUs
    with it, CPUs with AVX-512 BF16 or AMX) mixed if the language model's own weights learn, else bfloat16 on a GPU;
    float32 otherwise."""
    attn: Attention = "auto"
    """How attention is computed, as transformers names it; auto: eager on a CPU, sdpa on a GPU."""
    torch_compile: bool = False
    """Whether torch compiles the language model's layers."""
    liger: bool = False
    """Whether Liger kernels, if they are installed, take the place of the language model's own parts."""
    load_in_4bit: bool = False
    """Whether the frozen language model is held in 4 bits (NF4, by bitsandbytes), as QLoRA has it."""
    gradient_checkpointing: bool = False
    """Whether a layer keeps its input alone and is run again for its gradients: less memory, about a third more time;
    losses and gradients stay as they are."""
    save_steps: int | None = None
    """Write a state to resume from every so many steps; by default only when stopped."""
    log_steps: int = 10
    validation_rows: int = 0
    """Rows, the last ones, that are held out of training and validated on."""
    validation_steps: int | None = None
    """Validate every so many steps; by default ten times a run."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further fields of transformers.TrainingArguments; training/arguments.py says which are refused, and why."""

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The paper's recipe with `changes`."""
        return cls(**RECIPES["paper"][cls] | changes)

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't train."""
        _check_positive(
            self, "batch_size", "accumulate", "epochs", "max_steps", "lr", "max_grad_norm", "save_steps", "log_steps",
            "validation_steps",
        )  # fmt: skip
        _check_not_negative(self, "weight_decay", "warmup_steps", "seed", "validation_rows")
        _check_at_most(
            self, MOST, "batch_size", "accumulate", "epochs", "max_steps", "max_grad_norm", "save_steps",
            "log_steps", "validation_steps", "weight_decay", "warmup_steps", "seed", "validation_rows",
        )  # fmt: skip
        _check_at_most(self, sys.float_info.max, "lr")
        if not 0 < self.adam_beta2 < 1:
            raise UsageError(f"adam_beta2 is more than 0 and less than 1, got {self.adam_beta2}")
        for name in sorted(self.trainer.keys() & OURS_OF_TRAINER.keys()):
            raise UsageError(f"trainer.{name} is {OURS_OF_TRAINER[name]} of the recipe: give it by that name")
        _check_choice(self, "trainable", get_args(Trainable))
        _check_choice(self, "optimizer", get_args(OptimizerName))
        if self.optimizer != "adamw" and "optim" in self.trainer:
            raise UsageError(f"optimizer is {self.optimizer} and trainer.optim {self.trainer['optim']}: leave one out")
        _check_choice(self, "scheduler", get_args(Scheduler))
        _check_choice(self, "precision", get_args(Precision))
        _check_choice(self, "attn", get_args(Attention))
        if self.load_in_4bit and self.trainable not in ("head", "lora"):
            raise UsageError(
                f"a model in 4 bits does not learn itself: trainable is head or lora, not {self.trainable}"
            )


@dataclass(frozen=True, kw_only=True)
class LatentConfig(TrainConfig):
    """What the stages that train on latents share."""

    rollout: str
    """How a step's latents are produced, see `rollout_phases`; the paper's `student` feeds them back on themselves."""
    train_tokens: bool = False
    """Whether the rows of the begin and end token are trained with the adapter."""
    cache_gradient: bool = True
    """Whether gradients run back through the key-value cache of earlier latents, as in the reference."""
    feedback: Feedback = "latent"
    """What the model learns to continue from. With picture feedback it reads true latents alone, nothing is fed back
    while it learns, and each row ends with one blank latent, which ends a thought."""
    misread: float = 0.0
    """Share of the latents read in a training step that are another row's or place's, as if misread."""
    input_noise: float = 0.3
    """Most noise put on the latents that a parallel sweep reads, in standard deviations of the targets; each row draws
    its own share of it."""
    budget: int | None = None
    """Latents a row is brought to, as inference will spend them; by default each row keeps its strip's own."""
    fit: Fit = "pad"
    """How: shorter strips followed by blank latents and longer ones cut, longer ones cut alone, or longer ones
    resampled."""
    alignment: Alignment = "mse"
    align_weight: float = 1.0
    """Weight of the alignment loss; the paper's lambda is 10 in stage 1, on the mean over dimensions."""
    align_reduction: Reduction = "mean"
    """Over the dimensions of a latent: the mean, as the reference has it, or the sum, as the paper writes."""
    answer_weight: float = 1.0
    """Weight of the cross-entropy of end token and answer, given the latents."""
    answer_after: AnswerAfter = "drawn"
    """How many latents come before end token and answer in training: all, or, drawn for each row and step, any number
    from the last that says something on, so that a thought that was stopped is nothing new."""
    glyph_weight: float = 2.0
    """Weight of the glyph probe's cross-entropy: it names the characters that each predicted latent shows."""
    halt_weight: float = 0.1
    """Weight of the halt loss: at every latent, whether it is the last that says something."""

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't train."""
        super().__post_init__()
        _check_positive(self, "budget")
        weights = ("input_noise", "align_weight", "answer_weight", "glyph_weight", "halt_weight")
        _check_not_negative(self, *weights)
        _check_at_most(self, MOST, *weights)
        _check_at_most(self, MOST_LATENTS, "budget")
        phases = rollout_phases(self.rollout)
        _check_choice(self, "feedback", get_args(Feedback))
        if not 0 <= self.misread < 1:
            raise UsageError(f"misread is a share of at least 0 and less than 1, got {self.misread}")
        if self.feedback == "picture" and any(phase.sweeps != (0, 0) for phase in phases):
            raise UsageError(
                f"with picture feedback latents are learnt from true ones: rollout is teacher, not {self.rollout!r}"
            )
        _check_choice(self, "fit", get_args(Fit))
        _check_choice(self, "alignment", get_args(Alignment))
        _check_choice(self, "answer_after", get_args(AnswerAfter))
        _check_choice(self, "align_reduction", get_args(Reduction))


@dataclass(frozen=True, kw_only=True)
class Stage1Config(LatentConfig):
    """Stage 1, visual alignment: the head learns to predict the strip's latents, in the paper on a frozen model."""

    rollout: str = "teacher, jacobi:0-1@0.5"
    scaling: Scaling = "dimension"
    """Statistics by which latents are made alike in scale: the head predicts scaled ones, the alignment loss compares
    them. Kept in the checkpoint; stage 2 takes them over."""
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't train."""
        super().__post_init__()
        _check_choice(self, "scaling", get_args(Scaling))


@dataclass(frozen=True, kw_only=True)
class Stage2Config(LatentConfig):
    """Stage 2, latent fine-tuning: the model learns to answer from its latents, in the paper by LoRA."""

    rollout: str = "mixed"
    epochs: float = 2.0
    scheduler: Scheduler = "cosine"
    train_head: bool = True
    """Whether the head of stage 1 goes on learning."""


@dataclass(frozen=True, kw_only=True)
class SftConfig(TrainConfig):
    """Fine-tuning in words on the same rows: what latents are compared with."""

    mode: SftMode
    """What is taught: cot is chain of thought and answer, no-cot the answer alone."""
    epochs: float = 2.0
    scheduler: Scheduler = "cosine"

    def __post_init__(self) -> None:
        """Raise UsageError for values that can't train."""
        super().__post_init__()
        _check_choice(self, "mode", get_args(SftMode))
        _check_choice(self, "trainable", ("lora", "full", "lm-head"))  # there is no head beside it


_PAPER = {"adam_beta2": 0.999, "scheduler": "constant", "warmup_steps": 0}
_PAPER_LATENTS = _PAPER | {
    "rollout": "student",
    "answer_after": "budget",
    "glyph_weight": 0.0,
    "halt_weight": 0.0,
    "input_noise": 0.0,
}
_PICTURE = {"feedback": "picture", "rollout": "teacher", "input_noise": 0.0, "glyph_weight": 6.0}
RECIPES: dict[Recipe, dict[type[TrainConfig], dict[str, Any]]] = {
    "fast": {Stage1Config: {}, Stage2Config: {}, SftConfig: {}},
    "paper": {
        Stage1Config: _PAPER_LATENTS | {"trainable": "head", "align_weight": 10.0, "scaling": "none"},
        Stage2Config: _PAPER_LATENTS | {"trainable": "lora", "align_weight": 0.0, "train_head": False},
        SftConfig: _PAPER | {"trainable": "lora"},
    },
    "picture": {Stage1Config: _PICTURE, Stage2Config: _PICTURE, SftConfig: {}},
}
"""What each recipe changes in the defaults."""
DEFAULT_RECIPE: Recipe = "fast"


def load_yaml(kind: type[_Config], file: Path | None, *, recipe: Recipe = DEFAULT_RECIPE, **overrides: Any) -> _Config:
    """A config of `kind` from a recipe, a YAML file and overrides, of which None means "not given"; later ones win.

    Of mappings in them (lora, trainer) each key counts by itself. Raises UsageError for unknown keys and values that
    can't be.
    """
    content: Any = {}
    if file is not None:
        import yaml

        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UsageError(f"the config {file} can't be read: {error}") from error
        if not isinstance(content, dict):
            raise UsageError(f"the config {file} holds no mapping of names to values")
    given = {name: value for name, value in overrides.items() if value is not None}
    merged: dict[str, Any] = {}
    for layer in (RECIPES[recipe][kind], content, given):
        for name, value in _by_our_names(layer).items():
            below = merged.get(name)
            merged[name] = below | value if isinstance(below, dict) and isinstance(value, dict) else value
    return from_dict(kind, merged)


def _by_our_names(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a recipe, those among them that stand in `trainer` by the Trainer's names. Raises UsageError."""
    trainer = layer.get("trainer")
    if not isinstance(trainer, dict):
        return dict(layer)
    ours = {name: OURS_OF_TRAINER[name] for name in trainer if name in OURS_OF_TRAINER}
    for name, key in ours.items():
        if key in layer or list(ours.values()).count(key) > 1:
            raise UsageError(f"{key} is given twice, once as trainer.{name}: leave one out")
    rest = {name: value for name, value in trainer.items() if name not in ours}
    return {**layer, "trainer": rest} | {key: trainer[name] for name, key in ours.items()}


def what_decides(config: TrainConfig) -> dict[str, Any]:
    """A config as plain values, without what changes nothing that is learnt: saving, logging, recomputing.

    Keys that came later are left out where they change nothing, so that runs of earlier releases are known again.
    """
    values = dataclasses.asdict(config)
    for name in ("save_steps", "log_steps", "gradient_checkpointing"):
        del values[name]
    values["trainer"] = {name: value for name, value in config.trainer.items() if not _DECIDES_NOTHING.fullmatch(name)}
    for place, later in ((values, _LATER), (values["lora"], _LATER_OF_LORA)):
        for name, usual in later.items():
            if place[name] == usual:
                del place[name]
    return values


def as_yaml(config: TrainConfig) -> str:
    """What decides a run, as `load_yaml` reads it."""
    import yaml

    return yaml.safe_dump(what_decides(config), sort_keys=False)


def from_dict(kind: type[Any], content: dict[str, Any]) -> Any:
    """A dataclass of `kind` from plain values; nested mappings become nested configs. Raises UsageError."""
    hints = get_type_hints(kind)
    unknown = sorted(str(name) for name in content if name not in hints)
    if unknown:
        raise UsageError(f"unknown keys {', '.join(unknown)} for {kind.__name__}: known are {', '.join(hints)}")
    return kind(**{name: coerced(name, value, hints[name]) for name, value in content.items()})


def coerced(name: str, value: Any, hint: Any) -> Any:
    """`value` as a field of type `hint` has it: a dataclass, a Literal, or one of several types. Raises UsageError."""
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value)
    allowed = types_of(hint)
    if get_origin(hint) is Literal or (value is None and NoneType in allowed):
        return value  # choices are checked where they are declared
    if float in allowed and isinstance(value, int | str) and not isinstance(value, bool) and str not in allowed:
        number = _number(name, value)  # YAML reads 2e-5 as text
        return int(number) if int in allowed and number.is_integer() else number
    if tuple in allowed and isinstance(value, list):
        value = tuple(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UsageError(f"{name} is of type {allowed[0].__name__}, got {value!r:.80}")
    return value


def types_of(hint: Any) -> tuple[type, ...]:
    """The classes that values of a type hint have."""
    kind = get_origin(hint) or hint
    if kind in (Union, UnionType):
        return tuple(each for inner in get_args(hint) for each in types_of(inner))
    if kind is Literal:
        return tuple(type(each) for each in get_args(hint))
    return (kind,) if isinstance(kind, type) else (object,)


def _number(name: str, value: int | str) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise UsageError(f"{name} is a number, got {value!r}") from None
