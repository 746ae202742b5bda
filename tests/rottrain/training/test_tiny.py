"""The recipe of the embedded model: its tokenizer, its tasks, its losses, and what a short training writes."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.testing import assert_close
from transformers import AutoModelForImageTextToText

from rotdata.corpora.toy import ToyProblem
from rotdata.encoders import load_encoder
from rotdata.encoders.models import find_model
from rotdata.encoders.patches import pack
from rotdata.rendering.strips import StripStyle, render
from rottrain.model.backbone import ANSWER_MARK, Backbone
from rottrain.training import tiny
from rottrain.training.tiny import (
    IGNORED,
    MAX_SNIPPET,
    READ_PROMPT,
    READ_STYLES,
    SPECIAL_TOKENS,
    STYLES,
    GlyphProbe,
    Lesson,
    Sequence,
    TaskBuilder,
    TinyRecipe,
    geometry_of,
    task_loss,
    tiny_config,
    tiny_tokenizer,
    train,
)

TOKENIZER = tiny_tokenizer()
TASKS = TaskBuilder(TOKENIZER)
PROBLEM = ToyProblem("Ann has 2 figs, finds 3. How many figs now?", "<<2+3=5>>", "5", 1)
PAD = TOKENIZER.convert_tokens_to_ids("<|image_pad|>")


def read_back(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def learnt(sequence: Sequence) -> str:
    """The text whose tokens have labels; every other label is ignored, and labels stand where their tokens do."""
    assert len(sequence.ids) == len(sequence.labels)
    assert all(label in (IGNORED, token) for token, label in zip(sequence.ids, sequence.labels, strict=True))
    first = sequence.labels.index(next(label for label in sequence.labels if label != IGNORED))
    assert IGNORED not in sequence.labels[first:]
    return read_back(sequence.labels[first:])


# Tokenizer and chat template.


@given(text=st.text(max_size=60))
@example("<<7+5=12>> \\frac{1}{2} \N{GREEK SMALL LETTER PI}\r\n\t\0 \N{CRAB}  <|im_end|><|image_pad|> .")
def test_any_text_is_spelled_without_special_tokens_and_read_back(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert all(token >= len(SPECIAL_TOKENS) for token in ids)
    assert read_back(ids) == text


def test_words_of_the_toy_corpus_are_tokens_and_digits_stand_alone() -> None:
    tokens = TOKENIZER.tokenize("Ann has 12 figs, finds 3.")
    assert TOKENIZER.convert_tokens_to_string(tokens) == "Ann has 12 figs, finds 3."
    words = "Ann| has| |1|2| figs|,| finds| |3|.".replace(" ", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}").split("|")
    assert tokens == words


def test_special_tokens_come_first_in_their_order() -> None:
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert (TOKENIZER.eos_token, TOKENIZER.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_the_configuration_names_the_tokenizer_s_own_tokens() -> None:
    config = tiny_config()
    found = (config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id)
    names = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    assert list(found) == TOKENIZER.convert_tokens_to_ids(names)
    assert config.text_config.vocab_size >= len(TOKENIZER) + 2


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"role": "user", "content": "2+2?"}], "<|im_start|>2+2?<|im_end|>"),
        (
            [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "#### 4"}],
            "<|im_start|>2+2?<|im_end|>#### 4<|im_end|>",
        ),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Transcribe."}]}],
            "<|im_start|><|vision_start|><|image_pad|><|vision_end|>Transcribe.<|im_end|>",
        ),
    ],
)
def test_the_chat_template_writes_turns(messages: list[object], text: str) -> None:
    assert TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == text


def test_the_template_survives_saving(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tiny_folder)
    messages = [{"role": "user", "content": PROBLEM.question}]
    assert loaded.apply_chat_template(messages, tokenize=False) == f"<|im_start|>{PROBLEM.question}<|im_end|>"
    assert loaded.get_vocab() == TOKENIZER.get_vocab()


# The four tasks.


def test_words_are_learnt_from_the_question_on() -> None:
    sequence = TASKS.words(PROBLEM)
    assert read_back(sequence.ids) == f"<|im_start|>{PROBLEM.question}<|im_end|><<2+3=5>>\n#### 5<|im_end|>"
    assert learnt(sequence) == "<<2+3=5>>\n#### 5<|im_end|>"


def test_an_answer_at_once_is_learnt_from_the_mark_on() -> None:
    sequence = TASKS.at_once(PROBLEM)
    assert read_back(sequence.ids) == f"<|im_start|>{PROBLEM.question}<|im_end|>#### 5<|im_end|>"
    assert learnt(sequence) == "5<|im_end|>"


def test_reading_is_learnt_from_strip_and_request_on() -> None:
    sequence = TASKS.read("2+3", 2)
    picture = "<|vision_start|><|image_pad|><|image_pad|><|vision_end|>"
    assert read_back(sequence.ids) == f"<|im_start|>{picture}{READ_PROMPT}<|im_end|>2+3<|im_end|>"
    assert learnt(sequence) == "2+3<|im_end|>"


def test_an_answer_from_a_strip_is_learnt_where_latents_will_stand() -> None:
    sequence = TASKS.from_strip(PROBLEM, 3)
    assert sequence.ids.count(PAD) == 3
    assert learnt(sequence) == "#### 5<|im_end|>"


def test_tasks_are_spelled_as_training_and_evaluation_spell_them(backbone: Backbone) -> None:
    prompt = backbone.prompt_ids(PROBLEM.question)
    mark = backbone.text_ids(ANSWER_MARK)
    start, end = (TOKENIZER.convert_tokens_to_ids(f"<|vision_{name}|>") for name in ("start", "end"))
    answer = backbone.answer_ids(PROBLEM.answer)
    assert TASKS.words(PROBLEM).ids == prompt + backbone.text_ids(f"{PROBLEM.cot}\n") + answer
    assert TASKS.at_once(PROBLEM).ids == prompt + answer
    assert TASKS.at_once(PROBLEM).labels[: len(prompt + mark)] == [IGNORED] * len(prompt + mark)
    assert TASKS.from_strip(PROBLEM, 2).ids == [*prompt, start, PAD, PAD, end, *answer]


# Losses.


@pytest.fixture
def model(tiny_folder: Path) -> object:
    return AutoModelForImageTextToText.from_pretrained(tiny_folder, dtype=torch.float32).eval()


def reply_loss(logits_TV: Tensor, sequence: Sequence) -> tuple[Tensor, int]:
    """Summed cross-entropy of a sequence's labels, and their number."""
    labels = torch.tensor(sequence.labels)[1:]
    count = int((labels != IGNORED).sum())
    return F.cross_entropy(logits_TV[:-1], labels, ignore_index=IGNORED, reduction="sum"), count


@torch.no_grad()
def test_the_loss_of_texts_is_the_stock_model_s_whatever_their_padding(model: object) -> None:
    sequences = [TASKS.words(PROBLEM), TASKS.at_once(PROBLEM)]
    sums = [reply_loss(model(input_ids=torch.tensor([s.ids])).logits[0], s) for s in sequences]
    expected = sum(total for total, _ in sums) / sum(count for _, count in sums)
    assert_close(task_loss(model, sequences, None), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_loss_of_a_strip_is_the_stock_model_s_and_rows_take_turns_in_their_positions(model: object) -> None:
    strip = render("2+3=5", StripStyle())
    patches, grid = pack([strip.pixels], geometry_of(model.config))
    pixels, grid = torch.from_numpy(patches), torch.from_numpy(grid)
    latents = model.model.visual(pixels, grid_thw=grid).pooler_output
    sequence = TASKS.read("2+3=5", strip.num_latents)
    ids = torch.tensor([sequence.ids])
    kinds = (ids == PAD).int()
    stock = model(input_ids=ids, mm_token_type_ids=kinds, pixel_values=pixels, image_grid_thw=grid)
    total, count = reply_loss(stock.logits[0], sequence)
    assert_close(task_loss(model, [sequence], latents), total / count, rtol=1e-5, atol=1e-5)
    flat = model.get_input_embeddings()(ids).masked_scatter((ids == PAD)[..., None], latents)
    hidden = model.model.language_model(inputs_embeds=flat).last_hidden_state
    second, _ = reply_loss(model.lm_head(hidden)[0], sequence)
    both = task_loss(model, [sequence, sequence], torch.cat([latents, latents]))
    assert abs(total - second) > 1e-3
    assert_close(both, (total + second) / (2 * count), rtol=1e-5, atol=1e-5)


def test_the_probe_names_a_span_s_characters_and_the_lack_of_more() -> None:
    probe = GlyphProbe(3)
    wanted = torch.full((6, 128), -50.0)
    for slot, code in enumerate((ord("a"), ord("b"), 0, 0, 0, 0)):
        wanted[slot, code] = 50.0
    with torch.no_grad():
        probe._name.weight.zero_()
        probe._name.bias.copy_(wanted.flatten())
    latents = torch.randn(2, 3)
    assert probe(latents, ["ab", "ab"]) < 1e-6
    assert probe(latents, ["ab", "abc"]) > 1
    assert probe(latents, ["abcdefgh"] * 2) == probe(latents, ["abcdef"] * 2)


# The recipe.


def test_the_learning_rate_warms_up_and_falls_to_a_fiftieth() -> None:
    factors = [tiny.lr_factor(step, steps=100, warmup_steps=10) for step in range(101)]
    assert factors[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    assert factors[100] == pytest.approx(0.02)


def test_every_parameter_is_in_one_group_and_only_matrices_decay(model: object) -> None:
    probe = GlyphProbe(192)
    decaying, rest = tiny.decay_groups(model, probe, TinyRecipe())
    everything = [*model.parameters(), *probe.parameters()]
    grouped = [*decaying["params"], *rest["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, everything))
    assert (decaying["weight_decay"], rest["weight_decay"]) == (0.05, 0.0)
    assert min(value.ndim for value in decaying["params"]) == 2
    assert any(value is model.get_input_embeddings().weight for value in rest["params"])


def test_snippets_grow_to_whole_chains_of_thought() -> None:
    recipe = TinyRecipe(snippet_steps=10)
    lesson = Lesson(TOKENIZER, geometry_of(tiny_config()), recipe)
    cot = "<<2+3=5>> <<5*3=15>> <<15-4=11>>"
    for step, longest in ((0, 4), (5, 4 + MAX_SNIPPET // 2), (10, 4 + MAX_SNIPPET)):
        snippets = [lesson._snippet(cot, step, 1) for _ in range(50)]
        assert all(text in cot and 1 <= len(text) <= longest for text, _ in snippets)
        assert {style for _, style in snippets} == set(READ_STYLES)
    whole = [lesson._snippet(cot, 10, 0) for _ in range(50)]
    assert {text for text, _ in whole} == {cot}
    assert {style for _, style in whole} == set(STYLES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder made by two steps of the recipe."""
    out = tmp_path_factory.mktemp("tiny") / "made"
    train(TinyRecipe(steps=2, batch_size=3, pictured=1, warmup_steps=1), out)
    return out


def test_a_short_training_writes_a_model_that_loads(trained: Path) -> None:
    folder = find_model(str(trained))
    backbone = Backbone.load(folder, dtype=torch.float32, device="cpu")
    encoder = load_encoder(folder, dtype="float32", device="cpu")
    assert (backbone.width, encoder.identity.width, encoder.geometry.factor_px) == (192, 192, 32)
    assert backbone.prompt.prefix == "<|im_start|>"
    [latents] = encoder.encode([render("2+3=5", StripStyle()).pixels])
    assert backbone.hidden(torch.from_numpy(latents)[None]).isfinite().all()


def test_a_training_writes_bf16_weights_its_recipe_and_its_curve(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "recipe.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "training.jsonl",
    }
    assert json.loads((trained / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((trained / "recipe.json").read_text())["steps"] == 2
    curve = [json.loads(line) for line in (trained / "training.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in curve] == [0, 1]
    assert curve[0].keys() == {"step", "seconds", "words", "at_once", "read", "from_strip", "glyphs"}


def test_the_same_seed_gives_the_same_weights(trained: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(TinyRecipe(steps=2, batch_size=3, pictured=1, warmup_steps=1, seed=seed), tmp_path / str(seed))
    first, same, other = (
        (path / "model.safetensors").read_bytes() for path in (trained, tmp_path / "0", tmp_path / "1")
    )
    assert first == same
    assert first != other


def test_training_goes_on_from_a_folder_s_weights(trained: Path, tmp_path: Path) -> None:
    train(TinyRecipe(steps=1, batch_size=2, pictured=1, warmup_steps=1, lr=1e-12, weight_decay=0.0), tmp_path, trained)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_the_command_trains_either_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    monkeypatch.setattr(tiny, "train", lambda *arguments: asked.append(arguments))
    tiny.main(tmp_path / "first", None)
    tiny.main(tmp_path / "second", tmp_path / "first")
    assert asked == [
        (TinyRecipe(), tmp_path / "first", None),
        (tiny.POLISH, tmp_path / "second", tmp_path / "first"),
    ]


@pytest.mark.weights
def test_the_shipped_model_loads() -> None:
    folder = find_model("tiny")
    backbone = Backbone.load(folder, dtype=torch.float32, device="cpu")
    encoder = load_encoder(folder, dtype="float32", device="cpu")
    assert (backbone.width, encoder.identity.width) == (192, 192)
