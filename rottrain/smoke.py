"""The whole line on a few rows with a model of the user's own, on the user's own device, and a report of how it went.

Each step is the command that a user would type, in a process of its own: what breaks there, breaks here, and what it
said is in the report.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotdata.console import say
from rotdata.errors import RotError
from rotdata.shards import Manifest
from rottrain.config import Feedback, Trainable
from rottrain.model import checkpoints

QUESTION = "Ann has 3 figs, finds 4."
_BATCH = 4
_BUDGET = 8
_CELLS = 6
_LINES_SAID = 30
"""The last ones of what a command says: a traceback's end."""
_PLACE = "$OUT"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command and what came of it."""

    name: str
    command: str
    code: int
    seconds: float
    result: Any
    """Its JSON; None if it failed."""
    said: list[str]
    """The last lines on stderr."""


@dataclass(frozen=True, kw_only=True)
class Smoke:
    """What a run of the line found."""

    model: str
    ok: bool
    seconds: float
    steps: list[Step]
    fingerprints: dict[str, str]
    """Of what was made, as far as it came: equal ones mean equal bytes of strips, style, tower and embeddings."""


def run_smoke(
    model: str,
    *,
    rows: int,
    steps: int,
    trainable: Trainable,
    feedback: Feedback = "latent",
    keep: Path | None = None,
) -> Smoke:
    """Doctor, render, embed, verify, both stages and a question; it ends with the first command that fails.

    With picture feedback, strips are in cells and each latent is encoded by itself. What is made lies in `keep`, or in
    a temporary folder that is gone afterwards.
    """
    started = time.monotonic()
    with _folder(keep) as out:
        done: list[Step] = []
        for name, words in _commands(model, out, rows=rows, steps=steps, trainable=trainable, feedback=feedback):
            done.append(_step(name, words, out))
            if done[-1].code:
                break
        return Smoke(
            model=model,
            ok=not done[-1].code,
            seconds=round(time.monotonic() - started, 1),
            steps=done,
            fingerprints=_fingerprints(out),
        )


def as_report(smoke: Smoke) -> str:
    """The report for people, in Markdown, to be pasted whole."""
    head = "works" if smoke.ok else f"fails at {smoke.steps[-1].name}"
    lines = [f"### rottrain smoke: {smoke.model} {head}", "", "| step | s | |", "|---|---|---|"]
    lines += [f"| {step.name} | {step.seconds:.1f} | {_cell(_found(step))} |" for step in smoke.steps]
    if smoke.fingerprints:
        lines += ["", *(f"- {name}: `{value}`" for name, value in smoke.fingerprints.items())]
    [doctor] = [step for step in smoke.steps if step.name == "doctor"]
    lines += ["", *(f"- {each['name']}: {each['found']}" for each in doctor.result or ())]
    for step in smoke.steps if smoke.ok else smoke.steps[-1:]:
        shown = [line for line in step.said if line.startswith("step ")] if smoke.ok else step.said
        if shown:
            lines += ["", f"    $ {step.command}", *(f"    {line}" for line in shown)]
    return "\n".join(lines)


def _commands(
    model: str, out: Path, *, rows: int, steps: int, trainable: Trainable, feedback: Feedback
) -> Iterator[tuple[str, tuple[object, ...]]]:
    strips, embedded, first, second = (out / name for name in ("strips", "embedded", "stage1", "stage2"))
    pictures = feedback == "picture"
    cells, context = (("--cells", _CELLS), ("--context", "latent")) if pictures else ((), ())
    recipe, rollout = ("picture", "teacher") if pictures else ("paper", "student")
    shared = ("--model", model, "--recipe", recipe, "--batch-size", _BATCH, "--max-steps", steps, "--log-steps", 1)
    data = ("--shards", embedded)
    source = ("toy", "--corpus", "toy", "--limit", rows, "--for", model, *cells)
    yield "doctor", ("rotdata", "doctor")
    yield "render", ("rotdata", "render", *source, "--out", strips)
    yield "embed", ("rotdata", "embed", strips, "--model", model, *context, "--out", embedded)
    yield "verify", ("rotdata", "verify", embedded)
    aligned = ("--trainable", "head", "--rollout", "teacher")
    yield "stage1", ("rottrain", "stage1", *data, "--out", first, *shared, *aligned)
    trained = ("--trainable", trainable, "--rollout", rollout)
    yield "stage2", ("rottrain", "stage2", *data, "--from", first, "--out", second, *shared, *trained)
    asked = (QUESTION, "--model", model, "--budget", _BUDGET, "--feedback", feedback)
    yield "generate", ("rottrain", "generate", second, *asked)


def _step(name: str, words: tuple[object, ...], out: Path) -> Step:
    """Run a command of ours, and let through what it says."""
    command = [str(word) for word in words]
    shown = shlex.join(command).replace(str(out), _PLACE)
    say(f"$ {shown}")
    started = time.monotonic()
    with subprocess.Popen(  # noqa: S603 -- our own command
        [sys.executable, "-m", *command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        printed, complaints = process.communicate()
    said = [line.rpartition("\r")[2].replace(str(out), _PLACE) for line in complaints.splitlines()]
    if process.returncode:
        say("\n".join(said[-_LINES_SAID:]))
    return Step(
        name=name,
        command=shown,
        code=process.returncode,
        seconds=round(time.monotonic() - started, 1),
        result=None if process.returncode else json.loads(printed.replace(str(out), _PLACE)),
        said=said[-_LINES_SAID:],
    )


def _found(step: Step) -> str:
    """What is worth telling of a step's result."""
    if step.code:
        return f"exit code {step.code}"
    match step.name:
        case "doctor":
            problems = [each["name"] for each in step.result if each["status"] == "problem"]
            return f"problems: {', '.join(problems)}" if problems else "no problems"
        case "render" | "embed":
            return f"{step.result['rows_out']} rows, {step.result['latents']} latents, {step.result['seconds']} s"
        case "stage1" | "stage2":
            ran = step.result["ran"]
            return (
                f"loss {step.result['loss']:.4f} after {step.result['steps']} steps, {ran['step_seconds']} s a step, "
                f"{ran['precision']} on {ran['device']}, peak {ran['peak_memory_gib']} GiB"
            )
        case "generate":
            [made] = step.result
            return f"{made['reasoning_tokens']} latents, {made['seconds']} s: {made['reply']!r}"
    return "ok"


def _cell(text: str) -> str:
    """Text of a model within a table."""
    return text.replace("|", "\\|").replace("`", "'")


def _fingerprints(out: Path) -> dict[str, str]:
    """Of the folders that are there."""
    found: dict[str, str] = {}
    for name in ("strips", "embedded"):
        try:
            manifest = Manifest.load(out / name)
        except RotError:  # it did not come to that
            continue
        found[name] = manifest.fingerprint
        if manifest.encoder is not None:
            found |= {
                "encoding": manifest.encoding_fingerprint,
                "tower": manifest.encoder["tower_sha256"],
                "embedded in": f"{manifest.encoder['model']}, {manifest.encoder['dtype']}",
            }
    for name in ("stage1", "stage2"):
        if (out / name / checkpoints.CONFIG).exists():
            found[name] = checkpoints.weights_sha256(out / name)
    return found


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
    else:
        with tempfile.TemporaryDirectory(prefix="rot-smoke-") as folder:
            yield Path(folder).resolve()
