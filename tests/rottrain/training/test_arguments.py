"""Fields of transformers.TrainingArguments: every one is a key of the recipe, handed on, or refused with a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

from rotdata.errors import UsageError
from rottrain.config import OURS_OF_TRAINER, SftConfig, Stage1Config, load_yaml, what_decides
from rottrain.training import arguments
from rottrain.training.arguments import from_texts, settled

FIELDS = [each for each in dataclasses.fields(TrainingArguments) if each.init]


def default(name: str) -> Any:
    """What the Trainer has for a field itself."""
    [field] = [each for each in FIELDS if each.name == name]
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


@pytest.mark.parametrize("name", [each.name for each in FIELDS])
def test_every_field_is_ours_or_handed_on_or_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    if name in OURS_OF_TRAINER:
        assert OURS_OF_TRAINER[name] in {each.name for each in dataclasses.fields(Stage1Config)}
        with pytest.raises(UsageError, match=f"trainer.{name} is {OURS_OF_TRAINER[name]} of the recipe"):
            Stage1Config(trainer={name: default(name)})
    elif name in arguments._REFUSED:
        with pytest.raises(UsageError, match=f"trainer.{name} can't be given: .{{10}}"):
            settled(Stage1Config(trainer={name: default(name)}))
    else:
        given = {} if name == "accelerator_config" else default(name)
        config = settled(Stage1Config(trainer={name: given}))
        made = arguments.arguments(config, output_dir=str(tmp_path), use_cpu=True)
        assert name in arguments._HEEDED_HERE or hasattr(made, name)


def test_no_table_names_a_field_that_there_is_not() -> None:
    names = {each.name for each in FIELDS}
    assert names >= OURS_OF_TRAINER.keys()
    assert names >= arguments._REFUSED.keys()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optim=adafactor", "adafactor"),
        ("adam_epsilon=1e-6", 1e-6),
        ("adam_beta1=0", 0.0),
        ("tf32=false", False),
        ("ddp_timeout=60", 60),
        ("run_name=5", "5"),
        ("lr_scheduler_kwargs={min_lr: 1.0e-6}", {"min_lr": 1e-6}),
        ("optim_target_modules=[q_proj, v_proj]", ["q_proj", "v_proj"]),
        ("optim_target_modules=null", None),
        ("optim_args=a=1,b=2", "a=1,b=2"),
    ],
)
def test_a_value_is_typed_as_the_field_is(text: str, value: Any) -> None:
    config = settled(Stage1Config(trainer=from_texts([text])))
    [found] = config.trainer.values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim", "--trainer takes NAME=VALUE, as in --trainer optim=adafactor, got 'optim'"),
        ("=5", "--trainer takes NAME=VALUE"),
        ("optimizer=sgd", "'optimizer' is no field of transformers.TrainingArguments; did you mean optim"),
        ("zzz=1", "'zzz' is no field of transformers.TrainingArguments, see its documentation"),
        ("adam_epsilon=small", "trainer.adam_epsilon is a number, got 'small'"),
        ("ddp_timeout=1.5", "trainer.ddp_timeout is of type int, got 1.5"),
        ("tf32=7", "trainer.tf32 is of type bool, got 7"),
        ("adam_beta1=[", "--trainer adam_beta1: '[' can't be read"),
        ("adam_beta1=.nan", "trainer.adam_beta1 can't be recorded"),
        ("fp16=true", "trainer.fp16 can't be given: it would cast whole steps"),
        ("hub_token=x", "trainer.hub_token can't be given: it would be recorded in the checkpoint"),
        ("lr_scheduler_type=reduce_lr_on_plateau", "trainer.lr_scheduler_type can't be reduce_lr_on_plateau: rows are"),
        ("save_strategy=best", "trainer.save_strategy can't be best"),
        ("save_total_limit=0", "trainer.save_total_limit is at least 1, got 0"),
        ("accelerator_config={split_batches: true}", "trainer.accelerator_config is a mapping of non_blocking and"),
        ("optim=sgdd", "the Trainer refuses optim='sgdd': sgdd is not a valid OptimizerNames"),
        ("dataloader_prefetch_factor=2", "the Trainer refuses dataloader_prefetch_factor=2: "),
        ("torch_empty_cache_steps=-1", "the Trainer refuses torch_empty_cache_steps=-1: "),
    ],
)
def test_what_can_not_be_is_refused_with_the_reason(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refusal:
        arguments.arguments(settled(Stage1Config(trainer=from_texts([text]))), output_dir=str(tmp_path), use_cpu=True)
    assert message in str(refusal.value)


def test_a_field_can_not_be_given_twice(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--trainer optim is given twice"):
        from_texts(["optim=sgd", "optim=adafactor"])
    with pytest.raises(UsageError, match="lr is given twice, once as trainer.learning_rate: leave one out"):
        load_yaml(Stage1Config, None, lr=1e-3, trainer={"learning_rate": 1e-3})
    with pytest.raises(UsageError, match="gradient_checkpointing is given twice"):
        load_yaml(
            Stage1Config, None, trainer={"gradient_checkpointing": True, "activation_checkpointing": True}
        )  # fmt: skip


def test_the_trainer_s_names_of_our_keys_are_our_keys_and_later_layers_win(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "lr: 1e-4\ntrainer: {optim: sgd, adam_beta1: 0.8, num_train_epochs: 3, warmup_steps: 0.1, eval_steps: 5}\n"
    )
    config = load_yaml(Stage1Config, file, trainer={"optim": "adafactor", "learning_rate": "1e-3"})
    assert config == Stage1Config(
        lr=1e-3, epochs=3.0, warmup_steps=0.1, validation_steps=5, trainer={"optim": "adafactor", "adam_beta1": 0.8}
    )
    file.write_text("trainer: [optim]\n")
    with pytest.raises(UsageError, match="trainer is of type dict, got"):
        load_yaml(Stage1Config, file)


def test_what_the_trainer_logs_and_keeps_decides_nothing() -> None:
    aside = {"logging_strategy": "epoch", "run_name": "x", "save_total_limit": 3, "dataloader_pin_memory": False}
    assert what_decides(SftConfig(mode="cot", trainer=aside)) == what_decides(SftConfig(mode="cot"))
    decided = what_decides(SftConfig(mode="cot", trainer=aside | {"optim": "sgd", "adam_beta1": 0.8}))
    assert decided["trainer"] == {"optim": "sgd", "adam_beta1": 0.8}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "--mixed_precision bf16: it would cast whole steps"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--dynamo_backend inductor: use --torch-compile"),
    ],
)
def test_a_launcher_that_would_change_whole_steps_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        arguments.arguments(Stage1Config(), output_dir=str(tmp_path), use_cpu=True)
