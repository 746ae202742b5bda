"""The model `rot`: a task's text is the question, the reply after the latents is what the task grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text

from rotdata.console import say
from rotdata.errors import UsageError
from rottrain.config import Feedback
from rottrain.generation.decoding import Sampling
from rottrain.generation.generate import MAX_ANSWER_TOKENS, Budget, RoT

_BATCH_SIZE = 32
"""Questions answered together where the harness is to find that out itself."""
_ARGUMENTS = ("pretrained", "model", "budget", "stop", "feedback", "seed")


@dataclass(frozen=True)
class _Settings:
    """How a task wants to be answered; questions of equal settings share batches."""

    sampling: Sampling
    max_answer_tokens: int
    until: tuple[str, ...]
    """The reply ends before the first of these."""


@register_model("rot")
class RotModel(LM):
    """`RoT.generate` for the harness's tasks of type generate_until."""

    def __init__(  # noqa: PLR0913 -- what --model_args may name
        self,
        pretrained: str | None = None,
        *,
        model: str | None = None,
        budget: Budget = None,
        stop: float | None = None,
        feedback: Feedback | None = None,
        seed: int = 0,
        batch_size: int | str = _BATCH_SIZE,
        max_batch_size: int | None = None,
        device: str | None = None,  # noqa: ARG002 -- the harness always names one, cuda:0 even on a CPU
        **unknown: Any,
    ) -> None:
        """The checkpoint `pretrained`, asked with the options of `rottrain generate`.

        What the harness adds by itself is `batch_size`, `max_batch_size` and `device`; this last is not heeded, a
        GPU is taken where there is one. Raises UsageError, CheckpointError.
        """
        super().__init__()
        if unknown:
            raise UsageError(f"--model_args of rot are {', '.join(_ARGUMENTS)}; got {', '.join(map(str, unknown))}")
        if pretrained is None:
            raise UsageError("--model_args has to name a checkpoint or an export: pretrained=FOLDER")
        self._name = str(pretrained)
        self._rot = RoT.from_pretrained(self._name, model=model)
        self._rot.budget(budget)  # what can't be is refused before any task is read
        self._rot.check_stop(stop)
        self._asked: dict[str, Any] = {"budget": budget, "stop": stop, "feedback": self._rot.feedback(feedback)}
        self._seed = seed
        self._batch_size = _batch_size(batch_size, max_batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The reply to each request's text, cut before what its task wants it to end with. Raises UsageError."""
        wanted: dict[_Settings, list[int]] = {}
        for place, request in enumerate(requests):
            wanted.setdefault(self._settings(request.args[1]), []).append(place)
        replies = [""] * len(requests)
        latents = 0
        for settings, places in wanted.items():
            made = self._rot.generate(
                [requests[place].args[0] for place in places],
                **self._asked,
                temperature=settings.sampling.temperature,
                top_p=settings.sampling.top_p,
                seed=settings.sampling.seed,
                max_answer_tokens=settings.max_answer_tokens,
                batch_size=self._batch_size,
            )
            for place, each in zip(places, made, strict=True):
                replies[place] = postprocess_generated_text(each.reply, list(settings.until), None)
                latents += each.reasoning_tokens
                self.cache_hook.add_partial("generate_until", requests[place].args, replies[place])
        say(f"rot: {len(requests)} questions, {latents / max(1, len(requests)):.1f} latents each on average")
        return replies

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Raise UsageError: what a checkpoint says comes after its own latents, of which a given text has none."""
        tasks = ", ".join(sorted({str(request.task_name) for request in requests}))
        raise UsageError(
            f"rot answers questions and does not score given texts: {tasks} asks for log-likelihoods; take a task "
            "whose output_type is generate_until"
        )

    def loglikelihood_rolling(self, requests: list[Instance]) -> NoReturn:
        """As loglikelihood."""
        self.loglikelihood(requests)

    def apply_chat_template(self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True) -> str:  # noqa: ARG002, FBT001, FBT002
        """The question of a chat of one turn, which the checkpoint puts into its own template. Raises UsageError."""
        if len(chat_history) != 1 or chat_history[0]["role"] != "user":
            raise UsageError(
                "a checkpoint answers a question by itself: no system message and no examples before it "
                "(--num_fewshot 0)"
            )
        return chat_history[0]["content"]

    @property
    def tokenizer_name(self) -> str:
        """What tells this model's requests from another's in the harness's cache."""
        return self._name

    def _settings(self, asked: dict[str, Any]) -> _Settings:
        """What a task wants. Raises UsageError for what can't be had, rather than leave it out unsaid."""
        left = dict(normalize_gen_kwargs(asked, MAX_ANSWER_TOKENS))
        until, most = tuple(left.pop("until")), left.pop("max_gen_toks")
        temperature, top_p = left.pop("temperature", 0.0), left.pop("top_p", 1.0)
        samples = left.pop("do_sample")
        if left:
            raise UsageError(f"generation_kwargs that rot does not know: {', '.join(sorted(left))}; leave them out")
        chosen = Sampling(temperature=temperature, top_p=top_p, seed=self._seed) if samples else Sampling()
        return _Settings(chosen, most, until)


def _batch_size(asked: int | str, most: int | None) -> int:
    """A number of questions; `auto` is as many as are answered together elsewhere, too. Raises UsageError."""
    if str(asked).startswith("auto"):
        return min(_BATCH_SIZE, most or _BATCH_SIZE)
    if not str(asked).isdigit() or not int(asked):
        raise UsageError(f"--batch_size is a number from 1 on, or auto; got {asked}")
    return int(asked)
