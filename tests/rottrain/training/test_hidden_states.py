"""Hidden states on disk: the same results, no work of the language model, and no trust in what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from rotdata.errors import Interrupted, UsageError
from rotdata.shards import EmbeddingShards
from rottrain.config import HeadConfig, Stage1Config
from rottrain.data.batches import Shape, ShardRows
from rottrain.data.rows import Selection
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import HEAD
from rottrain.training import hidden_states
from rottrain.training.hidden_states import HiddenStates, KnownRows
from rottrain.training.stages import Outcome, Running, plan_stage1, run_stage1
from tests.helpers import contents
from tests.rottrain.samples import as_batch, terminate

Run = Callable[..., Outcome]


@pytest.fixture
def run(embedded: Path, tiny_folder: Path, tmp_path: Path) -> Run:
    """Three epochs of three steps of stage 1, with hidden states kept in `cache`."""

    def run(name: str, *, cache: str | None = "cache", weights: tuple[float, ...] = (1,), **recipe: Any) -> Outcome:
        head = HeadConfig(hidden=16)
        defaults = {"rollout": "teacher", "batch_size": 4, "epochs": 3, "lr": 1e-2, "head": head, "log_steps": 1}
        running = Running(cache_hidden=None if cache is None else tmp_path / cache)
        shards = [f"{embedded}:{weight}" for weight in weights]
        return run_stage1(shards, str(tiny_folder), tmp_path / name, Stage1Config.paper(**defaults | recipe), running)

    return run


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Positions of each pass through the language model while the test runs."""
    seen: list[int] = []
    hidden = Backbone.hidden

    def noting(self: Backbone, inputs_BTD: torch.Tensor, **options: Any) -> torch.Tensor:
        seen.append(inputs_BTD.shape[1])
        return hidden(self, inputs_BTD, **options)

    monkeypatch.setattr(Backbone, "hidden", noting)
    return seen


def assert_same_head(left: Path, right: Path) -> None:
    ours, theirs = load_file(left / HEAD), load_file(right / HEAD)
    for name, value in theirs.items():
        assert_close(ours[name], value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"answer_weight": 0.0, "halt_weight": 0.5, "glyph_weight": 0.5, "budget": 4},
        {"budget": 2, "fit": "resample", "validation_rows": 2, "weights": (1, 0.5)},
    ],
    ids=["answer", "budget", "folders"],
)
def test_training_from_kept_states_gives_what_training_without_gives(
    run: Run, tmp_path: Path, recipe: dict[str, Any]
) -> None:
    without, kept = run("without", cache=None, **recipe), run("kept", **recipe)
    assert kept.loss == pytest.approx(without.loss, rel=1e-5)
    assert_same_head(tmp_path / "kept", tmp_path / "without")


def test_alignment_alone_asks_nothing_of_the_language_model_once_all_is_kept(
    run: Run, tmp_path: Path, passes: list[int]
) -> None:
    recipe: dict[str, Any] = {"answer_weight": 0.0, "seed": 1}
    run("one", **recipe)
    assert len(passes) == 2 * 3  # prompts and latents in each step of the first epoch
    passes.clear()
    run("two", **recipe)  # another run on the same model and rows
    assert passes == []
    assert_same_head(tmp_path / "two", tmp_path / "one")


def test_with_answers_the_latents_pass_is_saved(run: Run, passes: list[int]) -> None:
    run("one")
    assert len(passes) == 3 * 3 + 2 * 6


def test_a_stopped_run_goes_on_to_the_same_weights(run: Run, tmp_path: Path, at_step: Callable[..., None]) -> None:
    run("straight")
    for step in (2, 5):
        at_step(step, terminate)
        with pytest.raises(Interrupted):
            run("stopped", cache="other")
    run("stopped", cache="other")
    assert contents(tmp_path / "stopped") == contents(tmp_path / "straight")


def states_of(folder: Path, shards: Path, backbone: Backbone, **shape: Any) -> HiddenStates:
    return HiddenStates(folder, [Selection.of(EmbeddingShards(shards))], backbone, Shape(**shape))


def test_a_row_comes_back_to_the_bit_and_a_damaged_one_does_not(
    tmp_path: Path, embedded: Path, backbone: Backbone
) -> None:
    states = states_of(tmp_path, embedded, backbone)
    rows = KnownRows(ShardRows([Selection.of(EmbeddingShards(embedded))], backbone), states)
    examples = [rows[index] for index in (2, 7)]
    batch = as_batch(backbone, examples)
    assert batch["rows_B"].tolist() == [2, 7]
    assert "hidden_BKD" not in batch
    hidden_BKD = torch.randn(*batch["targets_BKD"].shape)
    states.put([2, 7], hidden_BKD, batch["targets_mask_BK"])
    again = states_of(tmp_path, embedded, backbone)
    for place, index in enumerate((2, 7)):
        found = again.get(index)
        assert found is not None
        assert torch.equal(found, hidden_BKD[place, : len(found)])
        assert len(found) == len(examples[place].targets_KD)
    known = as_batch(backbone, [rows[2], rows[7]])["hidden_BKD"]
    assert torch.equal(known, hidden_BKD * batch["targets_mask_BK"][..., None])
    assert again.get(3) is None
    [file] = tmp_path.glob("*/hidden.bin")
    content = bytearray(file.read_bytes())
    content[content.index(hidden_BKD[1, 0].numpy().tobytes())] ^= 1
    file.write_bytes(content)
    assert again.get(7) is None
    assert again.get(2) is not None


def test_what_decides_the_values_has_a_place_of_its_own(tmp_path: Path, embedded: Path, backbone: Backbone) -> None:
    for shape in ({}, {"budget": 2}, {"budget": 2, "fit": "resample"}, {"budget": 3}):
        states_of(tmp_path, embedded, backbone, **shape)
    assert len(list(tmp_path.iterdir())) == 4
    with torch.no_grad():
        backbone.model.lm_head.weight[5, 5] += 1
    states_of(tmp_path, embedded, backbone)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    tmp_path: Path, embedded: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hidden_states.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(UsageError, match="take 0.0 GB, .* choose another --cache-hidden"):
        states_of(tmp_path, embedded, backbone)
    assert not list(tmp_path.glob("*/*"))


@pytest.mark.parametrize(
    "recipe",
    [{"trainable": "lora"}, {"rollout": "student"}, {"rollout": "teacher, jacobi:1@0.5"}, {"input_noise": 0.1}],
)
def test_states_that_change_are_not_kept(run: Run, tmp_path: Path, recipe: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--cache-hidden is for a frozen language model that reads true latents"):
        run("out", **recipe)
    assert not (tmp_path / "cache").exists()


def test_a_plan_keeps_nothing(embedded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    config = Stage1Config.paper(rollout="teacher", head=HeadConfig(hidden=16), max_steps=1)
    plan_stage1(embedded, str(tiny_folder), config, Running(cache_hidden=tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
