"""The whole line on the embedded model, through the very commands that a user would type.

Each step's command is printed before it runs, and its JSON result goes into report.json and onto the page report.html.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rotdata.console import say
from rotdata.errors import RotError
from rottrain.analysis.pages import write_report

EVALUATED_ROWS = 200
BUDGETS = "0,1,2,3,4,5,6,8,10,12,16"
CELLS = 6
"""Characters a latent."""
RECIPE = ("--recipe", "picture", "--lr", "1.4e-3", "--batch-size", "16")
"""Picture feedback, at a learning rate that suits three million parameters and a few minutes."""


class DemoFailed(RotError):
    """A step of the demo did not succeed."""


def run_demo(out: Path, *, rows: int, stage1_steps: int, stage2_steps: int) -> list[dict[str, Any]]:
    """Render, embed, train both stages, evaluate three modes, then several budgets; the table. Writes report.html.

    Steps that an earlier run finished in `out` are skipped. Raises DemoFailed.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    strips, embedded, first, second = out / "strips", out / "embedded", out / "stage1", out / "stage2"
    record: dict[str, Any] = {}
    record["render"] = _step(
        "rotdata", "render", "toy", "--corpus", "toy", "--limit", rows, "--cells", CELLS, "--align-steps",
        "--out", strips,
    )  # fmt: skip
    record["embed"] = _step("rotdata", "embed", strips, "--model", "tiny", "--context", "latent", "--out", embedded)
    record["verify"] = _step("rotdata", "verify", embedded)
    record["stage1"] = _step(
        "rottrain", "stage1", "--shards", embedded, "--model", "tiny", "--out", first,
        "--max-steps", stage1_steps, *RECIPE,
    )  # fmt: skip
    record["stage2"] = _step(
        "rottrain", "stage2", "--shards", embedded, "--model", "tiny", "--from", first, "--out", second,
        "--max-steps", stage2_steps, *RECIPE,
    )  # fmt: skip
    record["eval"] = _step(
        "rottrain", "eval", second, "toy", "--corpus", "toy", "--split", "test", "--limit", EVALUATED_ROWS,
        "--modes", "rot,cot,no-cot",
    )  # fmt: skip
    record["budgets"] = _step(
        "rottrain", "eval", second, "toy", "--corpus", "toy", "--split", "test", "--limit", EVALUATED_ROWS,
        "--budget", BUDGETS,
    )  # fmt: skip
    record["seconds"] = round(time.monotonic() - started, 1)
    page = write_report(out, record, embedded=embedded, stages=(first, second))
    (out / "report.json").write_text(json.dumps(record, indent=2) + "\n")
    say(f"\nDone in {record['seconds']:.0f} s. Open {page} to see a strip and what one answer thought.")
    results: list[dict[str, Any]] = record["eval"]
    return results


def _step(program: str, *arguments: object) -> Any:
    """Run a command of ours as its own process and return its JSON. Raises DemoFailed."""
    words = [str(argument) for argument in arguments]
    say(f"\n$ {shlex.join([program, *words])}")
    command = [sys.executable, "-m", program, *words, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 -- our own command
    if done.returncode:
        raise DemoFailed(
            f"{shlex.join([program, *words])} ended with exit code {done.returncode}: its message is above"
        )
    say(done.stdout.strip())
    return json.loads(done.stdout)
