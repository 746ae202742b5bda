"""What --precision means: the types of the language model's weights and of its passes, and where it runs."""

from __future__ import annotations

import torch

from rotdata.encoders import default_device, default_precision
from rotdata.encoders.models import ModelFolder
from rottrain.config import Attention, Precision, Trainable
from rottrain.model.backbone import Backbone


def load_backbone(
    folder: ModelFolder,
    precision: Precision,
    *,
    trainable: Trainable = "head",
    attention: Attention = "auto",
    four_bit: bool = False,
) -> Backbone:
    """The base model on the GPU if there is one, in the precision asked for; `auto` depends on what will learn."""
    device = default_device()
    if precision == "auto":
        precision = _automatic(device, trainable)
    return Backbone.load(
        folder,
        dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
        device=device,
        arithmetic=torch.bfloat16 if precision == "mixed" else None,
        attention=attention,
        four_bit=four_bit,
    )


def precision_of(backbone: Backbone) -> Precision:
    """What a backbone was loaded in; never `auto`."""
    if backbone.arithmetic is not None:
        return "mixed"
    return "bfloat16" if backbone.dtype == torch.bfloat16 else "float32"


def _automatic(device: str, trainable: Trainable) -> Precision:
    """The precision `auto` on a device."""
    if default_precision(device) == "float32":
        return "float32"
    if trainable in ("full", "lm-head"):
        return "mixed"
    return "float32" if device == "cpu" else "bfloat16"
