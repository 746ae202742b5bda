"""No argument, recipe or question that one can write ends a command of rottrain in a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
import uvicorn

from rotdata.console import Command
from rotdata.errors import UsageError
from rottrain import demo, smoke
from rottrain.cli import app
from tests.absurd import HUGE, assert_no_command_breaks
from tests.helpers import REPOSITORY, Result, assert_refused

Run = Callable[..., Result]

TRAINING = ["--shards", "SHARDS", "--model", "TINY", "--out", "OUT", "--max-steps", 1, "--batch-size", 2]
USUAL: dict[str, list[object]] = {
    "stage1": [*TRAINING, "--budget", 2],
    "stage2": [*TRAINING, "--budget", 2, "--from", "STAGE1"],
    "sft": [*TRAINING, "--mode", "cot"],
    "smoke": ["--model", "tiny"],
    "verify": ["STAGE2"],
    "export": ["STAGE2", "--out", "OUT"],
    "generate": ["STAGE2", "2+2?", "--budget", 1, "--max-answer-tokens", 1],
    "serve": ["STAGE2", "--port", 0],
    "eval": ["STAGE2", "toy", "--limit", 1, "--budget", 1, "--max-answer-tokens", 1],
    "trace": ["STAGE2", "--shards", "SHARDS", "--question", "2+2?", "--budget", 1],
    "calibrate": ["STAGE2", "--shards", "SHARDS", "--limit", 1, "--budget", 1],
    "ablate": ["absent.yaml", "--out", "OUT"],
    "probe": ["STAGE2", "toy", "--limit", 1, "--budget", 1],
    "demo": ["--out", "OUT"],
}


def test_every_command_is_attacked_and_checks_its_arguments() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert commands.keys() == USUAL.keys()
    assert all(isinstance(command, Command) for command in commands.values())


@pytest.mark.slow
@pytest.mark.parametrize("command", USUAL)
def test_no_argument_ends_in_a_traceback(
    run_rottrain: Run,
    command: str,
    embedded: Path,
    tiny_folder: Path,
    stage1_checkpoint: Path,
    stage2_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def arrive(*arguments: Any, **options: Any) -> None:
        raise UsageError("the arguments were taken: the whole line is for other tests to run")

    monkeypatch.setattr(smoke, "run_smoke", arrive)
    monkeypatch.setattr(demo, "run_demo", arrive)
    monkeypatch.setattr(uvicorn.Server, "run", arrive)
    monkeypatch.setenv("ROTTRAIN_API_KEY", "any host may be named")
    monkeypatch.chdir(tmp_path)
    here = {"SHARDS": embedded, "TINY": tiny_folder, "STAGE1": stage1_checkpoint, "STAGE2": stage2_checkpoint}
    usual = [here.get(str(word), word) for word in USUAL[command]]
    assert_no_command_breaks(run_rottrain, app, command, usual, tmp_path)


@pytest.mark.parametrize(
    "recipe",
    [
        "adam_beta2: 7",
        "adam_beta2: .nan",
        "epochs: .inf",
        "lr: .nan",
        "seed: -1",
        "[" * 20_000,
        "lr: " + "{a: " * 5000,
        f"budget: {HUGE}",
        "batch_size: " + "9" * 5000,
        f"head: {{hidden: {HUGE}}}",
        "head: {hidden: 1000000000}",
        "head: null",
        f"lora: {{rank: {HUGE}}}",
        "lora: {rank: 1000000000}",
        "lora: {dropout: .nan}",
        "lr: 1" + "0" * 400,
        "seed: 2026-99-99",
        "rollout: jacobi:" + "9" * 5000,
        'rollout: "\\ud800"',
        "trainable: [full]",
        "!!python/object:os.system x",
    ],
    ids=lambda recipe: recipe[:30],
)
def test_a_recipe_that_can_not_be_is_refused(
    run_rottrain: Run, stage1_arguments: list[object], recipe1: Path, tmp_path: Path, recipe: str
) -> None:
    recipe1.write_text(recipe)
    assert_refused(run_rottrain(*stage1_arguments), 2, "")
    assert not (tmp_path / "out").exists()


Ask = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def ask_alone(stage2_checkpoint: Path) -> Ask:
    """Run `rottrain generate` in a process of its own."""

    def run(*arguments: bytes, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-m", "rottrain", "generate", stage2_checkpoint, "--budget=1", *arguments]
        return subprocess.run(command, cwd=REPOSITORY, input=stdin, check=False, capture_output=True, timeout=120)

    return run


def assert_one_line(done: subprocess.CompletedProcess[bytes], message: str) -> None:
    """A usage error whose last line says `message`."""
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([b"2+2?", b"--temperature", b"1e-40"], "0, or from 1e-06"),
        ([b"2+2?", b"--temperature", b"1", b"--top-p", b"1e-300"], "top-p is a share"),
        ([b"2+2?", b"--seed", b"-1"], "greater than or equal to 0"),
        ([b"2+2?", b"--max-answer-tokens", b"0"], "greater than or equal to 1"),
        ([b"2+2?", b"--max-answer-tokens", b"-5"], "greater than or equal to 1"),
        ([b"2+2?", b"--budget", HUGE.encode()], "the budget is at most 65536 latents"),
        ([b"2+2\xff?"], "is not UTF-8"),
        ([b"1+" * 47_500], "at most 8192 are read: shorten it, or raise the cap"),
    ],
    ids=["temperature", "top-p", "seed", "no tokens", "-5 tokens", "budget", "not UTF-8", "long"],
)
def test_a_process_refuses_what_can_not_be(ask_alone: Ask, arguments: list[bytes], message: str) -> None:
    assert_one_line(ask_alone(*arguments), message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"2+2?\n\xff\n", "is not UTF-8: invalid start byte at byte 5"),
        (b"\xed\xa0\x80\n", "is not UTF-8"),
        (b'{"question": "a\\ud800b"}\n', "line 1 asks with a lone surrogate"),
    ],
    ids=["Latin-1", "surrogate", "JSON"],
)
def test_a_file_and_stdin_are_decoded_alike(ask_alone: Ask, tmp_path: Path, content: bytes, message: str) -> None:
    assert_one_line(ask_alone(stdin=content), message)
    (tmp_path / "asked").write_bytes(content)
    assert_one_line(ask_alone(b"--file", bytes(tmp_path / "asked")), message)


def test_a_closed_stdin_asks_nothing(stage2_checkpoint: Path) -> None:
    command = f"'{sys.executable}' -m rottrain generate '{stage2_checkpoint}' <&-"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, check=False, capture_output=True, timeout=120)
    assert_one_line(done, "there is no question: give it as an argument, in --file, or on stdin")


def test_a_cap_may_be_raised(ask: Run) -> None:
    question = "1+" * 20 + "1?"
    assert_refused(ask(question, "--max-question-tokens", 8), 2, "and at most 8 are read")
    assert json.loads(ask(question, "--max-question-tokens", 800, "--json").out)[0]["question"] == question


def test_a_budget_of_thousands_says_what_it_will_take(run_rottrain: Run, stage2_checkpoint: Path) -> None:
    result = run_rottrain("generate", stage2_checkpoint, "2+2?", "--budget", 1000, "--max-answer-tokens", 1)
    assert result.code == 0
    assert "1000 latents a question are 1000 passes, one after another, and up to 0.0 GiB of cache" in result.err


def test_a_plot_of_few_rows_is_drawn(
    run_rottrain: Run, stage2_checkpoint: Path, short_rows: Path, tmp_path: Path
) -> None:
    for rows in (2, 3, 4):
        file = tmp_path / f"{rows}.svg"
        result = run_rottrain(
            "probe",
            stage2_checkpoint,
            short_rows,
            "--corpus",
            "generic",
            "--limit",
            rows,
            "--budget",
            2,
            "--plot",
            file,
        )
        assert result.code == 0, result.err
        assert file.read_text().startswith("<?xml")


@pytest.mark.parametrize("result", [{"loss": "0.5", "steps": 2}, {"loss": None, "steps": 2}, {"steps": 2}, {}])
def test_a_checkpoint_without_the_figures_of_a_card_is_not_exported(
    run_rottrain: Run, stage2_checkpoint: Path, tmp_path: Path, result: dict[str, Any]
) -> None:
    damaged = Path(shutil.copytree(stage2_checkpoint, tmp_path / "damaged"))
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"result": result}))
    assert_refused(run_rottrain("export", damaged, "--out", tmp_path / "out"), 1, "config.json: result.")
    assert not (tmp_path / "out").exists()
