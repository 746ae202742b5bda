"""Who is examined: a checkpoint that thinks in latents, one fine-tuned in words, or the base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rotdata.errors import CheckpointError, UsageError
from rottrain.config import Feedback
from rottrain.generation import generate
from rottrain.generation.decoding import Sampling
from rottrain.generation.generate import MAX_ANSWER_TOKENS, MAX_COT_TOKENS, Budget, Generation, RoT
from rottrain.model.backbone import Backbone
from rottrain.model.precision import load_backbone
from rottrain.model.trained import Trained, load_text_model

Mode = Literal["rot", "cot", "no-cot"]
InWords = Literal["cot", "no-cot"]
MODES: tuple[Mode, ...] = ("rot", "cot", "no-cot")
_IN_WORDS: tuple[InWords, ...] = ("cot", "no-cot")

BASE = "base model"
"""Name of a candidate that was taught neither the task nor how to declare an answer."""

Answerer = Callable[[list[str], Sampling], list[Generation]]
"""Questions of one batch, and how to sample -> what was made of them, in order."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model, and how it is to reason."""

    mode: Mode
    name: str
    """What answers: stage1, stage2, sft, or the base model."""
    answer: Answerer
    budget: int | None = None
    """Latents allowed; None for modes without latents."""
    stop: float | None = None
    feedback: Feedback | None = None
    """What it continues from; None for modes without latents."""


def thinker(
    rot: RoT,
    *,
    budget: Budget = None,
    stop: float | None = None,
    feedback: Feedback | None = None,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> Candidate:
    """A checkpoint that thinks in latents. Raises UsageError, CheckpointError."""
    latents = rot.budget(budget)
    rot.check_stop(stop)
    fed_back = rot.feedback(feedback)
    if fed_back == "picture":
        rot.load_tower()  # no question's time is that of loading

    def answer(questions: list[str], sampling: Sampling) -> list[Generation]:
        streamed = rot.stream(
            questions,
            budget=latents,
            stop=stop,
            feedback=fed_back,
            sampling=sampling,
            batch_size=len(questions),
            max_answer_tokens=max_answer_tokens,
        )
        return list(streamed)

    return Candidate(mode="rot", name=rot.config.stage, answer=answer, budget=latents, stop=stop, feedback=fed_back)


def speaker(
    mode: InWords,
    backbone: Backbone,
    name: str,
    *,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    max_cot_tokens: int = MAX_COT_TOKENS,
) -> Candidate:
    """A model that reasons in words, or answers at once, as it stands."""
    ask = generate.in_words if mode == "cot" else generate.at_once
    most = max_cot_tokens if mode == "cot" else max_answer_tokens

    def answer(questions: list[str], sampling: Sampling) -> list[Generation]:
        return ask(backbone, questions, sampling=sampling, batch_size=len(questions), max_tokens=most)

    return Candidate(mode=mode, name=name, answer=answer)


def untaught(mode: InWords, base: Backbone, **most: int) -> Candidate:
    """The base model in words or at once, without the adapter that it may carry; `most` as in `speaker`."""
    spoken = speaker(mode, base, BASE, **most)

    def answer(questions: list[str], sampling: Sampling) -> list[Generation]:
        with base.base():
            return spoken.answer(questions, sampling)

    return Candidate(mode=mode, name=BASE, answer=answer)


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """All candidates of an evaluation."""

    checkpoint: Path
    """Thinks in latents; says which base model answers in words where no other checkpoint does."""
    modes: Sequence[str] = ("rot",)
    budgets: Sequence[Budget] = (None,)
    """One candidate each, of mode rot."""
    stop: float | None = None
    feedback: Feedback | None = None
    """What those continue from, if not what they were trained on."""
    spoken: Mapping[str, Path] = field(default_factory=dict)
    """Checkpoints of `rottrain sft` for the modes cot and no-cot; the base model where there is none."""
    model: str | None = None
    """The base model, where it lies elsewhere than at training."""
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    max_cot_tokens: int = MAX_COT_TOKENS

    def __post_init__(self) -> None:
        """Raise UsageError or CheckpointError for what no candidate can be made of."""
        if unknown := [mode for mode in self.modes if mode not in MODES]:
            raise UsageError(f"--modes takes {', '.join(MODES)}, got {unknown[0]!r}")
        for mode, folder in self.spoken.items():
            config = Trained.find(folder).config
            if config.mode != mode:
                taught = f"taught {config.mode}" if config.stage == "sft" else f"a {config.stage} checkpoint"
                raise CheckpointError(
                    f"--{mode}-checkpoint takes one of `rottrain sft --mode {mode}`: {folder} is {taught}"
                )

    def candidates(self) -> Iterator[Candidate]:
        """Each of them, loaded when its turn comes. Raises UsageError, CheckpointError."""
        rot: RoT | None = None
        if "rot" in self.modes:
            rot = RoT.from_pretrained(self.checkpoint, model=self.model)
            for budget in self.budgets:
                yield thinker(
                    rot,
                    budget=budget,
                    stop=self.stop,
                    feedback=self.feedback,
                    max_answer_tokens=self.max_answer_tokens,
                )
        base: Backbone | None = None
        most = {"max_answer_tokens": self.max_answer_tokens, "max_cot_tokens": self.max_cot_tokens}
        for mode in _IN_WORDS:
            if mode not in self.modes:
                continue
            if mode in self.spoken:
                backbone, config = load_text_model(self.spoken[mode], model=self.model)
                yield speaker(mode, backbone, config.stage, **most)
            else:
                base = base or (rot.base if rot else self._base())
                yield untaught(mode, base, **most)

    def _base(self) -> Backbone:
        """The base model alone."""
        return load_backbone(Trained.find(self.checkpoint).base_of(self.model), "auto")
