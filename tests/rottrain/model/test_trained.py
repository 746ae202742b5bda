"""Exported folders are as good as the checkpoints they were made of: they answer and are evaluated and traced alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rotdata.errors import CheckpointError
from rottrain.export import export
from rottrain.generation import generate
from rottrain.generation.generate import RoT
from rottrain.model.trained import CHECKPOINT, SETTINGS, Trained, load_text_model
from tests.helpers import Result, assert_refused
from tests.rottrain.samples import SUMS

Run = Callable[..., Result]
QUESTION = SUMS[3]["question"]


@pytest.fixture(scope="module")
def pictures(picture_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model that feeds pictures back. Read only."""
    out = tmp_path_factory.mktemp("exports") / "pictures"
    export(picture_checkpoint, out)
    return out


@pytest.fixture(scope="module")
def adapter(stage2_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter. Read only."""
    out = tmp_path_factory.mktemp("exports") / "adapter"
    export(stage2_checkpoint, out)
    return out


def asked(command: str, run_rottrain: Run, trained: object, *more: object) -> Any:
    """What a command says of a checkpoint or an export, times aside."""
    arguments: dict[str, tuple[object, ...]] = {
        "generate": (QUESTION, "--budget", 4, "--max-answer-tokens", 6),
        "eval": ("toy", "--limit", 2, "--budget", 2, "--modes", "rot,no-cot", "--max-answer-tokens", 4),
        "trace": ("--question", QUESTION, "--budget", 2),
    }
    result = run_rottrain(command, trained, *arguments[command], *more, "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    return [{key: value for key, value in each.items() if "second" not in key and "timing" not in key
             and "_ms" not in key} for each in (found if isinstance(found, list) else [found])]  # fmt: skip


@pytest.mark.parametrize("command", ["generate", "eval", "trace"])
def test_commands_take_a_whole_export(
    command: str, pictures: Path, picture_checkpoint: Path, picture_shards: Path, run_rottrain: Run
) -> None:
    more = ("--shards", picture_shards) if command == "trace" else ()
    expected = asked(command, run_rottrain, picture_checkpoint, *more)
    assert asked(command, run_rottrain, pictures, *more) == expected
    if command == "generate":
        assert asked(command, run_rottrain, pictures / CHECKPOINT) == expected  # what has learnt lies above


@pytest.mark.parametrize("command", ["generate", "eval", "trace"])
def test_commands_take_an_exported_adapter(
    command: str, adapter: Path, stage2_checkpoint: Path, embedded: Path, run_rottrain: Run
) -> None:
    more = ("--shards", embedded) if command == "trace" else ()
    assert asked(command, run_rottrain, adapter, *more) == asked(command, run_rottrain, stage2_checkpoint, *more)


def test_words_come_back_too(cot_checkpoint: Path, tmp_path: Path, run_rottrain: Run) -> None:
    export(cot_checkpoint, tmp_path / "out", weights="whole")
    texts = [
        generate.in_words(load_text_model(folder)[0], [QUESTION], max_tokens=8)[0].reply
        for folder in (cot_checkpoint, tmp_path / "out")
    ]
    assert texts[0] == texts[1]
    refused = run_rottrain("generate", tmp_path / "out", QUESTION)
    assert_refused(refused, 1, "was fine-tuned in words and has no head: evaluate it with --cot-checkpoint")


def test_a_whole_export_keeps_the_rows_of_its_tokens_and_names_its_base(
    pictures: Path, picture_checkpoint: Path, tiny_folder: Path
) -> None:
    before, after = RoT.from_pretrained(picture_checkpoint), RoT.from_pretrained(pictures)
    torch.testing.assert_close(after.backbone.token_rows(), before.backbone.token_rows())
    for name, value in before.base.language_weights().items():
        torch.testing.assert_close(after.base.language_weights()[name], value)
    other = RoT.from_pretrained(pictures, model=str(tiny_folder))  # the base, not what answers
    assert other.base.folder.path == tiny_folder
    torch.testing.assert_close(other.backbone.token_rows(), before.backbone.token_rows())


def test_a_base_model_that_is_not_there_is_asked_for(stage2_checkpoint: Path, tmp_path: Path) -> None:
    exported = export(stage2_checkpoint, tmp_path / "out", weights="whole", base="owner/name")
    assert exported.base == "owner/name"
    page = (tmp_path / "out" / "README.md").read_text()
    assert page.startswith('---\nbase_model: "owner/name"\nlibrary_name: transformers\n')
    rot = RoT.from_pretrained(tmp_path / "out")
    assert rot.generate([QUESTION], budget=2, max_answer_tokens=2)
    with pytest.raises(CheckpointError, match="the base model of .* is not in it, and owner/name is not to be found"):
        _ = rot.base


def test_an_export_is_neither_trained_on_nor_exported(
    pictures: Path, picture_shards: Path, run_rottrain: Run, tmp_path: Path
) -> None:
    for folder in (pictures, pictures / CHECKPOINT):
        start = ("--from", folder, "--shards", picture_shards, "--out", tmp_path / "out")
        for arguments in (("stage1", *start), ("stage2", *start), ("export", folder, "--out", tmp_path / "out")):
            assert_refused(run_rottrain(*arguments, *_quiet(arguments)), 1, f"{folder} was exported: training goes on")
    assert not (tmp_path / "out").exists()


def _quiet(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return () if arguments[0] == "export" else ("--recipe", "picture")


@pytest.mark.parametrize("settings", ["", "[]", "{}", '{"weights": "half", "base": null}', "null", "[" * 100_000])
def test_settings_that_are_none_are_refused(settings: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(settings)
    shutil.copytree(pictures / CHECKPOINT, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match=r"rot\.json.*none that `rottrain export` has written: export again"):
        Trained.find(tmp_path)


def test_an_export_of_an_earlier_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text('{"weights": "whole", "base": null}')
    with pytest.raises(CheckpointError, match="has no checkpoint folder: it is incomplete, or of an earlier release"):
        Trained.find(tmp_path)


def test_damaged_weights_of_an_export_are_refused_and_named(adapter: Path, tmp_path: Path, run_rottrain: Run) -> None:
    assert run_rottrain("verify", adapter).code == 0
    damaged = Path(shutil.copytree(adapter, tmp_path / "damaged"))
    file = damaged / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    said = f"{file} is not what was written, but missing, damaged or another file"
    assert_refused(run_rottrain("generate", damaged, QUESTION, "--budget", 1), 1, said)
    found = run_rottrain("verify", damaged)
    assert (found.code, said in found.out) == (4, True)
