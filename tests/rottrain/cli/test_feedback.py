"""--feedback, on every command that thinks: as it was trained, as it is asked, and where that can't be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from rottrain.cli.compare import check_words
from tests.helpers import Result, assert_refused

Run = Callable[..., Result]
Commands = dict[str, Sequence[object]]


@pytest.fixture
def commands(picture_shards: Path) -> Commands:
    """Each of them and what it is given, beside the checkpoint."""
    shards = ("--shards", picture_shards)
    return {
        "generate": ("What is 4 and 7?", "--budget", 6),
        "eval": ("toy", "--limit", 2, "--budget", 6),
        "trace": (*shards, "--question", "What is 4 and 7?", "--budget", 2),
        "trace --corpus": (*shards, "--corpus", "--limit", 2, "--budget", 2),
        "probe": ("toy", "--limit", 2, *shards, "--budget", 2),
        "calibrate": (*shards, "--limit", 2, "--budget", 6),
    }


@pytest.mark.parametrize("name", ["generate", "eval", "trace", "trace --corpus", "probe", "calibrate"])
def test_a_checkpoint_is_asked_as_it_was_trained_unless_told_otherwise(
    name: str, commands: Commands, run_rottrain: Run, picture_checkpoint: Path
) -> None:
    def feedback(*more: object) -> Any:
        result = run_rottrain(name.split(maxsplit=1)[0], picture_checkpoint, *commands[name], *more, "--json")
        assert result.code == 0, result.err
        found = json.loads(result.out)
        return (found[0] if isinstance(found, list) else found)["feedback"]

    assert feedback() == "picture"
    assert feedback("--feedback", "latent") == "latent"


@pytest.mark.parametrize("name", ["generate", "eval"])
def test_picture_feedback_of_whole_strips_is_refused_with_the_remedy(
    name: str, commands: Commands, run_rottrain: Run, stage1_checkpoint: Path
) -> None:
    refused = run_rottrain(name, stage1_checkpoint, *commands[name], "--feedback", "picture")
    assert_refused(refused, 1, "`rotdata embed --context latent`, then train on that with --recipe picture")


def test_generate_says_what_was_thought_and_where_it_was_unsure(
    commands: Commands, run_rottrain: Run, picture_checkpoint: Path
) -> None:
    def thoughts(*more: object) -> Any:
        [made] = json.loads(run_rottrain("generate", picture_checkpoint, *commands["generate"], *more, "--json").out)
        return made["thought"], made["reasoning_tokens"]

    thought, latents = thoughts("--confidence", 1)
    assert len(thought["latents"]) == latents == thought["unsure"]
    assert "".join(each["text"] for each in thought["latents"]) == thought["text"] != ""
    assert all(0 < each["confidence"] < 1 and each["unsure"] for each in thought["latents"])
    assert (thought["unnamed"], thoughts("--confidence", 0)[0]["unsure"]) == (0, 0)
    assert thoughts("--feedback", "latent")[0] is None
    refused = run_rottrain("generate", picture_checkpoint, *commands["generate"], "--confidence", 1.5)
    assert_refused(refused, 2, "a confidence is a probability from 0 to 1, got 1.5")


def test_steps_of_comparisons_take_it() -> None:
    for name in ("eval @s toy", "trace @s --shards @l --corpus", "probe @s toy", "calibrate @s --shards @l"):
        check_words(["rottrain", *name.split(), "--feedback", "picture"])
