"""`python -m bench.gpu --out FILE [PART ...]`, or `python bench/gpu` where the repository is only unpacked."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = {"smoke": 140, "embed": 120, "train": 150, "generate": 120, "learn": 170}
"""Part -> its deadline in seconds, most valuable first."""
_GRACE_S = 15
"""Beyond its deadline, after which a part that does not end is ended."""
_LAST_WORDS = 12


def main(arguments: list[str]) -> int:
    """Run the parts, one after the other. Exit code 1 if one of them broke off."""
    asked = _parser().parse_args(arguments)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(ROOT))
    if asked.child:
        _run_here(asked)
        return 0
    ends = time.monotonic() + (asked.seconds or float("inf"))
    broken = [part for part in asked.parts or PARTS if _run_apart(part, asked, ends)]
    return int(bool(broken))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu", description=importlib.import_module("__main__").__doc__
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; by default all of them")
    parser.add_argument("--out", type=Path, required=True, help="file that JSON lines are added to")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny tries every part on a CPU")
    parser.add_argument("--device", help="as torch names it; by default cuda where there is one")
    parser.add_argument("--seconds", type=float, help="of all parts together; each has its own deadline besides")
    parser.add_argument("--commit", help="what is measured, where the folder is no git checkout")
    parser.add_argument("--base", default="tiny", help="model that the part learn trains")
    parser.add_argument("--corpus", default="toy:6-8", help="what it learns: as `rotdata render` takes it")
    parser.add_argument("--questions", help="what it is asked; by default the test questions of a toy corpus")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--deadline", type=float, help=argparse.SUPPRESS)
    return parser


def _run_here(asked: argparse.Namespace) -> None:
    """Measure one part in this process."""
    from bench.gpu.job import Job

    [part] = asked.parts
    job = Job.begin(
        part,
        out=asked.out,
        size=asked.size,
        device=asked.device,
        seconds=asked.deadline,
        commit=asked.commit,
        base=asked.base,
        corpus=asked.corpus,
        questions=asked.questions,
    )
    importlib.import_module(f"bench.gpu.{part}").run(job)


def _run_apart(part: str, asked: argparse.Namespace, ends: float) -> bool:
    """Measure one part in a process of its own; whether it broke off. What it has written stays."""
    if part not in PARTS:
        _write(asked.out, {"part": part, "skipped": f"there is no such part, only {', '.join(PARTS)}"})
        return True
    deadline = min(PARTS[part], ends - time.monotonic() - _GRACE_S)
    if deadline <= 0:
        _write(asked.out, {"part": part, "skipped": f"no time left of {asked.seconds:g} s"})
        return False
    command = [sys.executable, str(Path(__file__).resolve()), part, "--child", "--deadline", str(deadline)]
    for name in ("out", "size", "device", "commit", "base", "corpus", "questions"):
        if (value := getattr(asked, name)) is not None:
            command += [f"--{name}", str(value)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    started = time.monotonic()
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stderr=said,
            start_new_session=True,  # so that its own children end with it
        )
        try:
            code = process.wait(timeout=deadline + _GRACE_S)
        except subprocess.TimeoutExpired:
            code = None
        _end_group(process)
        seconds = round(time.monotonic() - started, 1)
        if code == 0:
            _write(asked.out, {"part": part, "ended": "well", "seconds": seconds})
            return False
        said.seek(0)
        words = said.read().splitlines()[-_LAST_WORDS:]
    how = "past its deadline" if code is None else f"with {code}"
    _write(asked.out, {"part": part, "ended": how, "seconds": seconds, "said": words})
    return True


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a part and whatever it has started that still runs."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _write(file: Path, line: dict[str, object]) -> None:
    text = json.dumps(line)
    with file.open("a") as lines:
        lines.write(text + "\n")
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
