"""Model names -> folders: the embedded default, the short names of the families we know, any folder, any Hub id."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotdata.errors import UnknownModel

TINY_FOLDER = Path(__file__).resolve().parent / "weights" / "tiny"

HUB_MODELS = {
    "qwen3-vl": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3-vl-2b": "Qwen/Qwen3-VL-2B-Instruct",
    "qwen3-vl-4b": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
}
"""Short name -> Hub id."""

_NEEDED = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """A model's files on this machine."""

    name: str
    """Hub id, "tiny", or the folder's own name: what a manifest records, free of this machine's paths."""
    path: Path
    revision: str | None
    """Commit of a Hub model."""

    def config(self) -> dict[str, Any]:
        """The parsed config.json. Raises UnknownModel if it is missing or broken."""
        file = self.path / "config.json"
        try:
            config: dict[str, Any] = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UnknownModel(
                f"{self.path} holds no readable config.json ({error}): is it a model's folder?"
            ) from error
        return config

    def factor_px(self) -> int:
        """Side of the square that the vision tower turns into one latent: patch times merge. Raises UnknownModel."""
        vision = self.config().get("vision_config", {})
        try:
            return int(vision["patch_size"]) * int(vision["spatial_merge_size"])
        except (KeyError, TypeError, ValueError):
            raise UnknownModel(
                f"the config.json of {self.name} names no patch_size and spatial_merge_size of a vision tower: "
                "give the strips' height with --height"
            ) from None

    def weight_files(self) -> list[Path]:
        """The safetensors files, sorted. Raises UnknownModel if there is none."""
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            raise UnknownModel(f"{self.path} holds no *.safetensors weights; other formats are not read")
        return files


def find_model(name: str, *, files: Sequence[str] = _NEEDED) -> ModelFolder:
    """The folder of model `name`, downloaded from the Hub if it is a Hub id. Raises UnknownModel."""
    if name == "tiny":
        return ModelFolder(name="tiny", path=TINY_FOLDER, revision=None)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return ModelFolder(name=folder.resolve().name, path=folder, revision=None)
    hub_id = HUB_MODELS.get(name.lower(), name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
        known = ", ".join(("tiny", *HUB_MODELS))
        raise UnknownModel(
            f"unknown model {name!r}: known are {known}, or give a model's folder or Hub id (owner/name)"
        )
    return _download(hub_id, files)


def _download(hub_id: str, files: Sequence[str]) -> ModelFolder:
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(hub_id, allow_patterns=list(files)))
    except (OSError, ValueError, RuntimeError) as error:  # huggingface_hub's errors derive from these
        raise UnknownModel(
            f"the Hub model {hub_id} can't be fetched: {error}; or give a folder that holds it"
        ) from error
    return ModelFolder(name=hub_id, path=path, revision=path.name)
