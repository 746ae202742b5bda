"""What was trained, wherever it lies: a finished checkpoint, or what `rottrain export` made of one; here or on the Hub.

An exported folder holds a checkpoint too, in `checkpoint/`, without what the language model has learnt: that is in the
adapter or in the whole model beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Literal

from rotdata.encoders.models import ModelFolder, find_model
from rotdata.errors import CheckpointError, UnknownModel
from rotdata.shards.files import file_sha256
from rottrain import records
from rottrain.config import Precision
from rottrain.model import checkpoints
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CheckpointConfig
from rottrain.model.precision import load_backbone
from rottrain.model.tensors import AGAIN

Weights = Literal["adapter", "whole"]

SETTINGS, CHECKPOINT = "rot.json", "checkpoint"
"""Of an exported folder."""
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[^@]+)?")


@dataclass(frozen=True)
class _Settings:
    """What is asked of an exported folder's settings, which say more."""

    weights: Weights
    base: str | None
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trained:
    """A checkpoint, alone or in an exported folder."""

    folder: Path
    """Where the checkpoint's own files are."""
    exported: ModelFolder | None = None
    """What holds the adapter or the whole model, where that was exported."""
    weights: Weights = "adapter"
    base: str | None = None
    """How an exported adapter names its base model."""
    files: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of exported weights; of an export of an earlier release, which did not keep them, none."""

    @classmethod
    def find(cls, name: Path | str) -> Trained:
        """What lies in a folder, or is OWNER/NAME[@REVISION] on the Hub. Raises CheckpointError."""
        place = Path(name)
        if _is_part(place):
            place = place.parent
        if _is_there(place) or not _ON_HUB.fullmatch(str(name)):
            found = ModelFolder(name=place.absolute().name, path=place, revision=None)
        else:
            found = _on_hub(str(name))
        if not _is_there(found.path / SETTINGS):
            return cls(found.path)
        settings = _settings(found.path / SETTINGS)
        if not (found.path / CHECKPOINT).is_dir():
            raise CheckpointError(
                f"{found.path} has no {CHECKPOINT} folder: it is incomplete, or of an earlier release; export again"
            )
        return cls(found.path / CHECKPOINT, found, settings.weights, settings.base, settings.files)

    @cached_property
    def config(self) -> CheckpointConfig:
        """What the checkpoint says of itself. Raises CheckpointError."""
        return checkpoints.load_config(self.folder)

    def load(self, *, model: str | None = None, precision: Precision = "auto") -> Backbone:
        """The base model, or `model` where that lies elsewhere now, with what it has learnt.

        Raises CheckpointError if the two don't belong together, UnknownModel.
        """
        for name in self.files:
            self.check(name)
        whole = self.exported is not None and self.weights == "whole"
        named = model or self.base or self.config.model
        folder = self.exported if whole and self.exported is not None else find_model(named)
        backbone = load_backbone(folder, precision)
        head = self.config.head
        if head is not None and backbone.width != head["width_in"]:
            raise CheckpointError(
                f"{self.folder} was trained on a model of width {head['width_in']}, {named} has {backbone.width}: "
                f"name the right one, {self.config.model}, with --model"
            )
        checkpoints.check_backbone(self.folder, self.config, backbone)
        if self.exported is None:
            checkpoints.load_learnt(self.folder, self.config, backbone)
        elif whole:
            backbone.trains_language = True
        else:
            checkpoints.load_adapter(self.exported.path, backbone)
        return backbone

    def check(self, name: str) -> None:
        """Raise CheckpointError if a file of exported weights is not what was written."""
        assert self.exported is not None
        file = self.exported.path / name
        if not (file.is_file() and file_sha256(file) == self.files[name]):
            raise CheckpointError(f"{file} is not what was written, but missing, damaged or another file: {AGAIN}")

    def load_base(self, trained: Backbone, *, model: str | None = None) -> Backbone:
        """The model before it was trained, in the precision of `trained`. Raises CheckpointError, UnknownModel."""
        return Backbone.load(
            self.base_of(model), dtype=trained.dtype, device=trained.device.type, arithmetic=trained.arithmetic
        )

    def base_of(self, model: str | None = None) -> ModelFolder:
        """Where the base model lies. Raises CheckpointError, UnknownModel."""
        named = model or self.base or self.config.model
        try:
            return find_model(named)
        except UnknownModel as error:
            if model or self.exported is None:
                raise
            raise CheckpointError(
                f"the base model of {self.exported.path} is not in it, and {named} is not to be found ({error}): name "
                "it with --model"
            ) from error


def _settings(file: Path) -> _Settings:
    """Raises CheckpointError for what `rottrain export` does not write."""
    remedy = "it is damaged, or none that `rottrain export` has written: export again"
    found = records.read(file, remedy=remedy)
    asked = {each.name for each in fields(_Settings)}
    known = {name: value for name, value in found.items() if name in asked} if isinstance(found, dict) else found
    return records.as_record(_Settings, known, file, remedy=remedy)


def check_not_exported(folder: Path) -> None:
    """Raise CheckpointError for a folder that can be asked but not trained on, or exported again."""
    if _is_there(folder / SETTINGS) or _is_part(folder):
        raise CheckpointError(
            f"{folder} was exported: training goes on, and exports are made, from the checkpoint that it was made of"
        )


def _is_part(folder: Path) -> bool:
    """Whether a folder is the checkpoint within an exported one, which lacks what the language model has learnt."""
    return folder.name == CHECKPOINT and _is_there(folder.parent / SETTINGS)


def _is_there(path: Path) -> bool:
    """Whether there is such a file or folder; one that can't be named or looked at is not there."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _on_hub(name: str) -> ModelFolder:
    """What the Hub has under a name. Raises CheckpointError."""
    try:
        return find_model(name)
    except UnknownModel as error:
        raise CheckpointError(f"there is no folder {name} here, and no checkpoint on the Hub: {error}") from error


def load_text_model(
    name: Path | str, *, model: str | None = None, precision: Precision = "auto"
) -> tuple[Backbone, CheckpointConfig]:
    """The model that `rottrain sft` has made and its config, whose `mode` says what it was taught.

    `model` names the base model where it lies elsewhere now. Raises CheckpointError.
    """
    trained = Trained.find(name)
    if trained.config.stage != "sft":
        raise CheckpointError(f"{name} is a {trained.config.stage} checkpoint: one of `rottrain sft` is needed")
    return trained.load(model=model, precision=precision), trained.config
