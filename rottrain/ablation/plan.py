"""A comparison as a YAML file declares it -> the commands it takes, each once however many arms need it. Runs nothing.

    title: Head and budget
    values: {rows: 2000, activation: swiglu}
    steps:
      strips: {run: rotdata render toy, with: {limit: $rows, cells: 4}}
      latents: {run: rotdata embed @strips}
      stage1: {run: rottrain stage1, with: {shards: "@latents", config.head.activation: $activation, seed: $seed}}
      answers: {run: rottrain eval @stage1 toy, with: {split: validation, limit: 500}}
    tables:
      heads:
        title: Heads
        seeds: [0, 1, 2]
        measure: answers
        columns: {accuracy: .1%}
        arms:
          SwiGLU: {}
          GELU: {activation: gelu}
          budgets: {answers.budget: [8, 16, 32]}

`$name` stands for a value, `@step` for the folder that a step makes and `@` for a step's own; `config.KEY` is a key of
a training's recipe, for which there need be no option. An arm sets values or single options, and a list makes a run of
each, an empty list of seeds none. A step's key is a hash of its command, of the keys of what it builds on, and
of the contents of files that it names, so that equal steps are one. docs/ablate.md says it for users.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shlex
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rotdata.encoders.models import TINY_FOLDER
from rotdata.errors import UsageError
from rotdata.version import __version__
from rottrain.ablation import strict_yaml
from rottrain.ablation.strict_yaml import Scalar, short
from rottrain.ablation.tables import RESULT, Plot, Section, Table
from rottrain.config import SftConfig, Stage1Config, Stage2Config, from_dict

MAKING = frozenset({"rotdata render", "rotdata embed", "rottrain stage1", "rottrain stage2", "rottrain sft"})
"""Commands that make a folder, given by --out."""
LOOKING = frozenset(
    {"rotdata stats", "rotdata verify"} | {f"rottrain {name}" for name in ("calibrate", "eval", "probe", "trace")}
)
"""Commands that only say something."""
MOST_RUNS = 10_000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}|config(\.[A-Za-z][A-Za-z0-9_]{0,39}){1,3}")
_RECIPE = "config."
_RECIPES = {"rottrain stage1": Stage1Config, "rottrain stage2": Stage2Config, "rottrain sft": SftConfig}
_WITHIN = re.compile(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")
_FILE = ("title", "about", "values", "steps", "tables")
_STEP = ("run", "with", "alone")
_TABLE = ("title", "about", "seeds", "measure", "of", "by", "columns", "plots", "arms")
_PLOT = tuple(each.name for each in fields(Plot))
_KEY_LENGTH = 12

Identify = Callable[[str], str | None]
Check = Callable[[Sequence[str]], None]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command: text, or a path within the folder that a step makes."""

    text: str
    step: str | None = None
    """Key of that step; empty for the command's own."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command to run."""

    name: str
    key: str
    command: str
    """Program and command: rottrain stage1."""
    words: tuple[Word, ...]
    recipe: Mapping[str, Any]
    """Keys of a training's recipe, for its --config."""
    needs: tuple[str, ...]
    """Keys of the steps whose folders it reads."""
    alone: bool
    """Whether it is run while nothing else is, since it is timed."""
    split: str | None
    """The value of its --split."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """An arm with one seed and one choice from each of its lists."""

    table: str
    arm: str
    seed: int
    settings: Mapping[str, Scalar]
    """What the arm sets."""
    steps: Mapping[str, str]
    """Name -> key of every step that it takes."""
    measured: tuple[str, ...]
    """Names of those whose results count."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs, and the steps that they share by key, each after those that it needs."""

    runs: tuple[Run, ...]
    steps: Mapping[str, Step]
    section: Section

    def words(self, step: Step, folder: Callable[[str], Path]) -> list[str]:
        """The command line of a step; `folder` says where the step of a key makes its own."""
        words = step.command.split()
        for word in step.words:
            words.append(word.text if word.step is None else f"{folder(word.step or step.key)}{word.text}")
        if step.recipe:
            words += ["--config", str(recipe_file(folder(step.key)))]
        if step.command in MAKING:
            words += ["--out", str(folder(step.key))]
        return words


def recipe_file(folder: Path) -> Path:
    """Where the recipe of a training lies that writes into `folder`."""
    return folder.with_name("recipe.yaml")


def load(
    file: Path, *, given: Mapping[str, Any] | None = None, identify: Identify | None = None, check: Check | None = None
) -> Plan:
    """The plan of a YAML file; `given` values take the place of the file's.

    `identify` says what a word stands for beside itself, by default the contents of the file or model that it names;
    `check` refuses command lines that can't be. Raises UsageError, which says where in the file something is wrong.
    """
    try:
        return _Reader(strict_yaml.read(file), given or {}, identify or contents_of).plan(check)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def given_values(assignments: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE of a command line, VALUE in YAML. Raises UsageError."""
    values = {}
    for each in assignments:
        name, sign, text = each.partition("=")
        try:
            values[name] = yaml.safe_load(text)
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            raise UsageError(f"--set {each[:80]} can't be read as YAML: {error}") from error
        if not sign:
            raise UsageError(f"--set takes NAME=VALUE, got {each!r}")
    return values


@dataclass(frozen=True, kw_only=True)
class _Template:
    """A step as the file declares it."""

    command: str
    words: tuple[str, ...]
    """What follows the command, as written."""
    options: Mapping[str, Scalar]
    alone: bool


@dataclass(kw_only=True)
class _Scope:
    """What a run's names stand for, and which of its settings have been used."""

    values: Mapping[str, Any]
    options: Mapping[tuple[str, str], Scalar]
    """(step, option) -> what the arm sets."""
    used: set[str] = field(default_factory=set)
    keys: dict[str, str] = field(default_factory=dict)
    """Steps resolved so far, by name."""


class _Reader:
    """Turns a parsed file into a plan."""

    def __init__(self, content: Mapping[str, Any], given: Mapping[str, Any], identify: Identify) -> None:
        strict_yaml.record("it", content, _FILE, needed=("title", "steps", "tables"))
        self._content = content
        self._identify = identify
        self._values = self._read_values(content.get("values") or {}, given)
        self._templates = {
            _name("a step", name): _template(name, each)
            for name, each in strict_yaml.mapping("steps", content["steps"]).items()
        }
        self._steps: dict[str, Step] = {}

    def plan(self, check: Check | None) -> Plan:
        runs: list[Run] = []
        tables: dict[str, Table] = {}
        for name, content in strict_yaml.mapping("tables", self._content["tables"]).items():
            where = f"table {_name('a table', name)}"
            strict_yaml.record(where, content, _TABLE, needed=("title", "measure", "columns", "arms"))
            shown, of_table = _shown(where, content), list(self._runs_of(name, content))
            if of_table:
                tables[name] = shown
                runs += of_table
            if len(runs) > MOST_RUNS:
                raise UsageError(f"the file makes more than {MOST_RUNS} runs: shorten its lists")
        if check:
            self._check(check)
        section = Section(
            title=strict_yaml.text("title", self._content["title"]),
            about=strict_yaml.text("about", self._content.get("about", "")),
            values={name: value for name, value in self._values.items() if not _is_reference(value)},
            tables=tables,
        )
        return Plan(runs=tuple(runs), steps=self._steps, section=section)

    def _read_values(self, content: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        values = dict(strict_yaml.mapping("values", content))
        if unknown := sorted(set(given) - set(values)):
            raise UsageError(f"there is no value {', '.join(unknown)} to set: known are {', '.join(values)}")
        for name, value in (values | dict(given)).items():
            if _name("a value", name) in {"seed", "measure"}:
                raise UsageError(f"a value is not to be named {name}, which means something in an arm: rename it")
            values[name] = (
                [strict_yaml.scalar(name, each) for each in value]
                if isinstance(value, list)
                else strict_yaml.scalar(name, value)
            )
        return values

    def _runs_of(self, table: str, content: Mapping[str, Any]) -> Iterator[Run]:
        where = f"table {table}"
        seeds = _seeds(where, self._value(content.get("seeds", [0]), self._values, ()))
        for arm, declared in strict_yaml.mapping(f"{where}, arms", content["arms"]).items():
            here = f"{where}, arm {_arm_name(where, arm)}"
            settings = dict(strict_yaml.mapping(here, declared if declared is not None else {}))
            measured = tuple(strict_yaml.texts(f"{here}, measure", settings.pop("measure", content["measure"])))
            for name in measured:
                self._template_of(here, name)
            for chosen in _grid(here, settings):
                for seed in seeds:
                    yield self._run(here, Run(
                        table=table, arm=arm, seed=seed, settings=chosen, steps={}, measured=measured,
                    ))  # fmt: skip

    def _run(self, where: str, run: Run) -> Run:
        """The run with its steps. Raises UsageError for a setting that changes none of them."""
        options: dict[tuple[str, str], Scalar] = {}
        values = dict(self._values) | {"seed": run.seed}
        for name, value in run.settings.items():
            step, dot, option = name.partition(".")
            if dot:
                self._template_of(where, step)
                options[step, option] = value
            elif name in self._values:
                values[name] = value
            else:
                raise UsageError(
                    f"{where} sets {name}, which is no value: known are {', '.join(self._values)}, measure, and "
                    "options of steps as in stage1.lr"
                )
        scope = _Scope(values=values, options=options)
        try:
            for name in run.measured:
                self._resolve(name, scope, ())
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        if unused := [name for name in run.settings if name not in scope.used]:
            raise UsageError(f"{where} sets {', '.join(unused)}, which changes none of its steps")
        return replace(run, steps=scope.keys)

    def _resolve(self, name: str, scope: _Scope, path: tuple[str, ...]) -> str:
        """The key of a step in a scope; it and all that it needs are entered among the steps."""
        if name in path:
            raise UsageError(f"step {name} needs itself: {' -> '.join((*path, name))}")
        if name in scope.keys:
            return scope.keys[name]
        template = self._template_of(f"step {path[-1]}" if path else "measure", name)
        options = dict(template.options)
        for (step, option), value in scope.options.items():
            if step == name:
                options[option] = value
                scope.used.add(f"{step}.{option}")
        resolved = {option: self._lookup(name, value, scope) for option, value in options.items()}
        _check_options(name, template.command, resolved)
        recipe = _recipe(name, template.command, resolved)
        texts = [self._lookup(name, word, scope) for word in template.words]
        words = [self._word(str(text), scope, (*path, name)) for text in texts]
        for option, value in resolved.items():
            if option.startswith(_RECIPE):
                continue
            if value is True:
                words.append(Word(f"--{option}"))
            elif value is not None and value is not False:
                words += [Word(f"--{option}"), self._word(str(value), scope, (*path, name))]
        made = self._step(name, template, tuple(words), recipe, resolved.get("split"))
        self._steps.setdefault(made.key, made)
        scope.keys[name] = made.key
        return made.key

    def _step(
        self, name: str, template: _Template, words: tuple[Word, ...], recipe: Mapping[str, Any], split: Any
    ) -> Step:
        identity = {
            "version": __version__,
            "command": template.command,
            "recipe": recipe,
            "words": [
                [word.text, word.step, None if word.step is not None else self._identify(word.text)] for word in words
            ],
        }
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
        return Step(
            name=name,
            key=f"{name}-{digest[:_KEY_LENGTH]}",
            command=template.command,
            words=words,
            recipe=recipe,
            needs=tuple(dict.fromkeys(word.step for word in words if word.step)),
            alone=template.alone,
            split=None if split is None else str(split),
        )

    def _lookup(self, step: str, value: Scalar, scope: _Scope) -> Scalar:
        """A word or option with its `$names` replaced; what is but one name keeps its type."""
        try:
            found = self._value(value, scope.values, (), scope.used)
        except UsageError as error:
            raise UsageError(f"step {step}: {error}") from error
        if isinstance(found, list):
            raise UsageError(f"step {step}: {value} is a list, and lists make runs only where an arm sets them")
        return found

    def _value(self, value: Any, values: Mapping[str, Any], path: tuple[str, ...], used: set[str] | None = None) -> Any:
        """A value with its `$names` replaced, and those in their values. Raises UsageError for unknown ones, cycles."""
        if not isinstance(value, str) or "$" not in value:
            return value
        template = string.Template(value)
        if not template.is_valid():
            raise UsageError(f"{value!r} has a $ before no name: write $$ for the sign itself")
        found = {}
        for name in template.get_identifiers():
            if name not in values:
                raise UsageError(f"there is no value {name}: known are {', '.join(values)}")
            if name in path:
                raise UsageError(f"the value {name} needs itself: {' -> '.join((*path, name))}")
            if used is not None:
                used.add(name)
            found[name] = self._value(values[name], values, (*path, name), used)
            if value in {f"${name}", f"${{{name}}}"}:
                return found[name]
        if lists := [name for name, each in found.items() if isinstance(each, list)]:
            raise UsageError(f"{lists[0]} is a list and can't stand within {value!r}")
        return template.substitute(found)

    def _word(self, text: str, scope: _Scope, path: tuple[str, ...]) -> Word:
        """`@step`, `@step/file` and `@/file` as paths, all else as it is."""
        if not text.startswith("@"):
            return Word(text)
        name, slash, rest = text[1:].partition("/")
        within = f"{slash}{rest}"
        if within and not _WITHIN.fullmatch(within):
            raise UsageError(f"step {path[-1]}: {short(text)} is no path within the folder of a step")
        return Word(within, self._resolve(name, scope, path) if name else "")

    def _template_of(self, where: str, name: str) -> _Template:
        if name not in self._templates:
            raise UsageError(f"{where} names a step {short(name)}: known are {', '.join(self._templates)}")
        return self._templates[name]

    def _check(self, check: Check) -> None:
        """Refuse command lines that can't be, before any is run."""
        plan = Plan(runs=(), steps=self._steps, section=Section(title="", values={}, tables={}))
        for step in self._steps.values():
            try:
                check(plan.words(step, Path))
            except UsageError as error:
                raise UsageError(f"step {step.name}: {error}") from error


def _template(name: str, content: Any) -> _Template:
    where = f"step {name}"
    strict_yaml.record(where, content, _STEP, needed=("run",))
    try:
        words = shlex.split(strict_yaml.text(f"{where}, run", content["run"]))
    except ValueError as error:
        raise UsageError(f"{where}: {short(content['run'])} is no command line: {error}") from error
    command = " ".join(words[:2])
    if command not in MAKING | LOOKING:
        raise UsageError(f"{where} runs {short(command)}: known are {', '.join(sorted(MAKING | LOOKING))}")
    if flags := [word for word in words[2:] if word.startswith("-")]:
        raise UsageError(f"{where}: options such as {short(flags[0])} stand under with, without the --")
    alone = content.get("alone", False)
    if not isinstance(alone, bool):
        raise UsageError(f"{where}: alone is true or false, got {short(alone)}")
    options = {
        option: strict_yaml.scalar(f"{where}, {option}", value)
        for option, value in strict_yaml.mapping(f"{where}, with", content.get("with") or {}).items()
    }
    return _Template(command=command, words=tuple(words[2:]), options=options, alone=alone)


def _check_options(step: str, command: str, options: Mapping[str, Any]) -> None:
    ours = {"json", "help"} | ({"out"} if command in MAKING else set())
    for option in options:
        if not _OPTION.fullmatch(option):
            raise UsageError(f"step {step}: {short(option)} is no option's name; they stand without the --")
        if option in ours:
            raise UsageError(f"step {step}: --{option} is given by ablate itself")


def _recipe(step: str, command: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are keys of a recipe, nested. Raises UsageError for what is no recipe of the command."""
    recipe: dict[str, Any] = {}
    for option, value in options.items():
        if not option.startswith(_RECIPE) or value is None:
            continue
        *path, name = option.removeprefix(_RECIPE).split(".")
        place = recipe
        for each in path:
            place = place.setdefault(each, {})
        place[name] = value
    if not recipe:
        return recipe
    if command not in _RECIPES:
        raise UsageError(f"step {step}: {command} has no recipe that {_RECIPE} could give keys of")
    if options.get("config") is not None:
        raise UsageError(f"step {step}: give a config or keys of one, not both")
    try:
        from_dict(_RECIPES[command], {"mode": "cot"} | recipe if command == "rottrain sft" else recipe)
    except UsageError as error:
        raise UsageError(f"step {step}: {error}") from error
    return recipe


def _shown(where: str, content: Mapping[str, Any]) -> Table:
    """How a table is shown."""
    columns = {
        str(name): strict_yaml.text(f"{where}, columns", written)
        for name, written in strict_yaml.mapping(f"{where}, columns", content["columns"]).items()
    }
    plots = content.get("plots") or []
    if not isinstance(plots, list):
        raise UsageError(f"{where}: plots is a list, got {short(plots)}")
    shown: dict[str, Any] = {
        "title": strict_yaml.text(f"{where}, title", content["title"]),
        "about": strict_yaml.text(f"{where}, about", content.get("about", "")),
        "of": strict_yaml.text(f"{where}, of", content.get("of", RESULT)),
        "by": strict_yaml.texts(f"{where}, by", content.get("by") or []),
    }
    for plot in plots:
        strict_yaml.record(f"{where}, plots", plot, _PLOT, needed=("x", "y"))
    try:
        return Table(**shown, columns=columns, plots=[from_dict(Plot, dict(plot)) for plot in plots])
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _grid(where: str, settings: Mapping[str, Any]) -> Iterator[dict[str, Scalar]]:
    """Every choice of one from each of the lists."""
    names = list(settings)
    lists = []
    runs = 1
    for name in names:
        value = settings[name]
        if value == []:
            raise UsageError(f"{where}: the list of {name} is empty")
        lists.append(
            [strict_yaml.scalar(f"{where}, {name}", each) for each in (value if isinstance(value, list) else [value])]
        )
        runs *= len(lists[-1])
    if runs > MOST_RUNS:
        raise UsageError(f"{where} makes {runs} runs, more than {MOST_RUNS}: shorten its lists")
    for chosen in itertools.product(*lists):
        yield dict(zip(names, chosen, strict=True))


def _seeds(where: str, value: Any) -> list[int]:
    seeds = value if isinstance(value, list) else [value]
    if not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        raise UsageError(f"{where}: seeds are numbers from 0 on, got {short(value)}")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"{where}: a seed stands twice in {short(value)}")
    return seeds


def _name(what: str, name: Any) -> str:
    """A name that may become part of a path. Raises UsageError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"{short(name)} is no name for {what}: letters, digits, - and _, a letter first, at most 40 of them"
        )
    return name


def _arm_name(where: str, name: Any) -> str:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 80:
        raise UsageError(f"{where}: an arm's name is a line of at most 80 characters, got {short(name)}")
    return name


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("@")


@cache
def contents_of(word: str) -> str | None:
    """SHA-256 of the file, folder or embedded model that a word names; None for any other word."""
    if not word:
        return None
    path = TINY_FOLDER if word == "tiny" else Path(word)
    try:
        if path.is_file():
            return _sha256(path)
        if not path.is_dir():
            return None
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = [f"{file.relative_to(path)} {_sha256(file)}" for file in files]
    except (OSError, ValueError):  # too long for a name, unreadable
        return None
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
