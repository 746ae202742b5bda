"""How this model answers: it thinks in latents, which are embeddings of pictures of its reasoning, then in words.

    model.generate(**prompt, custom_generate=FOLDER, trust_remote_code=True)

runs this file (transformers makes a copy of it). It needs torch, transformers and safetensors, and no more.

Shapes: D width of a latent, S character slots of one, T tokens.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it
from transformers.utils import ModelOutput, cached_file

log = logging.getLogger(__name__)

NOTHING, OTHER = 0, 1
"""Classes of a slot that shows no character, and of characters that the alphabet does not have."""
SETTINGS = "rot.json"
HEAD, PROBE, BOOK = (f"checkpoint/{name}.safetensors" for name in ("head", "glyph_probe", "book"))


@dataclass
class Answers(ModelOutput):
    """What was said, and what was thought before: a list has an entry for each prompt."""

    sequences: Tensor | None = None
    """Prompts, begin token, what comes between latents and reply, reply: [B, T], padded on the right."""
    latents: list[Tensor] | None = None
    """What was answered from: [K, D] in float32."""
    thoughts: list[str] | None = None
    """What was read in the latents; U+FFFD for one that was fed back as it was predicted."""
    drawn: list[int] | None = None
    """Latents whose characters were not in the book, and were drawn."""
    unnamed: list[int] | None = None
    """Latents that were fed back as they were predicted."""


@torch.no_grad()
def generate(  # noqa: PLR0913 -- what transformers gives, and the choices there are
    model: Any,
    inputs: Tensor | None = None,
    *,
    input_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    folder: str | None = None,
    revision: str | None = None,
    budget: int | None = None,
    stop: float | None = None,
    feedback: str | None = None,
    return_dict_in_generate: bool = False,
    generation_config: Any = None,
    **rest: Any,
) -> Tensor | Answers:
    """Think about each prompt, one after the other, and answer it greedily unless `do_sample` says otherwise.

    A prompt is the tokens of a chat up to where the reply starts. `folder` (or OWNER/NAME, with a `revision`) is where
    this model was exported to, if that is not where `model` was loaded from: for an adapter it has to be said. `budget`
    are the most latents of a thought; with `stop` it ends at the first that is the last with more than this
    probability; `feedback` ("picture" or "latent") is what the model continues from. All three are by default as the
    model was trained. What else `model.generate` takes is about the reply. Raises ValueError.
    """
    ids = inputs if input_ids is None else input_ids
    if ids is None:
        raise ValueError("there is no prompt: give input_ids")
    thinker = _Thinker(model, *_opened(str(folder or model.name_or_path), revision))
    rot = thinker.rot
    settings = {name: value for name, value in rest.items() if value is not None}
    settings["pad_token_id"] = settings.get("pad_token_id", rot["eos"])
    if generation_config is None:
        settings = {"max_new_tokens": rot["most_tokens"], "eos_token_id": rot["eos"], **_GREEDY, **settings}
    else:
        settings["generation_config"] = generation_config
    done = []
    for row, whole_T in enumerate(ids):
        prompt_T = whole_T if attention_mask is None else whole_T[attention_mask[row].bool()]
        thought = thinker.think(prompt_T, budget=budget, stop=stop, feedback=feedback)
        closing_T = torch.tensor(rot["closing"], dtype=torch.long, device=whole_T.device)
        given_1TD = torch.cat([thought.read_1TD, thinker.embed(closing_T)], dim=1)
        # Of the class: an instance may have had this very function put in its place.
        reply_T = type(model).generate(model, inputs_embeds=given_1TD, **settings)[0]
        done.append((torch.cat([whole_T, thought.opening_T, closing_T, reply_T]), thought))
    sequences = [sequence_T for sequence_T, _ in done]
    joined_BT = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=settings["pad_token_id"])
    thoughts = [thought for _, thought in done]
    _tell(thoughts)
    if not return_dict_in_generate:
        return joined_BT
    return Answers(
        sequences=joined_BT,
        latents=[thought.latents_KD for thought in thoughts],
        thoughts=["".join(thought.texts) for thought in thoughts],
        drawn=[thought.drawn for thought in thoughts],
        unnamed=[thought.unnamed for thought in thoughts],
    )


_GREEDY = {"do_sample": False, "repetition_penalty": 1.0, "temperature": 1.0, "top_p": 1.0, "top_k": 50}
"""In place of what a base model's own configuration would have."""


@dataclass
class _Thought:
    """The thought about one prompt."""

    opening_T: Tensor
    """The begin token; nothing for a model that answers in words."""
    read_1TD: Tensor
    """Embeddings of prompt, begin token and latents."""
    latents_KD: Tensor
    texts: list[str]
    drawn: int = 0
    unnamed: int = 0


def _tell(thoughts: list[_Thought]) -> None:
    """Say what could not be fed back as a picture."""
    if unnamed := sum(thought.unnamed for thought in thoughts):
        latents = sum(len(thought.latents_KD) for thought in thoughts)
        log.warning(
            "%d of %d latents were fed back as they were predicted, since what was read in them is in no book and was "
            "not drawn", unnamed, latents,
        )  # fmt: skip


@lru_cache(maxsize=4)
def _opened(name: str, revision: str | None) -> tuple[dict[str, Any], dict[str, Tensor], _Book | None]:
    """Settings, head, and the book if there is one, of an exported folder or OWNER/NAME."""

    def find(file: str) -> str:
        try:
            return str(cached_file(name, file, revision=revision))
        except OSError as error:
            raise ValueError(
                f"{name} has no {file}: give the folder, or OWNER/NAME, that this model was exported to as folder=..."
            ) from error

    rot: dict[str, Any] = json.loads(Path(find(SETTINGS)).read_text(encoding="utf-8"))
    if rot["head"] is None:
        return rot, {}, None
    book = None
    if rot["feedback"] == "picture":
        book = _Book(rot, Path(find(SETTINGS)).parent, load_file(find(BOOK)), load_file(find(PROBE)))
    return rot, load_file(find(HEAD)), book


class _Thinker:
    """Thinks about one prompt at a time, so that no prompt depends on its neighbours."""

    def __init__(self, model: Any, rot: dict[str, Any], head: dict[str, Tensor], book: _Book | None) -> None:
        self.rot = rot
        self._model, self._book = model, book
        self._head = {name: value.to(model.device) for name, value in head.items()}

    def think(self, prompt_T: Tensor, *, budget: int | None, stop: float | None, feedback: str | None) -> _Thought:
        """The latents of a prompt."""
        if self.rot["head"] is None:
            return _Thought(prompt_T[:0], self.embed(prompt_T), torch.zeros(0, 0), [])
        if stop is not None and not self.rot["halt"]:
            raise ValueError("this model has not learnt to stop: leave stop out")
        if stop is not None and not 0 < stop < 1:
            raise ValueError(f"a stop is a probability between 0 and 1, got {stop}")
        feedback = feedback or self.rot["feedback"]
        if feedback == "picture" and self._book is None:
            raise ValueError("this model has no book of pictures: leave feedback='picture' out")
        opening_T = torch.tensor([self.rot["begin_id"]], device=prompt_T.device)
        step_1TD = self.embed(torch.cat([prompt_T, opening_T]))
        read, cache = [step_1TD], None
        latents: list[Tensor] = []
        thought = _Thought(opening_T, step_1TD, torch.zeros(0, 0), [])
        most = self.rot["budget"] if budget is None else budget
        for step in range(most):
            seen = self._model.get_decoder()(inputs_embeds=step_1TD, past_key_values=cache, use_cache=True)
            hidden_D, cache = seen.last_hidden_state[0, -1].float(), seen.past_key_values
            latent_D, blank = self._next(hidden_D), False
            if feedback == "picture":
                latent_D, blank = self._pictured(latent_D, thought, first=not latents)
                if blank and latents:
                    break
            latents.append(latent_D)
            step_1TD = latent_D.to(self._model.dtype)[None, None]
            read.append(step_1TD)
            if blank or (stop is not None and step < most - 1 and self._ends(hidden_D) > stop):
                break
        thought.read_1TD = torch.cat(read, dim=1)
        if latents:
            thought.latents_KD = torch.stack(latents).cpu()
        return thought

    def embed(self, ids_T: Tensor) -> Tensor:
        """Token ids [T] -> [1, T, D]."""
        embedded: Tensor = self._model.get_input_embeddings()(ids_T.to(self._model.device)[None])
        return embedded

    def _pictured(self, predicted_D: Tensor, thought: _Thought, *, first: bool) -> tuple[Tensor, bool]:
        """The picture of what is read in a latent, if it can be had, and whether that is nothing."""
        assert self._book is not None
        head = self._head
        classes = self._book.read((predicted_D - head["mean_D"]) / head["deviation_D"])
        written_D, drawn = self._book.find(classes)
        blank = self._book.is_blank(classes)
        if blank and not first:  # it ends the thought, and is no part of it
            return predicted_D, blank
        thought.drawn += drawn
        thought.unnamed += written_D is None
        thought.texts.append("\ufffd" if written_D is None else self._book.text(classes))
        return predicted_D if written_D is None else written_D.to(predicted_D), blank

    def _next(self, hidden_D: Tensor) -> Tensor:
        """Hidden state -> the next latent."""
        x = self._linear("enter", self._normed(hidden_D))
        activation = self.rot["head"]["activation"]
        if activation == "swiglu":
            x = F.silu(self._linear("gate", x)) * self._linear("up", x)
        else:
            x = F.gelu(x) if activation == "gelu" else torch.relu(x)
        return self._linear("leave", x) * self._head["deviation_D"] + self._head["mean_D"]

    def _ends(self, hidden_D: Tensor) -> float:
        """The probability that the latent predicted from a hidden state is the last."""
        return float(self._linear("halt", self._normed(hidden_D)).sigmoid())

    def _normed(self, hidden_D: Tensor) -> Tensor:
        return F.layer_norm(hidden_D, hidden_D.shape, self._head["norm.weight"], self._head["norm.bias"])

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._head[f"{name}.weight"], self._head[f"{name}.bias"])


class _Book:
    """Reads the characters of a latent, and gives the latent of their picture: by heart, or drawn."""

    def __init__(self, rot: dict[str, Any], home: Path, pages: dict[str, Tensor], probe: dict[str, Tensor]) -> None:
        self._rot, self._home, self._probe = rot, home, probe
        self._characters, self._slots = rot["alphabet"]["characters"], rot["alphabet"]["slots"]
        at = self._characters.find(" ")
        self._space = OTHER + 1 + at if at >= 0 else NOTHING
        self._pages: dict[tuple[int, ...], Tensor | None] = {}
        for classes, latent_D in zip(pages["classes"].tolist(), pages["latents"], strict=True):
            self._pages.setdefault(self._shown(classes), latent_D)  # of equal pages the first one counts
        self._artist: Any = None
        self._can_draw = True

    def read(self, scaled_D: Tensor) -> tuple[int, ...]:
        """The class of each slot's character."""
        probe = {name: value.to(scaled_D.device) for name, value in self._probe.items()}
        hidden = F.gelu(F.linear(scaled_D, probe["enter.weight"], probe["enter.bias"]))
        logits = F.linear(hidden, probe["leave.weight"], probe["leave.bias"]).view(self._slots, -1)
        return tuple(logits.argmax(dim=-1).tolist())

    def find(self, classes: tuple[int, ...]) -> tuple[Tensor | None, bool]:
        """The latent of some characters, if it is known or can be drawn, and whether it had to be drawn."""
        if OTHER in classes:
            return None, False
        page = self._shown(classes)
        known = page in self._pages
        if not known:
            self._pages[page] = self._drawn(self.text(page))
        return self._pages[page], not known and self._pages[page] is not None

    def is_blank(self, classes: tuple[int, ...]) -> bool:
        """Whether they show nothing."""
        return set(self._shown(classes)) == {self._space}

    def text(self, classes: tuple[int, ...]) -> str:
        """The characters."""
        read = "".join(self._characters[number - OTHER - 1] for number in classes if number != NOTHING)
        return read.replace("\u200b", "")  # the second cell of a full-width character

    def _shown(self, classes: Any) -> tuple[int, ...]:
        """Classes as pictures show them: nothing looks like a space, and is one."""
        return tuple(self._space if number == NOTHING else number for number in classes)

    def _drawn(self, text: str) -> Tensor | None:
        """The latent of a text's picture, by the tower that the model has learnt; None where rotdata is not at hand."""
        if not self._can_draw:
            return None
        try:
            import rotdata

            if self._artist is None:
                tower = self._rot["base"] if self._rot["weights"] == "adapter" else str(self._home)
                self._artist = rotdata.Pictures(tower, style=self._rot["style"], encoder=self._rot["encoder"])
            return torch.from_numpy(self._artist.latents([text])[0]) if self._artist.fits(text) else None
        except ImportError:
            reason = "rotdata is not installed"
        except rotdata.RotError as error:
            reason = str(error)
        self._can_draw = False
        log.warning("characters that are not in the book can't be drawn: %s", reason)
        return None
