"""Runs the steps of a plan, several at a time, and gathers what they said.

OUT/steps/KEY is one step: the folder `made` that its command writes, its recipe.yaml if it has one, its log.txt, and
result.json once it has finished. A step that has one is not run again, and a training that was stopped goes on where it
was, so the same command resumes. A step that fails takes with it what needs it and nothing else.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rotdata.console import say
from rotdata.errors import Interrupted, OutputOccupied, UsageError
from rotdata.shards import locked, write_atomically
from rottrain.ablation import tables
from rottrain.ablation.plan import Plan, Run, Step, recipe_file
from rottrain.ablation.tables import FAILURE, HISTORY, RESULTS, Row
from rottrain.training import history

STEPS, MADE, DONE, LOG, SAID = "steps", "made", "result.json", "log.txt", "said.json"
_LOOK_S = 0.1
_GRACE_S = 120.0
"""How long stopped steps may take to save."""

Launch = Callable[[Sequence[str]], list[str]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run left behind."""

    results: Path
    section: str
    """The tables as Markdown."""
    steps: int
    skipped: int
    """Steps that an earlier run had finished."""
    failed: Mapping[str, str]
    """Key of a step -> why."""


def as_module(words: Sequence[str]) -> list[str]:
    """The process that runs a command of ours."""
    return [sys.executable, "-m", "rottrain.ablation.child_process", *words, "--json"]


def run(plan: Plan, out: Path, *, jobs: int = 1, launch: Launch = as_module) -> Outcome:
    """Run what `out` lacks of `plan`, `jobs` steps at a time, and write results and tables.

    Raises OutputOccupied, and Interrupted when asked to stop: then the steps under way have saved what is whole.
    """
    if jobs < 1:
        raise UsageError(f"--jobs is at least 1, got {jobs}")
    folder = out / STEPS
    if out.is_dir() and not folder.is_dir() and any(out.iterdir()):
        raise OutputOccupied(f"{out} holds files that are no ablation: choose an empty or new folder for --out")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(out):
        team = _Team(plan, folder, jobs, launch)
        skipped = len(team.finished)
        try:
            team.work()
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {len(team.finished)} of {len(plan.steps)} steps; the same command resumes {out}"
            ) from None
        finally:
            team.stop()
        results = out / RESULTS
        tables.write(results, list(_rows(plan, folder, team)), plan.section)
        section = tables.write_section(out, results)
    return Outcome(results=results, section=section, steps=len(plan.steps), skipped=skipped, failed=dict(team.failed))


def as_lines(plan: Plan, out: Path) -> list[dict[str, Any]]:
    """The plan's steps in an order that works: key, command, whether `out` holds it finished, runs that take it."""
    folder = out / STEPS
    return [
        {
            "step": key,
            "command": shlex.join(plan.words(step, lambda each: folder / each / MADE)),
            "finished": (folder / key / DONE).exists(),
            "runs": sum(key in run_.steps.values() for run_ in plan.runs),
        }
        for key, step in plan.steps.items()
    ]


@dataclass(kw_only=True)
class _Running:
    """A step under way."""

    process: subprocess.Popen[bytes]
    started: float

    def close(self) -> None:
        """Let go of the pipe of a process that has ended."""
        if self.process.stdin is not None:
            self.process.stdin.close()


class _Team:
    """Processes that work off a plan's steps."""

    def __init__(self, plan: Plan, folder: Path, jobs: int, launch: Launch) -> None:
        self._plan = plan
        self._folder = folder
        self._jobs = jobs
        self._launch = launch
        self._depth = _depths(plan.steps)
        self._running: dict[str, _Running] = {}
        self.failed: dict[str, str] = {}
        self.finished: dict[str, float] = {}
        """Seconds that each took."""
        for key in plan.steps:
            if (folder / key / DONE).exists():
                self.finished[key] = json.loads((folder / key / DONE).read_text())["seconds"]

    def work(self) -> None:
        """Run all that can be run."""
        while True:
            for key in self._startable():
                self._start(self._plan.steps[key])
            if not self._running:
                return
            time.sleep(_LOOK_S)
            for key, running in list(self._running.items()):
                if running.process.poll() is not None:
                    del self._running[key]
                    self._take(self._plan.steps[key], running)

    def stop(self) -> None:
        """Ask what is under way to save and stop, and wait for it; what does not come to an end is killed."""
        for running in self._running.values():
            running.process.terminate()
        deadline = time.monotonic() + _GRACE_S
        for running in self._running.values():
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            running.process.kill()
            running.process.wait()
            running.close()

    def _startable(self) -> list[str]:
        """Steps to start now: those that most depends on first, those to be run alone when nothing else can be."""
        self._fail_what_can_not_be()
        settled = self.finished.keys() | self.failed.keys() | self._running.keys()
        ready = [
            key
            for key, step in self._plan.steps.items()
            if key not in settled and all(need in self.finished for need in step.needs)
        ]
        if any(self._plan.steps[key].alone for key in self._running):
            return []
        together = sorted((key for key in ready if not self._plan.steps[key].alone), key=lambda key: -self._depth[key])
        if together or self._running:
            return together[: self._jobs - len(self._running)]
        return ready[:1]

    def _fail_what_can_not_be(self) -> None:
        for key, step in self._plan.steps.items():
            broken = next((need for need in step.needs if need in self.failed), None)
            if broken and key not in self.failed:
                origin = self.failed[broken]
                self.failed[key] = origin if origin.startswith("needs ") else f"needs {broken}, which failed: {origin}"

    def _start(self, step: Step) -> None:
        place = self._folder / step.key
        place.mkdir(exist_ok=True)
        if any(word.step == "" for word in step.words):  # it is told to write there, but makes no folder itself
            (place / MADE).mkdir(exist_ok=True)
        if step.recipe:
            write_atomically(recipe_file(place / MADE), yaml.safe_dump(dict(step.recipe)).encode())
        words = self._plan.words(step, lambda key: self._folder / key / MADE)
        with (place / LOG).open("ab") as log, (place / SAID).open("wb") as said:
            log.write(f"$ {shlex.join(words)}\n".encode())
            log.flush()
            process = subprocess.Popen(  # noqa: S603 -- our own command
                self._launch(words),
                stdin=subprocess.PIPE,  # held open as long as this process lives: rottrain/ablation/child_process.py
                stdout=said,
                stderr=log,
                env=_environment(self._jobs),
                start_new_session=True,  # Ctrl-C comes to this process alone, which then stops them all
            )
        self._running[step.key] = _Running(process=process, started=time.monotonic())

    def _take(self, step: Step, running: _Running) -> None:
        """Enter a step that has ended."""
        place = self._folder / step.key
        seconds = round(time.monotonic() - running.started, 1)
        running.close()
        problem = self._enter(place, running.process.returncode, seconds)
        if problem is None:
            (place / SAID).unlink()
            self.finished[step.key] = seconds
        else:
            self.failed[step.key] = problem
        outcome = f"done in {seconds:.0f} s" if problem is None else f"failed: {problem} (all of it in {place / LOG})"
        done = len(self.finished) + len(self.failed)
        say(f"[{done}/{len(self._plan.steps)}] {step.key} {outcome}{self._outlook()}")

    def _enter(self, place: Path, code: int, seconds: float) -> str | None:
        """Write down what a step said; what is wrong with it, if something is."""
        if code:
            return f"exit code {code}: {_last_line(place / LOG)}"
        try:
            result = json.loads((place / SAID).read_bytes())
            list(tables.records(result))
        except ValueError as error:
            return f"it did not print a result as JSON: {error}"
        write_atomically(place / DONE, json.dumps({"seconds": seconds, "result": result}).encode())
        return None

    def _outlook(self) -> str:
        """About how long the rest will take, from how long steps of each kind took."""
        left = [step for key, step in self._plan.steps.items() if key not in self.finished and key not in self.failed]
        if not left:
            return ""
        took: dict[str, list[float]] = {}
        for key, seconds in self.finished.items():
            took.setdefault(self._plan.steps[key].command, []).append(seconds)
        usual = {command: sum(each) / len(each) for command, each in took.items()}
        unknown = sum(usual.values()) / max(1, len(usual))
        seconds = sum(usual.get(step.command, unknown) for step in left) / self._jobs
        return f"; {len(left)} to go, about {max(1, round(seconds / 60))} min"


def _depths(steps: Mapping[str, Step]) -> dict[str, int]:
    """How long the longest chain of steps is that begins at each."""
    depths = dict.fromkeys(steps, 1)
    for key in reversed(list(steps)):  # a step stands after those that it needs
        for need in steps[key].needs:
            depths[need] = max(depths[need], depths[key] + 1)
    return depths


def _environment(jobs: int) -> dict[str, str]:
    """Several processes share the cores, a thread each."""
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"} if jobs > 1 else {}
    return dict(os.environ) | threads


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def _rows(plan: Plan, folder: Path, team: _Team) -> Iterator[Row]:
    """The lines of the results file, run after run."""
    for run_ in plan.runs:
        for name in run_.measured:
            step = plan.steps[run_.steps[name]]
            if step.key in team.failed:
                yield _row(run_, step, FAILURE) | {"error": team.failed[step.key]}
                continue
            said = json.loads((folder / step.key / DONE).read_text())
            for record, values in tables.records(said["result"]):
                yield _fitting(_row(run_, step, record), values)
        for key in run_.steps.values():
            file = folder / key / MADE / history.HISTORY
            if key in team.finished and file.exists():
                for line in file.read_text().splitlines():
                    for _, values in tables.records(json.loads(line)):
                        yield _fitting(_row(run_, plan.steps[key], HISTORY), values)


def _row(run_: Run, step: Step, record: str) -> Row:
    return {
        "table": run_.table,
        "arm": run_.arm,
        "settings": json.dumps(dict(run_.settings)),
        "seed": run_.seed,
        "source": step.name,
        "split": step.split,
        "record": record,
    }


def _fitting(row: Row, values: Row) -> Row:
    """A row with what a command said, under names that are not the row's own."""
    return row | {f"said_{name}" if name in tables.KEYS else name: value for name, value in values.items()}
