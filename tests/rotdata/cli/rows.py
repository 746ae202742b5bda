"""A GSM8K record and a small render command, which several test modules use."""

from __future__ import annotations

GSM8K = {"question": "How many?", "answer": "3+4 = <<3+4=7>>7\n#### 7"}
TOY = ("render", "toy", "--corpus", "toy", "--limit", 10, "--rows-per-shard", 4)
