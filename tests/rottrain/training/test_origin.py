"""Stage 1 from a checkpoint: words first, or an earlier stage 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.errors import CheckpointError, OutputOccupied, ShardMismatch, UsageError
from rotdata.runs import pipeline
from rottrain.config import HeadConfig, LoraSettings, SftConfig, Stage1Config
from rottrain.model import checkpoints
from rottrain.model.checkpoints import ADAPTER, HEAD, LANGUAGE, PROBE
from rottrain.model.trained import load_text_model
from rottrain.training.stages import Outcome, run_sft, run_stage1
from tests.helpers import Result, storing
from tests.tinymodel import save_tiny

Run = Callable[..., Outcome]
STILL = 1e-12
"""A learning rate that changes nothing to speak of."""
SMALL = HeadConfig(hidden=16)


@pytest.fixture
def stage1(embedded: Path, tiny_folder: Path) -> Run:
    """One step of stage 1 on the short rows."""

    def run(out: Path, start: Path, *, shards: Path = embedded, model: Path = tiny_folder, **recipe: Any) -> Outcome:
        defaults = {"rollout": "teacher", "batch_size": 4, "max_steps": 1, "lr": STILL, "head": SMALL}
        return run_stage1(shards, str(model), out, Stage1Config.paper(**defaults | recipe), start=start)

    return run


@pytest.fixture(scope="module")
def words(embedded: Path, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the language model, taught a step of words."""
    out = tmp_path_factory.mktemp("words") / "sft"
    config = SftConfig(mode="cot", batch_size=4, max_steps=1, lr=1e-2, warmup_steps=0, validation_rows=0)
    run_sft(embedded, str(tiny_folder), out, config)
    return out


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-7)


def test_words_first_is_what_stage_1_begins_with(stage1: Run, words: Path, tmp_path: Path) -> None:
    stage1(tmp_path / "one", words, trainable="full")
    config = checkpoints.load_config(tmp_path / "one")
    assert (config.stage, config.learnt) == ("stage1", ["language"])
    assert config.run["start"] == checkpoints.weights_sha256(words)
    assert_equal(load_file(tmp_path / "one" / LANGUAGE), load_file(words / LANGUAGE))


@pytest.mark.parametrize("trainable", ["head", "lora"])
def test_an_adapter_of_words_goes_on_learning_or_is_added_to_the_weights(
    stage1: Run, cot_checkpoint: Path, tmp_path: Path, trainable: Any
) -> None:
    stage1(tmp_path / "one", cot_checkpoint, trainable=trainable)
    learnt = checkpoints.load_config(tmp_path / "one").learnt
    if trainable == "lora":
        assert learnt == ["adapter"]
        file = f"{ADAPTER}/adapter_model.safetensors"
        assert_equal(load_file(tmp_path / "one" / file), load_file(cot_checkpoint / file))
    else:
        backbone, _ = load_text_model(cot_checkpoint)
        backbone.merge_adapter()
        assert learnt == ["language"]
        assert_equal(load_file(tmp_path / "one" / LANGUAGE), backbone.language_weights())


def test_the_head_and_the_probe_of_an_earlier_stage_1_go_on(
    stage1: Run, embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = Stage1Config(batch_size=4, max_steps=1, head=SMALL)
    run_stage1(embedded, str(tiny_folder), tmp_path / "one", recipe)
    config = Stage1Config(batch_size=4, max_steps=1, head=SMALL, lr=STILL, seed=5)
    run_stage1(embedded, str(tiny_folder), tmp_path / "two", config, start=tmp_path / "one")
    for file in (HEAD, LANGUAGE, PROBE):
        assert_equal(load_file(tmp_path / "two" / file), load_file(tmp_path / "one" / file))
    for changed in ({"scaling": "none"}, {"head": HeadConfig(hidden=8)}, {"head": HeadConfig(activation="relu")}):
        with pytest.raises(UsageError, match="head of .* goes on learning, which has hidden 16, activation swiglu"):
            stage1(tmp_path / "three", tmp_path / "one", **{"scaling": "dimension"} | changed)
    assert not (tmp_path / "three").exists()


def test_a_start_that_does_not_fit_is_refused(
    stage1: Run, words: Path, cot_checkpoint: Path, stage1_checkpoint: Path, stage2_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(CheckpointError, match="is a stage2 checkpoint: stage 1 starts from the base model, or --from"):
        stage1(out, stage2_checkpoint)
    with pytest.raises(CheckpointError, match="no finished checkpoint in"):
        stage1(out, tmp_path / "nothing")
    with pytest.raises(UsageError, match="the adapter of .* goes on learning, which has rank 16, .* not rank 2"):
        stage1(out, cot_checkpoint, trainable="lora", lora=LoraSettings(rank=2))
    assert not out.exists()
    stage1(out, words)
    with pytest.raises(OutputOccupied, match="another start"):
        stage1(out, cot_checkpoint)


def test_words_may_be_followed_by_any_latents_and_a_stage_1_by_its_own(
    stage1: Run, words: Path, stage1_checkpoint: Path, short_strips: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    encoder = load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu")
    pipeline.embed(short_strips, encoder, tmp_path / "pooled", settings=storing(pool=2))
    stage1(tmp_path / "out", words, shards=tmp_path / "pooled")
    with pytest.raises(ShardMismatch, match="trained on latents of encoding .* use the shards that it was trained on"):
        stage1(tmp_path / "two", stage1_checkpoint, shards=tmp_path / "pooled")


def test_words_of_another_base_model_are_refused(stage1: Run, words: Path, short_strips: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=7)
    encoder = load_encoder(find_model(str(other)), dtype="float32", device="cpu")
    pipeline.embed(short_strips, encoder, tmp_path / "shards")
    with pytest.raises(CheckpointError, match="was trained on another base model than other"):
        stage1(tmp_path / "out", words, shards=tmp_path / "shards", model=other)


def test_words_then_both_stages_then_an_answer_are_four_commands(
    run_rottrain: Callable[..., Result], embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    both = ("--shards", embedded, "--model", tiny_folder, "--max-steps", 1, "--batch-size", 2, "--json")
    one, two = tmp_path / "one", tmp_path / "two"
    for arguments in (
        ("sft", "--mode", "cot", "--out", tmp_path / "words", *both),
        ("stage1", "--from", tmp_path / "words", "--out", one, *both),
        ("stage2", "--from", one, "--out", two, *both),
        ("generate", two, "2+2?", "--budget", 2, "--max-answer-tokens", 4, "--json"),
    ):
        done = run_rottrain(*arguments)
        assert done.code == 0, done.err
    starts = [checkpoints.load_config(folder).run["start"] for folder in (one, two)]
    assert starts == [checkpoints.weights_sha256(folder) for folder in (tmp_path / "words", one)]
