"""`python -m bench.real_input [NAME ...]`: real corpora through the whole line; a JSON line a step.

Corpora come from the folder that ROT_DATA names, the tokenizer for the compression table from ROT_TOKENIZER. Names are
compression, line and tower-4b; without any, all of them.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rotdata import corpora
from rotdata.rendering.strips import StripStyle, renderer

CORPORA = {
    "gsm8k": ("gsm8k_train.jsonl", "train"),
    "gsm8k-aug": ("gsm8k_aug_valid.txt", "validation"),
    "math": ("math500.jsonl", "test"),
}
SIZES_PX = (20, 16, 12)
STEPS = 5


def compression(data: Path) -> None:
    """Mean text tokens against mean latents, by corpus and font size."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(os.environ["ROT_TOKENIZER"]) / "tokenizer.json"))
    for corpus, (file, split) in CORPORA.items():
        source = corpora.Source(location=str(data / file), corpus=corpus, split=split)
        texts = [row.cot for row in corpora.read(source) if isinstance(row, corpora.Row)]
        tokens = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts)) / len(texts)
        line: dict[str, Any] = {"corpus": corpus, "rows": len(texts), "text_tokens": round(tokens, 1)}
        for size in SIZES_PX:
            draw = renderer(StripStyle(font_size_px=size))
            latents = sum(draw.render(text).num_latents for text in texts) / len(texts)
            line[f"latents_{size}px"] = round(latents, 1)
            line[f"ratio_{size}px"] = round(tokens / latents, 2)
        print(json.dumps(line), flush=True)


def line(data: Path, out: Path) -> None:
    """Render, embed with tiny and train both stages for some steps on each corpus."""
    for corpus in ("gsm8k", "math"):
        file, split = CORPORA[corpus]
        strips, embedded = out / f"{corpus}-strips", out / f"{corpus}-embedded"
        first, second = out / f"{corpus}-stage1", out / f"{corpus}-stage2"
        run("rotdata", "render", data / file, "--corpus", corpus, "--split", split, "--font", "DejaVu", "--out", strips)
        run("rotdata", "embed", strips, "--model", "tiny", "--out", embedded)
        run("rotdata", "verify", embedded)
        recipe = ("--max-steps", STEPS, "--batch-size", 4, "--rollout", "teacher")
        run("rottrain", "stage1", "--shards", embedded, "--model", "tiny", "--out", first, *recipe)
        run("rottrain", "stage2", "--shards", embedded, "--model", "tiny", "--from", first, "--out", second, *recipe)


def tower(data: Path, out: Path) -> None:
    """64 rows of GSM8K through a tower of Qwen3-VL-4B's shape in bf16, and the memory it took."""
    from bench.models import tower_4b

    file, _ = CORPORA["gsm8k"]
    strips = out / "64-strips"
    run("rotdata", "render", data / file, "--corpus", "gsm8k", "--limit", 64, "--out", strips)
    model = tower_4b().path
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    run("rotdata", "embed", strips, "--model", model, "--dtype", "bfloat16", "--out", out / "64-embedded")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"peak_rss_gib": round(max(before, peak) / 2**20, 2)}), flush=True)


def run(program: str, *arguments: object) -> None:
    """Run a command of ours with --json and print what it says; stops at a failure."""
    words = [str(argument) for argument in arguments]
    command = [sys.executable, "-m", program, *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{program} {words[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    print(json.dumps({"command": f"{program} {words[0]}", "result": json.loads(done.stdout)}), flush=True)


def main(names: list[str]) -> None:
    """Run the named parts."""
    data = Path(os.environ["ROT_DATA"])
    with tempfile.TemporaryDirectory(prefix="rot-real-") as folder:
        for name in names or ("compression", "line", "tower-4b"):
            if name == "compression":
                compression(data)
            elif name == "line":
                line(data, Path(folder))
            else:
                tower(data, Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])
