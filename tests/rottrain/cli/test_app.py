"""The command line of rottrain as a whole: help for everything, usage errors, a real corpus through the line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rottrain.cli import app
from tests.helpers import REPOSITORY, Result, assert_refused, contents

Run = Callable[..., Result]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands
HEAVY = ("torch", "transformers", "datasets", "pyarrow", "peft", "numpy", "PIL")


@pytest.mark.parametrize(
    "arguments",
    [("stage1",), ("nonsense",), ("eval",), ("stage1", "--fnot"), ("stage1", "--rollout", "jacobian")],
)
def test_usage_errors_exit_2(run_rottrain: Run, arguments: tuple[str, ...]) -> None:
    result = run_rottrain(*arguments)
    assert result.code == 2
    assert "Error" in result.err


@pytest.mark.parametrize("command", ["generate", "eval"])
def test_a_folder_that_is_no_checkpoint_exits_1(run_rottrain: Run, tmp_path: Path, command: str) -> None:
    rest = ("toy", "--corpus", "toy") if command == "eval" else ("2+2?",)
    assert_refused(run_rottrain(command, tmp_path, *rest), 1, "no finished checkpoint in")


def test_the_commands_of_this_release_are_there() -> None:
    assert {"stage1", "stage2", "generate", "eval", "demo"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str, run_rottrain: Run) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []
    result = run_rottrain(name, "--help")
    assert result.code == 0
    assert all(parameter.opts[0] in result.out for parameter in command.params if parameter.param_type_name == "option")


def test_without_arguments_the_help_is_shown(run_rottrain: Run) -> None:
    result = run_rottrain()
    assert (result.code, result.out) == (2, "")
    assert all(name in result.err for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["--help"], ["stage1", "--help"]])
def test_help_imports_no_heavy_library(arguments: list[str]) -> None:
    program = (
        "import sys\n"
        "from rottrain.cli import main\n"
        f"sys.argv = {['rottrain', *arguments]!r}\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout
    assert result.stderr.split() == []


def test_reading_commands_change_nothing(
    run_rottrain: Run, ask: Run, stage2_checkpoint: Path, short_rows: Path
) -> None:
    before = contents(stage2_checkpoint)
    ask("2+2?")
    run_rottrain("eval", stage2_checkpoint, short_rows, "--corpus", "generic", "--limit", 1, "--budget", 1)
    assert contents(stage2_checkpoint) == before


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "corpus", "rows", "batch"), [("gsm8k_train.jsonl", "gsm8k", 64, 2), ("math500.jsonl", "math", 16, 2)]
)
def test_rows_of_a_real_corpus_go_through_the_whole_line(
    run_rottrain: Run, rot_data: Path, tiny_folder: Path, tmp_path: Path, file: str, corpus: str, rows: int, batch: int
) -> None:
    source = Source(location=str(rot_data / file), corpus=corpus, limit=rows)
    rendered = pipeline.render(source, StripStyle(), tmp_path / "strips")
    embedded = pipeline.embed(
        tmp_path / "strips",
        load_encoder(find_model(str(tiny_folder)), dtype="float32", device="cpu"),
        tmp_path / "shards",
    )
    assert (rendered.rows_in, rendered.rows_out, embedded.rows_out) == (rows, rows, rows)
    shared = (
        "--shards",
        tmp_path / "shards",
        "--model",
        tiny_folder,
        "--max-steps",
        2,
        "--batch-size",
        batch,
        "--json",
    )
    first = run_rottrain("stage1", *shared, "--rollout", "teacher", "--out", tmp_path / "one")
    second = run_rottrain("stage2", *shared, "--from", tmp_path / "one", "--out", tmp_path / "two")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert [json.loads(result.out)["steps"] for result in (first, second)] == [2, 2]
    evaluated = run_rottrain(
        "eval", tmp_path / "two", rot_data / file, "--corpus", corpus, "--limit", 2, "--budget", 4, "--json"
    )
    assert json.loads(evaluated.out)[0]["n"] == 2
