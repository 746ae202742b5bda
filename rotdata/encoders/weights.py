"""A vision tower's weights in a model's folder: which they are, their hash, and loading them alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rotdata.encoders.interface import Precision
from rotdata.encoders.models import ModelFolder
from rotdata.errors import UnknownModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOWER_NAMES: Mapping[str, str] = {
    r"^(model\.)?visual\.": "",
    r"^(model\.)?vision_tower\.(vision_model\.)?": "vision_tower.",
    r"^(model\.)?multi_modal_projector\.": "multi_modal_projector.",
}
"""How checkpoints, older and newer, name the tower's weights -> the names here."""


def load_tower(
    tower_class: type[PreTrainedModel], config: Any, folder: ModelFolder, *, dtype: Precision
) -> PreTrainedModel:
    """A tower of that class with the folder's weights, and no others read. Raises UnknownModel if one is missing."""
    import torch

    return load_pretrained(
        tower_class,
        folder,
        part="vision tower",
        config=config,
        key_mapping=dict(TOWER_NAMES),
        dtype=getattr(torch, dtype),
    )


def load_pretrained(
    model_class: type[PreTrainedModel], folder: ModelFolder, *, part: str, **settings: Any
) -> PreTrainedModel:
    """A model of that class, some part of the folder's, with its weights. Raises UnknownModel if one is missing."""
    from safetensors import SafetensorError

    try:
        with quiet_loading():  # it would list the other parts' weights as unexpected
            model, info = model_class.from_pretrained(
                folder.path,
                ignore_mismatched_sizes=True,  # they are refused below
                output_loading_info=True,
                **settings,
            )
    except SafetensorError as error:
        raise UnknownModel(f"the weights of {folder.name} are damaged ({error}): fetch or copy them again") from error
    missing = sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])})
    if missing:
        raise UnknownModel(
            f"{folder.name} lacks {len(missing)} weights of its {part} ({', '.join(missing[:3])} ...): "
            f"the download is incomplete or it is no {folder.config().get('model_type')} checkpoint"
        )
    return model


def tower_sha256(folder: ModelFolder) -> str:
    """SHA-256 over the vision tower's weights as stored: names, types, shapes and bytes in order of name.

    It reads no other weight, so that a trainer can compare it without loading the tower.
    """
    tensors: dict[str, tuple[dict[str, Any], bytes]] = {}
    for file in folder.weight_files():
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(length))
            except (ValueError, OverflowError, MemoryError) as error:
                raise UnknownModel(
                    f"{file.name} of {folder.name} is no safetensors file: fetch or copy it again"
                ) from error
            for name, entry in header.items():
                short = _tower_name(name)
                if short is not None:
                    start, stop = entry["data_offsets"]
                    stream.seek(8 + length + start)
                    tensors[short] = (entry, hashlib.sha256(stream.read(stop - start)).digest())
    if not tensors:
        raise UnknownModel(
            f"{folder.name} holds no weights named visual.* or vision_tower.*: it has no vision tower to read"
        )
    whole = hashlib.sha256()
    for short, (entry, digest) in sorted(tensors.items()):
        whole.update(json.dumps([short, entry["dtype"], entry["shape"]]).encode() + digest)
    return whole.hexdigest()


def _tower_name(name: str) -> str | None:
    """What a weight of the tower is called here; None for any other weight."""
    for stored, short in TOWER_NAMES.items():
        if re.match(stored, name):
            return re.sub(stored, short, name)
    return None


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' load report and progress bars off the screen; its errors still raise."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
