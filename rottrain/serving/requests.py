"""What a client may ask for, as OpenAI's chat completions have it and with our own settings beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rotdata.errors import UsageError
from rottrain.config import MOST_LATENTS, Feedback
from rottrain.generation.generate import MAX_ANSWER_TOKENS, Budget

_MOST_TOKENS = 4096
_WITHOUT_EFFECT = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
"""What clients send along that has nothing to do with the answer."""
_AT_REST: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "logit_bias": ({}, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "tools": ([], None),
    "response_format": ({"type": "text"}, None),
    "stop": (None,),
}
"""Settings that are not to be had here, with the values under which nobody misses them."""


class Part(BaseModel):
    """A piece of a message; pictures and sound are no questions."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One turn."""

    role: Literal["user", "system", "developer", "assistant", "tool"]
    content: str | list[Part]

    @property
    def text(self) -> str:
        """All that it says."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class StreamOptions(BaseModel):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request for a completion. The defaults answer greedily, as the commands do."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] = 1
    temperature: float = Field(default=0.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    max_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=_MOST_TOKENS)
    budget: int | Literal["auto"] | None = None
    """Latents at most, as `rottrain generate --budget`."""
    halt: float | None = Field(default=None, gt=0, lt=1)
    """Probability from which on a latent is the last, as `rottrain generate --stop`; `stop` is OpenAI's."""
    feedback: Feedback | None = None

    def question(self) -> str:
        """What is asked. Raises UsageError for a conversation, which no checkpoint has learnt to continue."""
        if len(self.messages) != 1 or self.messages[0].role != "user":
            raise UsageError(
                "a checkpoint answers a question by itself: send one message of role user, without system message or "
                f"earlier turns, got {', '.join(message.role for message in self.messages[:8])}"
            )
        return self.messages[0].text

    def settings(self) -> Settings:
        """How it is to be answered. Raises UsageError for what can't be had, rather than leave it out unsaid."""
        for name, value in (self.model_extra or {}).items():
            if name not in _WITHOUT_EFFECT and value not in _AT_REST.get(name, ()):
                raise UsageError(
                    f"{name} is not to be had here: leave it out (ours are budget, halt and feedback, beside "
                    "temperature, top_p, seed, max_tokens and stream)"
                )
        if isinstance(self.budget, int) and not 0 <= self.budget <= MOST_LATENTS:
            raise UsageError(f"the budget is from 0 to {MOST_LATENTS} latents, got {self.budget}")
        return Settings(
            budget=self.budget,
            stop=self.halt,
            feedback=self.feedback,
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed if self.temperature else 0,
            max_answer_tokens=self.max_completion_tokens or self.max_tokens or MAX_ANSWER_TOKENS,
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a question is to be answered: what RoT.generate takes. Requests of equal settings share a batch."""

    budget: Budget
    stop: float | None
    feedback: Feedback | None
    temperature: float
    top_p: float
    seed: int
    max_answer_tokens: int
