"""memory: peak resident memory, children included, of render and embed at 2,000 rows over that at 20,000 rows.

Shards are of 200 rows, so that the few rows fill the pipeline too: what is compared is a run under way, not its start.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.render_e2e import corpus_lines

FEW, MANY = 2000, 20_000
ROWS_PER_SHARD = 200

_MEASURED = """
import json, resource, sys
from rotdata.cli import main
sys.argv = ["rotdata", *json.loads(sys.argv[1])]
try:
    main()
finally:
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps(sum(peaks)), file=sys.stderr)
"""


def figures() -> Iterator[dict[str, Any]]:
    """The memory figure: the worse of render (two processes) and embed (tiny)."""
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    try:
        corpus, lines = corpus_lines()
        file = folder / "rows.jsonl"
        file.write_text("".join((lines * -(-MANY // len(lines)))[:MANY]))
        peaks: dict[str, dict[int, int]] = {"render": {}, "embed": {}}
        for rows in (FEW, MANY):
            strips, embedded = folder / f"strips-{rows}", folder / f"embedded-{rows}"
            render = ["render", str(file), "--corpus", "gsm8k", "--limit", str(rows), "--num-proc", "2"]
            render += ["--rows-per-shard", str(ROWS_PER_SHARD)]
            peaks["render"][rows] = _peak_kib([*render, "--out", str(strips)])
            peaks["embed"][rows] = _peak_kib(["embed", str(strips), "--model", "tiny", "--out", str(embedded)])
    finally:
        shutil.rmtree(folder)
    ratios = {name: peak[FEW] / peak[MANY] for name, peak in peaks.items()}
    worst = min(ratios, key=lambda name: ratios[name])
    yield {
        "name": "memory",
        "ratio": round(ratios[worst], 3),
        "ours": round(peaks[worst][MANY] / 1024, 1),
        "baseline": round(peaks[worst][FEW] / 1024, 1),
        "unit": "MiB at 20,000 rows, at 2,000 rows",
        "corpus": corpus,
        **{f"{name}_ratio": round(ratio, 3) for name, ratio in ratios.items()},
    }


def _peak_kib(arguments: list[str]) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, json.dumps(arguments)], capture_output=True, text=True, check=True
    )
    return int(done.stderr.strip().splitlines()[-1])
