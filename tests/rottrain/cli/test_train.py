"""stage1, stage2 and sft: JSON whose keys are pinned, options that reach the recipe, exit codes."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rottrain.cli import app
from rottrain.config import LoraSettings, SftConfig, Stage1Config, Stage2Config
from rottrain.model import checkpoints
from rottrain.training import stages
from rottrain.training.stages import RUN
from rottrain.training.states import complete_states
from tests.helpers import REPOSITORY, Result, assert_refused
from tests.rottrain import held

Run = Callable[..., Result]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands


def test_both_stages_print_their_pinned_keys(
    run_rottrain: Run, stage1_arguments: list[object], recipe2: Path, embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    first = run_rottrain(*stage1_arguments, "--json")
    second = run_rottrain(
        "stage2", "--shards", embedded, "--model", tiny_folder, "--from", tmp_path / "out", "--out", tmp_path / "two",
        "--config", recipe2, "--json",
    )  # fmt: skip
    for result, out in ((first, tmp_path / "out"), (second, tmp_path / "two")):
        assert result.code == 0
        outcome = json.loads(result.out)
        assert {"steps", "loss", "seconds", "checkpoint"} <= outcome.keys()
        assert (outcome["steps"], outcome["checkpoint"]) == (2, str(out))
        assert outcome["loss"] > 0
        assert "step 2 of 2: loss " in result.err
    assert checkpoints.load_config(tmp_path / "two").stage == "stage2"


def test_sft_prints_the_same_keys_and_a_plan(
    run_rottrain: Run, embedded: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    arguments = (
        "sft", "--mode", "no-cot", "--shards", embedded, "--model", tiny_folder, "--out", tmp_path / "out",
        "--trainable", "lora", "--batch-size", 4, "--max-steps", 1, "--json",
    )  # fmt: skip
    assert json.loads(run_rottrain(*arguments, "--dry-run").out)["steps"] == 1
    assert not (tmp_path / "out").exists()
    outcome = json.loads(run_rottrain(*arguments).out)
    assert (outcome["steps"], outcome["checkpoint"]) == (1, str(tmp_path / "out"))
    config = checkpoints.load_config(tmp_path / "out")
    assert (config.stage, config.mode) == ("sft", "no-cot")


def test_results_for_people_are_one_line(run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path) -> None:
    result = run_rottrain(*stage1_arguments)
    assert result.out.startswith(f"{tmp_path / 'out'}: 2 steps, loss ")
    assert result.out.count("\n") == 1


def test_options_change_what_the_file_says(run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path) -> None:
    options = {
        "--max-steps": ("max_steps", 1),
        "--epochs": ("epochs", 3.0),
        "--batch-size": ("batch_size", 3),
        "--accumulate": ("accumulate", 2),
        "--group-by-length": ("group_by_length", True),
        "--optimizer": ("optimizer", "muon"),
        "--lr": ("lr", 1e-3),
        "--scheduler": ("scheduler", "cosine"),
        "--warmup-steps": ("warmup_steps", 1),
        "--rollout": ("rollout", "student"),
        "--precision": ("precision", "float32"),
        "--align-weight": ("align_weight", 3.0),
        "--answer-weight": ("answer_weight", 0.5),
        "--seed": ("seed", 7),
    }
    given = [part for option, (_, value) in options.items() for part in (option, value) if part is not True]
    assert run_rottrain(*stage1_arguments, *given, "--limit", 9, "--log-steps", 1, "--save-steps", 1).code == 0
    run = checkpoints.load_config(tmp_path / "out").run
    assert {name: run["recipe"][name] for name, _ in options.values()} == dict(options.values())
    assert (run["limit"], run["recipe"]["head"]["hidden"]) == (9, 16)


@pytest.mark.parametrize(
    ("name", "config"),
    [("stage1", Stage1Config), ("stage2", Stage2Config), ("sft", functools.partial(SftConfig, mode="cot"))],
)
def test_every_option_of_a_stage_is_a_key_of_its_recipe(name: str, config: Any) -> None:
    command: Any = COMMANDS[name]
    apart = {
        "shards",
        "out",
        "model",
        "config",
        "resume",
        "limit",
        "json_",
        "start",
        "help",
        "recipe",
        "report_to",
        "push_to_hub",
        "hub_private",
        "workers",
        "cache_hidden",
        "dry_run",
    }
    recipe = {parameter.name for parameter in command.params} - apart
    lora = {name for name in recipe if name.startswith("lora_")}
    assert recipe - lora <= vars(config()).keys()
    assert {name.removeprefix("lora_") for name in lora} <= vars(LoraSettings()).keys()


def test_the_trainer_s_fields_reach_it_and_belong_to_the_run(
    run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path
) -> None:
    given = ("--trainer", "learning_rate=1e-3", "--trainer", "optim=sgd", "--trainer", "adam_beta1=0.5")
    assert run_rottrain(*stage1_arguments, *given, "--trainer", "run_name=mine").code == 0
    recipe = checkpoints.load_config(tmp_path / "out").run["recipe"]
    assert (recipe["lr"], recipe["trainer"]) == (1e-3, {"optim": "sgd", "adam_beta1": 0.5})
    assert run_rottrain(*stage1_arguments, *given, "--trainer", "run_name=yours").code == 0  # the same run, finished
    assert_refused(run_rottrain(*stage1_arguments, *given[:-2]), 2, "another recipe")
    other = (*stage1_arguments[:-3], tmp_path / "new", *stage1_arguments[-2:])
    assert_refused(run_rottrain(*other, "--trainer", "output_dir=x"), 2, "trainer.output_dir can't be given")
    assert_refused(run_rottrain(*other, "--trainer", "optim_args=x"), 2, "the optimizer")


@pytest.mark.parametrize("command", ["stage1", "stage2"])
@pytest.mark.parametrize(
    ("context", "asked", "feedback", "why"),
    [
        (
            "latent",
            None,
            "picture",
            "recipe picture, since each latent in {} is the picture of its own characters alone",
        ),
        ("strip", None, "latent", "recipe fast, since each latent in {} is encoded with its whole strip"),
        ("latent", "fast", "latent", None),
    ],
)
def test_shards_say_by_which_recipe_they_are_learnt(
    command: str,
    context: str,
    asked: str | None,
    feedback: str,
    why: str | None,
    monkeypatch: pytest.MonkeyPatch,
    run_rottrain: Run,
    picture_shards: Path,
    embedded: Path,
    tmp_path: Path,
) -> None:
    chosen: list[Any] = []
    monkeypatch.setattr(stages, f"plan_{command}", lambda *given, **_: chosen.append(given[-2]) or stages.Plan(
        rows=1, validation_rows=0, steps=1, trainable_parameters=1, parameters=1, memory_gib={}, step_seconds=0,
        eta_seconds=0,
    ))  # fmt: skip
    shards = picture_shards if context == "latent" else embedded
    start = ("--from", tmp_path) if command == "stage2" else ()
    recipe = ("--recipe", asked) if asked else ()
    result = run_rottrain(command, "--shards", shards, *start, *recipe, "--out", tmp_path / "out", "--dry-run")
    assert result.code == 0
    assert [each.feedback for each in chosen] == [feedback]
    assert result.err == (f"{why.format(shards)}; --recipe chooses another\n" if why else "")


def test_an_unknown_key_in_a_recipe_exits_2(
    run_rottrain: Run, stage1_arguments: list[object], recipe1: Path, tmp_path: Path
) -> None:
    recipe1.write_text("learning_rate: 1\n")
    assert_refused(run_rottrain(*stage1_arguments), 2, "unknown keys learning_rate for Stage1Config")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--lr", 0), "lr is more than 0, got 0"),
        (("--limit", 0), "--limit counts rows to train on and is at least 1, got 0"),
        (("--model", "gpt"), "unknown model 'gpt': known are tiny, qwen3-vl"),
        (("--config", "absent.yaml"), "the config absent.yaml can't be read"),
    ],
)
def test_arguments_that_can_not_be_right_exit_2(
    run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    assert_refused(run_rottrain(*stage1_arguments, *arguments), 2, message)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_occupied_folder_exits_2(run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    assert_refused(run_rottrain(*stage1_arguments), 2, "choose an empty or new folder for --out")


def test_shards_of_another_model_exit_1(
    run_rottrain: Run, stage1_arguments: list[object], toy_embeddings: Path
) -> None:
    assert_refused(run_rottrain(*stage1_arguments, "--shards", toy_embeddings), 1, "have D=4 (made by stand-in)")


def test_a_folder_that_holds_no_shards_exits_1(
    run_rottrain: Run, stage1_arguments: list[object], short_strips: Path, tmp_path: Path
) -> None:
    assert_refused(run_rottrain(*stage1_arguments, "--shards", tmp_path), 1, "holds no _manifest.json")
    assert_refused(run_rottrain(*stage1_arguments, "--shards", short_strips), 1, "holds strips, not embeddings")


def test_a_truncated_shard_exits_1(
    run_rottrain: Run, stage1_arguments: list[object], embedded: Path, tmp_path: Path
) -> None:
    shards = Path(shutil.copytree(embedded, tmp_path / "shards"))
    file = sorted(shards.glob("*.parquet"))[1]
    file.write_bytes(file.read_bytes()[:-200])
    assert_refused(run_rottrain(*stage1_arguments, "--shards", shards), 1, f"{file.name} has ")


def test_a_missing_stage_1_exits_1(run_rottrain: Run, embedded: Path, tiny_folder: Path, tmp_path: Path) -> None:
    arguments = ("--shards", embedded, "--model", tiny_folder, "--from", tmp_path / "absent", "--out", tmp_path / "out")
    assert_refused(run_rottrain("stage2", *arguments), 1, "no finished checkpoint in")


def test_a_second_run_resumes_and_a_state_that_is_not_there_exits_1(
    run_rottrain: Run, stage1_arguments: list[object], tmp_path: Path
) -> None:
    arguments = [*stage1_arguments, "--precision", "float32", "--json"]
    result = run_rottrain(*arguments, "--resume", tmp_path / "checkpoint-7")
    assert_refused(result, 1, "checkpoint-7 is no complete training state")
    first, again = (run_rottrain(*arguments) for _ in range(2))
    assert (first.code, again.code) == (0, 0)
    before, after = json.loads(first.out), json.loads(again.out)
    assert before | {"seconds": 0, "ran": None} == after | {"seconds": 0}
    assert (before["ran"]["device"], before["ran"]["precision"]) == ("cpu", "float32")
    assert before["ran"]["step_seconds"] > 0
    assert before["ran"]["peak_memory_gib"] > 0
    assert "step" not in again.err


def test_a_terminated_run_exits_130_with_a_state_to_resume_from(stage1_arguments: list[object], tmp_path: Path) -> None:
    arguments = [*stage1_arguments, "--max-steps", 6, "--lr", 1e-3, "--log-steps", 1]
    command = [sys.executable, "-m", held.__name__, *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert any(line.startswith(f"step {held.STEP - 1} of 6: loss ") for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].startswith(f"error: stopped at step {held.STEP} of 6")
    assert "Traceback" not in err
    [state] = complete_states(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RUN, state.name}
