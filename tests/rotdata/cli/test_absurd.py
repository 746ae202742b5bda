"""No argument that one can type ends a command of rotdata in a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from rotdata.cli import app
from rotdata.console import Command
from tests.absurd import assert_no_command_breaks
from tests.helpers import REPOSITORY, Result

Run = Callable[..., Result]

USUAL: dict[str, list[object]] = {
    "render": ["toy", "--out", "OUT", "--limit", 2],
    "renumber": ["gsm8k.jsonl", "--out", "OUT"],
    "embed": ["strips", "--out", "OUT"],
    "verify": ["shards"],
    "repair": ["shards"],
    "push": ["shards", "owner/name", "--dry-run"],
    "pull": ["owner/name", "--out", "OUT"],
    "merge": ["shards"],
    "export-webdataset": ["shards", "--out", "OUT"],
    "preview": ["shards", "--html", "OUT"],
    "stats": ["shards"],
    "fonts": [],
    "plan": ["toy", "--limit", 2],
    "doctor": [],
}


def test_every_command_is_attacked_and_checks_its_arguments() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert commands.keys() == USUAL.keys()
    assert all(isinstance(command, Command) for command in commands.values())


@pytest.mark.parametrize("command", USUAL)
def test_no_argument_ends_in_a_traceback(
    run_rotdata: Run,
    command: str,
    toy_strips: Path,
    toy_embeddings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(toy_strips, tmp_path / "strips")
    shutil.copytree(toy_embeddings, tmp_path / "shards")
    (tmp_path / "gsm8k.jsonl").write_text(
        json.dumps({"question": "5 figs and 7 nuts?", "answer": "<<5+7=12>>\n#### 12"})
    )
    monkeypatch.chdir(tmp_path)
    assert_no_command_breaks(run_rotdata, app, command, USUAL[command], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([b"render", b"toy", b"--out", b"caf\xe9"], "is not UTF-8"),
        ([b"render", b"toy", b"--out", b""], "an empty text names no file and no folder"),
        ([b"render", b"toy", b"--out", b"x", b"--max-rejects", b"nan"], "less than or equal to 1"),
        ([b"render", b"toy", b"--out", b"x", b"--limit", b"9999999999"], "at most 2147483647"),
        ([b"render", b"toy", b"--out", b"x", b"--seed", b"-1"], "greater than or equal to 0"),
        ([b"plan", b"toy", b"--rows-per-shard", b"0"], "greater than or equal to 1"),
        ([b"plan", b"toy", b"--device", b"cuda:x"], "the device 'cuda:x' can't be used here"),
    ],
)
def test_a_process_refuses_what_can_not_be(arguments: list[bytes], message: str, tmp_path: Path) -> None:
    command = [sys.executable.encode(), b"-m", b"rotdata", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
