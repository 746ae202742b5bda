"""The recipe of `tiny`, the embedded model, from nothing on two cores: `python -m rottrain.training.tiny --out DIR`.

A vision-language model of the Qwen3-VL architecture, about three million parameters, with a byte-level BPE tokenizer
that can spell any text and cuts the toy corpus as Qwen's does. It learns four things together on that corpus: to
reason in words (question -> CoT -> answer), to answer at once (question -> answer), to read (strip -> text), and to
answer from a strip of the reasoning (question, strip -> answer). The last two are what a vision-language model brings
to Render-of-Thought. Strips come in the default style and in cells of several characters a latent.

Reading does not come by itself: in a thousand steps on whole chains of thought it stayed at chance, since the model
first has to find out where a character stands before it can learn what it looks like. Two aids change that: reading
starts on snippets of a few characters that grow, and a linear glyph probe, thrown away afterwards, has to name the
characters of each latent from that latent alone (docs/log.md).

Shapes: B sequences, T positions, K latents, D embedding width.
"""

from __future__ import annotations

import copy
import json
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 -- torch's own name for it

from rotdata.console import say
from rotdata.corpora import Row
from rotdata.corpora.toy import ToyProblem, toy_problems
from rotdata.encoders.patches import PatchGeometry, pack
from rotdata.rendering.strips import StripStyle, font_size_for_cells, renderer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

Problem = ToyProblem | Row
"""What is asked, how it is reasoned about in words, and what comes out."""
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'user' -%}<|im_start|>{%- endif -%}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>"
    "{%- endfor -%}"
)
_MONO = "DejaVu Sans Mono"
STYLES = (
    StripStyle(),
    *(
        StripStyle(font=_MONO, font_size_px=font_size_for_cells(_MONO, cells, 32), padding_px=0, cells=cells)
        for cells in (3, 4, 5, 6)
    ),
)
"""Styles of whole chains of thought: the default, and cells of three to six characters a latent."""
READ_STYLES = (
    *STYLES,
    StripStyle(font_size_px=12),
    StripStyle(font_size_px=16),
    StripStyle(font_size_px=24),
    StripStyle(font=_MONO),
    StripStyle(font="DejaVu Sans Condensed"),
)
"""Styles of the snippets to read."""
READ_PROMPT = "Transcribe."
ANSWER_MARK = "#### "
MAX_SNIPPET = 70  # characters; chains of thought have 30 to 70
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""What merges never cross: words with the space before them, single digits, runs of signs; Qwen's rule in essence."""
_VOCABULARY, _WORD_PROBLEMS = 376, 1000
IGNORED = -100  # the label that cross-entropy leaves out


@dataclass(frozen=True, kw_only=True)
class TinyRecipe:
    """How tiny is trained: the defaults from random weights on, POLISH after that."""

    steps: int = 3000
    batch_size: int = 24
    """Problems a step, all of them reasoned in words."""
    pictured: int = 8
    """Of these: as many answered from a strip, as many at once, and twice as many read."""
    lr: float = 2e-3
    warmup_steps: int = 100
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    snippet_steps: int = 400
    """Steps over which the snippets to read grow from a few characters to whole chains of thought."""
    glyph_weight: float = 1.0
    """Weight of the glyph probe's loss."""
    seed: int = 0


POLISH = TinyRecipe(
    steps=900, batch_size=48, pictured=4, lr=1e-3, warmup_steps=50, snippet_steps=1, glyph_weight=0.0, seed=1
)
"""The second part: twice the problems in words, where the first still picks wrong operands."""


def tiny_config() -> Qwen3VLConfig:
    """Architecture of tiny: language model 4 x 192, vision tower 3 x 128, factor 32, no deepstack, tied head."""
    from transformers import Qwen3VLConfig

    return Qwen3VLConfig(
        text_config={
            "vocab_size": 384,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,
            "head_dim": 32,
            "max_position_embeddings": 8192,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [6, 5, 5],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_heads": 4,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 192,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [],
        },
        image_token_id=_token_id("<|image_pad|>"),
        video_token_id=_token_id("<|video_pad|>"),
        vision_start_token_id=_token_id("<|vision_start|>"),
        vision_end_token_id=_token_id("<|vision_end|>"),
        tie_word_embeddings=True,
    )


@cache
def _tokenizer_object() -> Tokenizer:
    """The tokenizer of the toy corpus's own words."""
    return _spelling(islice(toy_problems("train"), _WORD_PROBLEMS), _VOCABULARY)


def _spelling(problems: Iterable[Problem], vocabulary: int) -> Tokenizer:
    """Byte-level BPE whose merges are those of some problems' words: special tokens, bytes, merges, in order."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(_WORDS), "isolated"), byte_level])
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=list(SPECIAL_TOKENS),
        show_progress=False,
    )
    texts = (f"{each.question}\n{READ_PROMPT}\n{each.cot}\n{ANSWER_MARK}{each.answer}" for each in problems)
    made.train_from_iterator(texts, trainer)
    return made


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Spells any text; words of the toy corpus are single tokens, digits stand alone, as in Qwen3."""
    return _fast(copy.deepcopy(_tokenizer_object()))


def tokenizer_of(problems: Iterable[Problem], vocabulary: int) -> PreTrainedTokenizerFast:
    """The same of other problems: their frequent words are single tokens."""
    return _fast(_spelling(problems, vocabulary))


def _fast(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
    )


def geometry_of(config: Qwen3VLConfig) -> PatchGeometry:
    """Patch geometry of a Qwen3-VL configuration."""
    vision = config.vision_config
    return PatchGeometry(patch_px=vision.patch_size, merge=vision.spatial_merge_size, frames=vision.temporal_patch_size)


@dataclass(frozen=True, slots=True)
class Sequence:
    """Token ids of one training sequence; image_pad ids stand where latents go, labels follow cross-entropy's rule."""

    ids: list[int]
    labels: list[int]


class TaskBuilder:
    """Turns toy problems into the four tasks' sequences."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._image = _token_id("<|image_pad|>")

    def words(self, problem: Problem) -> Sequence:
        """Question -> CoT -> answer."""
        return self._join(self._prompt(problem.question), f"{problem.cot}\n{ANSWER_MARK}{problem.answer}")

    def at_once(self, problem: Problem) -> Sequence:
        """Question -> answer; the answer mark is given, as evaluation gives it."""
        return self._join(f"{self._prompt(problem.question)}{ANSWER_MARK}", problem.answer)

    def read(self, text: str, num_latents: int) -> Sequence:
        """Strip -> its text."""
        return self._join(self._prompt(f"{self._strip(num_latents)}{READ_PROMPT}"), text)

    def from_strip(self, problem: Problem, num_latents: int, rest: str = "") -> Sequence:
        """Question, strip where Render-of-Thought puts its latents, the CoT that it leaves out -> answer."""
        prompt = f"{self._prompt(problem.question)}{self._strip(num_latents)}"
        return self._join(prompt, f"{rest}\n{ANSWER_MARK}{problem.answer}".lstrip("\n"))

    def _prompt(self, content: str) -> str:
        return f"<|im_start|>{content}<|im_end|>"

    def _strip(self, num_latents: int) -> str:
        return f"<|vision_start|>{'<|image_pad|>' * num_latents}<|vision_end|>"

    def _join(self, prompt: str, reply: str) -> Sequence:
        given = self._tokenizer(prompt, add_special_tokens=False).input_ids
        learnt = self._tokenizer(f"{reply}<|im_end|>", add_special_tokens=False).input_ids
        return Sequence(given + learnt, [IGNORED] * len(given) + learnt)


def task_loss(model: Qwen3VLForConditionalGeneration, sequences: list[Sequence], latents_KD: Tensor | None) -> Tensor:
    """Mean cross-entropy of the sequences' replies, the packed latents put in place of the image tokens.

    Sequences are padded on the right, where causal attention never looks back from, so no mask is needed. Every second
    sequence gives its latents one-dimensional positions, as rollouts do, the others those of a picture, as the
    architecture has it: tiny can read both.
    """
    width = _rounded(max(len(sequence.ids) for sequence in sequences), 16)
    ids_BT = torch.zeros(len(sequences), width, dtype=torch.long)
    labels_BT = torch.full((len(sequences), width), IGNORED)
    for row, sequence in enumerate(sequences):
        ids_BT[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        labels_BT[row, : len(sequence.ids)] = torch.tensor(sequence.labels)
    inputs_BTD = model.get_input_embeddings()(ids_BT)
    if latents_KD is not None:
        holes = (ids_BT == model.config.image_token_id)[..., None]
        inputs_BTD = inputs_BTD.masked_scatter(holes, latents_KD.to(inputs_BTD.dtype))
    positions = _positions(ids_BT, model.config.image_token_id)
    hidden = model.model.language_model(
        inputs_embeds=inputs_BTD, position_ids=positions, use_cache=False
    ).last_hidden_state
    labels = labels_BT[:, 1:].flatten()
    learnt = (labels != IGNORED).nonzero()[:, 0]
    blank = (0, _rounded(len(learnt), 128) - len(learnt))
    logits = model.lm_head(hidden[:, :-1].flatten(0, 1)[F.pad(learnt, blank)])
    return F.cross_entropy(logits.float(), F.pad(labels[learnt], blank, value=IGNORED))


def _rounded(count: int, to: int) -> int:
    """The next multiple: oneDNN keeps what it has made for every size that it has ever seen, so sizes must be few."""
    return -(-count // to) * to


def _positions(ids_BT: Tensor, image_id: int) -> Tensor:
    """Rotary positions [3, B, T] (time, height, width): in even rows a strip's time and height stand still."""
    positions = torch.arange(ids_BT.shape[1]).expand(3, *ids_BT.shape).clone()
    is_latent = ids_BT == image_id
    is_latent[1::2] = False
    starts = is_latent.int().argmax(dim=1, keepdim=True).expand_as(ids_BT)
    positions[:2] = torch.where(is_latent, starts, positions[:2])
    return positions


class GlyphProbe(nn.Module):
    """Names the characters of a latent's span from that latent alone: [L, D] and their texts -> cross-entropy."""

    _slots = 6  # characters of a span that are asked for, as many as the smallest cells hold
    _classes = 128  # ASCII, and 0 for no character

    def __init__(self, width: int) -> None:
        super().__init__()
        self._name = nn.Linear(width, self._slots * self._classes)

    def forward(self, latents_LD: Tensor, spans: list[str]) -> Tensor:
        """Mean loss over latents and slots; a span's missing characters are class 0."""
        labels = torch.tensor([[ord(c) for c in span[: self._slots].ljust(self._slots, "\0")] for span in spans])
        logits = self._name(latents_LD.float()).view(-1, self._classes)
        return F.cross_entropy(logits, labels.flatten())


def train(recipe: TinyRecipe, out: Path, start: Path | None = None) -> None:
    """Train tiny from random weights, or from a folder's, and write it to `out`, with the loss curve beside it."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(recipe.seed)
    config = tiny_config()
    tokenizer = tiny_tokenizer()
    eager = {"attn_implementation": "eager"}  # twice as fast here
    if start is None:
        model = AutoModelForImageTextToText.from_config(config, **eager)
    else:
        model = AutoModelForImageTextToText.from_pretrained(start, dtype=torch.float32, **eager)
    model.train()
    probe = GlyphProbe(config.text_config.hidden_size)
    say(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    optimizer = torch.optim.AdamW(decay_groups(model, probe, recipe), lr=recipe.lr, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_factor(step, steps=recipe.steps, warmup_steps=recipe.warmup_steps)
    )
    lesson = Lesson(tokenizer, geometry_of(config), recipe)
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with (out / "training.jsonl").open("w") as log:
        for step in range(recipe.steps):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                losses = lesson.losses(model, probe, step)
                total = sum(losses.values()) + (recipe.glyph_weight - 1) * losses["glyphs"]
            total.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            if step % 20 == 0 or step + 1 == recipe.steps:
                log_losses(log, step, time.monotonic() - started, losses)
            if (step + 1) % 500 == 0 or step + 1 == recipe.steps:
                save(model, tokenizer, asdict(recipe), out)


class Lesson:
    """Draws problems and makes a step's losses of them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, geometry: PatchGeometry, recipe: TinyRecipe) -> None:
        self._tasks = TaskBuilder(tokenizer)
        self._geometry = geometry
        self._recipe = recipe
        self._problems = toy_problems("train", seed=recipe.seed)
        self._rng = random.Random(recipe.seed)  # noqa: S311 -- chooses snippets

    def losses(self, model: Qwen3VLForConditionalGeneration, probe: GlyphProbe, step: int) -> dict[str, Tensor]:
        """One loss a task, and the glyph probe's. All strips go through the tower in one call."""
        batch = list(islice(self._problems, self._recipe.batch_size))
        few = self._recipe.pictured
        pictured, read = batch[:few], batch[few : 3 * few]
        texts = [problem.cot for problem in pictured]
        styles = self._rng.choices(STYLES, k=len(pictured))
        for row, problem in enumerate(read):
            text, style = self._snippet(problem.cot, step, row)
            texts.append(text)
            styles.append(style)
        strips = [renderer(style).render(text) for text, style in zip(texts, styles, strict=True)]
        patches, grid = pack([strip.pixels for strip in strips], self._geometry)
        latents_LD = model.model.visual(torch.from_numpy(patches), grid_thw=torch.from_numpy(grid)).pooler_output
        counts = [strip.num_latents for strip in strips]
        whole_LD, read_LD = latents_LD.split([sum(counts[:few]), sum(counts[few:])])
        build = self._tasks
        spans = [
            text[start:stop]
            for text, strip in zip(texts, strips, strict=True)
            for start, stop in pairwise(strip.spans.tolist())
        ]
        return {
            "words": task_loss(model, [build.words(problem) for problem in batch], None),
            "at_once": task_loss(model, [build.at_once(problem) for problem in read[:few]], None),
            "read": task_loss(model, list(map(build.read, texts[few:], counts[few:])), read_LD),
            "from_strip": task_loss(model, list(map(build.from_strip, pictured, counts[:few])), whole_LD),
            "glyphs": probe(latents_LD, spans),
        }

    def _snippet(self, cot: str, step: int, row: int) -> tuple[str, StripStyle]:
        """What a row has to read and in which style: part of its chain of thought; later, in even rows, all of it."""
        grown = step / self._recipe.snippet_steps
        if grown >= 1 and row % 2 == 0:
            return cot, self._rng.choice(STYLES)
        return snippet(cot, self._rng, grown), self._rng.choice(READ_STYLES)


def snippet(text: str, rng: random.Random, grown: float) -> str:
    """Part of a text to read, longer with the share of the growing that is done."""
    length = rng.randint(1, min(len(text), int(4 + MAX_SNIPPET * grown)))
    start = rng.randint(0, len(text) - length)
    return text[start : start + length]


def log_losses(log: TextIO, step: int, seconds: float, losses: dict[str, Tensor]) -> None:
    """Write a step's losses to a file and to the terminal."""
    entry = {"step": step, "seconds": round(seconds, 1)}
    entry |= {name: round(loss.item(), 4) for name, loss in losses.items()}
    log.write(json.dumps(entry) + "\n")
    log.flush()
    say(json.dumps(entry))


def decay_groups(model: nn.Module, probe: nn.Module, recipe: TinyRecipe) -> Iterator[dict[str, object]]:
    """The model's matrices decay; norms, biases, embeddings and the probe do not."""
    matrices = [p for name, p in model.named_parameters() if p.ndim >= 2 and "embed" not in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in (*model.parameters(), *probe.parameters()) if id(p) not in chosen]
    yield {"params": matrices, "weight_decay": recipe.weight_decay}
    yield {"params": rest, "weight_decay": 0.0}


def lr_factor(step: int, *, steps: int, warmup_steps: int) -> float:
    """Linear warm-up, then a cosine down to one fiftieth."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


def save(
    model: Qwen3VLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, recipe: dict[str, Any], out: Path
) -> None:
    """Write weights in bf16, configuration, tokenizer and recipe."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")


def _token_id(token: str) -> int:
    return SPECIAL_TOKENS.index(token)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the model; files in it are replaced.")],
    polish: Annotated[Path | None, typer.Option(help="Folder of the first part, for the second one.")] = None,
) -> None:
    """Train the embedded model on the toy corpus: the first part, or with --polish the second."""
    train(TinyRecipe() if polish is None else POLISH, out, polish)


if __name__ == "__main__":
    typer.run(main)
