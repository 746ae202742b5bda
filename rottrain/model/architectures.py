"""What the backbones differ in: one entry a model_type. Knows nothing of torch.

Everything else they share, and backbone.py relies on it: `model.language_model` with `embed_tokens` and `layers`,
`lm_head` beside it, tied to the embedding table or not; positions of text that count from 0, one number a token;
a cache that transformers makes from the configuration (caches.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rotdata.encoders.models import ModelFolder
from rotdata.errors import UnknownModel


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A kind of vision-language model whose language model can be trained here."""

    model_class: str
    """Its class in transformers, language-model head included."""
    eyes: tuple[str, ...] = ("visual",)
    """What of `model` looks at pictures; it is not loaded."""
    brackets: tuple[str, str] = ("<|vision_start|>", "<|vision_end|>")
    """Tokens whose rows the begin and end token start from: they open and close what is not text, and their norm is
    the table's own."""


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "qwen3_vl": Architecture(model_class="Qwen3VLForConditionalGeneration"),
        "qwen3_vl_moe": Architecture(model_class="Qwen3VLMoeForConditionalGeneration"),
        "qwen3_5": Architecture(model_class="Qwen3_5ForConditionalGeneration"),
        "qwen3_5_moe": Architecture(model_class="Qwen3_5MoeForConditionalGeneration"),
        "qwen2_5_vl": Architecture(model_class="Qwen2_5_VLForConditionalGeneration"),
        # LLaVA has no tokens around a picture. Square brackets are single tokens of every Llama and Mistral vocabulary.
        "llava_next": Architecture(
            model_class="LlavaNextForConditionalGeneration",
            eyes=("vision_tower", "multi_modal_projector"),
            brackets=("[", "]"),
        ),
    }
)
"""model_type of a model's config.json -> what is its own."""

# One pattern for all: modules that an architecture lacks match nothing. The language model only, since "all-linear"
# would also hit a vision tower; not the routers of experts, nor the small gates of linear attention.
_LAYER = r"^model\.language_model\.layers\.\d+\."
_PROJECTIONS = (
    r"(self_attn\.(q|k|v|o)_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj)"
    r"|mlp\.(shared_expert\.)?(gate|up|down)_proj)"
)
EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
"""Parameters that hold all experts of a layer, by the end of their name."""


def lora_targets(names: Sequence[str] | None) -> str:
    """A pattern of the modules that LoRA adapts: those of some names in the language model's layers, or the usual."""
    projections = _PROJECTIONS if names is None else rf"(\w+\.)*({'|'.join(names)})"
    return f"{_LAYER}{projections}$"


def architecture_of(folder: ModelFolder) -> Architecture:
    """What is a model's own. Raises UnknownModel for an architecture that is not known to work."""
    model_type = folder.config().get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise UnknownModel(f"no backbone for model_type {model_type!r} ({folder.name}): known are {known}")
    return ARCHITECTURES[model_type]
