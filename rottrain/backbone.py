"""The base VLM without its eyes: language model, tokenizer, begin and end tokens, LoRA, and the words of the prompt.

The vision tower is dropped after loading: training and generation never look at a picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rotdata.encoders import quiet_loading
from rotdata.errors import UnknownModel
from rotdata.models import ModelFolder
from rottrain.config import LoraSettings

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Cache, PreTrainedTokenizerFast

IMG_BEGIN, IMG_END = "<|img_begin|>", "<|img_end|>"
ANSWER_MARK = "#### "
"""What every answer starts with, in training, in evaluation and in the corpora that use it."""
_ANSWERS = ("0", "-1", "x", "(", "[", r"\frac", "$1", ".5", "a")
"""Beginnings of answers, of all kinds that tokenizers treat differently."""
BACKBONES = ("qwen3_vl",)
"""model_types whose language model is known to work here."""

# The language model only: "all-linear" would also hit a vision tower.
_LORA_TARGETS = r"^model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)$"


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
        self.adapter: PeftModel | None = None
        self.tokenizer = tokenizer
        self.folder = folder
        self.prompt = _prompt_format(tokenizer, folder)
        self.begin_id, self.end_id = _add_tokens(model, tokenizer)
        self.base_token_rows = self.token_rows().float().cpu()
        """Rows of the begin and end token in the embedding table before anything learns, [2, D]."""
        self.trains_language = False
        """Whether weights of the base model itself learn, or have learnt."""
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id

    @classmethod
    def load(
        cls, folder: ModelFolder, *, dtype: torch.dtype, device: str, arithmetic: torch.dtype | None = None
    ) -> Backbone:
        """Load language model and tokenizer. Raises UnknownModel for an architecture that is not known to work."""
        from transformers import AutoModelForImageTextToText, AutoTokenizer

        model_type = folder.config().get("model_type")
        if model_type not in BACKBONES:
            raise UnknownModel(
                f"no backbone for model_type {model_type!r} ({folder.name}): known are {', '.join(BACKBONES)}"
            )
        with quiet_loading():
            model = AutoModelForImageTextToText.from_pretrained(folder.path, dtype=dtype)
        model.model.visual = None
        model.requires_grad_(requires_grad=False)
        tokenizer = AutoTokenizer.from_pretrained(folder.path)
        return cls(model.to(device).eval(), tokenizer, folder, arithmetic=arithmetic)

    @property
    def width(self) -> int:
        """D: width of hidden states, of input embeddings, and so of latents."""
        return int(self.model.config.text_config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the language model lives."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the base weights."""
        return next(self.model.parameters()).dtype

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

        `mask_BT` covers cached positions too. Without a mask, padding must be on the right.
        """
        positions = None if positions_BT is None else positions_BT.expand(3, *positions_BT.shape)
        with self._computing():
            output = self.model.model.language_model(
                inputs_embeds=inputs_BTD.to(self.dtype),
                attention_mask=mask_BT,
                position_ids=positions,
                past_key_values=cache,
                use_cache=cache is not None,
            )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> token logits [..., V]."""
        with self._computing():
            return self.model.lm_head(hidden)

    def prompt_ids(self, question: str) -> list[int]:
        """The question inside the chat template, up to where the reply starts."""
        return self._ids(self.prompt.prefix) + self._ids(question, special=False) + self._ids(self.prompt.suffix)

    def picture_prompt_ids(self, text: str) -> tuple[list[int], list[int]]:
        """A prompt of a picture and then `text`, up to where the reply starts: ids before and after its latents.

        In the base model the begin and end token are those that open and close a picture.
        """
        before = [*self._ids(self.prompt.prefix), self.begin_id]
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

    def add_adapter(self, settings: LoraSettings, *, train_tokens: bool) -> None:
        """Put a fresh LoRA adapter on the language model; with `train_tokens` the begin and end rows learn too."""
        from peft import LoraConfig, get_peft_model

        rows = sorted((self.begin_id, self.end_id))
        tied = self.model.config.tie_word_embeddings
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=_LORA_TARGETS,
            trainable_token_indices=(rows if tied else {"embed_tokens": rows, "lm_head": rows})
            if train_tokens
            else None,
        )
        with _quiet_peft():
            self.adapter = get_peft_model(self.model, config)

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
        self.model = self.adapter.merge_and_unload()
        self.adapter = None
        self.trains_language = True

    def train_language(self, *, head_only: bool) -> None:
        """Let the base model's own weights learn: all of the language model, or its output rows alone."""
        self.trains_language = True
        learns = self.model.lm_head if head_only else self.model
        learns.requires_grad_(requires_grad=True)

    def language_weights(self) -> dict[str, Tensor]:
        """The base model's weights, without the vision tower and without names for what is tied."""
        tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
        return {name: value.contiguous() for name, value in self.model.state_dict().items() if name not in tied}

    def load_language(self, weights: dict[str, Tensor]) -> None:
        """Put weights of `language_weights` in place of the base model's own. Raises RuntimeError if they don't fit."""
        missing, unexpected = self.model.load_state_dict(weights, strict=False)
        if unexpected or set(missing) - {"lm_head.weight"}:
            raise RuntimeError(f"weights {[*missing, *unexpected][:3]} do not fit")
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

    def _ids(self, text: str, *, special: bool = True) -> list[int]:
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special)
        return list(encoded.input_ids)


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Leave out peft's warning about an attribute that transformers has renamed: nothing that a user can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _prompt_format(tokenizer: PreTrainedTokenizerFast, folder: ModelFolder) -> PromptFormat:
    """Split the chat template's own text around a placeholder for the question."""
    placeholder = "QUESTION"
    if not tokenizer.chat_template:
        raise UnknownModel(f"{folder.name} has no chat template: give an instruction-tuned model")
    messages = [{"role": "user", "content": placeholder}]
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    prefix, found, suffix = text.partition(placeholder)
    if not found:
        raise UnknownModel(f"the chat template of {folder.name} leaves the question out")
    return PromptFormat(prefix=prefix, suffix=suffix)


@torch.no_grad()
def _add_tokens(model: Any, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """Add begin and end to the tokenizer, growing the table if it has no spare rows.

    The new rows start as the rows of the tokens that open and close a picture in this family: what they mean is close,
    and their norm is the table's own.
    """
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [IMG_BEGIN, IMG_END]}, replace_extra_special_tokens=False
    )
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        with quiet_loading():
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    new = tokenizer.convert_tokens_to_ids([IMG_BEGIN, IMG_END])
    like = [model.config.vision_start_token_id, model.config.vision_end_token_id]
    tables: list[Tensor] = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for rows in tables:  # one and the same where they are tied
        rows[new] = rows[like].clone()
    return new[0], new[1]
