"""read: shards to torch tensors, a row each, against `datasets` in its torch format; read-bytes: raw fp16 over files.

read-batches: the loader of `rotdata.open_shards` against a DataLoader of the same `datasets` rows: padded, with texts.
tiny's embeddings of GSM8K where ROT_DATA names its folder, else of the toy corpus. The baseline's conversion of Parquet
to its own Arrow cache is warm-up, and not counted.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.dlpack import from_dlpack

from bench.common import compare
from bench.models import tiny
from bench.render_e2e import corpus_lines
from rotdata.corpora import Source
from rotdata.encoders import load_encoder
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.shards import EmbeddingShards, Shards

ROWS = 1000
BATCH = 16


def figures() -> Iterator[dict[str, Any]]:
    """The read, read-batches and read-bytes figures."""
    import datasets

    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    try:
        corpus, lines = corpus_lines()
        file = folder / "rows.jsonl"
        file.write_text("".join(lines[:ROWS]))
        pipeline.render(Source(location=str(file), corpus="gsm8k"), StripStyle(), folder / "strips")
        made = pipeline.embed(
            folder / "strips", load_encoder(tiny(), dtype="float32", device="cpu"), folder / "embedded"
        )
        files = [str(path) for path in sorted((folder / "embedded").glob("*.parquet"))]
        rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "cache"))
        formatted = rows.select_columns(["embedding"]).with_format("torch", dtype=torch.float16)
        shards = EmbeddingShards(folder / "embedded")

        def ours() -> list[torch.Tensor]:
            tensors = []
            for group in shards:
                values = from_dlpack(group.embedding_LD)  # no copy; from_numpy warns of memory to be read only
                tensors += values.split((group.offsets[1:] - group.offsets[:-1]).tolist())
            return tensors

        def baseline() -> list[torch.Tensor]:
            return [row["embedding"] for row in formatted]

        assert all(torch.equal(a, b) for a, b in zip(ours(), baseline(), strict=True))
        yield compare("read", ours, baseline, units=len(rows), unit="rows/s", corpus=corpus)
        texts = rows.select_columns(["id", "question", "cot", "answer", "embedding"])
        batches = DataLoader(texts.with_format("torch", dtype=torch.float32), BATCH, collate_fn=_padded)

        def our_batches() -> list[Any]:
            return list(Shards(shards).loader(BATCH))

        for one, other in zip(our_batches(), batches, strict=True):
            assert torch.equal(one["latents_BKD"], other["latents_BKD"])
            assert torch.equal(one["mask_BK"], other["mask_BK"])
            assert one["question"] == other["question"]
        yield compare("read-batches", our_batches, lambda: list(batches), units=len(rows), unit="rows/s", corpus=corpus)
        raw = made.latents * shards.width * 2
        yield {
            "name": "read-bytes",
            "ratio": round(raw / made.bytes, 3),
            "ours": made.bytes,
            "baseline": raw,
            "unit": "bytes",
            "corpus": corpus,
        }
    finally:
        shutil.rmtree(folder)


def _padded(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows of `datasets` as a batch, as one would write it."""
    latents: list[Tensor] = [row["embedding"] for row in rows]
    counts_B1 = torch.tensor([[len(each)] for each in latents])
    batch = {name: [row[name] for row in rows] for name in ("id", "question", "cot", "answer")}
    mask_BK = torch.arange(int(counts_B1.max())) < counts_B1
    return batch | {"latents_BKD": pad_sequence(latents, batch_first=True), "mask_BK": mask_BK}
