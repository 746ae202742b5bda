"""Records: JSON files of ours, read as the dataclasses and typed dictionaries that they must be. Knows none of them.

A number without a fraction is a count: an integer from 0 to 2^31 - 1, or within the Bounds that its type is annotated
with. A text can be written as UTF-8.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from rotdata.console import MOST, is_unicode
from rotdata.errors import CheckpointError

_Record = TypeVar("_Record")
_SHOWN = 60  # characters of a value that is not what it should be


@dataclass(frozen=True)
class Bounds:
    """Of a count."""

    least: int = 0
    most: int = MOST


_COUNT = Bounds()
_ANY_NUMBER = Annotated[int, Bounds(least=-MOST)]


class Misfit(Exception):
    """A value that is not what it should be: where it stands, what was expected and what was got."""

    def __init__(self, key: str, expected: str, got: str) -> None:
        super().__init__(f"{key or 'the file'} should be {expected}, got {got}")


def read(file: Path, *, remedy: str) -> Any:
    """The JSON value of a file. Raises FileNotFoundError, and CheckpointError where it can't be read."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} can't be read ({error}): {remedy}") from error


def as_record(kind: type[_Record], value: Any, file: Path, *, remedy: str) -> _Record:
    """A value that `file` holds, as a record. Raises CheckpointError saying file, key, what was expected and got."""
    try:
        record: _Record = _as(kind, value, "")
    except Misfit as misfit:
        raise CheckpointError(f"{file}: {misfit}: {remedy}") from misfit
    return record


def check_known(kind: Any, value: Any, key: str) -> None:
    """Raise Misfit if a field of a dataclass is in an object and of another type; it may have more or fewer."""
    if not isinstance(value, dict):
        raise Misfit(key, "an object", shown(value))
    for name, hint in _hints(kind).items():
        if name in value:
            _as(_ANY_NUMBER if hint is int else hint, value[name], _joined(key, name))


def _as(hint: Any, value: Any, key: str) -> Any:
    """`value` if it is of a type, a dataclass made. Raises Misfit."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, UnionType):
        return _as_one_of(inner, value, key)
    if dataclasses.is_dataclass(kind) or is_typeddict(kind):
        return _as_fields(kind, value, key)
    of_one_kind = kind is list or (kind is tuple and inner[1:] == (...,))
    if of_one_kind and isinstance(value, list):
        return [_as(inner[0], each, f"{key}[{place}]") for place, each in enumerate(value)]
    if kind is tuple and isinstance(value, list) and len(value) == len(inner):
        return [_as(each, got, f"{key}[{place}]") for place, (each, got) in enumerate(zip(inner, value, strict=True))]
    if kind is dict and isinstance(value, dict):
        return {name: _as(inner[1], each, _joined(key, name)) for name, each in value.items()}
    if kind is not Any and not _fits(hint, value):
        raise Misfit(key, _expected(hint), shown(value))
    return value


def _as_one_of(hints: tuple[Any, ...], value: Any, key: str) -> Any:
    """`value` as the first of several types that it can be at first sight."""
    for hint in hints:
        if _outside(hint) is type(value) or _fits(hint, value):
            return _as(hint, value, key)
    raise Misfit(key, " or ".join(map(_expected, hints)), shown(value))


def _as_fields(kind: Any, value: Any, key: str) -> Any:
    """A dataclass, or a typed dictionary, of an object with all its keys and no others."""
    if not isinstance(value, dict):
        raise Misfit(key, "an object", shown(value))
    hints = _hints(kind)
    needed = _needed(kind)
    if strange := sorted(value.keys() - hints.keys()):
        raise Misfit(_joined(key, strange[0]), "absent", shown(value[strange[0]]))
    if lacking := [name for name in hints if name in needed and name not in value]:
        raise Misfit(_joined(key, lacking[0]), _expected(hints[lacking[0]]), "nothing")
    found = {name: _as(hints[name], each, _joined(key, name)) for name, each in value.items()}
    return found if is_typeddict(kind) else kind(**found)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _needed(kind: Any) -> set[str]:
    if is_typeddict(kind):
        return set(kind.__required_keys__)
    none = dataclasses.MISSING
    return {each.name for each in dataclasses.fields(kind) if each.default is none and each.default_factory is none}


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value that is neither list nor object is of a type."""
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)
    else:
        bounds = _COUNT
    if get_origin(hint) is Literal:
        return any(value is each or (value == each and type(value) is type(each)) for each in get_args(hint))
    if hint is int:
        return type(value) is int and bounds.least <= value <= bounds.most
    if hint is float:
        return type(value) in (int, float)
    if hint is str:
        return isinstance(value, str) and is_unicode(value)
    return _outside(hint) is None and isinstance(hint, type) and isinstance(value, hint)


def _outside(hint: Any) -> type | None:
    """What JSON has for a type that holds others."""
    kind = get_origin(hint) or hint
    if kind in (list, tuple):
        return list
    return dict if kind is dict or dataclasses.is_dataclass(kind) or is_typeddict(kind) else None


def _expected(hint: Any) -> str:
    """A type in words."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Annotated:
        return f"a whole number from {inner[1].least} to {inner[1].most}"
    if kind is Literal:
        return " or ".join(map(str, inner))
    if kind in (Union, UnionType):
        return " or ".join(map(_expected, inner))
    plain: Mapping[Any, str] = {
        int: f"a whole number from 0 to {MOST}", float: "a number", str: "a text", bool: "true or false",
        NoneType: "null", list: "a list", tuple: "a list", dict: "an object",
    }  # fmt: skip
    return plain.get(kind, "an object")


def _joined(key: str, name: str) -> str:
    """A key within another, free of what a terminal could take for more than text."""
    return (f"{key}." if key else "") + ascii(name)[1:-1][:_SHOWN]


def shown(value: Any) -> str:
    """A value as JSON has it, at most so many characters of it."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # more digits or levels than are written
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
