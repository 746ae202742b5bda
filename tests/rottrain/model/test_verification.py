"""Damage to a checkpoint is seen: by the commands that use it, and by `rottrain verify`, which names it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rotdata.errors import CheckpointError
from rottrain.config import HeadConfig, Stage1Config
from rottrain.model import checkpoints
from rottrain.model.checkpoints import BOOK, CONFIG, HEAD, LANGUAGE, PROBE, TOKEN_ROWS
from rottrain.training.stages import RECIPE, run_stage1
from tests.helpers import REPOSITORY, Result, assert_refused
from tests.rottrain.samples import without_hashes

Run = Callable[..., Result]
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def whole(embedded: Path, tiny_folder: Path) -> Path:
    """A stage-1 checkpoint with output rows and a glyph probe of its own. Read only."""
    out = embedded.parent / "whole"
    config = Stage1Config.paper(
        rollout="teacher", batch_size=4, max_steps=1, trainable="lm-head", glyph_weight=0.5, head=HeadConfig(hidden=16)
    )
    run_stage1(embedded, str(tiny_folder), out, config)
    return out


@pytest.fixture
def copy_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the checkpoint of a fixture, which a test may damage."""
    return lambda name: Path(shutil.copytree(request.getfixturevalue(name), tmp_path / name))


def flip(file: Path, place: int = -100) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def alone(*arguments: object) -> Result:
    """Run rottrain in a process of its own."""
    command = [sys.executable, "-m", "rottrain", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=280)
    return Result(done.returncode, done.stdout, done.stderr)


FILES = [
    *(("whole", name) for name in (HEAD, LANGUAGE, PROBE, TOKEN_ROWS)),
    *(("stage2_checkpoint", name) for name in (HEAD, ADAPTER, "adapter/adapter_config.json")),
    ("picture_checkpoint", BOOK),
]


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_flipped_bit_is_refused_and_named(
    kind: str, name: str, copy_of: Callable[[str], Path], run_rottrain: Run
) -> None:
    folder = copy_of(kind)
    flip(folder / name)
    refused = run_rottrain("generate", folder, "2+2?", "--budget", 1)
    assert_refused(refused, 1, f"{folder / name} is not what was written, but damaged or another file: copy or fetch")
    found = run_rottrain("verify", folder, "--json")
    assert found.code == 4
    assert [each["file"] for each in json.loads(found.out)["mismatches"]] == [name]


def test_processes_that_use_a_checkpoint_with_a_flipped_bit_end_in_one_line(copy_of: Callable[[str], Path]) -> None:
    folder = copy_of("stage2_checkpoint")
    flip(folder / ADAPTER)
    refused = alone("generate", folder, "2+2?", "--budget", 1)
    assert_refused(refused, 1, f"{ADAPTER} is not what was written")
    found = alone("verify", folder)
    assert found.code == 4
    assert found.out.splitlines()[-1] == "stage2: 7 files, 1 mismatches"
    assert found.out.startswith(f"{ADAPTER}: ")


@pytest.mark.parametrize("command", ["eval", "export", "stage2", "sft", "trace"])
def test_no_command_uses_a_damaged_checkpoint(
    command: str,
    copy_of: Callable[[str], Path],
    run_rottrain: Run,
    embedded: Path,
    tiny_folder: Path,
    short_rows: Path,
    cot_checkpoint: Path,
    tmp_path: Path,
) -> None:
    folder = copy_of("cot_checkpoint" if command == "sft" else "whole")
    name = ADAPTER if command == "sft" else LANGUAGE
    flip(folder / name)
    out = tmp_path / "out"
    arguments: dict[str, tuple[object, ...]] = {
        "eval": ("eval", folder, short_rows, "--limit", 1, "--budget", 1),
        "sft": ("eval", folder, short_rows, "--limit", 1, "--modes", "cot", "--cot-checkpoint", folder),
        "export": ("export", folder, "--out", out),
        "stage2": ("stage2", "--shards", embedded, "--model", tiny_folder, "--from", folder, "--out", out),
        "trace": ("trace", folder, "--shards", embedded, "--question", "2+2?", "--budget", 1),
    }
    assert_refused(run_rottrain(*arguments[command]), 1, f"{folder / name} is not what was written")


def reads_the_same(file: Path, content: bytes) -> bool:
    """Whether a file stands for the same values: the last digit of a number may be more than a float holds."""
    try:
        return bool(json.loads(file.read_bytes()) == json.loads(content))
    except ValueError:
        return False


def test_any_flipped_bit_of_a_config_is_seen(copy_of: Callable[[str], Path], run_rottrain: Run) -> None:
    folder = copy_of("stage2_checkpoint")
    content = (folder / CONFIG).read_bytes()
    version = content.index(b'"format_version": 3') + len(b'"format_version": ')  # a bit from one without hashes
    for place in (version, *range(0, len(content), 37)):
        flip(folder / CONFIG, place)
        if not reads_the_same(folder / CONFIG, content):
            with pytest.raises(CheckpointError):
                checkpoints.load_config(folder)
        (folder / CONFIG).write_bytes(content)
    (folder / CONFIG).write_bytes(content.replace(b'"budget": null', b'"budget": 7'))
    found = run_rottrain("verify", folder)
    assert (found.code, found.out.splitlines()[-1]) == (4, f"{folder}: 1 files, 1 mismatches")
    assert "does not match its own checksum: it was damaged or edited" in found.out


def test_what_lies_beside_the_weights_is_verified_too(copy_of: Callable[[str], Path], run_rottrain: Run) -> None:
    folder = copy_of("stage2_checkpoint")
    (folder / RECIPE).unlink()
    flip(folder / "history.jsonl", 5)
    found = json.loads(run_rottrain("verify", folder, "--json").out)
    assert [each["file"] for each in found["mismatches"]] == ["history.jsonl", RECIPE]


@pytest.mark.parametrize("kind", ["whole", "stage2_checkpoint", "cot_checkpoint"])
def test_a_whole_checkpoint_is_verified(
    kind: str, request: pytest.FixtureRequest, run_rottrain: Run, cot_checkpoint: Path
) -> None:
    result = run_rottrain("verify", request.getfixturevalue(kind))
    assert result.code == 0
    assert result.out.endswith(" files, 0 mismatches\n")


def test_a_checkpoint_of_an_earlier_release_is_used_and_verified_as_far_as_can_be(
    copy_of: Callable[[str], Path], run_rottrain: Run
) -> None:
    folder = without_hashes(copy_of("stage2_checkpoint"))
    assert run_rottrain("generate", folder, "2+2?", "--budget", 1).code == 0
    found = run_rottrain("verify", folder)
    assert found.code == 0
    assert found.out == "stage2: 5 files, 0 mismatches; it carries no hashes: an earlier release made it\n"


def test_a_folder_without_a_checkpoint_can_not_be_verified(run_rottrain: Run, tmp_path: Path) -> None:
    assert_refused(run_rottrain("verify", tmp_path), 1, "no finished checkpoint in")


# Weights that are none, in a checkpoint that does not say what its files must be.


def change(file: Path, name: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Change one tensor of a file."""
    weights = load_file(file)
    weights[name] = edit(weights[name])
    save_file(weights, file)


def spoilt(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Two values of a tensor replaced."""

    def edit(tensor: torch.Tensor) -> torch.Tensor:
        changed = tensor.clone()
        changed.flatten()[3:5] = value
        return changed

    return edit


STRANGE = [
    ("whole", HEAD, spoilt(math.nan), "holds 2 values that are not finite"),
    ("whole", LANGUAGE, spoilt(math.inf), "holds 2 values that are not finite"),
    ("whole", PROBE, spoilt(-math.inf), "holds 2 values that are not finite"),
    ("whole", TOKEN_ROWS, spoilt(math.nan), "holds 2 values that are not finite"),
    ("stage2_checkpoint", ADAPTER, spoilt(math.nan), "holds 2 values that are not finite"),
    ("whole", HEAD, lambda tensor: tensor.int(), "holds int32, not weights"),
    ("whole", LANGUAGE, lambda tensor: tensor.bool(), "holds bool, not weights"),
    ("stage2_checkpoint", ADAPTER, lambda tensor: tensor.to(torch.int8), "holds int8, not weights"),
]


@pytest.mark.parametrize(("kind", "name", "edit", "message"), STRANGE)
def test_weights_that_are_no_finite_numbers_are_named(
    kind: str, name: str, edit: Any, message: str, copy_of: Callable[[str], Path], run_rottrain: Run
) -> None:
    folder = without_hashes(copy_of(kind))
    tensor = min(load_file(folder / name))
    change(folder / name, tensor, edit)
    said = f"{folder / name}: {tensor} {message}"
    assert_refused(run_rottrain("generate", folder, "2+2?", "--budget", 1), 1, said)
    found = run_rottrain("verify", folder)
    assert found.code == 4
    assert found.out.startswith(f"{name}: {said}")


def test_a_process_names_weights_that_are_not_finite(copy_of: Callable[[str], Path], short_rows: Path) -> None:
    folder = without_hashes(copy_of("whole"))
    change(folder / HEAD, "leave.bias", spoilt(math.nan))
    refused = alone("eval", folder, short_rows, "--limit", 1, "--budget", 1)
    assert_refused(refused, 1, "head.safetensors: leave.bias holds 2 values that are not finite")


# Configs of wrong types.


VALUES: list[Any] = [None, True, -1, 5, -1.5, 10**30, "x", "\ud800", [[1]], {}]


def places(value: Any, *way: Any) -> Iterator[tuple[Any, ...]]:
    """Ways to every value within an object."""
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield (*way, name)
        yield from places(inner, *way, name)


def replaced(content: dict[str, Any], way: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """An object with another value there."""
    first, *rest = way
    return content | {first: replaced(content[first], tuple(rest), value) if rest else value}


def refusal(folder: Path) -> str:
    """Why a config is not read; empty if it is."""
    try:
        checkpoints.load_config(folder)
    except CheckpointError as error:
        return str(error)
    return ""


SAID_OTHERWISE = {"stage", "format_version", "learnt", "feedback", "run"}
"""Keys whose values may be wrong beside others: the message names these, or the folder's files."""


@pytest.mark.parametrize("kind", ["whole", "cot_checkpoint"])
def test_a_value_of_a_wrong_type_is_named_with_its_place(
    kind: str, copy_of: Callable[[str], Path], cot_checkpoint: Path
) -> None:
    folder = without_hashes(copy_of(kind))
    usual = json.loads((folder / CONFIG).read_text())
    taken = set()
    recipe = {way for way in places(usual) if way[:2] == ("run", "recipe") and len(way) > 2}  # tested with recipes
    for way in sorted(set(places(usual)) - recipe):
        for value in VALUES:
            (folder / CONFIG).write_text(json.dumps(replaced(usual, way, value)))
            said = refusal(folder)
            if not said:
                taken.add((way, json.dumps(value)))
            elif way[0] not in SAID_OTHERWISE:
                assert said.startswith(str(folder))
                assert way[0] in said or "of which its config.json does not speak" in said, (way, value)
    (folder / CONFIG).write_text(json.dumps(usual))
    assert refusal(folder) == ""
    checked = {"stage", "head", "learnt", "alphabet", "lengths", "prompt", "result", "mode", "budget", "context"}
    assert [way for way, value in taken if way[0] in checked and value in ("[[1]]", "true")] == []
    assert (("lengths",), "{}") not in taken


def test_a_process_names_file_and_key(copy_of: Callable[[str], Path]) -> None:
    folder = without_hashes(copy_of("stage2_checkpoint"), learnt="adapter")
    refused = alone("generate", folder, "2+2?", "--budget", 1)
    assert_refused(refused, 1, f'{folder / CONFIG}: learnt should be a list, got "adapter": copy or fetch')


def test_weights_that_a_config_does_not_speak_of_are_not_left_out(copy_of: Callable[[str], Path]) -> None:
    folder = without_hashes(copy_of("stage2_checkpoint"), learnt=[])
    assert refusal(folder).startswith(f"{folder} holds adapter, of which its config.json does not speak")
    folder = without_hashes(copy_of("whole"), alphabet=None)
    assert refusal(folder).startswith(f"{folder} holds glyph_probe.safetensors, of which its config.json")
