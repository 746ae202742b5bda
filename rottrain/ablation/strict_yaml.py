"""YAML files of users: read strictly, and their values checked with messages that say where. Knows no contents.

Each check is told `where` in the file the value stands, returns the value, and raises UsageError.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rotdata.errors import UsageError

Scalar = str | int | float | bool | None


class _UniqueKeys(yaml.SafeLoader):
    """A loader to which a key that stands twice in a mapping is an error, not the later one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read(file: Path) -> Mapping[str, Any]:
    """The mapping that a file holds. Raises UsageError."""
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeys)  # noqa: S506 -- a SafeLoader
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"it can't be read as YAML: {error}") from error
    return mapping("it", content)


def mapping(where: str, value: Any) -> Mapping[str, Any]:
    """A mapping whose keys are text."""
    if not isinstance(value, dict):
        raise UsageError(f"{where} is a mapping of names to values, got {short(value)}")
    if odd := [key for key in value if not isinstance(key, str)]:
        raise UsageError(f"{where}: {short(odd[0])} is no name; put it in quotes if it is meant as one")
    return value


def record(where: str, value: Any, known: Sequence[str], *, needed: Sequence[str]) -> Mapping[str, Any]:
    """A mapping with no other keys than `known`, and with all that are needed."""
    content = mapping(where, value)
    if unknown := sorted(set(content) - set(known)):
        listed = ", ".join(map(short, unknown))
        raise UsageError(f"{where} has unknown keys {listed}: known are {', '.join(known)}")
    if missing := [name for name in needed if content.get(name) is None]:
        raise UsageError(f"{where} lacks {', '.join(missing)}")
    return content


def text(where: str, value: Any) -> str:
    """Text."""
    if not isinstance(value, str):
        raise UsageError(f"{where} is text, got {short(value)}")
    return value


def texts(where: str, value: Any) -> list[str]:
    """One text, or a list of them, as a list."""
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in listed):
        raise UsageError(f"{where} is a name or a list of names, got {short(value)}")
    return listed


def scalar(where: str, value: Any) -> Scalar:
    """What can be a word of a command line."""
    if value is not None and not isinstance(value, str | int | float):  # a bool is an int
        raise UsageError(f"{where} is a number, text, true, false or null, got {short(value)}")
    if isinstance(value, str) and "\0" in value:
        raise UsageError(f"{where} holds a NUL character")
    return value


def short(value: Any) -> str:
    """A value as messages show it, however large it is."""
    return reprlib.repr(value)
