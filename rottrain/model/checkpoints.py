"""Finished checkpoints: safetensors and a config.json that says what they belong to. No pickle, no frozen weights.

config.json is written last, with a checksum of itself and the hashes of all files, which are checked as they are read:
a folder without it is no checkpoint. Beside it lie head.safetensors (not of stage sft),
token_rows.safetensors and what has learnt of the language model: adapter/ as peft writes it, or, if its own weights
were trained, language.safetensors. Where there is a glyph probe, glyph_probe.safetensors holds it; where pictures are
fed back, book.safetensors holds those that the training rows showed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, TypeVar, get_type_hints

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from rotdata.encoders.interface import EncoderIdentity
from rotdata.errors import CheckpointError, UsageError
from rotdata.rendering.strips import StripStyle
from rotdata.shards import write_atomically
from rotdata.shards.files import file_sha256
from rottrain import records
from rottrain.config import (
    MOST_WIDTH,
    Activation,
    Feedback,
    SftConfig,
    SftMode,
    Stage1Config,
    Stage2Config,
    TrainConfig,
    from_dict,
)
from rottrain.model import tensors
from rottrain.model.backbone import Backbone, PromptFormat
from rottrain.model.book import Book
from rottrain.model.glyph_probe import MOST_SLOTS, Alphabet, GlyphProbe
from rottrain.model.head import ProjectionHead
from rottrain.model.tensors import AGAIN

FORMAT_VERSION = 3
_UNHASHED_VERSION = 2
"""Of the releases whose checkpoints hold no hashes."""
CONFIG = "config.json"
HEAD, TOKEN_ROWS, ADAPTER = "head.safetensors", "token_rows.safetensors", "adapter"
LANGUAGE, PROBE, BOOK = "language.safetensors", "glyph_probe.safetensors", "book.safetensors"
CLASSES = "classes"
_TENSORS = ".safetensors"
_Module = TypeVar("_Module", bound=nn.Module)

Stage = Literal["stage1", "stage2", "sft"]
Learnt = Literal["language", "adapter"]
_RECIPES: dict[Stage, type[TrainConfig]] = {"stage1": Stage1Config, "stage2": Stage2Config, "sft": SftConfig}

Width = Annotated[int, records.Bounds(1, MOST_WIDTH)]
_NEEDED: dict[Stage, Sequence[str]] = {
    "stage1": ("lora", "fit", "scaling"),
    "stage2": ("lora", "fit"),
    "sft": ("lora",),
}
"""Of a recipe, by those who use the checkpoint."""
_QUANTILES = ("0.5", "0.9", "0.95", "1")


class HeadShape(TypedDict):
    """Arguments of the head's class."""

    width_in: Width
    width_out: Width
    hidden: Width
    activation: Activation


class Letters(TypedDict):
    """Arguments of the glyph probe's alphabet."""

    characters: str
    slots: Annotated[int, records.Bounds(1, MOST_SLOTS)]


class Request(TypedDict):
    """What a run was asked for: what it must share with an earlier one in the same folder to continue it."""

    stage: Stage
    model: str
    shards: str | list[tuple[str, float]]
    """Fingerprint of the shards; of several, with their weights."""
    limit: int | None
    start: str | None
    """SHA-256 of the weights that it starts from."""
    recipe: dict[str, Any]


class Reached(TypedDict):
    """What a run came to."""

    steps: int
    loss: float
    """The mean of the last logged steps."""
    validation: dict[str, float] | None
    """Figures of the weights that were kept."""


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
    head: HeadShape | None
    """None where there are no latents."""
    run: Request
    result: Reached
    learnt: list[Learnt]
    """What of the language model is in the checkpoint: "adapter", "language"."""
    budget: int | None = None
    """Latents that every row was trained on, if it was one number."""
    lengths: dict[str, int] | None = None
    """Latents that the training rows say something in, by quantile: 0.5, 0.9, 0.95 and 1; of the first 2,000 rows."""
    alphabet: Letters | None = None
    """Of the glyph probe."""
    mode: SftMode | None = None
    """What stage sft has taught."""
    context: Literal["strip", "latent"] = "strip"
    """What each latent was encoded with: its whole strip, or its own picture alone."""
    feedback: Feedback = "latent"
    """What the model has learnt to continue from."""
    files: dict[str, str] | None = None
    """SHA-256 of every other file of the checkpoint, by its name within the folder; None in one of format 2."""
    format_version: int = FORMAT_VERSION


def shape_of(head: ProjectionHead) -> HeadShape:
    """A head as a checkpoint's config has it."""
    return HeadShape(width_in=head.width_in, width_out=head.width_out, hidden=head.hidden, activation=head.activation)


def save(
    folder: Path,
    config: CheckpointConfig,
    backbone: Backbone,
    *,
    head: ProjectionHead | None = None,
    probe: GlyphProbe | None = None,
    book: Book | None = None,
    beside: Sequence[str] = (),
) -> None:
    """Write a finished checkpoint, of which files named in `beside` are there already; config.json comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights: dict[str, Mapping[str, torch.Tensor]] = {TOKEN_ROWS: {"token_rows": backbone.base_token_rows}}
    if book is not None:
        weights[BOOK] = {CLASSES: book.classes_NS.short(), "latents": book.latents_ND}
    if "language" in config.learnt:
        weights[LANGUAGE] = backbone.language_weights()
    if probe is not None:
        weights[PROBE] = probe.state_dict()
    if head is not None:
        weights[HEAD] = {name: tensor.contiguous() for name, tensor in head.state_dict().items()}
    for name, values in weights.items():
        tensors.save(values, folder / name)
    names = [*weights, *beside]
    if "adapter" in config.learnt:
        _save_adapter(backbone, folder / ADAPTER)
        names += [str(file.relative_to(folder)) for file in (folder / ADAPTER).iterdir()]
    hashed = replace(
        config, files={name: file_sha256(folder / name) for name in sorted(names)}, format_version=FORMAT_VERSION
    )
    content = dataclasses.asdict(hashed)
    content["checksum"] = _checksum(content)
    write_atomically(folder / CONFIG, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def load_config(folder: Path) -> CheckpointConfig:
    """The config of a finished checkpoint. Raises CheckpointError saying what of it is not as it should be."""
    file = folder / CONFIG
    try:
        content = records.read(file, remedy=AGAIN)
    except FileNotFoundError:
        raise CheckpointError(
            f"no finished checkpoint in {folder}: train it with `rottrain stage1`, `stage2` or `sft`"
        ) from None
    checksum = _check_version(folder, content)
    config = records.as_record(CheckpointConfig, content, file, remedy=AGAIN)
    try:
        _check_parts(config)
    except (records.Misfit, UsageError) as problem:
        raise CheckpointError(f"{file}: {problem}: {AGAIN}") from problem
    hashed = config.format_version == FORMAT_VERSION or config.files is not None or checksum is not None
    if hashed and (config.files is None or checksum != _checksum(content)):
        raise CheckpointError(f"{file} does not match its own checksum: it was damaged or edited; {AGAIN}")
    _check_spoken_of(folder, config)
    return config


def _check_version(folder: Path, content: Any) -> Any:
    """Raise CheckpointError unless this release reads such configs; the checksum, which is taken out."""
    if not isinstance(content, dict):
        return None
    version = content.get("format_version")
    if version is None and "model_type" in content:
        raise CheckpointError(
            f"{folder} holds a model, not a checkpoint: name the folder that `rottrain stage1`, `stage2` or `sft` "
            "made; what `rottrain export` made of one is for `rottrain generate`, `eval` and `trace`"
        )
    if version not in (_UNHASHED_VERSION, FORMAT_VERSION):
        raise CheckpointError(
            f"{folder} is of checkpoint format {records.shown(version)}, this release reads {_UNHASHED_VERSION} and "
            f"{FORMAT_VERSION}"
        )
    return content.pop("checksum", None)


def _check_parts(config: CheckpointConfig) -> None:
    """What no type says of a config. Raises Misfit, and UsageError for a value that can't be in a recipe."""
    in_words = config.stage == "sft"
    if in_words != (config.mode is not None):
        raise records.Misfit("mode", "cot or no-cot" if in_words else "null", records.shown(config.mode))
    if in_words != (config.head is None):
        raise records.Misfit("head", "null" if in_words else "an object", records.shown(config.head))
    if config.feedback == "picture" and config.alphabet is None:
        raise records.Misfit("alphabet", "an object, for picture feedback", "null")
    if config.alphabet and list(config.alphabet["characters"]) != sorted(set(config.alphabet["characters"])):
        raise records.Misfit("alphabet.characters", "in order, each once", records.shown(config.alphabet["characters"]))
    _check_keys("lengths", dict.fromkeys(_QUANTILES) if config.lengths is None else config.lengths, _QUANTILES)
    _check_keys("run.recipe", config.run["recipe"], _NEEDED[config.stage])
    kind = _RECIPES[config.stage]
    from_dict(kind, {name: value for name, value in config.run["recipe"].items() if name in get_type_hints(kind)})
    if not in_words:
        _check_keys("encoder", config.encoder, ("model", "tower_sha256", "dtype"))
        _check_keys("style", config.style, ("style",))
    records.check_known(EncoderIdentity, config.encoder, "encoder")
    records.check_known(StripStyle, config.style.get("style", {}), "style.style")


def _check_keys(key: str, value: Mapping[str, Any], names: Sequence[str]) -> None:
    """Raise Misfit unless an object has these keys."""
    for name in names:
        if name not in value:
            raise records.Misfit(f"{key}.{name}", "there", "nothing")


def _check_spoken_of(folder: Path, config: CheckpointConfig) -> None:
    """Raise CheckpointError for weights in the folder that its config does not speak of: they would be left out."""
    spoken_of = {
        HEAD: config.head is not None,
        PROBE: config.alphabet is not None,
        BOOK: config.feedback == "picture",
        LANGUAGE: "language" in config.learnt,
        ADAPTER: "adapter" in config.learnt,
    }
    for name, is_spoken_of in spoken_of.items():
        if (folder / name).exists() and not is_spoken_of:
            raise CheckpointError(f"{folder} holds {name}, of which its {CONFIG} does not speak: {AGAIN}")


def load_head(folder: Path, config: CheckpointConfig) -> ProjectionHead:
    """The trained head, every weight of it. Raises CheckpointError; never gives a random head."""
    if config.head is None:
        raise CheckpointError(
            f"{folder} was fine-tuned in words and has no head: evaluate it with --{config.mode}-checkpoint"
        )
    shape = config.head
    return _filled(lambda: ProjectionHead(**shape), folder, config, HEAD)


def load_probe(folder: Path, config: CheckpointConfig) -> GlyphProbe | None:
    """The glyph probe, if the checkpoint has one. Raises CheckpointError."""
    if config.alphabet is None or config.head is None:
        return None
    width, alphabet = config.head["width_out"], Alphabet(**config.alphabet)
    probe = _filled(lambda: GlyphProbe(width, alphabet), folder, config, PROBE)
    return probe.eval().requires_grad_(requires_grad=False)


def load_book(folder: Path, config: CheckpointConfig) -> Book | None:
    """The book, if the checkpoint has one. Raises CheckpointError."""
    if config.feedback == "latent" or config.alphabet is None or config.head is None:
        return None
    pages = _weights(folder, config, BOOK, counts=(CLASSES,))
    alphabet, width = Alphabet(**config.alphabet), config.head["width_out"]
    shapes = {name: tuple(value.shape) for name, value in pages.items()}
    count = shapes.get("latents", (0,))[0]
    if shapes != {CLASSES: (count, alphabet.slots), "latents": (count, width)} or not count:
        raise CheckpointError(
            f"{folder / BOOK} does not hold the book that {CONFIG} describes: it has {shapes}: {AGAIN}"
        )
    return Book(alphabet, pages[CLASSES], pages["latents"])


def load_learnt(folder: Path, config: CheckpointConfig, backbone: Backbone, *, trainable: bool = False) -> None:
    """Put what the language model has learnt on the base model; an adapter may learn on. Raises CheckpointError."""
    if "language" in config.learnt:
        weights = _weights(folder, config, LANGUAGE)
        try:
            backbone.load_language(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"{folder / LANGUAGE} holds no weights that fit {backbone.folder.name}: {error}"
            ) from error
    if "adapter" in config.learnt:
        _load_adapter(folder, config, backbone, trainable=trainable)


def _weights(folder: Path, config: CheckpointConfig, name: str, *, counts: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of a file, if they are what was written. Raises CheckpointError."""
    checked_sha256(folder, config, name)
    return tensors.load(folder / name, counts=counts)


def _filled(build: Callable[[], _Module], folder: Path, config: CheckpointConfig, name: str) -> _Module:
    """A module with the weights of a file, which are compared with it before it takes any memory."""
    weights = _weights(folder, config, name)
    with torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in build().state_dict().items()}
    found = {key: tuple(value.shape) for key, value in weights.items()}
    if strange := sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key)):
        key = strange[0]
        raise CheckpointError(
            f"{folder / name} does not hold what {CONFIG} describes: {ascii(key)[1:-1]} should be "
            f"{wanted.get(key, 'absent')}, got {found.get(key, 'nothing')}: {AGAIN}"
        )
    module = build()
    module.load_state_dict(weights)
    return module


def checked_sha256(folder: Path, config: CheckpointConfig, name: str) -> str:
    """SHA-256 of a checkpoint's file. Raises CheckpointError if it is not what was written."""
    try:
        found = file_sha256(folder / name)
    except OSError as error:
        raise CheckpointError(f"{folder / name} can't be read ({error.strerror}): {AGAIN}") from error
    if config.files is not None and config.files.get(name) != found:
        raise CheckpointError(f"{folder / name} is not what was written, but damaged or another file: {AGAIN}")
    return found


def _checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 of a config, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _load_adapter(folder: Path, config: CheckpointConfig, backbone: Backbone, *, trainable: bool) -> None:
    if not (folder / ADAPTER).is_dir():  # peft would look for it on the Hub
        raise CheckpointError(f"{folder} has no {ADAPTER} folder: copy the whole checkpoint, or train it again")
    for name in _adapter_files(folder, config):
        checked_sha256(folder, config, name)
    load_adapter(folder / ADAPTER, backbone, trainable=trainable)


def load_adapter(place: Path, backbone: Backbone, *, trainable: bool = False) -> None:
    """Put the adapter in a folder on the base model. Raises CheckpointError."""
    for file in place.glob(f"*{_TENSORS}"):
        tensors.load(file)
    try:
        backbone.load_adapter(str(place), trainable=trainable)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, UserWarning) as error:
        raise CheckpointError(f"{place} holds no adapter that fits {backbone.folder.name}: {error}") from error


def files_of(folder: Path, config: CheckpointConfig) -> list[str]:
    """Names of a checkpoint's files: those that were written, or, where it does not say, that are there."""
    if config.files is not None:
        return list(config.files)
    there = [*folder.glob("*.safetensors"), *(folder / ADAPTER).glob("*")]
    return sorted(str(file.relative_to(folder)) for file in there)


def _adapter_files(folder: Path, config: CheckpointConfig) -> list[str]:
    return [name for name in files_of(folder, config) if name.startswith(f"{ADAPTER}/")]


def weights_sha256(folder: Path) -> str:
    """SHA-256 of a checkpoint's head and of what the language model has learnt. Raises CheckpointError."""
    config = load_config(folder)
    names = [] if config.head is None else [HEAD]
    names += [LANGUAGE] * ("language" in config.learnt)
    names += [name for name in _adapter_files(folder, config) if name.endswith(_TENSORS)]
    digest = hashlib.sha256()
    for name in names:
        digest.update(bytes.fromhex(checked_sha256(folder, config, name)))
    return digest.hexdigest()


def check_backbone(folder: Path, config: CheckpointConfig, backbone: Backbone) -> None:
    """Raise CheckpointError if the base model is not the one that the checkpoint was trained on."""
    if backbone.prompt != config.prompt:
        raise CheckpointError(f"{folder} was trained with another chat template than {backbone.folder.name} has")
    saved = _weights(folder, config, TOKEN_ROWS).get("token_rows")
    current = backbone.base_token_rows
    if saved is None or saved.shape != current.shape or not torch.allclose(saved, current, atol=1e-2):
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
    for file in folder.iterdir():
        file.chmod(0o644)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
