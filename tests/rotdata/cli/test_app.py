"""The command line of rotdata as a whole: help for everything, usage errors, pipes and signals."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rotdata.cli import app
from rotdata.shards import verify
from tests.helpers import REPOSITORY, Result, contents, write_jsonl
from tests.rotdata.cli.rows import GSM8K, TOY

Run = Callable[..., Result]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands
HEAVY = ("torch", "transformers", "datasets", "pyarrow", "numpy", "PIL")


def test_results_for_people_are_on_stdout_too(run_rotdata: Run, tmp_path: Path) -> None:
    out = tmp_path / "strips"
    assert run_rotdata(*TOY, "--out", out).out.startswith(f"{out}: 10 of 10 rows, ")
    assert run_rotdata("verify", out).out == "3 shards, 10 rows, 0 mismatches\n"
    assert len(run_rotdata("fonts").out.splitlines()) == 4


@pytest.mark.parametrize(
    "arguments",
    [("render",), ("nonsense",), (*TOY, "--out", "x", "--fnot", "y"), (*TOY, "--out", "x", "--limit", "many")],
)
def test_usage_errors_exit_2(run_rotdata: Run, arguments: tuple[Any, ...]) -> None:
    result = run_rotdata(*arguments)
    assert result.code == 2
    assert "Error" in result.err


def test_the_whole_line_runs_from_a_corpus_file_to_verified_embeddings(run_rotdata: Run, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [GSM8K] * 5)
    assert run_rotdata("render", file, "--corpus", "gsm8k", "--font", "DejaVu", "--out", tmp_path / "strips").code == 0
    assert run_rotdata("embed", tmp_path / "strips", "--model", "tiny", "--out", tmp_path / "embedded").code == 0
    assert run_rotdata("verify", tmp_path / "embedded").code == 0
    assert verify(tmp_path / "embedded")[0].encoder["model"] == "tiny"


def test_the_commands_of_this_release_are_there() -> None:
    assert {"render", "embed", "verify", "fonts"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str, run_rotdata: Run) -> None:
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not parameter.help] == []
    result = run_rotdata(name, "--help")
    assert result.code == 0
    assert all(parameter.opts[0] in result.out for parameter in command.params if parameter.param_type_name == "option")


def test_without_arguments_the_help_is_shown(run_rotdata: Run) -> None:
    result = run_rotdata()
    assert (result.code, result.out) == (2, "")
    assert all(name in result.err for name in COMMANDS)


@pytest.mark.parametrize("package", ["rotdata", "rottrain"])
def test_help_imports_no_heavy_library(package: str) -> None:
    if importlib.util.find_spec(f"{package}.cli") is None:
        pytest.skip(f"{package} has no command line yet")
    program = (
        "import sys\n"
        f"from {package}.cli import main\n"
        f"sys.argv = [{package!r}, '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as stop:\n"
        "    assert not stop.code\n"
        f"print(*(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "Usage" in result.stdout
    assert result.stderr.split() == []


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "rotdata", "fonts", "--json"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert len(json.loads(result.stdout)) == 4
    assert result.stderr == ""


def test_a_closed_pipe_is_no_traceback(toy_strips: Path) -> None:
    command = [sys.executable, "-m", "rotdata", "verify", str(toy_strips)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        errors = process.stderr.read()
    assert "Traceback" not in errors
    assert "Exception" not in errors


def test_reading_commands_change_nothing(run_rotdata: Run, toy_strips: Path) -> None:
    before = contents(toy_strips)
    run_rotdata("verify", toy_strips)
    assert contents(toy_strips) == before


def test_sigterm_before_any_work_is_an_interruption() -> None:
    code = "import os, signal, typer; from rotdata.console import run_app; app = typer.Typer()\n"
    code += "@app.command()\ndef wait() -> None: os.kill(os.getpid(), signal.SIGTERM)\nrun_app(app)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
