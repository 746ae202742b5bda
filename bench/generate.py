"""generate: batched latents and answers with caches against one question at a time, its answer without a cache.

Random 8x512 model in fp32; 32 latents and exactly 32 answer tokens a question, batch 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from transformers import DynamicCache

from bench.common import compare
from bench.models import model_8x512, untrained
from rotdata.corpora.toy import toy_problems
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead

QUESTIONS, LATENTS, TOKENS = 8, 32, 32


def figures() -> Iterator[dict[str, Any]]:
    """The generate figure."""
    folder = model_8x512()
    backbone = Backbone.load(folder, dtype=torch.float32, device="cpu")
    backbone.eos_id = -1  # never produced: every answer has exactly TOKENS tokens
    torch.manual_seed(0)
    head = ProjectionHead(width_in=512, width_out=512, hidden=1024, activation="swiglu").eval()
    rot = untrained(backbone, head)
    questions = [problem.question for problem in islice(toy_problems("test"), QUESTIONS)]

    @torch.inference_mode()
    def one(question: str) -> list[int]:
        opened = torch.tensor([[*backbone.prompt_ids(question), backbone.begin_id]])
        inputs = backbone.embed(opened)
        cache = DynamicCache(config=backbone.model.config.text_config)
        hidden = backbone.hidden(inputs, cache=cache)[:, -1]
        for _ in range(LATENTS):
            latent = head(hidden)[None]
            inputs = torch.cat([inputs, latent], dim=1)
            hidden = backbone.hidden(latent, cache=cache)[:, -1]
        mark, said = backbone.mark_ids, []
        given = [backbone.end_id, *mark]
        for _ in range(TOKENS):
            inputs = torch.cat([inputs, backbone.embed(torch.tensor([given]))], dim=1)
            given = [int(backbone.logits(backbone.hidden(inputs)[:, -1]).argmax())]
            said += given
        return mark + said

    def ours() -> list[str]:
        made = rot.generate(questions, budget=LATENTS, batch_size=QUESTIONS, max_answer_tokens=TOKENS)
        return [generation.reply for generation in made]

    def baseline() -> list[str]:
        return [backbone.decode(one(question)) for question in questions]

    same = sum(a == b for a, b in zip(ours(), baseline(), strict=True))
    figure = compare("generate", ours, baseline, units=QUESTIONS, unit="questions/s", rounds=2)
    yield figure | {"same_replies": f"{same} of {QUESTIONS}"}
