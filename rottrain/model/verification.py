"""Verification of a finished checkpoint: everything that can be told from its folder, without its base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotdata.errors import CheckpointError
from rotdata.shards import Mismatch
from rottrain.model import checkpoints, tensors
from rottrain.model.checkpoints import BOOK, CLASSES, CONFIG, HEAD, PROBE, CheckpointConfig
from rottrain.model.trained import Trained

_LOADS: dict[str, Callable[[Path, CheckpointConfig], Any]] = {
    HEAD: checkpoints.load_head,
    PROBE: checkpoints.load_probe,
    BOOK: checkpoints.load_book,
}
"""What fits together without the base model."""


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found of a checkpoint."""

    stage: checkpoints.Stage | None
    """None where config.json itself is damaged."""
    files: int
    """How many were looked at, config.json among them."""
    hashed: bool
    """Whether it says what its files must hash to; those of earlier releases don't."""
    mismatches: list[Mismatch]


def verify(folder: Path) -> Verified:
    """Compare hashes, and see that weights are finite and fit together. Raises CheckpointError if nothing is there.

    Of an exported folder, its checkpoint and the weights beside it.
    """
    trained = Trained.find(folder)
    folder = trained.folder
    try:
        config = checkpoints.load_config(folder)
    except CheckpointError as error:
        if not (folder / CONFIG).exists():
            raise
        return Verified(stage=None, files=1, hashed=False, mismatches=[Mismatch(CONFIG, str(error))])
    names = checkpoints.files_of(folder, config)
    found = [Mismatch(name, problem) for name in names for problem in _told(_look_at, folder, config, name)]
    damaged = {mismatch.file for mismatch in found}
    for name, load in _LOADS.items():
        if name not in damaged and not (name == HEAD and config.head is None):
            found += [Mismatch(name, problem) for problem in _told(load, folder, config)]
    found += [Mismatch(name, problem) for name in trained.files for problem in _told(trained.check, name)]
    names += trained.files
    return Verified(stage=config.stage, files=1 + len(names), hashed=config.files is not None, mismatches=found)


def _look_at(folder: Path, config: CheckpointConfig, name: str) -> None:
    """Raise CheckpointError if a file is not what was written, or holds what no weights are."""
    checkpoints.checked_sha256(folder, config, name)
    if name.endswith(".safetensors"):
        tensors.load(folder / name, counts=(CLASSES,) if name == BOOK else ())


def _told(look: Callable[..., Any], *arguments: Any) -> Iterator[str]:
    """What is wrong with what is looked at, if anything."""
    try:
        look(*arguments)
    except CheckpointError as error:
        yield str(error)
