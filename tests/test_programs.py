"""What both command lines share, as the installed programs: version, completion."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

import rotdata
from rotdata.cli.options import MOST_PROCESSES
from tests.helpers import REPOSITORY, Result, run_installed

pytestmark = pytest.mark.parametrize("program", ["rotdata", "rottrain"])


def test_the_version_is_one_line(program: str) -> None:
    assert run_installed(program, "--version") == Result(0, f"{program} {rotdata.__version__}\n", "")


def test_a_module_says_the_program_s_name(program: str) -> None:
    command = [sys.executable, "-m", program, "--version"]
    said = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=60)
    assert said.stdout == f"{program} {rotdata.__version__}\n"


def test_completion_of_the_running_shell_is_shown(program: str) -> None:
    asked = f"'{Path(sys.executable).with_name(program)}' --show-completion; exit $?"
    said = subprocess.run(["bash", "-c", asked], cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=60)
    assert f"_{program.upper()}_COMPLETE=complete_bash" in said.stdout
    assert said.stderr == ""


def test_the_shell_completes_commands_and_options(program: str) -> None:
    command, option = {"rotdata": ("embed", "--store"), "rottrain": ("stage1", "--shards")}[program]
    asking = {f"_{program.upper()}_COMPLETE": "complete_bash"}
    found = run_installed(program, **asking, COMP_WORDS=f"{program} {command[:-1]}", COMP_CWORD="1")
    assert (found.code, command in found.out.split()) == (0, True)
    found = run_installed(program, **asking, COMP_WORDS=f"{program} {command} {option[:-1]}", COMP_CWORD="2")
    assert (found.code, option in found.out.split()) == (0, True)


def test_no_command_starts_processes_beyond_number(program: str) -> None:
    group: Any = typer.main.get_command(import_module(f"{program}.cli").app)
    counts = {"num_proc", "threads", "workers", "jobs"}
    found = [each for command in group.commands.values() for each in command.params if each.name in counts]
    assert found
    assert all(each.max == MOST_PROCESSES for each in found)
