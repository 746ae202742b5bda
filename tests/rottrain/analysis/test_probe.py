"""The causal tests: what is counted, what the verdict follows from, and the command that prints it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from rotdata.corpora import Row
from rotdata.errors import UsageError
from rottrain.analysis import position_probes
from rottrain.analysis.plots import plot_probe
from rottrain.analysis.position_probes import read_positions
from rottrain.analysis.probe import Condition, Finding, Probed, as_table, judge, probe
from rottrain.analysis.true_latents import TrueLatents, Truth
from rottrain.generation.generate import Generation, RoT
from rottrain.metrics.intervals import Estimate, share
from rottrain.model.glyph_probe import Alphabet, GlyphProbe
from tests.helpers import Result

NAMES = ["own", "zeros", "mean", "noise", "shuffle", "swap", "repeat", "masked", "true"]


@pytest.fixture
def rot(stage1_checkpoint: Path) -> RoT:
    return RoT.from_pretrained(stage1_checkpoint, precision="float32")


@pytest.fixture
def rows() -> list[Row]:
    return [Row(str(n), f"{n}+{n + 1}?", f"{n}+{n + 1}={2 * n + 1}", f"{2 * n + 1}") for n in range(6)]


def scripted(rot: RoT, monkeypatch: pytest.MonkeyPatch, reply: Callable[[str, torch.Tensor | None], str]) -> None:
    """Have the model think two latents that number its question, and reply from the latents that it sees."""

    def generation(question: str, latents: torch.Tensor, seen: torch.Tensor | None) -> Generation:
        said = f"#### {reply(question, seen)}"
        return Generation(question=question, reply=said, reasoning_tokens=2, seconds=0.0, latents_KD=latents)

    def generate(questions: list[str], **_: object) -> list[Generation]:
        thoughts = [torch.full((2, rot.backbone.width), 1.0 + int(question.split("+")[0])) for question in questions]
        return [generation(question, thought, thought) for question, thought in zip(questions, thoughts, strict=True)]

    def answer(
        questions: list[str], latents: list[torch.Tensor], *, hidden: str = "none", **_: object
    ) -> list[Generation]:
        return [
            generation(question, given, None if hidden == "latents" else given)
            for question, given in zip(questions, latents, strict=True)
        ]

    monkeypatch.setattr(rot, "generate", generate)
    monkeypatch.setattr(rot, "answer", answer)


def by_name(probed: Probed) -> dict[str, Condition]:
    return {condition.name: condition for condition in probed.conditions}


def figures(condition: Condition) -> tuple[float, float, float]:
    """Accuracy, change and flips."""
    assert condition.change is not None
    assert condition.flips is not None
    return condition.accuracy.value, condition.change.value, condition.flips.value


def test_a_model_that_answers_from_its_latents_is_found_out(
    rot: RoT, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(rot, monkeypatch, lambda _, seen: "none" if seen is None else f"{2 * int(seen[0, 0]) - 1}")
    found = probe(rot, rows, corpus="toy", truths=TrueLatents(rot))
    made = by_name(found)
    assert list(made) == NAMES
    assert (made["own"].accuracy.value, made["own"].change, made["own"].flips) == (1, None, None)
    for name in ("zeros", "swap", "masked"):
        assert figures(made[name]) == (0, -1, 1)
    assert figures(made["repeat"]) == (1, 0, 0)  # both of a question's latents are the same here
    assert found.verdict.finding == "carry"
    assert "accuracy goes from 100.0% to 0.0%" in found.verdict.sentence


def test_a_model_that_ignores_its_latents_is_found_out(
    rot: RoT, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(rot, monkeypatch, lambda question, _: f"{2 * int(question.split('+')[0]) + 1}")
    many = [Row(f"{n}", row.question, row.cot, row.answer) for n in range(15) for row in rows]
    found = probe(rot, many, corpus="toy", truths=TrueLatents(rot))
    assert all(each.flips is None or each.flips.value == 0 for each in found.conditions)
    assert found.verdict.finding == "ignored"


def condition(name: str, accuracy: Estimate, change: Estimate, flips: Estimate) -> Condition:
    return Condition(name=name, says=name, n=100, accuracy=accuracy, change=change, flips=flips)


@pytest.mark.parametrize(
    ("change", "flips", "finding"),
    [
        (Estimate(-0.2, -0.3, -0.05), Estimate(0.5, 0.4, 0.6), "carry"),
        (Estimate(-0.1, -0.3, -0.049), Estimate(0.5, 0.4, 0.6), "carry a little"),
        (Estimate(-0.1, -0.3, 0.0), Estimate(0.5, 0.05, 0.6), "move"),
        (Estimate(0.0, -0.02, 0.02), Estimate(0.01, 0.0, 0.05), "ignored"),
        (Estimate(0.0, -0.2, 0.2), Estimate(0.05, 0.04, 0.3), "unclear"),
    ],
)
def test_the_verdict_follows_from_the_intervals_of_the_swap(change: Estimate, flips: Estimate, finding: str) -> None:
    half, none = Estimate(0.5, 0.4, 0.6), Estimate(0.0, 0.0, 0.01)
    own = Condition(name="own", says="own", n=100, accuracy=half, change=None, flips=None)
    verdict = judge([own, condition("swap", half, change, flips), condition("masked", half, none, none)])
    assert verdict.finding == finding
    assert flips.as_percent() in verdict.sentence


def test_latents_whose_absence_changes_answers_are_not_called_ignored() -> None:
    half, none, some = Estimate(0.5, 0.4, 0.6), Estimate(0.0, 0.0, 0.01), Estimate(0.3, 0.2, 0.4)
    own = Condition(name="own", says="own", n=100, accuracy=half, change=None, flips=None)
    verdict = judge([own, condition("swap", half, none, none), condition("masked", half, none, some)])
    assert verdict.finding == "unclear"


def test_one_question_has_no_other_to_take_latents_from(rot: RoT, rows: list[Row]) -> None:
    with pytest.raises(UsageError, match="there must be two, got 1"):
        probe(rot, rows[:1], corpus="toy", truths=TrueLatents(rot))


def test_rows_without_a_chain_of_thought_have_no_truth(rot: RoT, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(rot, monkeypatch, lambda question, _: question)
    bare = [Row(str(n), f"{n}+1?", "", "1") for n in range(3)]
    found = probe(rot, bare, corpus="toy", truths=TrueLatents(rot))
    assert list(by_name(found)) == NAMES[:-1]
    assert found.positions == []


# What can be read.


@pytest.fixture
def shown() -> list[list[str]]:
    return [[str(n % 7), "x" if n % 2 else "", str(n % 3)] for n in range(60)]


def test_a_line_reads_what_stands_on_it_and_a_slot_without_characters_is_left_out(
    rot: RoT, shown: list[list[str]]
) -> None:
    truth = [Truth(latents_KD=torch.zeros(3, 1), said=3, shown=characters) for characters in shown]
    thoughts = [torch.zeros(2, rot.backbone.width) for _ in shown]
    for thought, characters in zip(thoughts, shown, strict=True):
        thought[0, int(characters[0])] = 1
    first, second = read_positions(rot, thoughts, truth, seed=0)
    assert (first.position, second.position, first.characters, second.characters) == (0, 1, 60, 30)
    assert first.line.value == 1
    assert first.majority.value < 0.3
    assert second.majority.value == 1  # only x is ever shown there
    assert first.glyphs is None


def test_the_glyph_probe_s_reading_stands_beside_it(rot: RoT, shown: list[list[str]]) -> None:
    rot.glyphs = GlyphProbe(rot.backbone.width, Alphabet("0123456x", slots=1)).eval()
    with torch.no_grad():
        rot.glyphs.leave.weight.zero_()
        rot.glyphs.leave.bias.copy_(torch.nn.functional.one_hot(torch.tensor(2), 10))  # says "0" of any latent
    truth = [Truth(latents_KD=torch.zeros(3, 1), said=3, shown=characters) for characters in shown]
    first, *_ = read_positions(rot, [torch.randn(1, rot.backbone.width) for _ in shown], truth, seed=0)
    assert first.glyphs is not None
    assert first.glyphs.value == 9 / 60


def test_few_rows_make_no_linear_probe(rot: RoT) -> None:
    truth = [Truth(latents_KD=torch.zeros(1, 1), said=1, shown=["1"]) for _ in range(position_probes._FEWEST - 1)]
    assert read_positions(rot, [torch.randn(1, rot.backbone.width) for _ in truth], truth, seed=0) == []
    assert read_positions(rot, [torch.randn(1, rot.backbone.width)], [None], seed=0) == []


# The command, with a random model.


@pytest.fixture(scope="module")
def positions() -> list[position_probes.Position]:
    third, half = share([True, False, False]), share([True, False])
    return [
        position_probes.Position(position=n, characters=9, line=half, majority=third, glyphs=None) for n in range(3)
    ]


def test_the_table_has_a_line_a_condition_what_was_read_and_the_verdict(
    rot: RoT,
    rows: list[Row],
    monkeypatch: pytest.MonkeyPatch,
    positions: list[position_probes.Position],
    tmp_path: Path,
) -> None:
    scripted(rot, monkeypatch, lambda question, _: question)
    found = probe(rot, rows, corpus="toy", truths=TrueLatents(rot))
    shown = Probed(**(vars(found) | {"positions": positions}))
    table = as_table(shown)
    assert sum(line.startswith("|") for line in table.splitlines()) == 2 + len(NAMES)
    assert "Of 27 characters that the latents should hold, linear probes name 50.0%" in table
    assert table.endswith(found.verdict.sentence)
    for name in ("plot.png", "plot.svg"):
        plot_probe(shown, tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    with pytest.raises(UsageError, match="--plot names a .png"):
        plot_probe(found, tmp_path / "plot.jpg")


def test_the_command_prints_one_json_value(
    run_rottrain: Callable[..., Result], stage1_checkpoint: Path, short_rows: Path, embedded: Path, tmp_path: Path
) -> None:
    options = ("--corpus", "generic", "--limit", 2, "--budget", 2, "--shards", embedded, "--plot", tmp_path / "p.svg")
    printed = run_rottrain("probe", stage1_checkpoint, short_rows, *options, "--json")
    assert printed.code == 0
    found = json.loads(printed.out)
    assert [each["name"] for each in found["conditions"]] == NAMES
    assert [each["n"] for each in found["conditions"]] == [2] * len(NAMES)
    assert found["verdict"]["finding"] in get_args(Finding)
    assert (tmp_path / "p.svg").stat().st_size > 5000
