"""Frozen vision towers behind one small interface: grey pictures in, one embedding a latent out."""

from __future__ import annotations

from importlib import import_module

from rotdata.encoders.interface import Encoder, EncoderIdentity, Precision
from rotdata.encoders.weights import quiet_loading, tower_sha256
from rotdata.models import ModelFolder

__all__ = ["Encoder", "EncoderIdentity", "Precision", "default_device", "load_encoder", "quiet_loading", "tower_sha256"]


def default_device() -> str:
    """Where a tower runs if nobody says: a GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_encoder(folder: ModelFolder, *, dtype: Precision | None = None, device: str | None = None) -> Encoder:
    """The frozen tower of a model. By default on the GPU in bf16 if there is one, else on the CPU in fp32.

    Raises UnknownModel for an architecture without an encoder here.
    """
    module, _, name = folder.family().encoder.partition(":")
    device = device or default_device()
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    encoder: type[Encoder] = getattr(import_module(f"rotdata.encoders.{module}"), name)
    return encoder.load(folder, dtype=dtype, device=device)
