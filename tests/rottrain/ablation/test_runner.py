"""Running a plan: what is shared, skipped, failed, stopped, and said. The commands are stand-ins, but for one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rotdata.errors import OutputOccupied, UsageError
from rottrain.ablation import runner, tables
from rottrain.ablation.plan import Plan, load
from rottrain.ablation.runner import DONE, LOG, MADE, STEPS, Outcome, run
from tests.helpers import REPOSITORY, Result

COMPARISON = """
title: Small
values: {rows: 4, seeds: [0, 1], thinker: "@stage2"}
steps:
  strips: {run: rotdata render toy, with: {limit: $rows}}
  latents: {run: rotdata embed @strips}
  stage1: {run: rottrain stage1, with: {shards: "@latents", seed: $seed, config.head.hidden: 16}}
  stage2: {run: rottrain stage2, with: {shards: "@latents", from: "@stage1", seed: $seed}}
  answers: {run: rottrain eval $thinker toy, with: {split: test}}
  timed: {run: rottrain probe $thinker toy, with: {plot: "@/plot.png"}, alone: true}
tables:
  stages:
    title: Stages
    seeds: $seeds
    measure: [answers]
    columns: {accuracy: .0%}
    plots: [{of: history, source: stage1, x: step, y: loss}]
    arms:
      both: {}
      without 2: {thinker: "@stage1"}
  rows:
    title: Rows
    measure: [answers, timed]
    columns: {accuracy: .0%}
    arms: {rows: {rows: [4, 5]}}
"""

STAND_IN = """
import json, os, pathlib, sys, time
words = sys.argv[1:]
command, options = words[:2], dict(zip(words, words[1:]))
log = pathlib.Path(os.environ["CALLS"])
with log.open("a") as stream:
    call = {"command": " ".join(command), "words": words, "threads": os.environ.get("OMP_NUM_THREADS")}
    stream.write(json.dumps(call) + "\\n")
print("working", file=sys.stderr)
if os.environ.get("BROKEN", "?") in " ".join(words):
    print("error: it is broken", file=sys.stderr)
    sys.exit(1)
if os.environ.get("SLOW", "?") in " ".join(words):
    print("hanging", file=sys.stderr, flush=True)
    time.sleep(60)
if "--out" in options:
    out = pathlib.Path(options["--out"])
    out.mkdir(parents=True)
    lines = [{"step": step, "loss": 1 / step} for step in (1, 2)]
    (out / "history.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    print(json.dumps({"made": str(out)}))
elif os.environ.get("MUTE"):
    print("no JSON")
else:
    if "--plot" in options:
        pathlib.Path(options["--plot"]).write_text("drawn")
    right = 1.0 if "stage2" in words[2] else 0.5
    print(json.dumps([{"mode": "rot", "split": "mine", "accuracy": right, "interval": {"low": 0.25, "high": 1.0}}]))
"""


Launcher = Callable[[Sequence[str]], list[str]]


def comparison(folder: Path) -> Plan:
    (folder / "small.yaml").write_text(COMPARISON)
    return load(folder / "small.yaml")


def launcher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """Commands that do nothing but say so in calls.jsonl."""
    (folder / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("CALLS", str(folder / "calls.jsonl"))
    monkeypatch.setattr(runner, "_LOOK_S", 0.01)
    return lambda words: [sys.executable, "-S", "-E", str(folder / "stand_in.py"), *words]


def calls(folder: Path) -> list[dict[str, Any]]:
    """What was run since last asked."""
    file = folder / "calls.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return comparison(tmp_path)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Launcher:
    return launcher(tmp_path, monkeypatch)


@dataclass(frozen=True)
class Done:
    """A finished run."""

    folder: Path
    plan: Plan
    outcome: Outcome
    calls: list[dict[str, Any]]

    @property
    def out(self) -> Path:
        return self.folder / "out"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The comparison, run to its end by four at a time."""
    folder = tmp_path_factory.mktemp("ablate")
    plan = comparison(folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        outcome = run(plan, folder / "out", jobs=4, launch=launcher(folder, monkeypatch))
    return Done(folder, plan, outcome, calls(folder))


def test_equal_steps_run_once_and_a_second_run_runs_none(done: Done, stand_in: Launcher, tmp_path: Path) -> None:
    names = [call["command"].split()[1] for call in done.calls]
    # four answers of the first table; in the second the arm with 4 rows has those of seed 0, and both are timed
    expected = {"render": 2, "embed": 2, "stage1": 3, "stage2": 3, "eval": 4 + 1, "probe": 2}
    assert {name: names.count(name) for name in names} == expected
    assert {call["threads"] for call in done.calls} == {"1"}
    assert (done.outcome.steps, done.outcome.skipped, done.outcome.failed) == (len(done.calls), 0, {})
    again = run(done.plan, done.out, launch=stand_in)
    assert (calls(tmp_path), again.skipped, again.section) == ([], len(done.calls), done.outcome.section)
    assert all(line["finished"] for line in runner.as_lines(done.plan, done.out))


def test_steps_to_be_timed_run_while_nothing_else_does(done: Done) -> None:
    assert [call["command"] for call in done.calls[-2:]] == ["rottrain probe"] * 2


def test_the_tables_and_plots_are_written(done: Done) -> None:
    assert "| both | 100% ± 0% |" in done.outcome.section
    assert "| rows | 5 | 100%" in done.outcome.section
    assert (done.out / "tables.md").read_text() == done.outcome.section
    assert (done.out / "stages-1.png").exists()


def test_the_results_file_names_arm_settings_seed_and_split(done: Done) -> None:
    rows, _ = tables.read(done.outcome.results)
    results = [row for row in rows if row["record"] == tables.RESULT]
    names = ("table", "arm", "settings", "seed", "source", "split")
    assert [tuple(row[name] for name in names) for row in results] == [
        ("stages", "both", "{}", 0, "answers", "test"),
        ("stages", "both", "{}", 1, "answers", "test"),
        ("stages", "without 2", '{"thinker": "@stage1"}', 0, "answers", "test"),
        ("stages", "without 2", '{"thinker": "@stage1"}', 1, "answers", "test"),
        *(
            ("rows", "rows", f'{{"rows": {count}}}', 0, source, split)
            for count in (4, 5)
            for source, split in (("answers", "test"), ("timed", None))
        ),
    ]  # fmt: skip
    assert {row["said_split"] for row in results} == {"mine"}
    losses = [row["loss"] for row in rows if row["record"] == tables.HISTORY and row["source"] == "stage1"]
    assert losses == [1.0, 0.5] * 6


def test_what_a_step_says_to_people_is_in_its_log(done: Done) -> None:
    for key in done.plan.steps:
        folder = done.out / STEPS / key
        first, *rest = (folder / LOG).read_text().splitlines()
        assert first.startswith("$ rot")
        assert rest == ["working"]
        recipe = {"recipe.yaml"} if key.startswith("stage1") else set()
        assert {path.name for path in folder.iterdir()} - {MADE} == {LOG, DONE} | recipe


def test_a_step_that_fails_takes_with_it_what_needs_it_and_is_tried_again(
    plan: Plan, stand_in: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "--seed 1")
    outcome = run(plan, tmp_path / "out", jobs=2, launch=stand_in)
    failed = {key.rpartition("-")[0]: why for key, why in outcome.failed.items()}
    assert failed.keys() == {"stage1", "stage2", "answers"}
    assert failed["stage1"] == "exit code 1: error: it is broken"
    assert failed["stage2"].startswith("needs stage1-")
    assert failed["answers"].startswith("needs stage1-")
    assert "| both | 100% [72.2%" not in outcome.section
    assert "| both | 100% [25%, 100%] |" in outcome.section
    assert "- both, seed 1: needs stage1-" in outcome.section
    assert "- without 2, seed 1: needs stage1-" in outcome.section
    monkeypatch.delenv("BROKEN")
    calls(tmp_path)
    assert not run(plan, tmp_path / "out", launch=stand_in).failed
    assert [call["command"].split()[1] for call in calls(tmp_path)] == ["stage1", "stage2", "eval", "eval"]


def test_a_command_that_says_no_json_has_failed(
    plan: Plan, stand_in: Launcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUTE", "1")
    outcome = run(plan, tmp_path / "out", launch=stand_in)
    assert all("did not print a result as JSON" in why for why in outcome.failed.values())
    assert all(key.startswith(("answers", "timed")) for key in outcome.failed)


def test_folders_that_hold_something_else_and_no_workers_are_refused(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(OutputOccupied, match="no ablation"):
        run(plan, tmp_path)
    with pytest.raises(UsageError, match="--jobs is at least 1"):
        run(plan, tmp_path / "out", jobs=0)


def _stop_once_it_hangs(logs: Callable[[], Iterable[Path]]) -> None:
    while not any("hanging" in log.read_text() for log in logs()):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_stops_what_is_under_way_and_exits_130(
    stand_in: Launcher, run_rottrain: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison(tmp_path)
    monkeypatch.setattr(runner.run, "__kwdefaults__", {"jobs": 1, "launch": stand_in})
    monkeypatch.setenv("SLOW", "stage2")
    before = signal.getsignal(signal.SIGTERM)
    logs = partial((tmp_path / "out").glob, f"{STEPS}/stage2-*/{LOG}")
    threading.Thread(target=_stop_once_it_hangs, args=(logs,), daemon=True).start()
    try:
        result = run_rottrain("ablate", tmp_path / "small.yaml", "--out", tmp_path / "out")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert result.code == 130
    assert "the same command resumes" in result.err
    assert result.out == ""
    assert not (tmp_path / "out" / "results.parquet").exists()
    assert not list((tmp_path / "out" / STEPS).glob(f"stage2-*/{DONE}"))
    monkeypatch.delenv("SLOW")
    calls(tmp_path)
    result = run_rottrain("ablate", tmp_path / "small.yaml", "--out", tmp_path / "out", "--json")
    assert result.code == 0
    assert json.loads(result.out)["skipped"] > 0


def test_the_command_lists_runs_and_prints_tables_and_failures(
    stand_in: Launcher, run_rottrain: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    comparison(tmp_path)
    monkeypatch.setattr(runner.run, "__kwdefaults__", {"jobs": 1, "launch": stand_in})
    dry = run_rottrain("ablate", file, "--out", out, "--set", "seeds=[3]", "--dry-run")
    assert dry.code == 0
    assert dry.out.startswith("to do   rotdata render toy --limit 4 --out ")
    assert dry.out.endswith("4 runs take 16 steps, 0 done\n")
    assert not out.exists()
    listed = json.loads(run_rottrain("ablate", file, "--out", out, "--dry-run", "--json").out)
    assert (listed["runs"], listed["steps"][0]["runs"]) == (6, 5)
    monkeypatch.setenv("BROKEN", "--seed 1")
    failed = run_rottrain("ablate", file, "--out", out)
    assert failed.code == 1
    assert failed.out.startswith("## Small\n")
    assert "4 of 17 steps failed" in failed.err
    copy = run_rottrain("ablate", out / "results.parquet", "--out", tmp_path / "copy")
    assert copy.out == failed.out
    assert (tmp_path / "copy" / "stages-1.png").read_bytes() == (out / "stages-1.png").read_bytes()
    refused = run_rottrain("ablate", file, "--out", out, "--set", "rows=x", "--dry-run")
    assert (refused.code, refused.out) == (2, "")


def test_real_commands_run_tethered_and_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    words = ["rotdata", "render", "toy", "--corpus", "toy", "--limit", "3", "--out", str(tmp_path / "strips")]
    with (tmp_path / "said.json").open("wb") as said:
        process = subprocess.Popen(runner.as_module(words), stdin=subprocess.PIPE, stdout=said, cwd=REPOSITORY)
        assert process.wait() == 0
    assert process.stdin
    process.stdin.close()
    assert json.loads((tmp_path / "said.json").read_text())["rows_out"] == 3
    (tmp_path / "waiting.py").write_text("import time; print('up', flush=True); time.sleep(60)")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    process = subprocess.Popen(
        [sys.executable, "-m", "rottrain.ablation.child_process", "waiting"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    process.stdin.close()
    assert process.wait() == -signal.SIGTERM
    process.stdout.close()
