"""A sister of `tiny` that knows words: `python -m reproduce.sister CORPUS --out DIR`, resumed where it was stopped.

tiny's eyes, frozen, and a language model of twice its depth, with a tokenizer that cuts what people wrote into words
and numbers into digits. It learns from the known wordings of `reproduce.words` and from drills in arithmetic:

    sums        equations of many chains of thought, one after another -> their results
    words       question -> chain of thought -> answer
    at once     question -> answer
    reading     strip -> its text
    continuing  question, the strip of a chain's beginning -> the rest of the chain, in words -> answer

Sums stand alone in the first steps. In questions they are a few digits among many words, and a model that had learnt
to read these, and to choose what is reckoned with what, still had two results of three wrong (docs/log.md).
The last two are what a vision-language model brings to Render-of-Thought: what stands in a picture can be read, and
reckoned with. Nothing is learnt of producing latents. Strips come in cells, and in tiny's default style; every second
one has its latents encoded each alone.

Shapes: B sequences, T positions, K latents of a strip, D embedding width.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import time
from collections import deque
from collections.abc import Sequence as Texts
from dataclasses import asdict, dataclass, replace
from itertools import chain, cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reproduce.words import CORPORA, drill
from rotdata.console import run_app, say
from rotdata.corpora import Row, Source, read
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.encoders.patches import latent_pictures
from rotdata.errors import UsageError
from rotdata.output import being_written
from rotdata.rendering.strips import StripStyle, renderer
from rottrain.training import tiny
from rottrain.training.muon import MuonAdamW, matrices_of
from rottrain.training.tiny import IGNORED, Sequence, task_loss

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

VOCABULARY = 2048
LAYERS = 8
_CELLS = tuple(
    replace(style, align_steps=steps, align_numbers=numbers)
    for style in tiny.STYLES[1:]
    for steps, numbers in ((False, False), (True, False), (True, True))
)
STYLES = (tiny.STYLES[0], *_CELLS)
"""Styles of chains: tiny's default, and cells of three to six characters, with steps and numbers aligned or not."""
_EQUATION = re.compile(r"( ?<<[^<=]+=)([^<=]+>>)")
_CHAINS = 10  # in a row of sums
_WORD_ROWS = 20_000  # of each corpus, for the tokenizer
_STATE, _STATE_STEPS = "state.pt", 200


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How the sister is trained."""

    steps: int = 2600
    sums_first: int = 300
    """Steps of sums alone."""
    sums: int = 12
    """Rows a step of sums: ten chains each,"""
    words: int = 40
    """that are reasoned in words,"""
    at_once: int = 4
    """that are answered at once,"""
    read: int = 12
    """that are read,"""
    continued: int = 16
    """and that are continued from a picture."""
    lr: float = 2e-3
    """Of Muon and of AdamW, whose steps are as large."""
    warmup_steps: int = 100
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    snippet_steps: int = 300
    """Steps over which what is read grows from a few characters to whole chains of thought."""
    seed: int = 0
    shares: tuple[float, ...] = (0.1, 0.2, 0.5, 0.2)
    """Of MultiArith, SVAMP, GSM8K and drills."""


class Problems:
    """Problems without end, as many of each corpus as its share says."""

    def __init__(self, corpora: Texts[Texts[Row]], shares: Texts[float]) -> None:
        """Rows of some corpora; drills come last."""
        self._corpora = corpora
        self._shares = shares

    def draw(self, rng: random.Random, count: int) -> list[Row]:
        """So many of them."""
        chosen = rng.choices([*self._corpora, None], self._shares, k=count)
        return [drill(rng) if rows is None else rng.choice(rows) for rows in chosen]


def load_problems(file: Path) -> list[Row]:
    """The rows of a file of `reproduce.words`."""
    return [row for row in read(Source(location=str(file), corpus="generic")) if isinstance(row, Row)]


def config_of(vocabulary: int) -> Qwen3VLConfig:
    """Tiny's architecture with more layers and more words."""
    config = tiny.tiny_config()
    config.text_config.num_hidden_layers = LAYERS
    config.text_config.vocab_size = vocabulary + 8  # the begin and end token come on top
    return config


class Eyes:
    """tiny's tower, frozen: text and style -> latents."""

    def __init__(self) -> None:
        self._encoder = load_encoder(find_model("tiny"), dtype="float32", device="cpu")
        self._alone: dict[bytes, Tensor] = {}

    def strips(
        self, texts: Texts[str], styles: Texts[StripStyle], alone: Texts[bool]
    ) -> list[tuple[Tensor, list[int]]]:
        """Of each text the latents [K, D], and where in it each of them ends; `alone`, each is encoded by itself."""
        drawn = [renderer(style).render(text) for text, style in zip(texts, styles, strict=True)]
        pictures = [latent_pictures(strip.pixels) if each else None for strip, each in zip(drawn, alone, strict=True)]
        whole = [strip.pixels for strip, each in zip(drawn, pictures, strict=True) if each is None]
        encoded = deque(self._encoder.encode(whole) if whole else [])
        new = {tile.tobytes(): tile for tiles in pictures for tile in tiles or () if tile.tobytes() not in self._alone}
        if new:
            found = self._encoder.encode(list(new.values()))
            self._alone.update(zip(new, map(torch.from_numpy, found), strict=True))
        made = []
        for strip, tiles in zip(drawn, pictures, strict=True):
            latents = (
                torch.from_numpy(encoded.popleft())
                if tiles is None
                else torch.cat([self._alone[tile.tobytes()] for tile in tiles])
            )
            made.append((latents, strip.spans.tolist()[1:]))
        return made


class Lesson:
    """A step's problems, and the losses of what is learnt from them. The number of the step alone decides them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, problems: Problems, recipe: Recipe) -> None:
        self._tokenizer = tokenizer
        self._build = tiny.TaskBuilder(tokenizer)
        self._problems = problems
        self.recipe = recipe
        self._eyes = Eyes()

    def losses(self, model: Any, step: int) -> dict[str, Tensor]:
        """One loss a task."""
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}-{step}")  # noqa: S311 -- a lesson, not a secret
        sums = [self._sums(self._problems.draw(rng, _CHAINS)) for _ in range(recipe.sums)]
        losses = {"sums": task_loss(model, sums, None)}
        step -= recipe.sums_first
        return losses if step < 0 else losses | self._other_losses(model, rng, step)

    def _other_losses(self, model: Any, rng: random.Random, step: int) -> dict[str, Tensor]:
        recipe, build = self.recipe, self._build
        spoken = [build.words(problem) for problem in self._problems.draw(rng, recipe.words)]
        short = [build.at_once(problem) for problem in self._problems.draw(rng, recipe.at_once)]
        return {
            "words": _by_length(model, spoken),
            "at_once": task_loss(model, short, None),
            "read": self._reading(model, rng, step),
            "continue": self._continuing(model, rng),
        }

    def _sums(self, problems: Texts[Row]) -> Sequence:
        """Their equations; what is learnt is the results, and where each ends."""
        texts = list(chain(*_EQUATION.findall(" ".join(each.cot for each in problems))))
        parts = self._tokenizer(texts, add_special_tokens=False).input_ids
        labels = [
            part if learnt else [IGNORED] * len(part) for part, learnt in zip(parts, cycle((False, True)), strict=False)
        ]
        return Sequence(list(chain(*parts)), list(chain(*labels)))

    def _reading(self, model: Any, rng: random.Random, step: int) -> Tensor:
        grown = step / self.recipe.snippet_steps
        texts = [each.cot for each in self._problems.draw(rng, self.recipe.read)]
        if grown < 1:
            texts = [tiny.snippet(text, rng, grown) for text in texts]
        strips = self._strips(texts, rng, STYLES)
        tasks = [self._build.read(text, len(latents)) for text, (latents, _) in zip(texts, strips, strict=True)]
        return task_loss(model, tasks, torch.cat([latents for latents, _ in strips]))

    def _continuing(self, model: Any, rng: random.Random) -> Tensor:
        problems = self._problems.draw(rng, self.recipe.continued)
        strips = self._strips([each.cot for each in problems], rng, _CELLS)
        tasks, given = [], []
        for problem, (latents, ends) in zip(problems, strips, strict=True):
            count = rng.randint(1, len(latents))
            given.append(latents[:count])
            tasks.append(self._build.from_strip(problem, count, problem.cot[ends[count - 1] :]))
        return task_loss(model, tasks, torch.cat(given))

    def _strips(
        self, texts: Texts[str], rng: random.Random, styles: Texts[StripStyle]
    ) -> list[tuple[Tensor, list[int]]]:
        chosen = rng.choices(styles, k=len(texts))
        return self._eyes.strips(texts, chosen, [style.cells is not None and rng.random() < 0.5 for style in chosen])


def _by_length(model: Any, tasks: list[Sequence]) -> Tensor:
    """The loss of texts of many lengths, in two passes that are padded less than one."""
    tasks = sorted(tasks, key=lambda task: len(task.ids))
    halves = tasks[: len(tasks) * 2 // 3], tasks[len(tasks) * 2 // 3 :]
    counts = [sum(label != IGNORED for task in half for label in task.labels) for half in halves]
    losses = [task_loss(model, half, None) * count for half, count in zip(halves, counts, strict=True)]
    return torch.stack(losses).sum() / sum(counts)


def train(recipe: Recipe, corpora: list[list[Row]], out: Path, *, until: int | None = None) -> None:
    """Train the sister and write it to `out`; every 200 steps a state, from which the next call goes on."""
    torch.manual_seed(recipe.seed)
    tokenizer = tiny.tokenizer_of((row for rows in corpora for row in rows[:_WORD_ROWS]), VOCABULARY)
    model = _new_model(len(tokenizer))
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(tokenizer)} tokens")
    optimizer = _optimizer(model, recipe)
    lesson = Lesson(tokenizer, Problems(corpora, recipe.shares), recipe)
    out.mkdir(parents=True, exist_ok=True)
    origin = _origin(recipe, corpora)
    first = _go_on(out / _STATE, model, optimizer, origin)
    last = recipe.steps if until is None else min(until, recipe.steps)
    started = time.monotonic()
    with (out / "training.jsonl").open("a") as log:
        for step in range(first, last):
            losses = _learn(model, optimizer, lesson, step)
            if step % 20 == 0 or step + 1 == last:
                tiny.log_losses(log, step, time.monotonic() - started, losses)
            if (step + 1) % _STATE_STEPS == 0 or step + 1 == last:
                tiny.save(model, tokenizer, asdict(recipe), out)
                _save_state(out / _STATE, model, optimizer, step + 1, origin)  # last: the model is there


def _new_model(vocabulary: int) -> Qwen3VLForConditionalGeneration:
    """Random weights behind tiny's frozen tower."""
    from transformers import AutoModelForImageTextToText

    eager = {"attn_implementation": "eager"}  # twice as fast here
    model = AutoModelForImageTextToText.from_config(config_of(vocabulary), **eager).train()
    seeing = AutoModelForImageTextToText.from_pretrained(find_model("tiny").path, dtype=torch.float32)
    model.model.visual.load_state_dict(seeing.model.visual.state_dict())
    model.model.visual.requires_grad_(requires_grad=False)
    if shutil.which("g++"):
        for layer in model.model.language_model.layers:
            layer.compile(dynamic=True)  # a step takes two thirds of the time
    return model


def _learn(model: Any, optimizer: torch.optim.Optimizer, lesson: Lesson, step: int) -> dict[str, Tensor]:
    """One step, and its losses."""
    recipe = lesson.recipe
    factor = tiny.lr_factor(step, steps=recipe.steps, warmup_steps=recipe.warmup_steps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = lesson.losses(model, step)
    torch.stack(list(losses.values())).sum().backward()
    nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    for group in optimizer.param_groups:
        group["lr"] = recipe.lr * factor
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses


def _origin(recipe: Recipe, corpora: list[list[Row]]) -> str:
    """SHA-256 of what a state is of: the recipe and the corpora."""
    digest = hashlib.sha256(json.dumps(asdict(recipe)).encode())
    for rows in corpora:
        for row in rows:
            digest.update(json.dumps([row.question, row.cot, row.answer]).encode())
    return digest.hexdigest()


def _save_state(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, origin: str) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "steps": steps,
        "origin": origin,
    }
    with being_written(file) as stream:
        torch.save(state, stream)


def _go_on(file: Path, model: nn.Module, optimizer: torch.optim.Optimizer, origin: str) -> int:
    """Put a state in place, if there is one: the steps that it has done. Raises UsageError if it is another's."""
    if not file.exists():
        return 0
    state = torch.load(file, weights_only=True)
    if state["origin"] != origin:
        raise UsageError(f"{file} is of another recipe or corpus: remove it to begin anew, or choose another --out")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    say(f"going on after {state['steps']} steps")
    return int(state["steps"])


def _optimizer(model: nn.Module, recipe: Recipe) -> MuonAdamW:
    decayed = matrices_of(model)
    return MuonAdamW(model, decayed=decayed, lr=recipe.lr, weight_decay=recipe.weight_decay, betas=(0.9, 0.98))


def main() -> None:
    """Train the sister, or go on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder of reproduce.words")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--until", type=int, help="stop after so many steps; the next call goes on")
    wanted = parser.parse_args()
    corpora = [load_problems(wanted.corpus / each.name / "train.jsonl") for each in CORPORA]
    train(Recipe(steps=wanted.steps), corpora, wanted.out, until=wanted.until)


if __name__ == "__main__":
    run_app(main)
