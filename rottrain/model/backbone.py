"""The base VLM without its eyes: language model, tokenizer, begin and end tokens, LoRA, and the words of the prompt.

The vision tower is not loaded: training and generation never look at a picture. What backbones differ in stands in
architectures.py.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from rotdata.encoders import load_pretrained, quiet_loading
from rotdata.encoders.models import ModelFolder
from rotdata.errors import UnknownModel, UsageError
from rotdata.extras import installing
from rottrain.config import Attention, LoraSettings
from rottrain.model import caches
from rottrain.model.architectures import EXPERTS, Architecture, architecture_of, lora_targets
from rottrain.model.gradient_checkpointing import recompute

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Cache, PreTrainedTokenizerFast

IMG_BEGIN, IMG_END = "<|img_begin|>", "<|img_end|>"
ANSWER_MARK = "#### "
"""What every answer starts with, in training, in evaluation and in the corpora that use it."""
_ANSWERS = ("0", "-1", "x", "(", "[", r"\frac", "$1", ".5", "a")
"""Beginnings of answers, of all kinds that tokenizers treat differently."""
_LANGUAGE = ("model.language_model.", "lm_head.")
"""How the names of the language model's weights begin; LLaVA has another one beside them."""
# What peft does to the names of weights that it adapts, and what it adds.
_WRAPPED = re.compile(r"\.(base_layer|token_adapter)(?=\.)")
_ADAPTER = re.compile(r"\.(lora_|trainable_tokens_)")


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """The text around a question, taken from the model's own chat template, and the mark before an answer."""

    prefix: str
    suffix: str
    answer_mark: str = ANSWER_MARK


class Backbone:
    """A base VLM's language model and what turns text into its inputs."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        folder: ModelFolder,
        *,
        arithmetic: torch.dtype | None = None,
    ) -> None:
        """Wrap a loaded model; `load` is the way to get one from a folder."""
        self.model = model
        self.arithmetic = arithmetic
        """Type that the model's passes compute in where it is another than that of its weights."""
        self.four_bit = bool(getattr(model, "is_loaded_in_4bit", False))
        self.adapter: PeftModel | None = None
        self.tokenizer = tokenizer
        self.folder = folder
        self.prompt = _prompt_format(tokenizer, folder)
        self.tied = model.lm_head.weight is model.get_input_embeddings().weight
        """Whether the output head is the embedding table."""
        self.begin_id, self.end_id = _add_tokens(model, tokenizer, folder)
        self.base_token_rows = self.token_rows().float().cpu()
        """Rows of the begin and end token in the embedding table before anything learns, [2, D]."""
        self.trains_language = False
        """Whether weights of the base model itself learn, or have learnt."""
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id

    @classmethod
    def load(
        cls,
        folder: ModelFolder,
        *,
        dtype: torch.dtype,
        device: str,
        arithmetic: torch.dtype | None = None,
        attention: Attention = "auto",
        four_bit: bool = False,
    ) -> Backbone:
        """Load language model and tokenizer.

        Raises UnknownModel for an architecture that is not known to work, UsageError for what is not installed.
        """
        from transformers import AutoTokenizer

        model_class = _without_eyes(architecture_of(folder))
        packed = _in_four_bits(arithmetic or dtype, device) if four_bit else {}
        model = load_pretrained(model_class, folder, part="language model", dtype=dtype, **packed)
        model.requires_grad_(requires_grad=False)
        _attend(model, attention, device)
        model = (model if four_bit else model.to(device)).eval()
        for name, value in model.named_parameters():
            if not bool(value.isfinite().all()):
                raise UnknownModel(f"{folder.name}: {name} holds values that are not finite: fetch or copy it again")
        tokenizer = AutoTokenizer.from_pretrained(folder.path)
        return cls(model, tokenizer, folder, arithmetic=arithmetic)

    @property
    def width(self) -> int:
        """D: width of hidden states, of input embeddings, and so of latents."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the language model lives."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the base weights."""
        return next(self.model.parameters()).dtype

    def new_cache(self) -> Cache:
        """An empty key-value cache."""
        return caches.new_cache(self.model.config.get_text_config())

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [...] -> input embeddings [..., D]."""
        return self.model.model.language_model.embed_tokens(ids)

    def hidden(
        self,
        inputs_BTD: Tensor,
        *,
        mask_BT: Tensor | None = None,
        positions_BT: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Input embeddings [B, T, D] -> last hidden states [B, T, D]; a given cache is read and extended.

        `mask_BT` covers cached positions too. Without a mask, padding must be on the right. What is masked when it is
        read leaves no trace in later positions; keys and values can also be masked afterwards, the states of linear
        attention can't.
        """
        length = inputs_BTD.shape[1]
        if (
            cache is None
            or mask_BT is None
            or not caches.is_recurrent(cache)
            or not cache.get_seq_length()  # padding before a row's first position keeps an empty state empty
            or bool(mask_BT[:, -length:].all())
        ):
            return self._read(inputs_BTD, mask_BT, positions_BT, cache)
        steps = []
        for step, shown_B in enumerate(mask_BT[:, -length:].bool().unbind(dim=1)):
            until = mask_BT.shape[1] - length + step + 1
            positions_B1 = None if positions_BT is None else positions_BT[:, step : step + 1]
            with caches.held(cache, ~shown_B):
                steps.append(self._read(inputs_BTD[:, step : step + 1], mask_BT[:, :until], positions_B1, cache))
        return torch.cat(steps, dim=1)

    def attention(self, inputs_BTD: Tensor) -> Tensor:
        """Input embeddings [B, T, D] -> attention weights [L, B, T, T], a mean over heads, of layers that have any.

        Only eager attention gives its weights: the pass uses it, whatever is used otherwise.
        """
        language = self.model.model.language_model
        usual = language.config._attn_implementation  # noqa: SLF001 -- no public way to ask
        language.set_attn_implementation("eager")
        try:
            with self._computing():
                output = language(inputs_embeds=inputs_BTD.to(self.dtype), use_cache=False, output_attentions=True)
        finally:
            language.set_attn_implementation(usual)
        return torch.stack([weights.float().mean(dim=1) for weights in output.attentions if weights is not None])

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> token logits [..., V]."""
        with self._computing():
            return self.model.lm_head(hidden)

    def prompt_ids(self, question: str) -> list[int]:
        """The question inside the chat template, up to where the reply starts."""
        prefix, suffix = self.prompt.prefix, self.prompt.suffix
        if any(token in question for token in self.tokenizer.all_special_tokens):  # spelled there, not meant
            return self._ids(prefix, opens=True) + self._ids(question, special=False) + self._ids(suffix)
        return self._ids(prefix + question + suffix, opens=True)

    def picture_prompt_ids(self, text: str) -> tuple[list[int], list[int]]:
        """A prompt of a picture and then `text`, up to where the reply starts: ids before and after its latents.

        In the base model the begin and end token are those that open and close a picture.
        """
        before = [*self._ids(self.prompt.prefix, opens=True), self.begin_id]
        return before, [self.end_id, *self._ids(text, special=False), *self._ids(self.prompt.suffix)]

    def answer_ids(self, answer: str) -> list[int]:
        """Answer mark, answer, end of sequence."""
        return [*self._ids(self.prompt.answer_mark + answer, special=False), self.eos_id]

    @cached_property
    def mark_ids(self) -> list[int]:
        """The ids that every answer begins with: the answer mark's, without its space where that joins the answer."""
        answers = [self.answer_ids(answer) for answer in _ANSWERS]
        return [same[0] for same in takewhile(lambda ids: len(set(ids)) == 1, zip(*answers, strict=False))]

    def text_ids(self, text: str) -> list[int]:
        """Any text, special tokens not recognised."""
        return self._ids(text, special=False)

    def decode(self, ids: list[int]) -> str:
        """Token ids -> text without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def add_adapter(self, settings: LoraSettings, *, train_tokens: bool) -> PeftModel:
        """Put a fresh LoRA adapter on the language model; with `train_tokens` the begin and end rows learn too.

        Raises UsageError where experts are to be adapted and there are none.
        """
        from peft import LoraConfig, get_peft_model

        rows = sorted((self.begin_id, self.end_id))
        experts = self._experts() if settings.experts == "adapted" else None
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=lora_targets(settings.targets),
            use_rslora=settings.rslora,
            use_dora=settings.dora,
            target_parameters=experts,
            trainable_token_indices=(rows if self.tied else {"embed_tokens": rows, "lm_head": rows})
            if train_tokens
            else None,
        )
        with _quiet_peft():
            try:
                self.adapter = get_peft_model(self.model, config)
            except ValueError as error:
                raise UsageError(f"{self.folder.name} can't be given such an adapter: {error}") from error
        return self.adapter

    def load_adapter(self, folder: str, *, trainable: bool = False) -> None:
        """Put a trained adapter on the language model. peft's warning of missing weights is raised."""
        from peft import PeftModel

        with _quiet_peft():
            warnings.filterwarnings("error", "Found missing adapter keys")
            self.adapter = PeftModel.from_pretrained(self.model, folder, is_trainable=trainable)
        self.adapter.eval()

    def merge_adapter(self) -> None:
        """Add the adapter to the weights it adapts; it is gone then."""
        assert self.adapter is not None
        if self.four_bit:
            raise UsageError("an adapter is not added to weights in 4 bits: train it on with --trainable lora")
        self.model = self.adapter.merge_and_unload()
        self.adapter = None
        self.trains_language = True

    def train_language(self, *, head_only: bool) -> None:
        """Let the base model's own weights learn: all of the language model, or its output rows alone."""
        self.trains_language = True
        self.model.lm_head.requires_grad_(requires_grad=True)
        if not head_only:
            self.model.model.language_model.requires_grad_(requires_grad=True)

    def recompute_gradients(self) -> None:
        """Keep less for the backward pass, and compute it anew then."""
        recompute(self.model.model.language_model.layers)

    def compile_layers(self, **settings: Any) -> None:
        """Let torch compile each layer, for all lengths at once; what lies between would be broken up anyway."""
        for layer in self.model.model.language_model.layers:
            layer.compile(dynamic=True, **settings)

    def use_liger(self, settings: dict[str, bool] | None) -> None:
        """Put Liger kernels in the place of the model's own parts. Raises UsageError where they are not installed."""
        from transformers.integrations.liger import apply_liger_kernel

        try:
            apply_liger_kernel(self.model, settings)
        except (ImportError, TypeError) as error:
            raise UsageError(f"Liger kernels can't be used: {error}") from error

    def language_weights(self) -> dict[str, Tensor]:
        """The language model's own weights, without names for what is tied, and without an adapter on them."""
        plain = {
            _WRAPPED.sub("", name): value.contiguous()
            for name, value in self.model.state_dict().items()
            if not _ADAPTER.search(name)
        }
        return {name: value for name, value in plain.items() if self._is_language(name)}

    def load_language(self, weights: dict[str, Tensor]) -> None:
        """Put weights of `language_weights` in place of the base model's own. Raises RuntimeError if they don't fit."""
        if self.four_bit:
            raise UsageError(
                "weights that have learnt are not put into a model in 4 bits: export the checkpoint as a whole model "
                "(rottrain export --weights whole), and give that as --model"
            )
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        misfits = [*filter(self._is_language, missing), *unexpected]
        if misfits:
            raise RuntimeError(f"weights {misfits[:3]} do not fit")
        self.trains_language = True

    @contextmanager
    def base(self) -> Iterator[None]:
        """The base model, as if there were no adapter."""
        if self.adapter is None:
            yield
        else:
            with self.adapter.disable_adapter():
                yield

    def token_rows(self) -> Tensor:
        """Rows of the begin and end token in the embedding table, [2, D]."""
        ids = torch.tensor([self.begin_id, self.end_id], device=self.device)
        return self.embed(ids).detach().clone()

    def _computing(self) -> torch.autocast:
        """The arithmetic of one pass.

        Not of a whole step: within one autocast region a weight that was cast without a gradient, as by a Jacobi
        sweep, would be used again where a gradient is wanted, and learn nothing.
        """
        return torch.autocast(self.device.type, dtype=self.arithmetic, enabled=self.arithmetic is not None)

    def _read(
        self, inputs_BTD: Tensor, mask_BT: Tensor | None, positions_BT: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """One call of the language model."""
        if mask_BT is None and positions_BT is not None and cache is None:
            mask_BT = torch.ones_like(positions_BT)  # else a gap between positions would be the border of two sequences
        if mask_BT is not None and cache is not None and inputs_BTD.shape[1] == 1 and self._takes_whole_masks(cache):
            mask_BT = mask_BT.bool()[:, None, None]
        with self._computing():
            output = self.model.model.language_model(
                inputs_embeds=inputs_BTD.to(self.dtype),
                attention_mask=mask_BT,
                position_ids=positions_BT,
                past_key_values=cache,
                use_cache=False,  # a given cache is used all the same; none is made
            )
        return output.last_hidden_state

    def _takes_whole_masks(self, cache: Cache) -> bool:
        """Whether a mask of what one more position sees, [B, 1, 1, T], may be given.

        transformers looks at one that is [B, T] before it makes a whole one, and waits for a GPU at every step.
        """
        attention = self.model.model.language_model.config._attn_implementation  # noqa: SLF001 -- no public way to ask
        return attention == "sdpa" and not caches.is_recurrent(cache) and not any(cache.is_sliding)

    def _experts(self) -> list[str]:
        """Ends of the names of parameters that hold experts. Raises UsageError if there are none."""
        found = [end for end in EXPERTS if any(name.endswith(end) for name, _ in self.model.named_parameters())]
        if not found:
            raise UsageError(f"{self.folder.name} has no experts to adapt: leave `experts` of `lora` out")
        return found

    def _is_language(self, name: str) -> bool:
        """Whether a weight of that name is the language model's, and has no other name."""
        return name.startswith(_LANGUAGE) and not (self.tied and name == "lm_head.weight")

    def _ids(self, text: str, *, special: bool = True, opens: bool = False) -> list[int]:
        """Token ids of a text; one that opens a sequence has what the tokenizer puts there, if it isn't written out."""
        start = self.tokenizer.bos_token
        adds = opens and not (start and text.startswith(start))
        return list(self.tokenizer(text, add_special_tokens=adds, split_special_tokens=not special).input_ids)


def _without_eyes(architecture: Architecture) -> type[Any]:
    """The architecture's class, built without the parts that look at pictures: their weights are not read."""
    import transformers

    whole: type[Any] = getattr(transformers, architecture.model_class)

    def build(self: Any, config: Any, *arguments: Any, **settings: Any) -> None:
        whole.__init__(self, config, *arguments, **settings)  # on the meta device, where a tower takes no memory
        for part in architecture.eyes:
            setattr(self.model, part, None)

    # transformers looks up by name and module how checkpoints name a class's weights.
    return type(whole.__name__, (whole,), {"__init__": build, "__module__": whole.__module__})


def _attend(model: Any, attention: Attention, device: str) -> None:
    """Choose how the language model computes attention. Raises UsageError for what is not installed or not there."""
    if attention == "auto":
        if device != "cpu":
            return
        attention = "eager"  # the fused kernel is slow at a few hundred positions, above all in bf16 and backwards
    try:
        model.model.language_model.set_attn_implementation(attention)
    except (ImportError, ValueError) as error:
        raise UsageError(f"attention can't be {attention} here: {error}") from error


def _in_four_bits(arithmetic: torch.dtype, device: str) -> dict[str, Any]:
    """How a model is loaded in 4 bits, as the authors of QLoRA do. Raises UsageError where bitsandbytes lacks."""
    from transformers import BitsAndBytesConfig
    from transformers.utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise UsageError(f"a model in 4 bits needs bitsandbytes: {installing('quantization')}")
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=arithmetic,
    )
    return {"quantization_config": settings, "device_map": {"": device}}


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Leave out peft's warning about an attribute that transformers has renamed: nothing that a user can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _prompt_format(tokenizer: PreTrainedTokenizerFast, folder: ModelFolder) -> PromptFormat:
    """Split the chat template's own text around a placeholder for the question.

    Models that may think in words before they reply are asked not to: they do it in latents.
    """
    placeholder = "QUESTION"
    template = tokenizer.chat_template or _template_of_processor(folder)
    if not template:
        raise UnknownModel(f"{folder.name} has no chat template: give an instruction-tuned model")
    for content in (placeholder, [{"type": "text", "text": placeholder}]):  # LLaVA's template takes typed parts alone
        try:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        except (TemplateError, TypeError) as error:
            raise UnknownModel(f"the chat template of {folder.name} can't be filled in: {error}") from error
        prefix, found, suffix = str(text).partition(placeholder)
        if found:
            return PromptFormat(prefix=prefix, suffix=suffix)
    raise UnknownModel(f"the chat template of {folder.name} leaves the question out")


def _template_of_processor(folder: ModelFolder) -> str | None:
    """The chat template where older checkpoints keep it, beside the tokenizer."""
    file = folder.path / "chat_template.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["chat_template"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UnknownModel(f"{file} holds no chat template ({error!r}): fetch or copy it again") from error


@torch.no_grad()
def _add_tokens(model: Any, tokenizer: PreTrainedTokenizerFast, folder: ModelFolder) -> tuple[int, int]:
    """Add begin and end to the tokenizer, growing the table if it has no spare rows.

    New rows start as the rows of the architecture's brackets; an exported model has its own already.
    """
    brackets = list(architecture_of(folder).brackets)
    known = tokenizer.get_vocab()
    lacking = [token for token in brackets if token not in known]
    if lacking:
        raise UnknownModel(
            f"the tokenizer of {folder.name} lacks {', '.join(lacking)}: is it the one that belongs to the model?"
        )
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [IMG_BEGIN, IMG_END]}, replace_extra_special_tokens=False
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with quiet_loading():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = tokenizer.convert_tokens_to_ids([IMG_BEGIN, IMG_END])
    if IMG_BEGIN in known:
        return new[0], new[1]
    tables: list[Tensor] = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for rows in tables:  # one and the same where they are tied
        rows[new] = rows[[known[token] for token in brackets]].clone()
    return new[0], new[1]
