"""A finished checkpoint as a folder that transformers and peft load without this package.

It holds an adapter, or the whole model where its own weights have learnt, the tokenizer with its two new tokens,
checkpoint/ (head, glyph probe, book, and what the checkpoint says of itself), rot.json (what scripts have to know), the
scripts of rottrain/exported (use.py, and custom_generate/ for transformers), and a model card. model/trained.py reads
it again.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from rotdata import hub
from rotdata.encoders import quiet_loading
from rotdata.encoders.models import ModelFolder, find_model
from rotdata.errors import CheckpointError, OutputOccupied, UsageError
from rotdata.output import write_atomically
from rotdata.shards import is_leftover, remove_leftovers
from rotdata.shards.files import file_sha256
from rottrain.config import LoraSettings, from_dict
from rottrain.generation.generate import MAX_ANSWER_TOKENS, MAX_COT_TOKENS, default_budget
from rottrain.model import checkpoints, tensors
from rottrain.model.backbone import Backbone
from rottrain.model.checkpoints import CONFIG, CheckpointConfig
from rottrain.model.precision import load_backbone
from rottrain.model.trained import CHECKPOINT, SETTINGS, Weights, check_not_exported
from rottrain.training.stages import RECIPE

if TYPE_CHECKING:
    from peft import PeftModel

CARD = "README.md"
SCRIPTS = ("use.py", "custom_generate/generate.py")
_HASHED = ("*.safetensors", "adapter_config.json")
"""What has learnt; checkpoint/ has hashes of its own."""
_UNFINISHED = ".export.tmp"
"""What is exported, as long as it is."""
_PROCESSOR = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
)


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export has made."""

    folder: str
    weights: Weights
    """An adapter for the base model, or the whole model."""
    base: str | None
    """The model that an adapter is for, as its scripts name it; of a whole model what --base has said."""
    files: list[str]
    bytes: int
    url: str | None = None
    """Where it was pushed to."""


def export(
    checkpoint: Path,
    out: Path,
    *,
    model: str | None = None,
    base: str | None = None,
    weights: Weights | None = None,
    push: str | None = None,
    private: bool = False,
) -> Exported:
    """Write the checkpoint as a folder of its own, in float32, and publish it as the Hub's model `push`.

    `model` names the base model where it lies elsewhere than at training, `base` how scripts are to name it. By
    default the weights are an adapter where nothing but that has learnt. Raises CheckpointError, HubError, UsageError
    for weights that can't be an adapter or a base model that nobody else could find, OutputOccupied.
    """
    check_not_exported(checkpoint)
    config = checkpoints.load_config(checkpoint)
    weights = weights or ("whole" if "language" in config.learnt else "adapter")
    if weights == "adapter" and "language" in config.learnt:
        raise UsageError(f"the base model's own weights have learnt in {checkpoint}: export --weights whole")
    folder = find_model(model or config.model)
    named = base or (_public_name(folder) if weights == "adapter" else None)
    if push is not None and named is not None and not is_hub_id(named) and weights == "adapter":
        raise UsageError(
            f"others can't find the base model {named}: name it as the Hub does with --base, or export --weights whole"
        )
    origin = {"weights": weights, "base": named, "checkpoint": checkpoints.weights_sha256(checkpoint)}
    if not _is_there(out, origin):
        with tensors.writing(out):
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(out / _UNFINISHED, json.dumps(origin).encode())
            _write(checkpoint, config, folder, out, origin)
            remove_leftovers(out)
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return Exported(
        folder=str(out),
        weights=weights,
        base=named,
        files=files,
        bytes=sum((out / name).stat().st_size for name in files),
        url=None if push is None else hub.push_model(out, push, private=private),
    )


def _is_there(out: Path, origin: dict[str, Any]) -> bool:
    """Whether `out` is this very export, whole. Raises OutputOccupied if it holds anything else.

    What is left of this export, if it was killed, or the disk was full, is written again.
    """
    if _record(out / _UNFINISHED) == origin:
        return False
    if origin.items() <= _record(out / SETTINGS).items():
        return True
    if out.exists() and not all(is_leftover(path) for path in out.iterdir()):
        raise OutputOccupied(f"{out} holds files already: choose an empty or new folder for --out")
    return False


def _record(file: Path) -> dict[str, Any]:
    """The JSON object of a file; empty if it is none."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _write(checkpoint: Path, config: CheckpointConfig, folder: ModelFolder, out: Path, origin: dict[str, Any]) -> None:
    """Fill the folder; rot.json comes last."""
    head = None if config.head is None else checkpoints.load_head(checkpoint, config)
    probe, book = checkpoints.load_probe(checkpoint, config), checkpoints.load_book(checkpoint, config)
    backbone = load_backbone(folder, "float32")
    checkpoints.check_backbone(checkpoint, config, backbone)
    checkpoints.load_learnt(checkpoint, config, backbone)
    settings = origin | _settings(config, backbone)
    words = card(config, settings)  # before anything is written: it reads all that others may have changed
    backbone.tokenizer.save_pretrained(out)
    if origin["weights"] == "whole":
        _save_whole(backbone, out)
        backbone.base_token_rows = backbone.token_rows().float().cpu()
    else:
        _save_adapter(backbone, config, origin["base"], out)
    model = origin["base"] or folder.name
    alone = dataclasses.replace(config, model=model, run=config.run | {"model": model}, learnt=[])
    checkpoints.save(out / CHECKPOINT, alone, backbone, head=head, probe=probe, book=book)
    for file in out.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors writes files that only their owner can read
    shutil.copyfile(checkpoint / RECIPE, out / RECIPE)
    for name in SCRIPTS:
        (out / name).parent.mkdir(exist_ok=True)
        write_atomically(out / name, _script(name))
    write_atomically(out / CARD, words.encode())
    settings["files"] = {file.name: file_sha256(file) for kind in _HASHED for file in sorted(out.glob(kind))}
    write_atomically(out / SETTINGS, (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode())


def _script(name: str) -> bytes:
    """A script of an exported folder."""
    return (resources.files("rottrain") / "exported" / Path(name).name).read_bytes()


def card(config: CheckpointConfig, settings: dict[str, Any]) -> str:
    """The model card: what this is, what it was made from, how to use it. Raises CheckpointError."""
    on_hub = settings["base"] is not None and is_hub_id(settings["base"])
    try:
        return _page("card.md.j2", config=config, rot=settings, base=settings["base"] if on_hub else None)
    except (TypeError, ValueError, AttributeError, UndefinedError) as error:
        raise CheckpointError(
            f"{CONFIG} of the checkpoint lacks what a model card says, or has it of another type ({error}): train again"
        ) from error


def _page(template: str, **values: Any) -> str:
    """A text from a template of this package."""
    pages = Environment(
        loader=PackageLoader("rottrain", "templates"),
        autoescape=False,  # noqa: S701 -- no page of HTML: what others wrote goes through `inline`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    pages.filters["inline"] = _inline
    return pages.get_template(template).render(**values)


def _inline(value: object) -> str:
    """A value as code within a line or a table of Markdown."""
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else ""


def _settings(config: CheckpointConfig, backbone: Backbone) -> dict[str, Any]:
    """What a script has to know of a checkpoint.

    `closing` are the tokens that are given between prompt or latents and the reply.
    """
    prefix, bos = backbone.prompt.prefix, backbone.tokenizer.bos_token
    if bos and not prefix.startswith(bos) and backbone.prompt_ids("")[:1] == [backbone.tokenizer.bos_token_id]:
        prefix = bos + prefix
    thinks = config.head is not None
    closing = {"cot": [], "no-cot": backbone.mark_ids}.get(config.mode or "", [backbone.end_id, *backbone.mark_ids])
    return {
        "vocabulary": backbone.model.config.get_text_config().vocab_size,
        "prefix": prefix,
        "suffix": backbone.prompt.suffix,
        "begin_id": backbone.begin_id,
        "closing": closing,
        "eos": backbone.eos_id,
        "budget": default_budget(config) if thinks else None,
        "halt": bool(config.run["recipe"].get("halt_weight")),
        "feedback": config.feedback,
        "alphabet": config.alphabet,
        "most_tokens": MAX_COT_TOKENS if config.mode == "cot" else MAX_ANSWER_TOKENS,
        "head": config.head,
        "encoder": config.encoder,
        "style": config.style,
    }


def _public_name(folder: ModelFolder) -> str:
    """How scripts find a base model: by its Hub id if it has one, else where it lies here."""
    return folder.name if is_hub_id(folder.name) else str(folder.path.resolve())


def is_hub_id(name: str) -> bool:
    """Whether others find a model under this name."""
    return "/" in name and not Path(name).is_absolute()


def _save_whole(backbone: Backbone, out: Path) -> None:
    """The whole vision-language model, its language model as it has been trained."""
    from transformers import AutoModelForImageTextToText

    if backbone.adapter is not None:
        backbone.merge_adapter()
    with quiet_loading():
        model = AutoModelForImageTextToText.from_pretrained(backbone.folder.path, dtype=torch.float32)
        rows = backbone.model.get_input_embeddings().num_embeddings
        if rows != model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(rows, mean_resizing=False)
    model.load_state_dict(backbone.language_weights(), strict=False)  # the tower's stay
    model.save_pretrained(out)
    for name in _PROCESSOR:
        if (backbone.folder.path / name).exists():
            shutil.copyfile(backbone.folder.path / name, out / name)


def _save_adapter(backbone: Backbone, config: CheckpointConfig, base: str, out: Path) -> None:
    """The adapter with the rows of the begin and end token, which the base model does not have."""
    adapter = _with_token_rows(backbone, config)
    for settings in adapter.peft_config.values():
        settings.base_model_name_or_path = base
    adapter.save_pretrained(str(out), save_embedding_layers=False)


def _with_token_rows(backbone: Backbone, config: CheckpointConfig) -> PeftModel:
    """What was learnt as an adapter that holds both rows too: as they were trained, or as they began."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    if backbone.adapter is None:  # LoRA begins as nothing: the rows are what there is to keep
        return backbone.add_adapter(LoraSettings(rank=1, dropout=0.0), train_tokens=True)
    if all(settings.trainable_token_indices for settings in backbone.adapter.peft_config.values()):
        return backbone.adapter
    learnt = get_peft_model_state_dict(backbone.adapter, save_embedding_layers=False)
    backbone.model = backbone.adapter.unload()
    adapter = backbone.add_adapter(from_dict(LoraSettings, config.run["recipe"]["lora"]), train_tokens=True)
    set_peft_model_state_dict(adapter, get_peft_model_state_dict(adapter, save_embedding_layers=False) | learnt)
    return adapter
