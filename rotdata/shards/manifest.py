"""_manifest.json: everything that decides a folder's bytes, and its finished shards. Checked as a stranger's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pyarrow as pa

from rotdata.errors import ShardError, UsageError
from rotdata.output import write_atomically
from rotdata.shards.files import MANIFEST, Files, LocalFiles, called, manifest_file
from rotdata.shards.schema import embedding_schema, strip_schema
from rotdata.shards.targets import Context, Longer, Store

SCHEMA_VERSION = 1
Kind = Literal["strips", "embeddings"]
_SAFE_NAME = re.compile(r"\w[\w.-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_COUNT = 1 << 63  # not reached
_TOLD = "tower_values_sha256"
_LARGEST_SIZE = 1 << 20  # pixels of a strip's height, values of a latent
_DEEPEST = 32  # levels within a manifest, whose readers recurse
_MOST_SHARDS = 10_000_000

_STYLE: dict[str, Any] = {
    "font": str,
    "font_size_px": int,
    "height_px": int,
    "padding_px": int,
    "line_break": str,
    "foreground": int,
    "background": int,
    "on_missing": str,
    "kerning": str,
    "cells": int | None,
    "begin_mark": str,
    "end_mark": str,
    "layout": Literal["line", "square"],
    "square_px": int,
}
_OPTIONAL_STYLE: dict[str, Any] = {"align_steps": bool, "align_numbers": bool, "fallback": list[str]}
_ENCODER: dict[str, Any] = {
    "model": str,
    "revision": str | None,
    "tower_sha256": str,
    "output": str,
    "factor": int,
    "width": int,
    "dtype": Literal["float32", "bfloat16"],
}
_SETTINGS: dict[str, Any] = {"max_latents": int, "too_long": Literal["reject", "truncate", "split"]}
_EMBEDDING_SETTINGS: dict[str, Any] = _SETTINGS | {"patches_per_call": int, "store": Store}
_OPTIONAL_SETTINGS: dict[str, Any] = {
    "max_boxes": float,
    "pool": int,
    "max_stored_latents": int,
    "longer": Longer,
    "resize": list[int],
    "attention": str,
    "context": Context,
}
_SURVEY: dict[str, Any] = {
    "duplicates": int,
    "duplicate_ids": int,
    "missing": dict[str, int],
    "substituted": dict[str, int],
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How rows fall into shards: record i of a corpus belongs to shard i // rows_per_shard, embedded or not."""

    rows_in: int
    rows_per_shard: int
    num_shards: int
    """Shards of the whole run, those whose rows are all rejected included."""


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A finished shard: what its file must be."""

    file: str
    rows: int
    rejected: int
    latents: int
    bytes: int
    sha256: str
    truncated: int = 0
    """Rows of which only the beginning was drawn: their spans end before their text does."""
    added: int = 0
    """Rows beyond one a source row, since some were split."""
    rounding: float = 0.0
    """Of embeddings: what storing them changed, root mean square, relative to that of the values."""
    rejects_sha256: str = ""
    """Of its lines in _rejects.jsonl, if there are any."""
    row_groups: list[int] = field(default_factory=list)
    """Rows of each of its row groups, so that a reader far away need not open it to know them."""
    halved: int = 0
    """Calls of the tower that ran out of memory and were made in two halves, which may change last bits."""


@dataclass(kw_only=True)
class Manifest:
    """All that decides the bytes of a folder, and its finished shards by index."""

    kind: Kind
    corpus: str
    split: str
    source: dict[str, Any]
    """What identifies the rows: hashes of the corpus files, or the Hub dataset and its commit."""
    style: dict[str, Any]
    """Style, font hashes and glyph hash of the strips: strips.Renderer.fingerprint."""
    settings: dict[str, Any]
    """Choices that decide bytes beside the above: max_latents, patches_per_call, ..."""
    plan: Plan
    encoder: dict[str, Any] | None = None
    """For embeddings: model, revision, tower hash, output field, factor, width, dtype."""
    survey: dict[str, Any] = field(default_factory=dict)
    """What the whole corpus is like: duplicates, characters drawn by a fallback font or as boxes. Decides no bytes."""
    part: list[int] | None = None
    """[i, n] in a folder that holds shards i - 1, i - 1 + n, ... of the plan only, to be merged with its likes."""
    shards: dict[int, ShardEntry] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    @property
    def planned(self) -> range:
        """Indices of the shards that belong into this folder."""
        first, step = (0, 1) if self.part is None else (self.part[0] - 1, self.part[1])
        return range(first, self.plan.num_shards, step)

    @property
    def name(self) -> str:
        """Stem of the shard files."""
        return f"{self.corpus}-{self.split}"

    @property
    def finished(self) -> bool:
        """Whether every shard that belongs here is there."""
        return len(self.shards) == len(self.planned)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the bytes, the shards themselves aside."""
        return _digest(self._identity())

    @property
    def encoding_fingerprint(self) -> str:
        """SHA-256 of what a latent is: equal for shards that can be trained on together, whatever their corpus."""
        changed: dict[str, Any] = {
            name: self.settings[name] for name in ("pool", "resize", "context") if name in self.settings
        }
        if self.settings.get("longer") == "resample":
            changed["resampled_to"] = self.settings["max_stored_latents"]
        return _digest({"style": self.style, "encoder": _deciding(self.encoder)} | changed)

    @property
    def latent_is_a_factor(self) -> bool:
        """Whether latent k stands for the k-th factor of its strip: not where latents are means, or strips resized."""
        resampled = self.settings.get("longer") == "resample"
        return self.settings.get("pool", 1) == 1 and not resampled and "resize" not in self.settings

    @property
    def store(self) -> Store:
        """Type of the values of its latents."""
        store: Store = self.settings.get("store", "float16")
        return store

    @property
    def context(self) -> Context:
        """What its latents were encoded with."""
        context: Context = self.settings.get("context", "strip")
        return context

    @property
    def schema(self) -> pa.Schema:
        """Columns of its shards."""
        if self.encoder is None:
            return strip_schema()
        return embedding_schema(self.encoder["width"], self.store, self.context)

    @property
    def entries(self) -> list[ShardEntry]:
        """The finished shards in order."""
        return [self.shards[index] for index in sorted(self.shards)]

    def shard_file(self, index: int) -> str:
        """File name of shard `index`."""
        return f"{self.name}-{index:05d}-of-{self.plan.num_shards:05d}.parquet"

    @property
    def rows_done(self) -> int:
        """Source rows that stand in a finished shard or were rejected."""
        return self.total("rows") - self.total("added") + self.total("rejected")

    def total(self, what: Literal["rows", "rejected", "latents", "bytes", "truncated", "added"]) -> int:
        """Sum of a column of the finished shards' table."""
        return sum(getattr(entry, what) for entry in self.shards.values())

    def differences(self, other: Manifest) -> list[str]:
        """What decides the bytes and is not the same in `other`, as "name: this | other"."""
        mine, theirs = _flatten(self._identity()), _flatten(other._identity())
        keys = list(mine) + sorted(theirs.keys() - mine.keys())  # kind and corpus first
        return [f"{key}: {mine.get(key)} | {theirs.get(key)}" for key in keys if mine.get(key) != theirs.get(key)]

    def save(self, folder: Path) -> None:
        """Write _manifest.json, whole or not at all."""
        finished = {str(index): asdict(self.shards[index]) for index in sorted(self.shards)}
        content = self._identity() | {"encoder": self.encoder, "survey": self.survey, "shards": finished}
        content["checksum"] = _digest(content)
        write_atomically(manifest_file(folder), _manifest_bytes(content))

    @classmethod
    def load(cls, folder: Path | Files) -> Manifest:
        """Read and check _manifest.json, which a stranger may have written.

        Raises ShardError if it is missing, damaged, of a later version, or not one that this toolkit writes.
        """
        files = LocalFiles(folder) if isinstance(folder, Path) else folder
        name = called(MANIFEST, files)
        file = f"{folder}/{name}"
        try:
            stored = files.read(name)
            content = json.loads(stored)
        except FileNotFoundError:
            raise ShardError(
                f"{folder} holds no {MANIFEST}: it is no folder of shards, or its first run never began"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            raise ShardError(f"{file} can't be read ({error}): restore it, or make the shards again") from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise ShardError(
                f"{file} has schema version {version!r}, this release reads up to {SCHEMA_VERSION}: upgrade it"
            )
        if _deeper(content, _DEEPEST):
            raise _untrusted(file, f"more than {_DEEPEST} levels")
        exact = stored == _manifest_bytes(content)
        checksum = content.pop("checksum", None)
        if not exact or checksum != _digest(content):
            raise ShardError(f"{file} does not match its own checksum: it was damaged or edited; make the shards again")
        try:
            content["plan"] = Plan(**content["plan"])
            content["shards"] = {int(i): ShardEntry(**entry) for i, entry in content["shards"].items()}
            manifest = cls(**content)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ShardError(f"{file} lacks or adds fields ({error}): it is of another release") from error
        if (strange := next(manifest._strange_values(), None)) is not None:
            raise _untrusted(file, strange)
        if names := manifest._strange_names():
            raise ShardError(f"{file} names files that can't be its own ({names[0]!r}): don't trust where it is from")
        return manifest

    @classmethod
    def load_whole(cls, folder: Path, *, then: str) -> Manifest:
        """The manifest of a finished folder, for what is `then` to be done with it.

        Raises UsageError for a part, ShardError for one that is unfinished, and as `load` does.
        """
        manifest = cls.load(folder)
        if manifest.part is not None:
            parts = folder.resolve().parent
            raise UsageError(f"{folder} is a part: join all parts with `rotdata merge {parts}`, then {then} that")
        if not manifest.finished:
            done, planned = len(manifest.shards), len(manifest.planned)
            raise ShardError(
                f"{folder} has {done} of {planned} shards: finish it with the command that makes it, then {then}"
            )
        return manifest

    def _strange_values(self) -> Iterator[str]:
        """Names of what no manifest of ours holds; to be asked for one by one, since later ones rely on the earlier."""
        yield from _misfits(Manifest, [self])
        yield from _misfits(Plan, [self.plan])
        yield from _misfits(ShardEntry, self.shards.values())
        if self.plan.rows_per_shard < 1 or not 0 < self.plan.num_shards <= _MOST_SHARDS:
            yield "plan"
        if self.part is not None and not (len(self.part) == 2 and 1 <= self.part[0] <= self.part[1]):
            yield "part"
        if not all(_SHA256.fullmatch(entry.sha256) for entry in self.shards.values()):
            yield "sha256"
        if (self.kind == "strips") != (self.encoder is None):
            yield "encoder"
        yield from _misfitting("style", self.style, {"style": dict, "fonts": dict[str, str], "sha256": str})
        yield from _misfitting("style.style", self.style["style"], _STYLE)
        yield from _misfitting("style.style", self.style["style"], _OPTIONAL_STYLE, optional=True)
        yield from _misfitting("settings", self.settings, _SETTINGS if self.encoder is None else _EMBEDDING_SETTINGS)
        yield from _misfitting("settings", self.settings, _OPTIONAL_SETTINGS, optional=True)
        yield from _misfitting("survey", self.survey, _SURVEY, optional=True)
        yield from (f"survey.{name}" for name in self.survey.keys() - _SURVEY.keys())
        if type(self.style["style"].get("letter_spacing_px")) is not int:  # which may be negative
            yield "style.style.letter_spacing_px"
        sizes = {"style.style.height_px": self.style["style"]["height_px"]}
        if self.encoder is not None:
            yield from _misfitting("encoder", self.encoder, _ENCODER)
            yield from _misfitting("encoder", self.encoder, {_TOLD: str}, optional=True)
            sizes |= {f"encoder.{name}": self.encoder[name] for name in ("width", "factor")}
        yield from (name for name, size in sizes.items() if not 0 < size <= _LARGEST_SIZE)
        counts = ("max_latents", "patches_per_call", "pool", "max_stored_latents")
        yield from (f"settings.{name}" for name in counts if self.settings.get(name, 1) < 1)
        if "resize" in self.settings and len(self.settings["resize"]) != 2:
            yield "settings.resize"
        if self.settings.get("longer") == "resample" and "max_stored_latents" not in self.settings:
            yield "settings.longer"

    def _strange_names(self) -> list[str]:
        """Names of shards that the plan would not give, and so may lie outside of the folder."""
        if not _SAFE_NAME.fullmatch(self.name):
            return [self.name]
        return [
            entry.file
            for index, entry in self.shards.items()
            if index not in self.planned or entry.file != self.shard_file(index)
        ]

    def _identity(self) -> dict[str, Any]:
        content = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        del content["shards"], content["survey"]
        if self.part is None:
            del content["part"]
        content["plan"] = asdict(self.plan)
        content["encoder"] = _deciding(self.encoder)
        return content


def _deciding(encoder: dict[str, Any] | None) -> dict[str, Any] | None:
    """An encoder without what follows from the rest of it, so that shards from before that was told are the same."""
    return None if encoder is None else {name: value for name, value in encoder.items() if name != _TOLD}


def _flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _misfits(kind: type, records: Iterable[Any]) -> Iterator[str]:
    """Names of a dataclass's fields whose values, as JSON gave them, are not of their types."""
    types = get_type_hints(kind).items()
    return (name for record in records for name, expected in types if not _fits(getattr(record, name), expected))


def _misfitting(name: str, found: dict[str, Any], types: dict[str, Any], *, optional: bool = False) -> Iterator[str]:
    """Dotted names of what a dictionary of the manifest lacks, unless it may, or has of another type."""
    for key, expected in types.items():
        if not (_fits(found[key], expected) if key in found else optional):
            yield f"{name}.{key}"


def _fits(value: Any, expected: Any) -> bool:
    """Whether a value is of a field's type; an integer is a count, and true is none."""
    kind, inner = get_origin(expected) or expected, get_args(expected)
    if kind is Literal:
        return value in inner
    if kind is UnionType:
        return any(_fits(value, each) for each in inner)
    if kind is list:
        return isinstance(value, list) and all(_fits(each, inner[0]) for each in value)
    if kind is dict and inner[1:] not in ((), (Any,)):
        return isinstance(value, dict) and all(_fits(each, inner[1]) for each in value.values())
    if kind is int:
        return type(value) is int and 0 <= value < _LARGEST_COUNT
    return isinstance(value, kind)


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value read from JSON has more levels."""
    if not isinstance(value, (dict, list)):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(each, levels - 1) for each in inner)


def _untrusted(file: str, strange: str) -> ShardError:
    return ShardError(f"{file} is not one that this toolkit writes ({strange}): don't trust where it is from")


def _manifest_bytes(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode(errors="surrogatepass")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
