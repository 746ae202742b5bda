"""From a YAML file to a plan: grids, what is shared, and files that are wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rotdata.errors import UsageError
from rottrain.ablation.plan import MOST_RUNS, Plan, contents_of, given_values, load
from rottrain.cli.compare import check_words
from tests.helpers import REPOSITORY

Load = Callable[..., Plan]


def declared(**changes: Any) -> dict[str, Any]:
    """A small comparison, with top-level keys changed."""
    return {
        "title": "Small",
        "values": {"rows": 4, "lr": 1e-3, "thinker": "@stage2", "seeds": [0, 1]},
        "steps": {
            "strips": {"run": "rotdata render toy", "with": {"corpus": "toy", "limit": "$rows"}},
            "latents": {"run": "rotdata embed @strips"},
            "stage1": {"run": "rottrain stage1", "with": {"shards": "@latents", "lr": "$lr", "seed": "$seed"}},
            "stage2": {
                "run": "rottrain stage2",
                "with": {"shards": "@latents", "from": "@stage1", "lr": "$lr", "seed": "$seed"},
            },
            "answers": {"run": "rottrain eval $thinker toy", "with": {"split": "validation"}},
        },
        "tables": {"stages": table({"both": {}, "without 2": {"thinker": "@stage1"}})},
    } | changes


def table(arms: Any, **changes: Any) -> dict[str, Any]:
    shown = {"title": "Table", "seeds": "$seeds", "measure": "answers", "columns": {"accuracy": ".1%"}}
    return shown | {"arms": arms} | changes


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Load a comparison, given as YAML or as what YAML says."""

    def load_it(content: Any, **options: Any) -> Plan:
        file = tmp_path / "file.yaml"
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return load(file, **{"identify": lambda word: None} | options)

    return load_it


def commands(plan: Plan) -> list[str]:
    return [" ".join(plan.words(step, Path)) for step in plan.steps.values()]


def arms(plan: Plan) -> list[tuple[str, int, dict[str, Any]]]:
    return [(run.arm, run.seed, dict(run.settings)) for run in plan.runs]


def test_arms_share_the_steps_that_are_equal_and_steps_stand_after_what_they_need(read: Load) -> None:
    plan = read(declared())
    names = [step.name for step in plan.steps.values()]
    assert [names.count(name) for name in ("strips", "latents", "stage1", "stage2", "answers")] == [1, 1, 2, 2, 4]
    assert all(list(plan.steps).index(need) < list(plan.steps).index(key)
               for key, step in plan.steps.items() for need in step.needs)  # fmt: skip
    assert [(arm, seed) for arm, seed, _ in arms(plan)] == [
        ("both", 0), ("both", 1), ("without 2", 0), ("without 2", 1)
    ]  # fmt: skip
    assert "stage2" not in plan.runs[-1].steps


def test_a_command_has_its_options_references_and_own_folder(read: Load) -> None:
    content = declared()
    content["steps"]["strips"]["with"] |= {"inverted": True, "cells": None, "letter-spacing": False}
    content["steps"]["answers"]["with"] |= {"config": "@stage1/recipe.yaml", "model": "@/log"}
    lines = commands(read(content))
    key = lines[0].rpartition(" ")[2]
    assert lines[0] == f"rotdata render toy --corpus toy --limit 4 --inverted --out {key}"
    assert lines[1].startswith(f"rotdata embed {key} --out latents-")
    answers = next(line for line in lines if line.startswith("rottrain eval")).split()
    assert answers[2].startswith("stage2-")
    assert answers[-3].startswith("stage1-")
    assert answers[-3].endswith("/recipe.yaml")
    assert answers[-1].startswith("answers-")
    assert answers[-1].endswith("/log")
    assert "--out" not in answers


def test_lists_make_a_grid(read: Load) -> None:
    arm = {"answers.budget": [4, 8], "lr": [1e-3, 2e-3]}
    plan = read(declared(tables={"grid": table({"all": arm}, seeds=[3])}))
    assert arms(plan) == [
        ("all", 3, {"answers.budget": budget, "lr": lr}) for budget in (4, 8) for lr in (1e-3, 2e-3)
    ]  # fmt: skip
    assert sum(step.name == "answers" for step in plan.steps.values()) == 4
    assert sum(step.name == "stage1" for step in plan.steps.values()) == 2


def test_an_arm_may_be_measured_otherwise_and_take_options_away(read: Load) -> None:
    content = declared()
    content["tables"]["stages"] = table({"last": {"measure": ["stage1"], "stage1.lr": None}}, seeds=0)
    plan = read(content)
    assert plan.runs[0].measured == ("stage1",)
    assert "--lr" not in commands(plan)[-1]


def test_a_table_without_seeds_is_left_out(read: Load) -> None:
    content = declared()
    content["tables"]["tuning"] = table({"all": {"lr": [1, 2]}}, seeds=[])
    plan = read(content)
    assert plan.section.tables.keys() == {"stages"}
    assert {run.table for run in plan.runs} == {"stages"}


def test_keys_of_a_recipe_are_checked_nested_and_part_of_the_step(read: Load) -> None:
    arm = {"stage1.config.head.activation": ["relu", "gelu"], "stage1.config.adam_beta2": 0.9}
    plan = read(declared(tables={"heads": table({"all": arm}, seeds=0)}), check=check_words)
    found = [step for step in plan.steps.values() if step.name == "stage1"]
    assert [step.recipe for step in found] == [
        {"head": {"activation": name}, "adam_beta2": 0.9} for name in ("relu", "gelu")
    ]
    assert plan.words(found[0], lambda key: Path("steps", key, "made"))[-4:-2] == [
        "--config", f"steps/{found[0].key}/recipe.yaml"
    ]  # fmt: skip
    for wrong, message in (
        ({"stage1.config.head.activation": "tanh"}, "activation is swiglu or gelu or relu"),
        ({"stage1.config.learning_rate": 1}, "unknown keys learning_rate"),
        ({"strips.config.head": 1}, "rotdata render has no recipe"),
        ({"stage1.config.lr": 1, "stage1.config": "a.yaml"}, "not both"),
        ({"stage1.config.../x": 1}, "is no option's name"),
    ):
        with pytest.raises(UsageError, match=message):
            read(declared(tables={"heads": table({"all": wrong})}))


def test_given_values_replace_those_of_the_file(read: Load) -> None:
    plan = read(declared(), given=given_values(["seeds=[5]", "rows=9", "lr=2e-3"]))
    assert {run.seed for run in plan.runs} == {5}
    assert "--limit 9" in commands(plan)[0]
    assert plan.section.values == {"rows": 9, "lr": "2e-3", "seeds": [5]}
    for wrong, message in (("rows", "NAME=VALUE"), ("rows=[", "YAML"), ("row=1", "no value row to set")):
        with pytest.raises(UsageError, match=message):
            read(declared(), given=given_values([wrong]))


def test_keys_follow_the_command_what_it_builds_on_and_the_files_it_names(read: Load, tmp_path: Path) -> None:
    keys = list(read(declared()).steps)
    assert list(read(declared()).steps) == keys
    other = list(read(declared(), given={"rows": 5}).steps)
    assert not set(keys) & set(other)
    changed = list(read(declared(), identify=lambda word: "new" if word == "validation" else None).steps)
    assert [key for key in keys if key not in changed] == [key for key in keys if key.startswith("answers")]
    (tmp_path / "some.txt").write_text("a")
    contents_of.cache_clear()
    first = contents_of(str(tmp_path / "some.txt")), contents_of(str(tmp_path))
    (tmp_path / "some.txt").write_text("b")
    contents_of.cache_clear()
    second = contents_of(str(tmp_path / "some.txt")), contents_of(str(tmp_path))
    assert all(first + second)
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert contents_of("tiny")
    assert [contents_of(word) for word in ("", "absent", "x" * 5000, "a\0b")] == [None] * 4


def test_command_lines_that_can_not_be_are_refused_before_any_is_run(read: Load) -> None:
    read(declared(), check=check_words)
    for setting, message in (
        ({"strips.limt": 3}, "No such option: --limt"),
        ({"answers.limit": "many"}, "Invalid value for '--limit'"),
        ({"stage1.shards": None}, "Missing option '--shards'"),
    ):
        with pytest.raises(UsageError, match=message):
            read(declared(tables={"t": table({"a": setting})}), check=check_words)


HOSTILE = {
    "unknown top key": (declared(stpes={}), "unknown keys 'stpes'"),
    "no tables": (declared(tables=None), "lacks tables"),
    "a list": ([1], "is a mapping"),
    "no name": (declared(values={1: 2}), "1 is no name"),
    "a path as a step": (declared(steps={"../../etc": {"run": "rotdata embed x"}}), "is no name for a step"),
    "a path as a table": (declared(tables={"../t": table({"a": {}})}), "is no name for a table"),
    "a path out of a step": (
        declared(steps={"answers": {"run": "rottrain eval @answers/../../x toy"}}), "is no path within"
    ),
    "an absolute path in a step": (
        declared(steps={"answers": {"run": "rottrain eval @//etc toy"}}), "is no path within"
    ),
    "a line in an arm's name": (declared(tables={"t": table({"a\nb": {}})}), "an arm's name"),
    "another program": (declared(steps={"answers": {"run": "rm -rf /"}}), "runs 'rm -rf': known are rotdata embed"),
    "a command that ablates": (declared(steps={"answers": {"run": "rottrain ablate x"}}), "known are"),
    "options beside the command": (declared(steps={"answers": {"run": "rottrain eval --out x"}}), "stand under with"),
    "quotes left open": (declared(steps={"answers": {"run": "rottrain eval 'x"}}), "is no command line"),
    "an own --out": (declared(tables={"t": table({"a": {"strips.out": "/"}})}), "--out is given by ablate"),
    "an option's dashes": (declared(tables={"t": table({"a": {"strips.--limit": 1}})}), "is no option's name"),
    "a mapping as an option": (declared(tables={"t": table({"a": {"rows": {"x": 1}}})}), "a number, text"),
    "alone in words": (declared(steps={"answers": {"run": "rottrain eval x", "alone": "yes"}}), "true or false"),
    "unknown value": (declared(tables={"t": table({"a": {"rows": "$row"}})}), "no value row: known are rows"),
    "unknown setting": (declared(tables={"t": table({"a": {"row": 1}})}), "sets row, which is no value"),
    "unknown step": (declared(tables={"t": table({"a": {"thinker": "@stage3"}})}), "names a step 'stage3'"),
    "unknown step's option": (declared(tables={"t": table({"a": {"stage3.lr": 1}})}), "names a step 'stage3'"),
    "unknown measure": (declared(tables={"t": table({"a": {}}, measure="answer")}), "names a step 'answer'"),
    "useless setting": (
        declared(tables={"t": table({"a": {"thinker": "@stage1", "stage2.lr": 1}})}), "sets stage2.lr, which changes"
    ),
    "a step that needs itself": (
        declared(tables={"t": table({"a": {"stage1.shards": "@stage2"}})}),
        "needs itself: answers -> stage2 -> stage1 -> stage2",
    ),
    "a value that needs itself": (
        declared(values={"thinker": "$other", "other": "$thinker", "seeds": 0, "rows": 1, "lr": 1}), "needs itself"
    ),
    "a list outside an arm": (
        declared(values={"rows": [1, 2], "lr": 1, "thinker": "@stage2", "seeds": 0}), "lists make runs only where"
    ),
    "a dollar": (declared(tables={"t": table({"a": {"rows": "5 $"}})}), "before no name"),
    "an empty list": (declared(tables={"t": table({"a": {"rows": []}})}), "the list of rows is empty"),
    "too many runs": (
        declared(tables={"t": table({"a": {"rows": list(range(200)), "lr": list(range(200))}})}), str(MOST_RUNS)
    ),
    "odd seeds": (declared(tables={"t": table({"a": {}}, seeds=[0, -1])}), "seeds are numbers from 0 on"),
    "a seed twice": (declared(tables={"t": table({"a": {}}, seeds=[1, 1])}), "a seed stands twice"),
    "seed as a value": (declared(values={"seed": 1}), "not to be named seed"),
    "a way to write": (declared(tables={"t": table({"a": {}}, columns={"accuracy": "{0.x}"})}), "written as"),
    "unknown plot key": (declared(tables={"t": table({"a": {}}, plots=[{"x": "a", "y": "b", "z": 1}])}), "'z'"),
    "unknown guide": (declared(tables={"t": table({"a": {}}, plots=[{"x": "a", "y": "b", "guide": "c"}])}), "guide is"),
    "a NUL": (declared(values={"rows": "a\0b"}), "NUL"),
    "a key twice": ("title: a\ntitle: b\n", "'title' stands twice"),
    "no YAML": ("title: [", "can't be read as YAML"),
    "a Python object": ("title: !!python/object/apply:os.getcwd []", "can't be read as YAML"),
    "deep nesting": ("[" * 500, "can't be read as YAML"),
    "laughs": (
        "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
        + "title: *a29\nsteps: *a29\ntables: *a29\n",
        "unknown keys",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_wrong_is_refused_in_a_line_that_says_where(read: Load, name: str) -> None:
    content, message = HOSTILE[name]
    with pytest.raises(UsageError) as refusal:
        read(content)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 700


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"absent.yaml: it can't be read"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("file", sorted((REPOSITORY / "reproduce").glob("*.yaml")), ids=lambda file: file.name)
def test_the_comparisons_that_ship_are_made_of_commands_that_can_be(file: Path) -> None:
    tuned = "tuning_seeds" in yaml.safe_load(file.read_text())["values"]  # tables that are left out unless asked for
    plan = load(file, given={"tuning_seeds": [0]} if tuned else {}, check=check_words)
    assert {run.table for run in plan.runs} == set(plan.section.tables)
