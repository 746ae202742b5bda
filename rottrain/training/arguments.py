"""What of transformers.TrainingArguments can be given: all of it but what would break a promise of ours.

A recipe's `trainer` holds fields by the Trainer's names. Those that are keys of a recipe under another name are moved
there when a config is read (config.OURS_OF_TRAINER); the others are typed by the Trainer's own dataclass and handed on.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_type_hints

from transformers import TrainingArguments

from rotdata.errors import UsageError
from rottrain.config import OURS_OF_TRAINER, TrainConfig, coerced, types_of

_Config = TypeVar("_Config", bound=TrainConfig)

_EVALUATION = "rows are held out and validated on by --validation-rows and --validation-steps, not by the Trainer"
_BEST = "the weights that validation found best are kept in any case (docs/training.md, What is watched)"
_ORDER = "which rows come when follows from the seed alone, so that a stopped run resumes to the same bits"
_TYPES = "it would cast whole steps, in which a weight cast without a gradient would learn nothing: use --precision"
_WHOLE_STATES = "a state is what a killed run resumes from, to the same bits"
_UNUSED = "nothing here reads it"
_HUB = "states and checkpoint are pushed by --push-to-hub, with --hub-private"
_REFUSED: Mapping[str, str] = {
    "output_dir": "the checkpoint's folder is --out",
    "report_to": "trackers are named by --report-to",
    "resume_from_checkpoint": "a state to go on from is named by --resume",
    "dataloader_num_workers": "processes that read ahead are --workers",
    "push_to_hub": _HUB,
    "hub_model_id": _HUB,
    "hub_token": "it would be recorded in the checkpoint: log in with `hf auth login`, or set HF_TOKEN",
    "hub_private_repo": _HUB,
    "hub_strategy": _HUB,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "bf16": _TYPES,
    "fp16": _TYPES,
    "bf16_full_eval": _TYPES,
    "fp16_full_eval": _TYPES,
    "use_cpu": "the device is the GPU if there is one: hide it with CUDA_VISIBLE_DEVICES=''",
    "gradient_checkpointing_kwargs": "the passes continue from a cache, which --gradient-checkpointing alone keeps",
    "activation_checkpointing_kwargs": "the passes continue from a cache, which --gradient-checkpointing alone keeps",
    "use_cache": "all passes continue from a cache; cache_gradient of the recipe says whether gradients do",
    "auto_find_batch_size": "another batch is another order of rows: choose --batch-size and --accumulate",
    "data_seed": _ORDER,
    "train_sampling_strategy": f"{_ORDER}; --group-by-length puts rows of similar length together",
    "length_column_name": f"{_ORDER}; --group-by-length puts rows of similar length together",
    "dataloader_drop_last": "an epoch takes each row",
    "dataloader_in_order": _ORDER,
    "ignore_data_skip": _ORDER,
    "remove_unused_columns": "batches are made for the losses: all of them is used",
    "label_names": _UNUSED,
    "label_smoothing_factor": "losses are the recipe's; in Python, `loss` takes one of yours (docs/api.md)",
    "average_tokens_across_devices": "losses are means over rows, each of which counts alike",
    "neftune_noise_alpha": "noise goes on the latents that are read: use --input-noise",
    "include_num_input_tokens_seen": "what is read are latents besides tokens, and it would count the latter",
    "save_only_model": _WHOLE_STATES,
    "save_on_each_node": "the first process writes states, where all read them",
    "enable_jit_checkpoint": "SIGTERM saves a state in any case",
    "load_best_model_at_end": _BEST,
    "metric_for_best_model": _BEST,
    "greater_is_better": _BEST,
    "disable_tqdm": "the bar is drawn on terminals alone",
    "local_rank": "the launcher says it",
    "parallelism_config": "passes that continue from a cache are not written to be cut among devices",
    **dict.fromkeys(
        (
            "eval_strategy", "eval_delay", "eval_on_start", "per_device_eval_batch_size", "prediction_loss_only",
            "eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "include_for_metrics",
            "batch_eval_metrics",
        ),
        _EVALUATION,
    ),
    **dict.fromkeys(("fsdp", "fsdp_config", "deepspeed"), "it is for `accelerate launch` to say (docs/trainer.md)"),
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), _UNUSED),
}  # fmt: skip
"""Fields that are not taken, and why."""
_REFUSED_VALUES: Mapping[tuple[str, str], str] = {
    ("lr_scheduler_type", "reduce_lr_on_plateau"): _EVALUATION,
    ("lr_scheduler_type", "greedy"): _EVALUATION,
    ("save_strategy", "best"): _BEST,
}
_ACCELERATOR = ("non_blocking", "gradient_accumulation_kwargs")
KEPT_STATES = "save_total_limit"
"""Which our own keeper of states heeds: the Trainer would remove them in an order that a kill could break."""
LIGER = "liger_kernel_config"
COMPILER: Mapping[str, str] = {"torch_compile_backend": "backend", "torch_compile_mode": "mode"}
"""Settings of torch.compile by the Trainer's names, and by torch's."""
_HEEDED_HERE = (KEPT_STATES, LIGER, *COMPILER)
"""Fields that the Trainer does not get, since it would apply them to a model that is one call; a step is several."""


def settled(config: _Config) -> _Config:
    """A config whose `trainer` is typed as the Trainer's own fields are. Raises UsageError."""
    return dataclasses.replace(config, trainer={name: _typed(name, value) for name, value in config.trainer.items()})


def from_texts(texts: Iterable[str]) -> dict[str, Any]:
    """Fields of the Trainer given as NAME=VALUE, the value as YAML has it where it is more than text."""
    given: dict[str, Any] = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found or not name:
            raise UsageError(f"--trainer takes NAME=VALUE, as in --trainer optim=adafactor, got {text!r:.80}")
        if name in given:
            raise UsageError(f"--trainer {name} is given twice")
        given[name] = _read(name, value)
    return given


def arguments(recipe: TrainConfig, **ours: Any) -> TrainingArguments:
    """The Trainer's arguments: ours, and what a settled recipe says. Raises UsageError for values that can't be."""
    _check_launcher()
    given = {name: value for name, value in recipe.trainer.items() if name not in _HEEDED_HERE}
    try:
        return TrainingArguments(**ours | given)
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise UsageError(f"the Trainer refuses {_listed(given)}: {error}") from error


def _check_launcher() -> None:
    """Raise UsageError for what `accelerate launch` is asked to do to whole steps."""
    if (asked := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) not in ("", "no"):
        raise UsageError(f"accelerate launch is asked for --mixed_precision {asked}: {_TYPES}")
    if (asked := os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()) not in ("", "no"):
        raise UsageError(f"accelerate launch is asked for --dynamo_backend {asked}: use --torch-compile")


def _listed(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r:.80}" for name, value in given.items()) or "its arguments"


@cache
def _hints() -> dict[str, Any]:
    """Types of the fields that TrainingArguments is made of."""
    hints = get_type_hints(TrainingArguments)
    return {each.name: hints[each.name] for each in dataclasses.fields(TrainingArguments) if each.init}


def _hint(name: str) -> Any:
    """The type of a field that may be given. Raises UsageError."""
    if name not in _hints():
        near = difflib.get_close_matches(name, _hints(), n=3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ", see its documentation"
        raise UsageError(f"{name!r:.80} is no field of transformers.TrainingArguments{meant}")
    if name in _REFUSED:
        raise UsageError(f"trainer.{name} can't be given: {_REFUSED[name]}")
    return _hints()[name]


def _read(name: str, text: str) -> Any:
    """A value as it was typed; a key of a recipe reads it itself."""
    import yaml

    if name not in OURS_OF_TRAINER and str in types_of(_hint(name)) and not text.startswith(("{", "[")):
        return None if text in ("null", "None") and NoneType in types_of(_hint(name)) else text
    try:
        return yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"--trainer {name}: {text!r:.80} can't be read: {error}") from error


def _typed(name: str, value: Any) -> Any:
    """A value of a field, as JSON has it. Raises UsageError."""
    hint = _hint(name)
    plain = value.value if isinstance(value, Enum) else str(value) if isinstance(value, Path) else value
    plain = coerced(f"trainer.{name}", plain, hint)
    try:
        json.dumps(plain, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"trainer.{name} can't be recorded: {error}") from error
    if reason := _REFUSED_VALUES.get((name, str(plain))):
        raise UsageError(f"trainer.{name} can't be {plain}: {reason}")
    if name == "accelerator_config" and not (isinstance(plain, dict) and plain.keys() <= set(_ACCELERATOR)):
        raise UsageError(f"trainer.{name} is a mapping of {' and '.join(_ACCELERATOR)} alone: {_ORDER}")
    if name == KEPT_STATES and plain is not None and plain < 1:
        raise UsageError(f"trainer.{name} is at least 1, got {plain}: {_WHOLE_STATES}")
    return plain
