"""The demo: the commands that it runs, what it keeps of them, and its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main

import rotdata.cli
import rottrain.cli
from rottrain import demo
from rottrain.demo import DemoFailed, run_demo
from tests.helpers import Result

RESULT = {
    "corpus": "toy",
    "n": 200,
    "accuracy": 0.5,
    "reasoning_tokens": 32.0,
    "seconds_per_question": 0.01,
    "budget": 32,
    "failures": 0,
}
EVAL = [RESULT | {"mode": mode} for mode in ("rot", "cot", "no-cot")]
RECORD: dict[str, Any] = {
    "render": {"rows_out": 10},
    "stage1": {"steps": 2},
    "stage2": {"steps": 2},
    "eval": EVAL,
    "seconds": 1.5,
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a demo would run; none is."""
    ran: list[list[str]] = []

    def step(program: str, *arguments: object) -> Any:
        words = [program, *map(str, arguments)]
        ran.append(words)
        return EVAL if "eval" in words else {"ran": words[1]}

    monkeypatch.setattr(demo, "_step", step)
    monkeypatch.setattr(demo, "write_report", lambda out, record, **_: out / "report.html")
    return ran


def test_the_demo_runs_the_whole_line_in_order(commands: list[list[str]], tmp_path: Path) -> None:
    run_demo(tmp_path / "demo", rows=20, stage1_steps=3, stage2_steps=2)
    assert [tuple(words[:2]) for words in commands] == [
        ("rotdata", "render"),
        ("rotdata", "embed"),
        ("rotdata", "verify"),
        ("rottrain", "stage1"),
        ("rottrain", "stage2"),
        ("rottrain", "eval"),
        ("rottrain", "eval"),
    ]


def test_every_command_of_the_demo_is_one_that_a_user_could_type(commands: list[list[str]], tmp_path: Path) -> None:
    run_demo(tmp_path / "demo", rows=20, stage1_steps=3, stage2_steps=2)
    apps = {"rotdata": rotdata.cli.app, "rottrain": rottrain.cli.app}
    parsed = {}
    for program, name, *arguments in commands:
        command: Any = typer.main.get_command(apps[program])
        parsed["budgets" if "--budget" in arguments else name] = (
            command.commands[name].make_context(name, [*arguments, "--json"]).params
        )
    assert parsed["render"]["limit"] == 20
    assert (parsed["stage1"]["max_steps"], parsed["stage2"]["max_steps"]) == (3, 2)
    assert parsed["stage2"]["start"] == parsed["stage1"]["out"]
    assert parsed["eval"]["checkpoint"] == parsed["stage2"]["out"]
    assert parsed["eval"]["modes"] == "rot,cot,no-cot"
    assert parsed["eval"]["split"] == parsed["budgets"]["split"] == "test"
    assert parsed["budgets"]["budget"].startswith("0,")
    assert parsed["render"]["split"] == "train"


def test_the_demo_keeps_what_every_command_said_and_leaves_stdout_alone(
    commands: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_demo(tmp_path / "demo", rows=20, stage1_steps=3, stage2_steps=2) == EVAL
    record = json.loads((tmp_path / "demo" / "report.json").read_text())
    assert record.keys() == {"render", "embed", "verify", "stage1", "stage2", "eval", "budgets", "seconds"}
    assert record["eval"] == EVAL
    assert capsys.readouterr().out == ""


def test_a_step_gives_back_its_json() -> None:
    assert len(demo._step("rotdata", "fonts")) == 4


def test_a_step_that_fails_ends_the_demo_with_its_command_and_code() -> None:
    with pytest.raises(DemoFailed, match=r"rotdata verify 'no where' ended with exit code 1") as failure:
        demo._step("rotdata", "verify", "no where")
    assert failure.value.exit_code == 1


def test_the_command_prints_the_table_as_json_where_asked(
    monkeypatch: pytest.MonkeyPatch, run_rottrain: Callable[..., Result], tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(demo, "run_demo", lambda out, **options: asked.update(options, out=out) or EVAL)
    result = run_rottrain("demo", "--out", tmp_path, "--rows", 20, "--stage1-steps", 3, "--stage2-steps", 2, "--json")
    assert (result.code, json.loads(result.out)) == (0, EVAL)
    assert asked == {"rows": 20, "stage1_steps": 3, "stage2_steps": 2, "out": tmp_path}


def test_the_command_prints_one_table_on_stdout(
    monkeypatch: pytest.MonkeyPatch, run_rottrain: Callable[..., Result], tmp_path: Path
) -> None:
    monkeypatch.setattr(demo, "run_demo", lambda out, **options: EVAL)
    result = run_rottrain("demo", "--out", tmp_path)
    assert result.code == 0
    assert result.out.count("\n") == 2 + len(EVAL)
    assert "| rot | - | toy | 200 | 50.0% | - | 32.0 |" in result.out
