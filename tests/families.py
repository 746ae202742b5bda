"""Model folders of every family with random fp32 weights, built from configuration classes, tokenizer included."""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaTokenizer,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
)

from rottrain.training.tiny import tiny_tokenizer

ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
TEXT = {
    "num_hidden_layers": 2,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rope_parameters": ROPE,
    "bos_token_id": None,
    "eos_token_id": None,
}
HYBRID = TEXT | {
    "rope_parameters": ROPE | {"partial_rotary_factor": 1.0},
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
TOWER = {
    "depth": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_heads": 4,
    "out_hidden_size": 48,
    "initializer_range": 0.05,
}
TOWER_3 = TOWER | {"patch_size": 16, "num_position_embeddings": 64}
THINKING = (
    "{%- if add_generation_prompt -%}{%- if enable_thinking is defined and enable_thinking is false -%}"
    "<think></think>{%- else -%}<think>{%- endif -%}{%- endif -%}"
)
"""What Qwen3.5's chat template puts where a reply starts."""
TYPED_PARTS = (
    "{% for message in messages %}[INST] "
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    " [/INST]{% endfor %}"
)
"""A chat template that finds no text in a message that is a plain string, as LLaVA's."""


def qwen3_vl(**whole: Any) -> PreTrainedModel:
    vision = TOWER_3 | {"deepstack_visual_indexes": [1]}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, **_with_text(TEXT, whole)))


def qwen3_vl_moe(**whole: Any) -> PreTrainedModel:
    vision = TOWER_3 | {"deepstack_visual_indexes": [1]}
    return Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(vision_config=vision, **_with_text(TEXT | EXPERTS, whole))
    )


def qwen3_5(**whole: Any) -> PreTrainedModel:
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(vision_config=TOWER_3, **_with_text(HYBRID, whole)))


def qwen3_5_moe(**whole: Any) -> PreTrainedModel:
    text = HYBRID | EXPERTS | {"shared_expert_intermediate_size": 32}
    return Qwen3_5MoeForConditionalGeneration(Qwen3_5MoeConfig(vision_config=TOWER_3, **_with_text(text, whole)))


def qwen2_5_vl(**whole: Any) -> PreTrainedModel:
    vision = TOWER | {"patch_size": 14, "window_size": 112, "fullatt_block_indexes": [2]}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, **_with_text(TEXT, whole)))


def llava_next(**whole: Any) -> PreTrainedModel:
    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": 56,
        "projection_dim": 32,
    }
    text = {name: value for name, value in TEXT.items() if name != "rope_parameters"}
    text |= {"model_type": "mistral", "sliding_window": None}
    return LlavaNextForConditionalGeneration(LlavaNextConfig(vision_config=vision, **_with_text(text, whole)))


BUILT: dict[str, Callable[..., PreTrainedModel]] = {
    "qwen3_vl": qwen3_vl,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_5": qwen3_5,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen2_5_vl": qwen2_5_vl,
    "llava_next": llava_next,
}
"""model_type -> what builds a small model of it; `tie_word_embeddings` and `vocab_size` may be given."""


def build(name: str, **whole: Any) -> PreTrainedModel:
    """A model of that family whose weights are far from the usual start, where attention is next to uniform."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BUILT[name](**whole).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.05)
    return model


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """One that any text can be spelled with, of the family's kind, chat template included."""
    if name == "llava_next":
        return llama_tokenizer()
    tokenizer = tiny_tokenizer()
    if name.startswith("qwen3_5"):
        tokenizer.chat_template += THINKING
    return tokenizer


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama and Mistral have it: a mark of the start of a sequence, spaces joined to words, bytes for the rest."""
    characters = ["▁", *string.ascii_letters, *string.digits, *string.punctuation]
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *characters]
    merges = [("▁", letter) for letter in string.ascii_letters] + [("▁", "["), ("#", "#")]
    vocabulary += ["".join(pair) for pair in merges]
    return LlamaTokenizer(
        vocab={token: number for number, token in enumerate(vocabulary)},
        merges=merges,
        pad_token="<unk>",
        add_bos_token=True,
        chat_template=TYPED_PARTS,
    )


def save(name: str, folder: Path, **whole: Any) -> Path:
    """Write a model of that family and its tokenizer."""
    build(name, **whole).save_pretrained(folder)
    tokenizer_of(name).save_pretrained(folder)
    return folder


def _with_text(text: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """A whole configuration's arguments from those of its text part."""
    tied = whole.pop("tie_word_embeddings", False)
    return {
        "text_config": {"vocab_size": 448} | text | whole | {"tie_word_embeddings": tied},
        "tie_word_embeddings": tied,
    }
