"""What an answer attends to: weights of every layer, all of them accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from rottrain.analysis.attention import answer_attention
from rottrain.generation.generate import RoT

QUESTION, REPLY = "2+2?", "#### 4"


@pytest.fixture(scope="module")
def rot(stage2_checkpoint: Path) -> RoT:
    return RoT.from_pretrained(stage2_checkpoint, precision="float32")


def test_every_token_has_its_weights_and_they_add_up_to_one(rot: RoT) -> None:
    found = answer_attention(rot, QUESTION, torch.randn(3, 192), REPLY)
    latents = torch.tensor(found.latents)
    count = len(rot.backbone.text_ids(REPLY)) + 1
    assert (len(found.tokens), "".join(found.tokens), found.tokens[-1]) == (count, REPLY, "")
    assert latents.shape == (4, count, 3)
    total = latents.sum(dim=-1) + torch.tensor(found.question) + torch.tensor(found.rest)
    assert_close(total, torch.ones(4, count), atol=1e-3, rtol=0)


def test_weights_are_those_of_the_model_s_own_attention(rot: RoT) -> None:
    latents = torch.randn(2, 192)
    found = answer_attention(rot, QUESTION, latents, REPLY)
    backbone = rot.backbone
    first = len(backbone.prompt_ids(QUESTION)) + 1
    before = torch.tensor([*backbone.prompt_ids(QUESTION), backbone.begin_id])
    after = torch.tensor([backbone.end_id, *backbone.text_ids(REPLY)])
    inputs = torch.cat([backbone.embed(before), latents, backbone.embed(after)])[None]
    layer = backbone.model.model.language_model.layers[0]
    seen = {}
    hook = layer.self_attn.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    with torch.no_grad():
        backbone.hidden(inputs)
        hook.remove()
        heads, width = 6, 32
        query, key = (
            norm(project(seen["hidden_states"]).view(1, -1, heads, width)).transpose(1, 2)
            for norm, project in (
                (layer.self_attn.q_norm, layer.self_attn.q_proj),
                (layer.self_attn.k_norm, layer.self_attn.k_proj),
            )
        )
        cos, sin = (part[:, None] for part in seen["position_embeddings"])

        def turned(x: torch.Tensor) -> torch.Tensor:
            left, right = x.chunk(2, dim=-1)
            return x * cos + torch.cat([-right, left], dim=-1) * sin

        scores = turned(query) @ turned(key).transpose(-1, -2) / width**0.5
        causal = torch.ones(scores.shape[-2:]).tril().bool()
        weights = scores.masked_fill(~causal, -torch.inf).softmax(dim=-1).mean(dim=1)[0]
    assert_close(torch.tensor(found.latents[0]), weights[first + 2 :, first : first + 2], atol=1e-4, rtol=1e-3)


def test_the_usual_attention_comes_back(rot: RoT) -> None:
    language = rot.backbone.model.model.language_model
    before = language.config._attn_implementation
    language.set_attn_implementation("sdpa")
    try:
        answer_attention(rot, QUESTION, torch.randn(1, 192), REPLY)
        assert language.config._attn_implementation == "sdpa"
    finally:
        language.set_attn_implementation(before)
