"""Arguments that no command can use, or that hardly any can: one table for every option of every command.

A command may take them (0), fail (1), refuse them (2) or end as documented (3, 4), in a line for people; never in a
traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
import typer.main

from tests.helpers import Result

HUGE = "1" + "0" * 30
VALUES: dict[Any, list[str]] = {
    int: ["-1", "0", HUGE, "-" + HUGE, "nan", "", "9" * 5000],
    float: ["nan", "inf", "-inf", "1e-400", "1e400", "-1", "0", "1e-40", "1e30", "", "x"],
    Path: ["folder", "file/below", "absent/below", "", "\udcff", "x" * 5000],
    str: ["", "x" * 100_000, "\udcff", "\ud800", "\x1b[31m", "a/b", "-1", "nan", HUGE],
    Literal: ["absurd", "", "\udcff"],
}
"""By the type of a parameter; "folder" and "file" are there in the folder that a command runs in."""
MOST_CHARACTERS = 8000
"""Of what a command says on stderr, whatever it was given."""


def kind_of(parameter: Any) -> Any:
    """Key of VALUES for a command's parameter; bool for a flag."""
    annotation = parameter.type_descriptor.annotation
    while get_origin(annotation) not in (None, Literal):  # list[str]
        annotation = get_args(annotation)[0]
    return Literal if get_origin(annotation) is Literal else annotation


def attacks(app: typer.Typer, command: str, usual: list[object]) -> Iterator[list[str]]:
    """The command's usual arguments with one of its parameters replaced by one absurd value, for all of them."""
    group: Any = typer.main.get_command(app)
    words = [str(word) for word in usual]
    places = 0
    for parameter in group.commands[command].params:
        kind = kind_of(parameter)
        is_option = parameter.param_type_name == "option"
        for value in VALUES[kind] if kind is not bool else ():
            if not is_option:
                yield (
                    [*words[:places], "--", value]
                    if value.startswith("-")
                    else [*words[:places], value, *words[places + 1 :]]
                )
                continue
            name = parameter.opts[0]
            given = words.index(name) if name in words else len(words)
            yield [*words[:given], *words[given + 2 :], f"{name}={value}"]
        places += not is_option


def assert_no_command_breaks(
    run: Callable[..., Result], app: typer.Typer, command: str, usual: list[object], folder: Path
) -> None:
    """Run all attacks on a command; each new OUT of `usual` is a path of its own."""
    (folder / "folder").mkdir()
    (folder / "file").touch()
    broken = []
    for number, arguments in enumerate(attacks(app, command, usual)):
        words = [word.replace("OUT", f"out{number}") for word in arguments]
        shown = [word[:60] for word in words]
        try:
            result = run(command, *words)
        except BaseException as error:  # noqa: BLE001 -- what a user would see as a traceback
            broken.append((shown, repr(error)[:300]))
            continue
        says_why = result.code not in {1, 2} or result.err.strip() or result.out.strip()
        if result.code > 4 or "Traceback" in result.err or len(result.err) > MOST_CHARACTERS or not says_why:
            broken.append((shown, f"exit {result.code}, {len(result.err)} characters: {result.err[-300:]}"))
    assert broken == []
