"""Recipes: the paper's defaults, YAML and overrides, and refusals that name the key."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest

from rotdata.errors import UsageError
from rottrain.config import (
    ALL_SWEEPS,
    DEFAULT_RECIPE,
    RECIPES,
    HeadConfig,
    LoraSettings,
    SftConfig,
    Stage1Config,
    Stage2Config,
    as_yaml,
    from_dict,
    load_yaml,
    rollout_phases,
    what_decides,
)


def written(folder: Path, text: str) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text)
    return file


def test_the_paper_s_recipe_has_its_figures() -> None:
    first, second = Stage1Config.paper(), Stage2Config.paper()
    shared = ("rollout", "batch_size", "lr", "weight_decay", "scheduler", "warmup_steps", "answer_weight")
    expected = ("student", 16, 2e-5, 1e-2, "constant", 0, 1.0)
    for recipe in (first, second):
        assert tuple(getattr(recipe, name) for name in shared) == expected
    assert (first.epochs, first.align_weight, first.align_reduction) == (1.0, 10.0, "mean")
    assert (second.epochs, second.align_weight, second.cache_gradient) == (2.0, 0.0, True)
    assert (second.lora.rank, second.lora.alpha, second.lora.dropout) == (16, 32, 0.05)


@pytest.mark.parametrize("kind", [Stage1Config, Stage2Config, functools.partial(SftConfig, mode="cot")])
def test_the_commands_default_to_what_the_classes_default_to(kind: Any) -> None:
    words = kind.keywords if isinstance(kind, functools.partial) else {}
    plain = kind.func if isinstance(kind, functools.partial) else kind
    assert load_yaml(plain, None, **words) == kind() == load_yaml(plain, None, recipe=DEFAULT_RECIPE, **words)
    assert load_yaml(plain, None, recipe="paper", **words) == plain.paper(**words) != kind()


@pytest.mark.parametrize("recipe", [Stage1Config(), Stage2Config()])
def test_recipes_can_not_be_changed(recipe: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.lr = 1.0


def test_without_file_and_overrides_a_config_is_the_default() -> None:
    assert load_yaml(Stage1Config, None, lr=None) == Stage1Config()


def test_a_file_changes_what_it_names_and_overrides_come_last(tmp_path: Path) -> None:
    file = written(tmp_path, "lr: 2e-4\nbatch_size: 8\nhead:\n  hidden: 32\n  activation: gelu\n")
    recipe = load_yaml(Stage1Config, file, batch_size=4, max_steps=None)
    assert recipe == Stage1Config(lr=2e-4, batch_size=4, head=HeadConfig(hidden=32, activation="gelu"))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    assert load_yaml(Stage2Config, written(tmp_path, "# nothing yet\n")) == Stage2Config()


def test_numbers_may_be_written_as_yaml_reads_them(tmp_path: Path) -> None:
    recipe = load_yaml(Stage1Config, written(tmp_path, "lr: 1e-3\nepochs: 2\nmax_steps: null\n"))
    assert (recipe.lr, recipe.epochs, recipe.max_steps) == (1e-3, 2.0, None)
    assert isinstance(recipe.lr, float)
    assert isinstance(recipe.epochs, float)


@pytest.mark.parametrize("kind", [Stage1Config, Stage2Config])
def test_a_recipe_goes_through_plain_values_and_back(kind: Any) -> None:
    recipe = kind(lr=1e-3, max_steps=5, rollout="teacher")
    assert from_dict(kind, dataclasses.asdict(recipe)) == recipe


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (Stage1Config, "learning_rate: 1", "unknown keys learning_rate for Stage1Config: known are trainable, "),
        (Stage1Config, "head: {width: 5}", "unknown keys width for HeadConfig: known are hidden, activation"),
        (Stage1Config, "lora: {width: 4}", "unknown keys width for LoraSettings"),
        (Stage2Config, "head: {hidden: 4}", "unknown keys head for Stage2Config"),
        (SftConfig, "mode: cot\nrollout: teacher", "unknown keys rollout for SftConfig"),
        (SftConfig, "mode: words", "mode is cot or no-cot, got 'words'"),
        (SftConfig, "mode: cot\ntrainable: head", "trainable is lora or full or lm-head, got 'head'"),
        (Stage1Config, "1: 2\nx: 3", "unknown keys 1, x"),
        (Stage1Config, "lr: fast", "lr is a number, got 'fast'"),
        (Stage1Config, "lr: [1]", "lr is of type float, got"),
        (Stage1Config, "lr: true", "lr is of type float, got True"),
        (Stage1Config, "batch_size: 2.5", "batch_size is of type int, got 2.5"),
        (Stage1Config, "batch_size: true", "batch_size is of type int, got True"),
        (Stage1Config, "batch_size: null", "batch_size is of type int, got None"),
        (Stage1Config, "max_steps: many", "max_steps is of type int, got 'many'"),
        (Stage1Config, "head: {hidden: wide}", "hidden is of type int, got 'wide'"),
        (Stage1Config, "head: 5", "head is of type HeadConfig, got 5"),
        (Stage2Config, "cache_gradient: 1", "cache_gradient is of type bool, got 1"),
        (Stage1Config, "[lr, 2]", "holds no mapping"),
        (Stage1Config, "lr: [", "can't be read"),
        (Stage1Config, "lr: .nan", "lr is more than 0, got nan"),
    ],
)
def test_a_file_that_can_not_be_right_is_refused(tmp_path: Path, kind: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        load_yaml(kind, written(tmp_path, text))
    assert message in str(refusal.value)


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load_yaml(Stage1Config, tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UsageError, match="can't be read"):
        load_yaml(Stage1Config, tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size is more than 0, got 0"),
        ({"lr": -1.0}, "lr is more than 0, got -1.0"),
        ({"max_steps": 0}, "max_steps is more than 0"),
        ({"save_steps": -5}, "save_steps is more than 0"),
        ({"rollout": "jacobian"}, "rollout 'jacobian' is none of teacher, student, jacobi:N"),
        ({"scheduler": "step"}, "scheduler is constant or linear or cosine, got 'step'"),
        ({"optimizer": "sgd"}, "optimizer is adamw or muon, got 'sgd'"),
        ({"optimizer": "muon", "trainer": {"optim": "adafactor"}}, "optimizer is muon and trainer.optim adafactor"),
        ({"attn": "flash"}, "attn is auto or sdpa or eager or flash_attention_2 or flex_attention, got 'flash'"),
        ({"load_in_4bit": True, "trainable": "full"}, "trainable is head or lora, not full"),
        ({"precision": "float16"}, "precision is auto or float32 or bfloat16 or mixed, got 'float16'"),
        ({"align_reduction": "median"}, "align_reduction is mean or sum, got 'median'"),
    ],
)
@pytest.mark.parametrize("kind", [Stage1Config, Stage2Config])
def test_values_that_can_not_train_are_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        kind(**values)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (HeadConfig, {"hidden": 0}, "hidden is more than 0"),
        (HeadConfig, {"activation": "tanh"}, "activation is swiglu or gelu or relu, got 'tanh'"),
        (LoraSettings, {"rank": 0}, "rank is more than 0"),
        (LoraSettings, {"alpha": -1}, "alpha is more than 0"),
        (LoraSettings, {"dropout": 1.0}, "dropout is at least 0 and less than 1, got 1.0"),
        (LoraSettings, {"experts": "all"}, "experts is frozen or adapted, got 'all'"),
        (LoraSettings, {"targets": ()}, "targets are names of projections, as q_proj, got []"),
        (LoraSettings, {"targets": ("a.*",)}, "targets are names of projections, as q_proj, got ['a.*']"),
        (LoraSettings, {"experts": "adapted", "dropout": 0.0, "dora": True}, "adapters of experts have no dora"),
        (LoraSettings, {"experts": "adapted"}, "adapters of experts have no dropout: set dropout to 0, not 0.05"),
    ],
)
def test_shapes_that_can_not_be_are_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        kind(**values)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "phases"),
    [
        ("student", [(0, None)]),
        ("teacher", [(0, (0, 0))]),
        ("jacobi:3", [(0, (3, 3))]),
        ("teacher, jacobi:all@0.5", [(0, (0, 0)), (0.5, (ALL_SWEEPS, ALL_SWEEPS))]),
        ("teacher, jacobi:0-3@0.4,student@0.9", [(0, (0, 0)), (0.4, (0, 3)), (0.9, None)]),
        ("mixed", [(0, (0, 1)), (0.7, (0, 3)), (0.9, (ALL_SWEEPS, ALL_SWEEPS))]),
    ],
)
def test_a_rollout_is_read(text: str, phases: list[Any]) -> None:
    assert [(phase.start, phase.sweeps) for phase in rollout_phases(text)] == phases


@pytest.mark.parametrize(
    "text",
    [
        "",
        "jacobi",
        "jacobi:x",
        "jacobi:all-3",
        "jacobi:3-all",
        "jacobi:3-1",
        "teacher@0.5",
        "teacher, student",
        "teacher, student@1",
        "a@b",
        "teacher@.@",
    ],
)
def test_a_rollout_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="rollout"):
        Stage1Config(rollout=text)


@pytest.mark.parametrize("recipe", ["paper", "fast"])
@pytest.mark.parametrize("kind", [Stage1Config, Stage2Config])
def test_a_recipe_written_as_yaml_is_read_as_the_same(tmp_path: Path, kind: Any, recipe: Any) -> None:
    config = load_yaml(kind, None, recipe=recipe, lr=3e-5, lora=LoraSettings(rank=3))
    assert load_yaml(kind, written(tmp_path, as_yaml(config))) == config


def test_recipes_change_defaults_and_yield_to_files_and_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES["fast"], Stage1Config, {"lr": 5e-4, "batch_size": 2, "seed": 7})
    recipe = load_yaml(Stage1Config, written(tmp_path, "batch_size: 8\nseed: 9\n"), recipe="fast", seed=11)
    assert recipe == Stage1Config(lr=5e-4, batch_size=8, seed=11)
    assert load_yaml(Stage1Config, None, recipe="paper") == Stage1Config.paper()


def test_later_keys_are_left_out_where_they_change_nothing(tmp_path: Path) -> None:
    plain = what_decides(Stage2Config())
    assert plain["lora"] == {"rank": 16, "alpha": 32, "dropout": 0.05, "experts": "frozen"}
    assert not {"attn", "torch_compile", "liger", "load_in_4bit", "trainer"} & plain.keys()
    config = Stage2Config(
        trainable="lora", lora=LoraSettings(targets=("q_proj",), dora=True), attn="sdpa", trainer={"optim": "sgd"}
    )
    assert what_decides(config)["lora"]["targets"] == ("q_proj",)
    assert load_yaml(Stage2Config, written(tmp_path, as_yaml(config))) == config


def test_how_gradients_are_come_by_decides_nothing() -> None:
    assert what_decides(Stage2Config(gradient_checkpointing=True)) == what_decides(Stage2Config())
