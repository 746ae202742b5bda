"""Random models of the Qwen3-VL architecture at the sizes that the figures ask for."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, Qwen3VLConfig, Qwen3VLVisionModel

from rotdata.encoders import Precision, quiet_loading
from rotdata.encoders.models import ModelFolder, find_model
from rottrain.generation.generate import RoT
from rottrain.model.architectures import architecture_of
from rottrain.model.backbone import Backbone, _without_eyes
from rottrain.model.checkpoints import CheckpointConfig, Reached, Request, shape_of
from rottrain.model.head import ProjectionHead
from rottrain.training.tiny import tiny_config, tiny_tokenizer


@cache
def model_8x512() -> ModelFolder:
    """Language model and tower of 8 layers of width 512, random weights, tiny's tokenizer."""
    config = tiny_config()
    text, vision = config.text_config, config.vision_config
    text.num_hidden_layers, text.hidden_size, text.intermediate_size = 8, 512, 1536
    text.num_attention_heads = text.num_key_value_heads = 16
    vision.depth, vision.hidden_size, vision.intermediate_size, vision.num_heads = 8, 512, 2048, 8
    vision.out_hidden_size = 512
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return ModelFolder(name="8x512", path=folder, revision=None)


def tiny() -> ModelFolder:
    """The embedded model."""
    return find_model("tiny")


@cache
def tower_4b() -> ModelFolder:
    """Qwen3-VL-4B's vision tower at its true shape with random weights, in bf16, without its language model."""
    return tower("qwen3-vl-4b")


@cache
def tower(shape: str) -> ModelFolder:
    """The vision tower of a shape with random weights, in bf16, and tiny's tokenizer; no language model."""
    from safetensors.torch import save_file

    config = shape_config(shape)
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    config.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    made = Qwen3VLVisionModel(config.vision_config).to(torch.bfloat16)
    weights = {f"model.visual.{name}": value.contiguous() for name, value in made.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    return ModelFolder(name=f"{shape} (random)", path=folder, revision=None)


_TEXT = {
    "qwen3-vl-4b": {"num_hidden_layers": 36, "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32},
    "qwen3-vl-2b": {"num_hidden_layers": 28, "hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16},
}
SHAPES = ("tiny", *_TEXT)
"""What `shape_config` knows."""


def shape_config(shape: str) -> Qwen3VLConfig:
    """The configuration of tiny, or of a published Qwen3-VL at its true shape."""
    if shape == "tiny":
        return tiny_config()
    rope = {
        "rope_type": "default",
        "rope_theta": 5e6,
        "mrope_section": [24, 20, 20],
        "mrope_interleaved": True,
    }
    return Qwen3VLConfig(
        text_config={
            **_TEXT[shape],
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151_936,
            "rope_parameters": rope,
        },
        vision_config={
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
            "out_hidden_size": _TEXT[shape]["hidden_size"],
            "deepstack_visual_indexes": [5, 11, 17],
        },
        tie_word_embeddings=True,
    )


def language_model(shape: str, *, device: torch.device, dtype: torch.dtype) -> Backbone:
    """The language model of a shape with random weights, made where it stays; tiny's tokenizer, whose ids are small."""
    folder = Path(tempfile.mkdtemp(prefix="rot-bench-"))
    config = shape_config(shape)
    config.save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder)
    found = ModelFolder(name=f"{shape} (random)", path=folder, revision=None)
    torch.manual_seed(0)
    with torch.device(device):
        model = _without_eyes(architecture_of(found))._from_config(config, dtype=dtype)  # noqa: SLF001 -- as AutoModel does
    model.requires_grad_(requires_grad=False)
    return Backbone(model.to(device).eval(), tokenizer, found)


def stock_tower(folder: ModelFolder, dtype: Precision) -> Qwen3VLVisionModel:
    """A model's vision tower as transformers has it."""
    with quiet_loading():
        return Qwen3VLVisionModel.from_pretrained(
            folder.path,
            config=AutoConfig.from_pretrained(folder.path).vision_config,
            key_mapping={r"^model\.visual\.": ""},
            dtype=getattr(torch, dtype),
        ).eval()


def untrained(backbone: Backbone, head: ProjectionHead) -> RoT:
    """A base model and a random head as if they were a checkpoint."""
    name = backbone.folder.name
    asked = Request(stage="stage1", model=name, shards="", limit=None, start=None, recipe={})
    config = CheckpointConfig(
        stage="stage1", model=name, encoder={}, style={}, encoding="", prompt=backbone.prompt, head=shape_of(head),
        run=asked, result=Reached(steps=0, loss=0.0, validation=None), learnt=[],
    )  # fmt: skip
    return RoT(backbone, head, config)
