"""Finished checkpoints: safetensors and a config.json that says what they belong to. No pickle, no frozen weights.

config.json is written last: a folder without it is no checkpoint. Beside it lie head.safetensors (not of stage sft),
token_rows.safetensors and what has learnt of the language model: adapter/ as peft writes it, or, if its own weights
were trained, language.safetensors. Where there is a glyph probe, glyph_probe.safetensors holds it; where pictures are
fed back, book.safetensors holds those that the training rows showed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rotdata.encoders.models import find_model
from rotdata.errors import CheckpointError
from rotdata.shards import write_atomically
from rottrain.config import Feedback, Precision, SftMode
from rottrain.model.backbone import Backbone, PromptFormat
from rottrain.model.book import Book
from rottrain.model.glyph_probe import Alphabet, GlyphProbe
from rottrain.model.head import ProjectionHead
from rottrain.model.precision import load_backbone

FORMAT_VERSION = 2
CONFIG = "config.json"
HEAD, TOKEN_ROWS, ADAPTER = "head.safetensors", "token_rows.safetensors", "adapter"
LANGUAGE, PROBE, BOOK = "language.safetensors", "glyph_probe.safetensors", "book.safetensors"

Stage = Literal["stage1", "stage2", "sft"]


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What a checkpoint is, what it was made from and how it was made."""

    stage: Stage
    model: str
    """--model as it was given: a name, a Hub id or a folder."""
    encoder: dict[str, Any]
    """Identity of the encoder whose latents were learnt."""
    style: dict[str, Any]
    """Fingerprint of the strips that the latents show."""
    encoding: str
    """SHA-256 of encoder and style: what two sets of shards must share to be exchanged."""
    prompt: PromptFormat
    head: dict[str, Any] | None
    """Arguments of the head's class; None where there are no latents."""
    run: dict[str, Any]
    """What was asked for: recipe, fingerprint of the shards, limit, the stage-1 head it started from."""
    result: dict[str, Any]
    """Steps done, the mean loss of the last logged ones and the last validation's figures."""
    learnt: list[str]
    """What of the language model is in the checkpoint: "adapter", "language"."""
    budget: int | None = None
    """Latents that every row was trained on, if it was one number."""
    lengths: dict[str, int] | None = None
    """Latents that the training rows say something in, by quantile: 0.5, 0.9, 0.95 and 1; of the first 2,000 rows."""
    alphabet: dict[str, Any] | None = None
    """Characters and slots of the glyph probe."""
    mode: SftMode | None = None
    """What stage sft has taught."""
    context: Literal["strip", "latent"] = "strip"
    """What each latent was encoded with: its whole strip, or its own picture alone."""
    feedback: Feedback = "latent"
    """What the model has learnt to continue from."""
    format_version: int = FORMAT_VERSION


def shape_of(head: ProjectionHead) -> dict[str, Any]:
    """A head as a checkpoint's config has it."""
    return {name: getattr(head, name) for name in ("width_in", "width_out", "hidden", "activation")}


def save(
    folder: Path,
    config: CheckpointConfig,
    backbone: Backbone,
    *,
    head: ProjectionHead | None = None,
    probe: GlyphProbe | None = None,
    book: Book | None = None,
) -> None:
    """Write a finished checkpoint; config.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    if book is not None:
        _save_tensors({"classes": book.classes_NS.short(), "latents": book.latents_ND}, folder / BOOK)
    if "language" in config.learnt:
        _save_tensors(backbone.language_weights(), folder / LANGUAGE)
    if probe is not None:
        _save_tensors(probe.state_dict(), folder / PROBE)
    if head is not None:
        _save_tensors({name: tensor.contiguous() for name, tensor in head.state_dict().items()}, folder / HEAD)
    _save_tensors({"token_rows": backbone.base_token_rows}, folder / TOKEN_ROWS)
    if "adapter" in config.learnt:
        _save_adapter(backbone, folder / ADAPTER)
    text = json.dumps(dataclasses.asdict(config), indent=2, ensure_ascii=False)
    write_atomically(folder / CONFIG, (text + "\n").encode())


def load_config(folder: Path) -> CheckpointConfig:
    """The config of a finished checkpoint. Raises CheckpointError."""
    file = folder / CONFIG
    try:
        content = json.loads(file.read_text())
        version = content.get("format_version")
        if version is None and "model_type" in content:
            raise CheckpointError(
                f"{folder} holds a model, not a checkpoint: name the folder that `rottrain stage1`, `stage2` or `sft` "
                "made; what `rottrain export` made of it is run by the script on its card"
            )
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{folder} is of checkpoint format {version}, this release reads {FORMAT_VERSION}")
        content["prompt"] = PromptFormat(**content["prompt"])
        return CheckpointConfig(**content)
    except FileNotFoundError:
        raise CheckpointError(
            f"no finished checkpoint in {folder}: train it with `rottrain stage1`, `stage2` or `sft`; one on the Hub "
            "has to be fetched first"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} is no checkpoint's config ({error}): train it again") from error


def load_head(folder: Path, config: CheckpointConfig) -> ProjectionHead:
    """The trained head, every weight of it. Raises CheckpointError; never gives a random head."""
    if config.head is None:
        raise CheckpointError(
            f"{folder} was fine-tuned in words and has no head: evaluate it with --{config.mode}-checkpoint"
        )
    try:
        head = ProjectionHead(**config.head)
        head.load_state_dict(load_file(folder / HEAD), strict=True)
    except (OSError, RuntimeError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder / HEAD} does not hold the head that {CONFIG} describes: {error}") from error
    return head


def load_probe(folder: Path, config: CheckpointConfig) -> GlyphProbe | None:
    """The glyph probe, if the checkpoint has one. Raises CheckpointError."""
    if config.alphabet is None or config.head is None:
        return None
    try:
        probe = GlyphProbe(config.head["width_out"], Alphabet(**config.alphabet))
        probe.load_state_dict(load_file(folder / PROBE), strict=True)
    except (OSError, RuntimeError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{folder / PROBE} does not hold the probe that {CONFIG} describes: {error}") from error
    return probe.eval().requires_grad_(requires_grad=False)


def load_book(folder: Path, config: CheckpointConfig) -> Book | None:
    """The book, if the checkpoint has one. Raises CheckpointError."""
    if config.feedback == "latent" or config.alphabet is None:
        return None
    try:
        pages = load_file(folder / BOOK)
        return Book(Alphabet(**config.alphabet), pages["classes"], pages["latents"])
    except (OSError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder / BOOK} does not hold the book that {CONFIG} describes: {error}") from error


def load_learnt(folder: Path, config: CheckpointConfig, backbone: Backbone, *, trainable: bool = False) -> None:
    """Put what the language model has learnt on the base model; an adapter may learn on. Raises CheckpointError."""
    if "language" in config.learnt:
        try:
            backbone.load_language(load_file(folder / LANGUAGE))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder / LANGUAGE} holds no weights that fit {backbone.folder.name}: {error}"
            ) from error
    if "adapter" in config.learnt:
        _load_adapter(folder, backbone, trainable=trainable)


def load_text_model(
    folder: Path, *, model: str | None = None, precision: Precision = "auto"
) -> tuple[Backbone, CheckpointConfig]:
    """The model that `rottrain sft` has made and its config, whose `mode` says what it was taught.

    `model` names the base model where it lies elsewhere now. Raises CheckpointError.
    """
    config = load_config(folder)
    if config.stage != "sft":
        raise CheckpointError(f"{folder} is a {config.stage} checkpoint: one of `rottrain sft` is needed")
    backbone = load_backbone(find_model(model or config.model), precision)
    check_backbone(folder, config, backbone)
    load_learnt(folder, config, backbone)
    return backbone, config


def _load_adapter(folder: Path, backbone: Backbone, *, trainable: bool) -> None:
    if not (folder / ADAPTER).is_dir():  # peft would look for it on the Hub
        raise CheckpointError(f"{folder} has no {ADAPTER} folder: copy the whole checkpoint, or train it again")
    try:
        backbone.load_adapter(str(folder / ADAPTER), trainable=trainable)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, UserWarning) as error:
        raise CheckpointError(
            f"{folder / ADAPTER} holds no adapter that fits {backbone.folder.name}: {error}"
        ) from error


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's head and of what the language model has learnt. Raises CheckpointError."""
    digest = hashlib.sha256()
    files = [folder / HEAD, folder / LANGUAGE, *(folder / ADAPTER).glob("*.safetensors")]
    there = [file for file in files if file.exists()]
    try:
        for file in there or files:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise CheckpointError(f"the weights in {folder} can't be read: {error}") from error
    return digest.hexdigest()


def check_backbone(folder: Path, config: CheckpointConfig, backbone: Backbone) -> None:
    """Raise CheckpointError if the base model is not the one that the checkpoint was trained on."""
    if backbone.prompt != config.prompt:
        raise CheckpointError(f"{folder} was trained with another chat template than {backbone.folder.name} has")
    try:
        saved = load_file(folder / TOKEN_ROWS)["token_rows"]
    except (OSError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder / TOKEN_ROWS} can't be read: {error}") from error
    current = backbone.base_token_rows
    if saved.shape != current.shape or not torch.allclose(saved, current, atol=1e-2):
        raise CheckpointError(
            f"{folder} was trained on another base model than {backbone.folder.name}: its begin and end token differ"
        )


def _save_adapter(backbone: Backbone, folder: Path) -> None:
    """Adapter weights and peft's config, free of this machine's paths and of peft's empty model card."""
    assert backbone.adapter is not None
    for settings in backbone.adapter.peft_config.values():
        settings.base_model_name_or_path = backbone.folder.name
    backbone.adapter.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    save_file(tensors, temporary)
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.chmod(0o644)  # safetensors writes files that only their owner can read
    temporary.replace(path)
