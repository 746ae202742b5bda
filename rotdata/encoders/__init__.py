"""Frozen vision towers behind one small interface: grey pictures in, one embedding a latent out."""

from rotdata.encoders.interface import (
    CallTooLarge,
    Encoder,
    EncoderIdentity,
    Kernel,
    Placement,
    Precision,
    TowerHashes,
)
from rotdata.encoders.loading import (
    CPU_PATCHES_PER_CALL,
    LazyEncoder,
    check_device,
    default_device,
    default_kernel,
    default_precision,
    load_encoder,
    patches_that_fit,
    placement,
)
from rotdata.encoders.weights import load_pretrained, quiet_loading, tower_hashes

__all__ = [
    "CPU_PATCHES_PER_CALL",
    "CallTooLarge",
    "Encoder",
    "EncoderIdentity",
    "Kernel",
    "LazyEncoder",
    "Placement",
    "Precision",
    "TowerHashes",
    "check_device",
    "default_device",
    "default_kernel",
    "default_precision",
    "load_encoder",
    "load_pretrained",
    "patches_that_fit",
    "placement",
    "quiet_loading",
    "tower_hashes",
]
