"""learn: a whole small model, on a corpus: answers at once, in words, and in latents whose pictures are fed back.

The commands that a user types, each in a process of its own; the arms train beside each other, since a small model
leaves most of a GPU idle. `--base` and `--corpus` name another model and corpus.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu.job import ROOT, Job

_WORDS = 400
_ASKING_S = 25
"""Of the deadline, kept for the questions."""
_SPARE_S, _FOREVER_S = 5.0, 3600.0
_LRS = {"cot": "1e-3", "no-cot": "2e-3"}
_LR = "1.4e-3"
"""Those that were found for tiny (docs/results.md)."""


def run(job: Job) -> None:
    """Data, then all arms at once, then the questions."""
    work = Path(tempfile.mkdtemp(prefix="rot-learn-"))
    try:
        if not job.measure("data", lambda: _data(job, work)):
            return
        arms: dict[str, Callable[[], Mapping[str, Any]]] = {"latents": lambda: _latents(job, work)}
        arms |= {mode: partial(_words, job, work, mode) for mode in _LRS}
        if job.size.arms_at_once:
            with ThreadPoolExecutor(len(arms)) as pool:
                list(pool.map(job.measure, arms, arms.values()))
        else:
            for name, arm in arms.items():
                job.measure(name, arm)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _data(job: Job, work: Path) -> Mapping[str, Any]:
    """Strips in cells, and each latent encoded alone."""
    corpus = _named(job.corpus)
    drawn = command(
        job, "rotdata", "render", job.corpus, *corpus, "--limit", job.size.learn_rows, "--cells", 6, "--align-steps",
        "--num-proc", max(1, min(8, os.cpu_count() or 1)), "--out", work / "strips",
    )  # fmt: skip
    made = command(
        job, "rotdata", "embed", work / "strips", "--model", job.base, "--context", "latent", "--out", work / "shards"
    )
    return {"corpus": job.corpus, "base": job.base, "rows": made["rows_out"], "latents": made["latents"],
            "render_s": drawn["seconds"], "embed_s": made["seconds"]}  # fmt: skip


def _latents(job: Job, work: Path) -> Mapping[str, Any]:
    """Both stages with the recipe picture; the second as long as the deadline allows, then the questions."""
    first, second, _ = job.size.learn_steps
    shared = ("--recipe", "picture", "--shards", work / "shards", "--model", job.base, *_training(job), "--lr", _LR)
    one = command(job, "rottrain", "stage1", *shared, "--max-steps", first, "--out", work / "s1")
    pace = one["ran"]["step_seconds"] or 0.0
    if pace:
        second = max(1, min(second, int((job.left - _ASKING_S) / pace)))
    two = command(
        job, "rottrain", "stage2", *shared, "--max-steps", second, "--from", work / "s1", "--out", work / "s2"
    )
    asked = _asked(job, work / "s2", "rot")
    return {"stage1": _trained(one), "stage2": _trained(two), **asked}


def _words(job: Job, work: Path, mode: str) -> Mapping[str, Any]:
    """Fine-tuning in words, or to answer at once, then the questions."""
    trained = command(
        job, "rottrain", "sft", "--mode", mode, "--shards", work / "shards", "--model", job.base, *_training(job),
        "--lr", _LRS[mode], "--max-steps", job.size.learn_steps[2], "--out", work / mode,
    )  # fmt: skip
    return {"sft": _trained(trained), **_asked(job, work / mode, mode)}


def _training(job: Job) -> tuple[object, ...]:
    return ("--trainable", "full", "--batch-size", job.size.learn_batch)


def _trained(outcome: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "steps": outcome["steps"],
        "loss": round(outcome["loss"], 5),
        "seconds": outcome["seconds"],
        **outcome["ran"],
    }


def _asked(job: Job, checkpoint: Path, mode: str) -> dict[str, Any]:
    """Accuracy on questions that were not learnt from."""
    [found] = command(
        job, "rottrain", "eval", checkpoint, job.questions, *_named(job.questions), "--split", "test", "--limit",
        job.size.questions, "--modes", mode, "--batch-size", 250, "--max-cot-tokens", 128,
    )  # fmt: skip
    kept = ("n", "accuracy", "interval", "reasoning_tokens", "seconds_per_question")
    return {name: found[name] for name in kept if name in found}


def _named(source: str) -> tuple[str, ...]:
    """Toy problems are not recognised, as files are."""
    return ("--corpus", "toy") if source.partition(":")[0] == "toy" else ()


def command(job: Job, program: str, *words: object) -> Any:
    """Run a command of ours with --json: its result. Raises RuntimeError with its last words."""
    hidden = {} if job.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(
            [sys.executable, "-m", program, *map(str, words), "--json"],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"} | hidden,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=min(_FOREVER_S, max(1.0, job.left - _SPARE_S)),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said: Any = late.stderr or ""
        text = said.decode(errors="replace") if isinstance(said, bytes) else said
        raise RuntimeError(f"{program} {words[0]} was not done by the deadline: {_end(text)}") from None
    if done.returncode:
        raise RuntimeError(f"{program} {words[0]} ended with {done.returncode}: {_end(done.stderr)}")
    return json.loads(done.stdout)


def _end(said: str) -> str:
    return " | ".join(said.strip().splitlines()[-3:])[-_WORDS:]
