"""A vision tower's weights in a model's folder: which they are, their hash, and loading them alone."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rotdata.encoders.interface import Precision, TowerHashes
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


def settle() -> None:
    """Have MKL choose the code of its vector functions for this CPU, in this thread alone, before a model is there.

    Their first call stores the CPU's number and then, without a lock, translates it into that of the code. If several
    threads make that call, a cosine of rotary positions say, one may find the number in between, and computes its part
    with other code: cosines that are off by 1.5e-4, in the first call of the process alone.
    """
    import torch

    torch.zeros(1).cos()


def load_pretrained(
    model_class: type[PreTrainedModel], folder: ModelFolder, *, part: str, **settings: Any
) -> PreTrainedModel:
    """A model of that class, some part of the folder's, with its weights. Raises UnknownModel if one is missing."""
    from safetensors import SafetensorError

    settle()
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


def tower_hashes(folder: ModelFolder) -> TowerHashes:
    """The hashes of a model's vision tower; read once a process, unless its files change.

    It reads no other weight, so that a trainer can compare them without loading the tower.
    """
    files = folder.weight_files()
    return _hashes(folder, tuple((file, *_state(file)) for file in files))


def _state(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size


@lru_cache(maxsize=16)
def _hashes(folder: ModelFolder, files: tuple[tuple[Path, int, int], ...]) -> TowerHashes:
    """The hashes of the tower in `files`, each with its time and size, for the cache to see a change."""
    tensors = {short: found for file, *_ in files for short, found in _tower_tensors(folder, file)}
    if not tensors:
        raise UnknownModel(
            f"{folder.name} holds no weights named visual.* or vision_tower.*: it has no vision tower to read"
        )
    stored, values = hashlib.sha256(), hashlib.sha256()
    for short, (shape, as_stored, as_valued) in sorted(tensors.items()):
        for whole, hashed in ((stored, as_stored), (values, as_valued)):
            if hashed is not None:
                dtype, digest = hashed
                whole.update(json.dumps([short, dtype, shape]).encode() + digest)
    return TowerHashes(stored=stored.hexdigest(), values=values.hexdigest())


_Hashed = tuple[str, bytes]
"""A type, and the digest of values of that type."""


def _tower_tensors(folder: ModelFolder, file: Path) -> Iterator[tuple[str, tuple[list[int], _Hashed, _Hashed | None]]]:
    """Name, shape and hashes of each weight of the tower in a file: as it is stored, and by value."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        try:
            header = json.loads(stream.read(length))
            for name, entry in header.items():
                short = _tower_name(name)
                if short is not None:
                    start, stop = entry["data_offsets"]
                    stream.seek(8 + length + start)
                    stored = stream.read(stop - start)
                    if len(stored) < stop - start:
                        raise ValueError("it ends early")  # noqa: TRY301 -- as any other damage
                    yield short, (entry["shape"], *_hashes_of(entry["dtype"], stored))
        except (ValueError, OverflowError, MemoryError, KeyError, TypeError, AttributeError) as error:
            raise UnknownModel(
                f"{file.name} of {folder.name} is no safetensors file: fetch or copy it again"
            ) from error


def _hashes_of(dtype: str, stored: bytes) -> tuple[_Hashed, _Hashed | None]:
    """Of one tensor. Its values are hashed as the shortest of bfloat16 and float32 that holds them all.

    So what is stored is what is hashed for weights that were trained in either, and read once. Integers of 64 bits are
    no weights but places that are counted, which some releases of transformers save and others don't.
    """
    as_stored = dtype, hashlib.sha256(stored).digest()
    if dtype == "I64":
        return as_stored, None
    if dtype == "F16":
        dtype, stored = "F32", np.frombuffer(stored, "<f2").astype("<f4").tobytes()
    if dtype == "F32" and not np.frombuffer(stored, "<u2")[::2].any():
        dtype, stored = "BF16", np.frombuffer(stored, "<u2")[1::2].tobytes()
    return as_stored, as_stored if dtype == as_stored[0] else (dtype, hashlib.sha256(stored).digest())


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
