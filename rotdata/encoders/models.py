"""Model names -> folders: the embedded default, the short names of the families we know, any folder, any Hub id."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rotdata.encoders.patches import PatchGeometry, ResizeLimits
from rotdata.errors import UnknownModel

TINY_FOLDER = Path(__file__).resolve().parents[1] / "weights" / "tiny"

HUB_MODELS = {
    "qwen3-vl": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3-vl-2b": "Qwen/Qwen3-VL-2B-Instruct",
    "qwen3-vl-4b": "Qwen/Qwen3-VL-4B-Instruct",
    "qwen3-vl-8b": "Qwen/Qwen3-VL-8B-Instruct",
    "qwen3-vl-30b-a3b": "Qwen/Qwen3-VL-30B-A3B-Instruct",
    "qwen3.5": "Qwen/Qwen3.5-4B",
    "qwen3.5-0.8b": "Qwen/Qwen3.5-0.8B",
    "qwen3.5-2b": "Qwen/Qwen3.5-2B",
    "qwen3.5-4b": "Qwen/Qwen3.5-4B",
    "qwen3.5-9b": "Qwen/Qwen3.5-9B",
    "qwen2.5-vl": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2.5-vl-3b": "Qwen/Qwen2.5-VL-3B-Instruct",
    "qwen2.5-vl-7b": "Qwen/Qwen2.5-VL-7B-Instruct",
    "llava-1.6": "llava-hf/llava-v1.6-mistral-7b-hf",
}
"""Short name -> Hub id."""

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What the models of one architecture share: the class that drives their tower, and how it takes pictures."""

    encoder: str
    """module:class in rotdata/encoders; by name, so that asking for a geometry imports no torch."""
    merge: int | None = None
    """Patches a side of a latent; None: as the tower's configuration says."""
    frames: int | None = None
    """Frames a patch spans; None: as the tower's configuration says."""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    limits: ResizeLimits | None = None
    """Of the stock processor; None where that does not scale pictures to one grid."""


_QWEN2_LIMITS = ResizeLimits(min_pixels=56 * 56, max_pixels=12_845_056)
_QWEN3_LIMITS = ResizeLimits(min_pixels=256 * 256, max_pixels=4096 * 4096)

FAMILIES = {
    "qwen3_vl": Family(encoder="qwen:Qwen3VLEncoder", limits=_QWEN3_LIMITS),
    "qwen3_vl_moe": Family(encoder="qwen:Qwen3VLMoeEncoder", limits=_QWEN3_LIMITS),
    "qwen3_5": Family(encoder="qwen:Qwen35Encoder", limits=_QWEN3_LIMITS),
    "qwen3_5_moe": Family(encoder="qwen:Qwen35MoeEncoder", limits=_QWEN3_LIMITS),
    "qwen2_5_vl": Family(encoder="qwen:Qwen25VLEncoder", mean=_CLIP_MEAN, std=_CLIP_STD, limits=_QWEN2_LIMITS),
    "llava_next": Family(encoder="llava:LlavaNextEncoder", merge=2, frames=1, mean=_CLIP_MEAN, std=_CLIP_STD),
}
"""model_type of a model's config.json -> its family.

Means, deviations and limits are those that every published checkpoint of the family states.
"""

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

    def family(self) -> Family:
        """The family that its config.json names. Raises UnknownModel for an architecture without an encoder here."""
        model_type = self.config().get("model_type")
        if model_type not in FAMILIES:
            known = ", ".join(FAMILIES)
            raise UnknownModel(f"no encoder for model_type {model_type!r} ({self.name}): known are {known}")
        return FAMILIES[model_type]

    def geometry(self) -> PatchGeometry:
        """How its vision tower cuts pictures, from config.json alone. Raises UnknownModel."""
        family = self.family()
        vision = self.config().get("vision_config", {})
        try:
            return PatchGeometry(
                patch_px=int(vision["patch_size"]),
                merge=family.merge or int(vision["spatial_merge_size"]),
                frames=family.frames or int(vision["temporal_patch_size"]),
                mean=family.mean,
                std=family.std,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownModel(
                f"the config.json of {self.name} describes no vision tower ({error!r}): "
                "give the strips' height with --height"
            ) from error

    def factor_px(self) -> int:
        """Side of the square that the vision tower turns into one latent: patch times merge. Raises UnknownModel."""
        return self.geometry().factor_px

    def resize_limits(self) -> ResizeLimits:
        """The areas between which its stock processor scales pictures. Raises UnknownModel if it doesn't."""
        limits = self.family().limits
        if limits is None:
            raise UnknownModel(
                f"the stock processor of {self.name} cuts pictures into tiles instead of scaling them to one grid: "
                "leave --resize reference out"
            )
        return limits

    def embedding_width(self) -> int:
        """D: how wide its latents are, as config.json says. Raises UnknownModel."""
        config = self.config()
        width = config.get("vision_config", {}).get("out_hidden_size") or config.get("text_config", {}).get(
            "hidden_size"
        )
        if width is None and config.get("model_type") in FAMILIES:  # LLaVA's leaves out what is its class's default
            from transformers import AutoConfig

            width = AutoConfig.from_pretrained(self.path).get_text_config().hidden_size
        if not isinstance(width, int):
            raise UnknownModel(f"the config.json of {self.name} names no width of embeddings: is it a VLM's folder?")
        return width

    def weight_files(self) -> list[Path]:
        """The safetensors files, sorted. Raises UnknownModel if there is none."""
        files = sorted(self.path.glob("*.safetensors"))
        if not files:
            raise UnknownModel(f"{self.path} holds no *.safetensors weights; other formats are not read")
        return files


def find_model(name: str, *, revision: str | None = None, files: Sequence[str] = _NEEDED) -> ModelFolder:
    """The folder of model `name`, downloaded from the Hub if it is a Hub id. Raises UnknownModel.

    A Hub model's `revision` is a branch, a tag or a commit, and may follow the name as NAME@REVISION; the folder that
    comes back says which commit that is.
    """
    name, revision = _split_revision(name, revision)
    folder = Path(name).expanduser()
    if name == "tiny" or folder.is_dir():
        if revision is not None:
            raise UnknownModel(f"{name} has no revision {revision!r}: only models of the Hub have, leave it out")
        if name == "tiny":
            return ModelFolder(name="tiny", path=TINY_FOLDER, revision=None)
        return ModelFolder(name=folder.resolve().name, path=folder, revision=None)
    hub_id = HUB_MODELS.get(name.lower(), name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id):
        known = ", ".join(("tiny", *HUB_MODELS))
        raise UnknownModel(
            f"unknown model {name!r}: known are {known}, or give a model's folder or Hub id (owner/name)"
        )
    return _download(hub_id, revision, files)


def _split_revision(name: str, revision: str | None) -> tuple[str, str | None]:
    """NAME@REVISION -> its parts; a folder whose name has an @ stays whole."""
    if "@" not in name or Path(name).expanduser().is_dir():
        return name, revision
    base, _, stated = name.rpartition("@")
    if not stated or revision not in {None, stated}:
        raise UnknownModel(f"{name} names revision {stated!r}, --revision names {revision!r}: give one of them")
    return base, stated


def _download(hub_id: str, revision: str | None, files: Sequence[str]) -> ModelFolder:
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(files)))
    except (OSError, ValueError, RuntimeError) as error:  # huggingface_hub's errors derive from these
        asked = hub_id if revision is None else f"{hub_id} at revision {revision}"
        raise UnknownModel(
            f"the Hub model {asked} can't be fetched: {error}; or give a folder that holds it"
        ) from error
    return ModelFolder(name=hub_id, path=path, revision=path.name)  # a snapshot's folder is named after its commit
