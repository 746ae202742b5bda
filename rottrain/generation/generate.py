"""Question -> latents -> answer, in batches: latents and answer both with a key-value cache.

Shapes: B questions, K latents, D embedding width, T positions: of what is fed, or of the cache and what is fed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rotdata.console import is_unicode
from rotdata.errors import CheckpointError, UsageError
from rotdata.pictures import Pictures
from rottrain.config import MOST_LATENTS, Feedback, Precision
from rottrain.data.batches import pad_ids
from rottrain.generation.decoding import GREEDY, Chooser, Said, Sampling, chooser, decode, positions_of
from rottrain.generation.feedback import PictureFeedback, Read, blank_book, texts_of
from rottrain.generation.rollout import Prompt, Unrolled, read_prompt, unroll
from rottrain.metrics import scoring
from rottrain.model import checkpoints
from rottrain.model.backbone import Backbone
from rottrain.model.book import Book
from rottrain.model.glyph_probe import GlyphProbe
from rottrain.model.head import ProjectionHead
from rottrain.model.trained import Trained

DEFAULT_BUDGET = 32
AUTO_QUANTILE = "0.95"
"""Share of the training rows whose strips the budget `auto` holds whole."""
MAX_ANSWER_TOKENS = 64
MAX_COT_TOKENS = 1024
MAX_QUESTION_TOKENS = 8192
"""A longer question is refused before it takes all memory: reading it takes the square of its length."""

Budget = int | Literal["auto"] | None
"""Latents to spend on a question: so many, what most training rows have, or what the checkpoint was trained on."""


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Where a question's share of its batch's time went, in seconds."""

    prefill_s: float = 0.0
    """Reading the prompt. In words that is one pass with the first token, and counts as answering."""
    latents_s: float = 0.0
    answer_s: float = 0.0
    """End token, answer mark and answer; in words everything."""


@dataclass(frozen=True, kw_only=True)
class Thought:
    """What picture feedback read in the latents of a question, and fed back."""

    texts: list[str]
    """The characters of each latent, [K]; U+FFFD for a latent that could not be named and was fed back as it was."""
    confidences: list[float]
    """Of the least certain character of each, 0 to 1."""
    predicted_KD: Tensor | None
    """The latents as they were predicted, on the CPU in fp32; None where latents are not kept."""
    drawn: int
    """Latents whose characters were not in the book."""
    unnamed: int
    """Latents that were fed back as predicted."""

    @property
    def text(self) -> str:
        """All that was thought."""
        return "".join(self.texts)

    def unsure(self, below: float) -> list[bool]:
        """Whether each latent was read with less confidence."""
        return [confidence < below for confidence in self.confidences]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What the model made of one question."""

    question: str
    reply: str
    """The text after the latents: answer mark and answer. In words, the whole chain of thought before them."""
    reasoning_tokens: int
    """Latents spent; in words, the tokens before the answer mark, or all of them if there is none."""
    seconds: float
    """Its share of the batch's time."""
    timings: Timings = Timings()
    answer_tokens: int = 0
    """Tokens that were decoded, one pass each; in words the reasoning's among them, but not the end of sequence."""
    complete: bool = True
    """Whether the reply ended by itself, not at the most tokens allowed."""
    latents_KD: Tensor | None = None
    """What was answered from: [K, D] on the CPU in fp32; None where the reasoning was in words or absent."""
    thought: Thought | None = None
    """What was read in the latents; None without picture feedback."""


def default_budget(config: checkpoints.CheckpointConfig) -> int:
    """The latents that a checkpoint is given if nobody says."""
    longest = (config.lengths or {}).get("1")
    if config.feedback == "picture" and longest:  # a thought ends by itself
        return config.budget or 2 * longest
    return config.budget or DEFAULT_BUDGET


class RoT:
    """A trained checkpoint on its base model: `RoT.from_pretrained(folder).generate([question], budget=32)`."""

    def __init__(
        self,
        backbone: Backbone,
        head: ProjectionHead,
        config: checkpoints.CheckpointConfig,
        glyphs: GlyphProbe | None = None,
        book: Book | None = None,
        *,
        load_base: Callable[[], Backbone] | None = None,
    ) -> None:
        """The parts; `load_base` loads the base model anew where its own weights have learnt."""
        self.backbone = backbone
        self._load_base = load_base
        self.head = head
        self.config = config
        self.glyphs = glyphs
        self.book = book
        self.max_question_tokens = MAX_QUESTION_TOKENS
        """May be raised, where the memory allows it."""

    @classmethod
    def from_pretrained(cls, folder: Path | str, *, model: str | None = None, precision: Precision = "auto") -> RoT:
        """Load a finished checkpoint and its base model, or `model` where that lies elsewhere now.

        A folder, or OWNER/NAME[@REVISION] on the Hub; what `export` has made of a checkpoint is as good as itself.
        Raises CheckpointError if the two don't belong together, UnknownModel.
        """
        trained = Trained.find(folder)
        place, config = trained.folder, trained.config
        head = checkpoints.load_head(place, config)
        backbone = trained.load(model=model, precision=precision)
        head.to(backbone.device).eval().requires_grad_(requires_grad=False)
        glyphs = checkpoints.load_probe(place, config)
        book = checkpoints.load_book(place, config)
        return cls(
            backbone,
            head,
            config,
            None if glyphs is None else glyphs.to(backbone.device),
            None if book is None else book.to(backbone.device),
            load_base=partial(trained.load_base, backbone, model=model),
        )

    def generate(  # noqa: PLR0913 -- keyword-only settings, as the command has them
        self,
        questions: Sequence[str],
        *,
        budget: Budget = None,
        stop: float | None = None,
        feedback: Feedback | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 16,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
    ) -> list[Generation]:
        """Think about each question in latents, then answer; in the order of the questions.

        By default `budget` latents are what it was trained on, or 32; "auto" are as many as 95% of its training rows
        have at most; with 0 it answers at once. With `stop`, each question's thinking ends at the first latent that is
        the last with more than this probability, at the budget at the latest. `feedback` is what the model continues
        from: the predicted "latent", or the "picture" of what was read in it; by default as it was trained. With
        pictures a thought ends at a latent that shows nothing, too. A temperature above 0 samples the answer's tokens,
        and the characters that are read in latents; a sample depends on seed and question, not on the batch. Raises
        UsageError, and CheckpointError for a checkpoint that has not learnt to stop, knows no lengths, or whose latents
        can't be read.
        """
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
        streamed = self.stream(
            questions,
            budget=budget,
            stop=stop,
            feedback=feedback,
            sampling=sampling,
            batch_size=batch_size,
            max_answer_tokens=max_answer_tokens,
        )
        return list(streamed)

    def stream(
        self,
        questions: Sequence[str],
        *,
        budget: Budget = None,
        stop: float | None = None,
        feedback: Feedback | None = None,
        sampling: Sampling = GREEDY,
        batch_size: int = 16,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
    ) -> Iterator[Generation]:
        """What `generate` gives, batch by batch as it is done; errors of the arguments come at once."""
        latents = self.budget(budget)
        self.check_stop(stop)
        fed_back = self.feedback(feedback)
        batches = _batches(questions, batch_size)

        def made() -> Iterator[Generation]:
            for batch in batches:
                if latents:
                    yield from self._generate_batch(batch, latents, stop, fed_back, sampling, max_answer_tokens)
                else:
                    choose = chooser(batch, sampling)
                    none_KD = [torch.zeros(0, self.backbone.width)] * len(batch)
                    yield from self._answer_batch(batch, none_KD, "none", choose, max_answer_tokens)

        return made()

    def budget(self, asked: Budget) -> int:
        """The latents that a budget stands for. Raises UsageError, CheckpointError."""
        if asked == "auto":
            if self.config.lengths is None:
                raise CheckpointError(
                    "this checkpoint does not say how long its training rows were: give the budget as a number, or "
                    "train it again with this release"
                )
            return self.config.lengths[AUTO_QUANTILE]
        if asked is None:
            return default_budget(self.config)
        if asked < 0:
            raise UsageError(f"the budget is at least 0 latents, got {asked}")
        if asked > MOST_LATENTS:
            raise UsageError(f"the budget is at most {MOST_LATENTS} latents, got {asked!s:.40}")
        return asked

    def answer(
        self,
        questions: Sequence[str],
        latents: Sequence[Tensor],
        *,
        hidden: Literal["none", "latents"] = "none",
        batch_size: int = 16,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
    ) -> list[Generation]:
        """Answer each question from the latents [K, D] that are given for it, as `generate` does from its own.

        K may differ, and may be 0. Hidden latents keep their places, but the answer can't attend to them. Raises
        UsageError for latents that don't fit.
        """
        if len(latents) != len(questions):
            raise UsageError(f"each question is answered from its own latents: {len(questions)} against {len(latents)}")
        width = self.backbone.width
        if strange := [tuple(given.shape) for given in latents if given.ndim != 2 or given.shape[1] != width]:
            raise UsageError(f"latents of this model have the shape [K, {width}], got {strange[0]}")
        rest = iter(latents)
        done: list[Generation] = []
        for batch in _batches(questions, batch_size):
            choose = chooser(batch, GREEDY)
            done += self._answer_batch(batch, list(islice(rest, len(batch))), hidden, choose, max_answer_tokens)
        return done

    def prompt_ids(self, question: str) -> list[int]:
        """The tokens of a question's prompt. Raises UsageError for a question that is too long or no text."""
        [ids] = _prompts(self.backbone, [question], prefill=[], most=self.max_question_tokens)[0].tolist()
        return ids

    def check_stop(self, stop: float | None) -> None:
        """Raise UsageError or CheckpointError if thinking can't be ended by this."""
        if stop is None:
            return
        if not 0 < stop < 1:
            raise UsageError(f"a stop is a probability between 0 and 1, got {stop}")
        if not self.config.run["recipe"].get("halt_weight"):
            raise CheckpointError(
                "this checkpoint has not learnt to stop: give a fixed budget, or train with --halt-weight"
            )

    def feedback(self, asked: Feedback | None) -> Feedback:
        """What the model continues from: as asked, or as it was trained.

        Raises CheckpointError where latents can't be read, or characters don't decide them.
        """
        chosen = asked or self.config.feedback
        if chosen == "picture" and self.config.context == "strip":
            raise CheckpointError(
                "picture feedback needs latents that are pictures of their own characters alone, and this checkpoint "
                "has learnt those of whole strips: `rotdata embed --context latent`, then train on that with --recipe "
                "picture; or use --feedback latent"
            )
        if chosen == "picture" and self.glyphs is None:
            raise CheckpointError(
                "picture feedback needs a glyph probe, and this checkpoint has none: train it with --recipe picture, "
                "or with a --glyph-weight above 0; or use --feedback latent"
            )
        return chosen

    def reader(self, questions: Sequence[str], sampling: Sampling = GREEDY, *, draws: bool = True) -> PictureFeedback:
        """Picture feedback for a batch of questions; with `draws`, characters that the book lacks are drawn."""
        assert self.glyphs is not None
        if self.book is None:  # it has not learnt with pictures fed back, so all of them are drawn
            self.book = blank_book(self.glyphs.alphabet, self._pictures).to(self.backbone.device)
        thinking = [f"{question}\n(thought)" for question in questions]  # other random numbers than the answer's
        return PictureFeedback(
            self.glyphs,
            self.head,
            self.book,
            pictures=self._pictures if draws else None,
            choose=chooser(thinking, sampling),
        )

    def think(
        self,
        prompt: Prompt,
        questions: Sequence[str],
        budget: int,
        *,
        stop: float | None = None,
        feedback: Feedback = "latent",
        sampling: Sampling = GREEDY,
    ) -> tuple[Unrolled, Read | None]:
        """The latents of questions whose prompt was read, and what was read in them.

        On a GPU characters are looked up without waiting for it; if the book lacked any, the batch thinks once more
        and draws them.
        """
        ends = None if stop is None else lambda hidden_BD: self.head.is_last(hidden_BD).sigmoid() > stop
        if feedback == "latent":
            return unroll(self.backbone, self.head, prompt, budget, stop=ends), None
        for draws in (False, True) if self.backbone.device.type != "cpu" else (True,):
            reader = self.reader(questions, sampling, draws=draws)
            thought = unroll(self.backbone, self.head, prompt, budget, stop=ends, feedback=reader)
            read = reader.read()
            steps_K = torch.arange(read.missed_BK.shape[1], device=read.missed_BK.device)
            counted_BK = steps_K < thought.counts_B[:, None]  # what a thought that has ended goes on to say is dropped
            if draws or not bool((read.missed_BK & counted_BK).any()):
                break
        return thought, read

    def load_tower(self) -> None:
        """Load what draws characters that the book lacks, before it is first needed."""
        self._pictures.load()

    @cached_property
    def _pictures(self) -> Pictures:
        return Pictures(self.backbone.folder, style=self.config.style, encoder=self.config.encoder)

    @cached_property
    def base(self) -> Backbone:
        """The model before it was trained; loaded anew if its own weights have changed."""
        if not self.backbone.trains_language:
            return self.backbone
        if self._load_base is not None:
            return self._load_base()
        trained = self.backbone
        return Backbone.load(
            trained.folder, dtype=trained.dtype, device=trained.device.type, arithmetic=trained.arithmetic
        )

    @cached_property
    def _closing(self) -> list[int]:
        """What comes between latents and answer: end token and answer mark, which is the same before any answer."""
        return [self.backbone.end_id, *self.backbone.mark_ids]

    @torch.inference_mode()
    def _generate_batch(
        self,
        questions: list[str],
        budget: int,
        stop: float | None,
        feedback: Feedback,
        sampling: Sampling,
        max_answer_tokens: int,
    ) -> list[Generation]:
        watch = _Stopwatch(self.backbone)
        prompt = self._read(questions)
        prefill_s = watch.lap()
        thought, read = self.think(prompt, questions, budget, stop=stop, feedback=feedback, sampling=sampling)
        latents_s = watch.lap()
        mask = thought.mask_after(prompt, len(self._closing))
        inputs_BTD = self._closed(thought.fed_BKD[:, -1:])
        said = decode(
            self.backbone,
            inputs_BTD,
            mask,
            positions_of(mask, inputs_BTD.shape[1]),
            thought.cache,
            choose=chooser(questions, sampling),
            max_tokens=max_answer_tokens,
        )
        latents, counts = thought.fed_BKD.float().cpu(), thought.counts_B.tolist()
        kept = [row_KD[:count] for row_KD, count in zip(latents, counts, strict=True)]
        timings = Timings(prefill_s=prefill_s, latents_s=latents_s, answer_s=watch.lap())
        made = self._generations(questions, said, kept, timings)
        if read is None:
            return made
        predicted_BKD, read = thought.latents_BKD.float().cpu(), read.cpu()
        return [
            replace(each, thought=self._thought(predicted_BKD, read, row, count))
            for row, (each, count) in enumerate(zip(made, counts, strict=True))
        ]

    def _thought(self, predicted_BKD: Tensor, read: Read, row: int, count: int) -> Thought:
        """What was read in the first `count` latents of a row of a batch; all of it is on the host."""
        assert self.book is not None
        named = read.named_BK[row, :count].tolist()
        return Thought(
            texts=texts_of(self.book, read.classes_BKS[row, :count], named),
            confidences=read.confidence_BK[row, :count].tolist(),
            predicted_KD=predicted_BKD[row, :count],
            drawn=int(read.missed_BK[row, :count].sum()),
            unnamed=named.count(False),
        )

    @torch.inference_mode()
    def _answer_batch(
        self,
        questions: list[str],
        latents: list[Tensor],
        hidden: Literal["none", "latents"],
        choose: Chooser,
        max_answer_tokens: int,
    ) -> list[Generation]:
        backbone, closing = self.backbone, len(self._closing)
        watch = _Stopwatch(backbone)
        prompt = self._read(questions)
        prefill_s = watch.lap()
        counts_B1 = torch.tensor([[len(given_KD)] for given_KD in latents], device=backbone.device)
        given_BKD = pad_sequence([given_KD.to(backbone.device) for given_KD in latents], batch_first=True)
        latents_BK = torch.arange(given_BKD.shape[1], device=backbone.device) < counts_B1
        mask = torch.cat([prompt.mask_BT, latents_BK, latents_BK.new_ones(len(latents_BK), closing)], dim=1)
        inputs_BTD = self._closed(given_BKD)
        positions = positions_of(mask, inputs_BTD.shape[1])
        if hidden == "latents":  # what nothing attends to need not be read
            inputs_BTD, positions = inputs_BTD[:, -closing:], positions[:, -closing:]
            mask, _ = prompt.continued(closing)
        said = decode(backbone, inputs_BTD, mask, positions, prompt.fork(), choose=choose, max_tokens=max_answer_tokens)
        kept = [given_KD.float().cpu() for given_KD in latents]
        return self._generations(questions, said, kept, Timings(prefill_s=prefill_s, answer_s=watch.lap()))

    def _read(self, questions: list[str]) -> Prompt:
        return read_prompt(
            self.backbone, *_prompts(self.backbone, questions, prefill=[], most=self.max_question_tokens)
        )

    def _closed(self, latents_BKD: Tensor) -> Tensor:
        """Latents, and what comes between them and the answer."""
        closing_BT = torch.tensor(self._closing, device=self.backbone.device).expand(len(latents_BKD), -1)
        return torch.cat([latents_BKD.to(self.backbone.dtype), self.backbone.embed(closing_BT)], dim=1)

    def _generations(
        self, questions: list[str], said: list[Said], latents: list[Tensor], spent: Timings
    ) -> list[Generation]:
        """What a batch that took `spent` made."""
        made = _generations(self.backbone, questions, said, spent, prefill=self._closing[1:])
        return [
            replace(generation, reasoning_tokens=len(thought_KD), latents_KD=thought_KD)
            for generation, thought_KD in zip(made, latents, strict=True)
        ]


def in_words(
    backbone: Backbone,
    questions: Sequence[str],
    *,
    sampling: Sampling = GREEDY,
    batch_size: int = 16,
    max_tokens: int = MAX_COT_TOKENS,
) -> list[Generation]:
    """Reason in text, with the model as it stands: its reply is chain of thought, answer mark, answer."""
    return _text_replies(backbone, questions, [], sampling, batch_size=batch_size, max_tokens=max_tokens)


def at_once(
    backbone: Backbone,
    questions: Sequence[str],
    *,
    sampling: Sampling = GREEDY,
    batch_size: int = 16,
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> list[Generation]:
    """Answer without any reasoning, with the model as it stands: its reply is made to start with the answer mark."""
    mark = backbone.mark_ids
    return _text_replies(backbone, questions, mark, sampling, batch_size=batch_size, max_tokens=max_tokens)


@torch.inference_mode()
def _text_replies(
    backbone: Backbone,
    questions: Sequence[str],
    prefill: list[int],
    sampling: Sampling,
    *,
    batch_size: int,
    max_tokens: int,
) -> list[Generation]:
    done: list[Generation] = []
    for batch in _batches(questions, batch_size):
        watch = _Stopwatch(backbone)
        ids, mask = _prompts(backbone, batch, prefill=prefill)
        said = decode(
            backbone,
            backbone.embed(ids),
            mask,
            positions_of(mask, ids.shape[1]),
            backbone.new_cache(),
            choose=chooser(batch, sampling),
            max_tokens=max_tokens,
        )
        done += _generations(backbone, batch, said, Timings(answer_s=watch.lap()), prefill=prefill)
    return done


def _generations(
    backbone: Backbone, questions: list[str], said: list[Said], spent: Timings, *, prefill: list[int]
) -> list[Generation]:
    """What a batch that took `spent` made, its replies beginning with `prefill`."""
    share = Timings(**{name: seconds / len(questions) for name, seconds in vars(spent).items()})
    made = []
    for question, row in zip(questions, said, strict=True):
        text = backbone.decode(prefill + row.ids)
        thought = scoring.reasoning(text)
        made.append(
            Generation(
                question=question,
                reply=text,
                reasoning_tokens=len(backbone.text_ids(thought)) if thought else 0,
                seconds=sum(vars(share).values()),
                timings=share,
                answer_tokens=len(row.ids),
                complete=row.complete,
            )
        )
    return made


def _prompts(
    backbone: Backbone, questions: Sequence[str], *, prefill: list[int], most: int = MAX_QUESTION_TOKENS
) -> tuple[Tensor, Tensor]:
    """Prompts, with the start of the reply where one is given, padded on the left. Raises UsageError."""
    if strange := [question for question in questions if not is_unicode(question)]:
        raise UsageError(f"a question holds a lone surrogate, which is no character: {strange[0][:80]!a}")
    rows = [backbone.prompt_ids(question) + prefill for question in questions]
    if (longest := max(map(len, rows), default=0)) > most:
        raise UsageError(
            f"a question is of {longest} tokens with its prompt, and at most {most} are read: shorten it, or raise "
            "the cap (rottrain generate --max-question-tokens, RoT.max_question_tokens)"
        )
    ids, mask = pad_ids(rows, backbone.pad_id, side="left")
    return ids.to(backbone.device), mask.to(backbone.device)


def _batches(questions: Sequence[str], size: int) -> list[list[str]]:
    if size < 1:
        raise UsageError(f"the batch size is at least 1, got {size}")
    rest = iter(questions)
    return list(iter(lambda: list(islice(rest, size)), []))


class _Stopwatch:
    """Seconds from lap to lap, until the device is done with what it was given."""

    def __init__(self, backbone: Backbone) -> None:
        self._on_cpu = backbone.device.type == "cpu"
        self._started = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap."""
        if not self._on_cpu:
            torch.accelerator.synchronize()
        before, self._started = self._started, time.perf_counter()
        return self._started - before
