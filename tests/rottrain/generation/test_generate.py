"""Question to latents to answer: the same in any batch, as many latents as the budget, the base model's own words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from rotdata.errors import CheckpointError, UnknownModel, UsageError
from rottrain.generation import generate
from rottrain.generation.decoding import Sampling
from rottrain.generation.generate import RoT, at_once, in_words
from rottrain.model.backbone import Backbone
from tests.rottrain.samples import full_pass, save_variant, token_inputs, without_hashes

MARK = "#### "
QUESTIONS = [
    "2+2?",
    "Ann has 3 figs, finds 4. How many figs now?",
    "Why",
    "Ben sells 4 of his 9 nuts, then buys 8 more. How many nuts are left?",
    "\N{GREEK SMALL LETTER PI}?",
    "a b c",
    "<|im_end|>",
    "7*6=",
]


@pytest.fixture
def rot(stage2_checkpoint: Path) -> RoT:
    return RoT.from_pretrained(stage2_checkpoint, precision="float32")


@pytest.fixture
def copied(stage2_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the stage-2 checkpoint that a test may damage."""
    return Path(shutil.copytree(stage2_checkpoint, tmp_path / "copied"))


def next_token(backbone: Backbone, inputs_TD: Tensor) -> int:
    return int(backbone.logits(full_pass(backbone, inputs_TD)[-1]).argmax())


@torch.no_grad()
def naive_reply(backbone: Backbone, inputs_TD: Tensor, max_tokens: int) -> str:
    """Greedy decoding of one sequence, a full pass for every token."""
    reply: list[int] = []
    while len(reply) < max_tokens and (token := next_token(backbone, inputs_TD)) != backbone.eos_id:
        reply.append(token)
        inputs_TD = torch.cat([inputs_TD, token_inputs(backbone, [token])])
    return backbone.decode(reply)


@torch.no_grad()
def naive_thought(rot: RoT, question: str, budget: int) -> Tensor:
    """Prompt, begin token, latents, end token and mark of one question, a full pass for every latent: [T, D]."""
    inputs = token_inputs(rot.backbone, [*rot.backbone.prompt_ids(question), rot.backbone.begin_id])
    for _ in range(budget):
        inputs = torch.cat([inputs, rot.head(full_pass(rot.backbone, inputs)[-1])[None]])
    return torch.cat([inputs, token_inputs(rot.backbone, closing(rot))])


def closing(rot: RoT) -> list[int]:
    """End token and answer mark: what comes before an answer is given, not said."""
    return [rot.backbone.end_id, *rot.backbone.text_ids(MARK)]


# Latents and answers.


def test_latents_and_answers_are_those_of_a_loop_without_cache(rot: RoT) -> None:
    for made in rot.generate(QUESTIONS, budget=4, max_answer_tokens=5):
        inputs = naive_thought(rot, made.question, 4)
        assert_close(made.latents_KD, inputs[-4 - len(closing(rot)) : -len(closing(rot))], rtol=1e-5, atol=1e-5)
        assert made.reply == MARK + naive_reply(rot.backbone, inputs, 5)


def test_the_size_of_a_batch_changes_nothing(rot: RoT) -> None:
    alone, together = (rot.generate(QUESTIONS, budget=4, max_answer_tokens=5, batch_size=size) for size in (1, 8))
    for one, other in zip(alone, together, strict=True):
        assert (one.question, one.reply, one.reasoning_tokens) == (other.question, other.reply, other.reasoning_tokens)
        assert_close(one.latents_KD, other.latents_KD, rtol=1e-5, atol=1e-5)


def test_answers_come_in_the_order_of_the_questions(rot: RoT) -> None:
    made = rot.generate(QUESTIONS, budget=1, max_answer_tokens=1, batch_size=3)
    assert [generation.question for generation in made] == QUESTIONS


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_a_budget_is_spent_exactly(rot: RoT, budget: int) -> None:
    made = rot.generate(QUESTIONS[:2], budget=budget, max_answer_tokens=1)
    assert [generation.reasoning_tokens for generation in made] == [budget] * 2
    assert [generation.latents_KD.shape for generation in made] == [(budget, 192)] * 2


def stops_at(rot: RoT, monkeypatch: pytest.MonkeyPatch, logits: dict[str, list[float]]) -> None:
    """Have the latents of each question be the last with these logits; the script is keyed by the hidden states."""
    script: list[tuple[Tensor, float]] = []
    for question, values in logits.items():
        inputs = naive_thought(rot, question, len(values))
        start = len(inputs) - len(values) - 1 - len(closing(rot))
        with torch.no_grad():
            hidden = full_pass(rot.backbone, inputs)[start : start + len(values)]
        script += zip(hidden, values, strict=True)

    def is_last(hidden_BD: Tensor) -> Tensor:
        nearest = torch.cdist(hidden_BD, torch.stack([known for known, _ in script])).argmin(dim=1)
        return torch.tensor([script[index][1] for index in nearest.tolist()])

    monkeypatch.setattr(rot.head, "is_last", is_last)
    monkeypatch.setitem(rot.config.run["recipe"], "halt_weight", 1.0)


def test_each_question_stops_where_its_last_latent_is(rot: RoT, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = dict(zip(QUESTIONS[:4], ([-5.0, 1, 5, -5], [3.0, 0, 0, 0], [-5.0] * 4, [-5.0, 0.5, 0, 1]), strict=True))
    stops_at(rot, monkeypatch, asked)
    for stop, counts in ((0.5, [2, 1, 4, 2]), (0.9, [3, 1, 4, 4])):
        made = rot.generate(list(asked), budget=4, stop=stop, max_answer_tokens=5)
        assert [generation.reasoning_tokens for generation in made] == counts
        for generation, count in zip(made, counts, strict=True):
            [alone] = rot.generate([generation.question], budget=count, max_answer_tokens=5)
            assert generation.latents_KD.shape == (count, 192)
            assert_close(generation.latents_KD, alone.latents_KD, rtol=1e-5, atol=1e-5)
            assert generation.reply == alone.reply


def test_thinking_ends_when_all_have_stopped(rot: RoT, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    hidden = rot.backbone.hidden
    monkeypatch.setattr(rot.backbone, "hidden", lambda *given, **more: steps.append(1) or hidden(*given, **more))
    monkeypatch.setattr(rot.head, "is_last", lambda hidden_BD: torch.full((len(hidden_BD),), 9.0))
    monkeypatch.setitem(rot.config.run["recipe"], "halt_weight", 1.0)
    rot.generate(QUESTIONS[:2], budget=50, stop=0.5, max_answer_tokens=1)
    assert len(steps) == 2  # the prompt, and latent with end token


def test_only_what_has_learnt_to_stop_does(rot: RoT) -> None:
    with pytest.raises(CheckpointError, match="--halt-weight"):
        rot.generate(QUESTIONS[:1], stop=0.5)
    with pytest.raises(UsageError, match="between 0 and 1"):
        rot.generate(QUESTIONS[:1], stop=1.0)


def test_without_a_budget_the_one_of_the_training_is_spent(rot: RoT) -> None:
    rot.config = replace(rot.config, budget=3)
    assert rot.generate(QUESTIONS[:1], max_answer_tokens=1)[0].reasoning_tokens == 3
    rot.config = replace(rot.config, budget=None)
    assert rot.generate(QUESTIONS[:1], max_answer_tokens=1)[0].reasoning_tokens == 32


def test_an_automatic_budget_is_what_most_training_rows_have(rot: RoT) -> None:
    assert rot.config.lengths == {"0.5": 3, "0.9": 3, "0.95": 4, "1": 4}
    assert rot.budget("auto") == 4
    rot.config = replace(rot.config, lengths=None)
    with pytest.raises(CheckpointError, match="give the budget as a number"):
        rot.generate(QUESTIONS[:1], budget="auto")


# Sampling.


SAMPLED = {"temperature": 1.5, "top_p": 0.9, "max_answer_tokens": 6}


def test_a_sample_depends_on_seed_and_question_alone(rot: RoT, monkeypatch: pytest.MonkeyPatch) -> None:
    stops_at(rot, monkeypatch, {question: [-5.0, 5.0 * (row % 2), -5.0] for row, question in enumerate(QUESTIONS)})
    options = SAMPLED | {"budget": 3, "stop": 0.9}
    together = rot.generate(QUESTIONS, batch_size=8, seed=1, **options)
    assert {made.reasoning_tokens for made in together} == {2, 3}
    for size, asked in ((1, QUESTIONS), (3, QUESTIONS[::-1])):
        again = {made.question: made.reply for made in rot.generate(asked, batch_size=size, seed=1, **options)}
        assert again == {made.question: made.reply for made in together}
    other = rot.generate(QUESTIONS, batch_size=8, seed=2, **options)
    assert [made.reply for made in other] != [made.reply for made in together]


def test_words_are_sampled_in_the_same_way(rot: RoT) -> None:
    sampling = Sampling(temperature=1.5, seed=3)
    alone, together = (
        in_words(rot.backbone, QUESTIONS[:4], sampling=sampling, batch_size=size, max_tokens=6) for size in (1, 4)
    )
    assert [made.reply for made in alone] == [made.reply for made in together]
    greedy = in_words(rot.backbone, QUESTIONS[:4], max_tokens=6)
    assert [made.reply for made in alone] != [made.reply for made in greedy]


# Time, and batches as they are done.


def test_answers_come_batch_by_batch(rot: RoT, monkeypatch: pytest.MonkeyPatch) -> None:
    streamed = rot.stream(QUESTIONS[:3], budget=1, batch_size=2, max_answer_tokens=1)
    first = next(streamed)
    monkeypatch.setattr(rot.backbone, "hidden", lambda *given, **more: pytest.fail("the second batch was not due"))
    assert [first.question, next(streamed).question] == QUESTIONS[:2]
    with pytest.raises(UsageError, match="the batch size"):
        rot.stream(QUESTIONS, batch_size=0)  # before anything is computed


def test_time_is_told_apart(rot: RoT) -> None:
    [made] = rot.generate(QUESTIONS[:1], budget=2, max_answer_tokens=2)
    parts = (made.timings.prefill_s, made.timings.latents_s, made.timings.answer_s)
    assert min(parts) > 0
    assert made.seconds == pytest.approx(sum(parts))
    [at_zero] = rot.generate(QUESTIONS[:1], budget=0, max_answer_tokens=2)
    assert (at_zero.timings.latents_s, at_zero.timings.prefill_s > 0) == (0, True)
    [words] = in_words(rot.backbone, QUESTIONS[:1], max_tokens=2)
    assert words.timings == generate.Timings(answer_s=words.seconds)


def test_a_smaller_budget_thinks_the_same_latents_up_to_its_end(rot: RoT) -> None:
    [short], [long] = (rot.generate(QUESTIONS[:1], budget=budget, max_answer_tokens=1) for budget in (2, 5))
    assert_close(short.latents_KD, long.latents_KD[:2], rtol=1e-5, atol=1e-5)


def test_latents_come_back_in_fp32_and_time_is_shared_among_a_batch(stage2_checkpoint: Path) -> None:
    rot = RoT.from_pretrained(stage2_checkpoint, precision="bfloat16")
    made = rot.generate(QUESTIONS[:3], budget=2, max_answer_tokens=1)
    assert {generation.latents_KD.dtype for generation in made} == {torch.float32}
    assert len({generation.seconds for generation in made}) == 1
    assert made[0].seconds > 0


def test_no_questions_are_no_answers(rot: RoT) -> None:
    assert rot.generate([]) == []
    assert in_words(rot.backbone, []) == []


def test_answers_have_at_most_as_many_tokens_as_allowed(rot: RoT) -> None:
    calls = scripted(rot.backbone, [[65] * 20])
    [made] = rot.generate(QUESTIONS[:1], budget=2, max_answer_tokens=3)
    assert made.reply == MARK + rot.backbone.decode([65] * 3)
    assert (made.answer_tokens, made.complete, len(calls)) == (3, False, 3)


def scripted(backbone: Backbone, replies: list[list[int]]) -> list[int]:
    """Make the model say these tokens, row by row, then the end, and go on with something else; the calls made."""
    calls: list[int] = []

    def logits(hidden: Tensor) -> Tensor:
        step = len(calls)
        calls.append(len(hidden))
        said = [(reply + [backbone.eos_id] + [70] * 99)[step] for reply in replies]
        return torch.nn.functional.one_hot(torch.tensor(said), 384).float()

    backbone.logits = logits
    return calls


def test_each_row_stops_at_its_own_end_and_the_batch_at_the_last(rot: RoT) -> None:
    texts = ["5", "", "1,234"]
    calls = scripted(rot.backbone, [rot.backbone.text_ids(text) for text in texts])
    made = rot.generate(QUESTIONS[:3], budget=2)
    assert [generation.reply for generation in made] == [MARK + text for text in texts]
    assert [generation.answer_tokens for generation in made] == [1, 0, 5]
    assert all(generation.complete for generation in made)
    assert calls == [3] * (len("1,234") + 1)  # nothing is decoded for the mark


# Answers from given latents.


def test_own_latents_given_back_are_answered_as_they_were(rot: RoT) -> None:
    counts = [4, 1, 3, 4, 2, 4, 4, 1]
    thought = [
        rot.generate([question], budget=count, max_answer_tokens=5)[0]
        for question, count in zip(QUESTIONS, counts, strict=True)
    ]
    for size in (1, 3):
        answered = rot.answer(QUESTIONS, [made.latents_KD for made in thought], max_answer_tokens=5, batch_size=size)
        for made, expected in zip(answered, thought, strict=True):
            assert (made.question, made.reply) == (expected.question, expected.reply)
            assert made.reasoning_tokens == expected.reasoning_tokens
            assert_close(made.latents_KD, expected.latents_KD)


@torch.no_grad()
def test_hidden_latents_keep_their_places_and_tell_nothing(rot: RoT) -> None:
    latents = [torch.randn(count, 192) for count in (3, 1)]
    made = rot.answer(QUESTIONS[:2], latents, hidden="latents", max_answer_tokens=4)
    other = rot.answer(QUESTIONS[:2], [-given for given in latents], hidden="latents", max_answer_tokens=4)
    assert [generation.reply for generation in made] == [generation.reply for generation in other]
    for generation, given in zip(made, latents, strict=True):
        ids = [*rot.backbone.prompt_ids(generation.question), rot.backbone.begin_id]
        places, said = list(range(len(ids))), []
        ids += closing(rot)
        first = places[-1] + 1 + len(given)
        places += range(first, first + len(closing(rot)))
        while len(said) < 4 and rot.backbone.eos_id not in said:
            places += [places[-1] + 1] * bool(said)
            inputs = token_inputs(rot.backbone, [*ids, *said])[None]
            hidden = rot.backbone.hidden(inputs, positions_BT=torch.tensor([places]))
            said.append(int(rot.backbone.logits(hidden[0, -1]).argmax()))
        assert generation.reply == MARK + rot.backbone.decode(said)


def test_without_latents_the_end_token_follows_the_begin_token(rot: RoT) -> None:
    made = rot.answer(QUESTIONS[:2], [torch.zeros(0, 192), torch.zeros(2, 192)], max_answer_tokens=4)
    assert [generation.reasoning_tokens for generation in made] == [0, 2]
    [by_budget] = rot.generate(QUESTIONS[:1], budget=0, max_answer_tokens=4)
    assert (by_budget.reply, by_budget.reasoning_tokens, by_budget.latents_KD.shape) == (made[0].reply, 0, (0, 192))
    assert made[0].reply == MARK + naive_reply(rot.backbone, naive_thought(rot, QUESTIONS[0], 0), 4)


def test_latents_that_do_not_fit_are_refused(rot: RoT) -> None:
    with pytest.raises(UsageError, match="2 against 1"):
        rot.answer(QUESTIONS[:2], [torch.zeros(1, 192)])
    with pytest.raises(UsageError, match=r"the shape \[K, 192\], got \(1, 64\)"):
        rot.answer(QUESTIONS[:1], [torch.zeros(1, 64)])


# Words.


def test_reasoning_in_words_is_counted_up_to_the_answer_mark(rot: RoT) -> None:
    texts = ["<<1+1=2>>\n#### 2", "#### 2", "so 2"]
    scripted(rot.backbone, [rot.backbone.text_ids(text) for text in texts])
    made = in_words(rot.backbone, QUESTIONS[:3])
    assert [generation.reply for generation in made] == texts
    assert [generation.reasoning_tokens for generation in made] == [
        len(rot.backbone.text_ids(text)) for text in ("<<1+1=2>>\n", "", "so 2")
    ]
    assert {generation.latents_KD for generation in made} == {None}


def test_an_answer_at_once_is_made_to_start_with_the_mark(rot: RoT) -> None:
    scripted(rot.backbone, [rot.backbone.text_ids("2")])
    [made] = at_once(rot.backbone, QUESTIONS[:1])
    assert (made.reply, made.reasoning_tokens) == ("#### 2", 0)


@pytest.mark.parametrize(("answer", "prefill"), [(in_words, ""), (at_once, "#### ")])
def test_words_are_the_base_model_s_in_any_batch(
    rot: RoT, backbone: Backbone, answer: Callable[..., list[generate.Generation]], prefill: str
) -> None:
    with rot.backbone.base():
        made = answer(rot.backbone, QUESTIONS, batch_size=3, max_tokens=5)
    for generation in made:
        ids = [*backbone.prompt_ids(generation.question), *backbone.text_ids(prefill)]
        assert generation.reply == prefill + naive_reply(backbone, token_inputs(backbone, ids), 5)


def test_an_adapter_changes_those_words(rot: RoT) -> None:
    with rot.backbone.base():
        with_base = in_words(rot.backbone, QUESTIONS, max_tokens=5)
    with_adapter = in_words(rot.backbone, QUESTIONS, max_tokens=5)
    assert [made.reply for made in with_base] != [made.reply for made in with_adapter]


def test_latents_are_the_adapter_s(rot: RoT, stage1_checkpoint: Path) -> None:
    first = RoT.from_pretrained(stage1_checkpoint)
    [with_adapter], [without] = (model.generate(QUESTIONS[:1], budget=1, max_answer_tokens=1) for model in (rot, first))
    assert (with_adapter.latents_KD - without.latents_KD).abs().max() > 1e-3


# Errors.


def test_a_budget_below_zero_is_refused(rot: RoT) -> None:
    with pytest.raises(UsageError, match="the budget is at least 0 latents, got -1"):
        rot.generate(QUESTIONS, budget=-1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"temperature": -1.0}, "a temperature is 0, or from 1e-06 to "),
        ({"temperature": float("nan")}, "a temperature is 0, or from 1e-06 to "),
        ({"top_p": 0.0}, "top-p is a share from 1e-06 to 1, got 0.0"),
        ({"top_p": 1.5}, "top-p is a share from 1e-06 to 1, got 1.5"),
    ],
)
def test_sampling_that_can_not_be_is_refused(rot: RoT, option: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rot.generate(QUESTIONS, **option)


def test_a_batch_below_one_is_refused(rot: RoT) -> None:
    with pytest.raises(UsageError, match="the batch size is at least 1, got 0"):
        rot.generate(QUESTIONS, batch_size=0)
    with pytest.raises(UsageError, match="the batch size is at least 1, got 0"):
        in_words(rot.backbone, QUESTIONS, batch_size=0)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        RoT.from_pretrained(tmp_path)


def test_a_base_model_of_another_width_is_refused_with_both_values(
    stage1_checkpoint: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    narrow = save_variant(tmp_path / "narrow", width=96)
    with pytest.raises(CheckpointError) as refusal:
        RoT.from_pretrained(stage1_checkpoint, model=str(narrow))
    for part in ("of width 192", f"{narrow} has 96", f"name the right one, {tiny_folder}, with --model"):
        assert part in str(refusal.value)


def test_another_base_model_of_the_same_width_is_refused(stage2_checkpoint: Path, tmp_path: Path) -> None:
    other = save_variant(tmp_path / "other")
    with pytest.raises(CheckpointError, match="was trained on another base model than other"):
        RoT.from_pretrained(stage2_checkpoint, model=str(other))


def test_the_base_model_may_have_moved(stage2_checkpoint: Path, copied: Path, tiny_folder: Path, rot: RoT) -> None:
    without_hashes(copied, model="/nowhere/model")
    with pytest.raises(UnknownModel, match="unknown model '/nowhere/model'"):
        RoT.from_pretrained(copied)
    moved = RoT.from_pretrained(copied, model=str(tiny_folder))
    [expected], [found] = (model.generate(QUESTIONS[:1], budget=2, max_answer_tokens=2) for model in (rot, moved))
    assert torch.equal(found.latents_KD, expected.latents_KD)


def without_folder(adapter: Path) -> None:
    shutil.rmtree(adapter)


def without_config(adapter: Path) -> None:
    (adapter / "adapter_config.json").unlink()


def without_weights(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()


def truncated(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lacking(adapter: Path) -> None:
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    weights.popitem()
    save_file(weights, file)


def other_rank(adapter: Path) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"r": 3}))


@pytest.mark.parametrize("damage", [without_folder, without_config, without_weights, truncated, lacking, other_rank])
@pytest.mark.parametrize("hashed", [True, False])
def test_a_damaged_adapter_is_an_error_and_never_left_out(
    copied: Path, damage: Callable[[Path], None], hashed: bool
) -> None:
    if not hashed:
        without_hashes(copied)
    damage(copied / "adapter")
    with pytest.raises(CheckpointError, match="adapter"):
        RoT.from_pretrained(copied)
