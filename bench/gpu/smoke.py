"""smoke: `rottrain smoke` on the device, and beside it the tests that only a GPU can pass."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.gpu.job import ROOT, Job

_REASON = 400
_STAGES = ("stage1", "stage2")


def run(job: Job) -> None:
    """Both at once: neither is timed, and each spends most of its time importing."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(job.measure, "tests marked gpu", lambda: tests(job))]
        both.append(pool.submit(job.measure, "rottrain smoke", lambda: line(job)))
        for each in both:
            each.result()


def line(job: Job) -> Mapping[str, Any]:
    """The whole line on a few rows: what each step took, losses, where and in what precision it ran."""
    command = [sys.executable, "-m", "rottrain", "smoke", "--model", job.base, "--json"]
    command += ["--rows", str(job.size.smoke_rows), "--steps", str(job.size.smoke_steps)]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(job), capture_output=True, text=True, timeout=job.left, check=False
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        raise RuntimeError(f"it ended with {done.returncode}: {done.stderr[-_REASON:]}") from None
    return summary(found)


def summary(found: Mapping[str, Any]) -> dict[str, Any]:
    """What of the command's JSON is worth a line."""
    steps = found["steps"]
    failed = [step for step in steps if step["code"]]
    return {
        "ok": found["ok"],
        "seconds": {step["name"]: step["seconds"] for step in steps},
        "ran": {step["name"]: step["result"]["ran"] for step in steps if step["name"] in _STAGES and step["result"]},
        "fingerprints": found["fingerprints"],
        **({"said": failed[-1]["said"]} if failed else {}),
    }


def tests(job: Job) -> Mapping[str, Any]:
    """Passed, skipped, and what failed with its reason."""
    with TemporaryDirectory(prefix="rot-gpu-tests-") as folder:
        report, config = Path(folder) / "report.xml", Path(folder) / "pytest.ini"
        config.write_text("[pytest]\nmarkers =\n  gpu\n")  # not ours, which wants the versions that we pin
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
        command += ["-c", str(config), "--rootdir", str(ROOT), f"--junitxml={report}"]
        done = subprocess.run(
            command, cwd=ROOT, env=_environment(job), capture_output=True, text=True, timeout=job.left, check=False
        )
        if not report.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stderr or done.stdout)[-_REASON:]}")
        cases = list(ET.parse(report).getroot().iter("testcase"))  # noqa: S314 -- pytest wrote it
    outcome = {case.get("name", ""): _outcome(case) for case in cases}
    return {
        "passed": sorted(name for name, found in outcome.items() if found is None),
        "skipped": sorted({found["skipped"] for found in outcome.values() if found and "skipped" in found}),
        "failed": {name: found["failed"] for name, found in outcome.items() if found and "failed" in found},
    }


def _outcome(case: ET.Element) -> dict[str, str] | None:
    """None for a test that has passed."""
    for kind, tag in (("failed", "failure"), ("failed", "error"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            return {kind: found.get("message", "")[:_REASON]}
    return None


def _environment(job: Job) -> dict[str, str]:
    """This process's, without the Hub, and without the GPU where another device is asked for."""
    hidden = {} if job.on_gpu else {"CUDA_VISIBLE_DEVICES": ""}
    return os.environ | {"HF_HUB_OFFLINE": "1"} | hidden
