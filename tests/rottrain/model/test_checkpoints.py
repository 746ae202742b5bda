"""Finished checkpoints: what is in the folder, what is read back, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rotdata.encoders.models import find_model
from rotdata.errors import CheckpointError
from rotdata.shards import Manifest
from rottrain.model import checkpoints
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CONFIG, HEAD, TOKEN_ROWS
from rottrain.training.history import HISTORY
from rottrain.training.stages import RECIPE
from tests.helpers import contents
from tests.rottrain.samples import copy_model, save_variant, without_hashes

PICKLES = (b"\x80", b"PK")
"""How pickles begin: bare, and in torch's zip."""


@pytest.fixture
def stage1(stage1_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the stage-1 checkpoint that a test may damage."""
    return Path(shutil.copytree(stage1_checkpoint, tmp_path / "stage1"))


# What is there.


def test_a_stage_1_checkpoint_is_config_head_and_token_rows(stage1_checkpoint: Path) -> None:
    assert contents(stage1_checkpoint).keys() == {CONFIG, HEAD, TOKEN_ROWS, RECIPE, HISTORY}


def test_a_stage_2_checkpoint_is_that_and_the_adapter(stage2_checkpoint: Path) -> None:
    adapter = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert contents(stage2_checkpoint).keys() == {CONFIG, HEAD, TOKEN_ROWS, RECIPE, HISTORY} | adapter


def test_no_file_is_a_pickle(stage2_checkpoint: Path) -> None:
    assert not [name for name, content in contents(stage2_checkpoint).items() if content.startswith(PICKLES)]


def test_no_frozen_weight_is_saved(stage2_checkpoint: Path) -> None:
    adapter = load_file(stage2_checkpoint / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 4 * 7 * 2
    assert all("lora_" in name for name in adapter)
    assert {tuple(value.shape) for value in load_file(stage2_checkpoint / TOKEN_ROWS).values()} == {(2, 192)}


def test_the_config_says_what_the_checkpoint_belongs_to(
    stage1_checkpoint: Path, stage2_checkpoint: Path, embedded: Path, backbone: Backbone
) -> None:
    manifest = Manifest.load(embedded)
    for folder, stage in ((stage1_checkpoint, "stage1"), (stage2_checkpoint, "stage2")):
        config = checkpoints.load_config(folder)
        assert config.stage == stage
        assert config.encoder == manifest.encoder
        assert config.style == manifest.style
        assert config.encoding == manifest.encoding_fingerprint
        assert config.run["shards"] == manifest.fingerprint
        assert config.prompt == backbone.prompt
        assert config.result["steps"] == 2
    assert config.run["start"] == checkpoints.weights_sha256(stage1_checkpoint)


def test_the_machine_s_paths_are_nowhere_but_in_the_model_as_it_was_given(
    stage2_checkpoint: Path, tiny_folder: Path
) -> None:
    found = {
        name: content.count(str(tiny_folder.parent).encode()) for name, content in contents(stage2_checkpoint).items()
    }
    assert {name for name, count in found.items() if count} == {CONFIG}
    assert found[CONFIG] == 2  # model, and model in run


def test_the_head_is_read_back_to_the_bit(stage1_checkpoint: Path) -> None:
    head = checkpoints.load_head(stage1_checkpoint, checkpoints.load_config(stage1_checkpoint))
    saved = load_file(stage1_checkpoint / HEAD)
    assert head.hidden == 16
    assert head.state_dict().keys() == saved.keys()
    assert all(torch.equal(value, saved[name]) for name, value in head.state_dict().items())


def test_a_config_goes_through_its_file_and_back(stage1_checkpoint: Path, backbone: Backbone, tmp_path: Path) -> None:
    config = checkpoints.load_config(stage1_checkpoint)
    checkpoints.save(tmp_path / "again", config, backbone, head=checkpoints.load_head(stage1_checkpoint, config))
    expected = contents(stage1_checkpoint)
    for written in (CONFIG, RECIPE, HISTORY):  # the run writes the others
        del expected[written]
    again = checkpoints.load_config(tmp_path / "again")
    assert contents(tmp_path / "again").items() >= expected.items()
    assert again.files == {name: sha256(content).hexdigest() for name, content in expected.items()}
    assert replace(again, files=config.files) == config


# What is refused.


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished checkpoint in .*: train it with `rottrain stage1`"):
        checkpoints.load_config(tmp_path / "absent")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "{}", '{"format_version": 1}', '{"format_version": 1, "prompt": 5}']
)
def test_a_damaged_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(CheckpointError):
        checkpoints.load_config(tmp_path)


def test_a_later_format_is_refused(stage1: Path) -> None:
    without_hashes(stage1, format_version=99)
    with pytest.raises(CheckpointError, match="is of checkpoint format 99, this release reads 2 and 3"):
        checkpoints.load_config(stage1)


def missing(folder: Path) -> None:
    (folder / HEAD).unlink()


def truncated(folder: Path) -> None:
    (folder / HEAD).write_bytes((folder / HEAD).read_bytes()[:-100])


def garbled(folder: Path) -> None:
    (folder / HEAD).write_bytes(b"weights")


def lacking(folder: Path) -> None:
    weights = load_file(folder / HEAD)
    del weights["gate.bias"]
    save_file(weights, folder / HEAD)


def change_head(folder: Path, **values: Any) -> None:
    without_hashes(folder, head=json.loads((folder / CONFIG).read_text())["head"] | values)


def other_shape(folder: Path) -> None:
    change_head(folder, hidden=17)


def other_kind(folder: Path) -> None:
    change_head(folder, activation="relu")


def unknown_setting(folder: Path) -> None:
    change_head(folder, depth=3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, "head.safetensors can't be read"),
        (truncated, "head.safetensors can't be read"),
        (garbled, "head.safetensors can't be read"),
        (lacking, r"does not hold what config.json describes: gate.bias should be \(16,\), got nothing"),
        (other_shape, r"does not hold what config.json describes: enter.bias should be \(17,\), got \(16,\)"),
        (other_kind, "does not hold what config.json describes: gate.bias should be absent"),
        (unknown_setting, "config.json: head.depth should be absent, got 3"),
    ],
)
def test_a_damaged_head_is_an_error_and_never_a_random_head(
    stage1: Path, damage: Callable[[Path], None], message: str
) -> None:
    without_hashes(stage1)
    damage(stage1)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.load_head(stage1, checkpoints.load_config(stage1))


@pytest.mark.parametrize("damage", [truncated, garbled, lacking])
def test_a_file_that_is_not_what_was_written_is_refused(stage1: Path, damage: Callable[[Path], None]) -> None:
    damage(stage1)
    with pytest.raises(CheckpointError, match="head.safetensors is not what was written, but damaged or another file"):
        checkpoints.load_head(stage1, checkpoints.load_config(stage1))


def test_without_its_head_a_checkpoint_has_no_hash(stage1: Path) -> None:
    missing(stage1)
    with pytest.raises(CheckpointError, match="can't be read"):
        checkpoints.weights_sha256(stage1)


def load(folder: Path) -> Backbone:
    return Backbone.load(find_model(str(folder)), dtype=torch.float32, device="cpu")


def test_the_model_of_the_training_is_accepted_in_either_precision(stage1_checkpoint: Path, tiny_folder: Path) -> None:
    config = checkpoints.load_config(stage1_checkpoint)
    checkpoints.check_backbone(stage1_checkpoint, config, load(tiny_folder))
    halved = Backbone.load(find_model(str(tiny_folder)), dtype=torch.bfloat16, device="cpu")
    checkpoints.check_backbone(stage1_checkpoint, config, halved)


def test_another_base_model_is_refused(stage1_checkpoint: Path, tmp_path: Path) -> None:
    other = load(save_variant(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="was trained on another base model than other: its begin and end token"):
        checkpoints.check_backbone(stage1_checkpoint, checkpoints.load_config(stage1_checkpoint), other)


def test_another_chat_template_is_refused(stage1_checkpoint: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = copy_model(tiny_folder, tmp_path / "chatty")
    template = folder / "chat_template.jinja"
    template.write_text(f"You are kind. {template.read_text()}")
    with pytest.raises(CheckpointError, match="was trained with another chat template than chatty has"):
        checkpoints.check_backbone(stage1_checkpoint, checkpoints.load_config(stage1_checkpoint), load(folder))


def test_missing_token_rows_are_an_error(stage1: Path, backbone: Backbone) -> None:
    (stage1 / TOKEN_ROWS).unlink()
    with pytest.raises(CheckpointError, match="token_rows.safetensors can't be read"):
        checkpoints.check_backbone(stage1, checkpoints.load_config(stage1), backbone)
