"""The manifest holds all that decides the bytes, and one that we did not write is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.errors import ShardError
from rotdata.shards import (
    MANIFEST,
    Manifest,
    Mismatch,
    Plan,
    verify,
)
from rotdata.shards.manifest import _digest, _manifest_bytes
from tests.helpers import contents
from tests.rotdata.shards.samples import (
    edit_manifest,
    replace_entry,
)


def test_the_manifest_round_trips(toy_embeddings: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(toy_embeddings)
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    assert contents(tmp_path)[MANIFEST] == contents(toy_embeddings)[MANIFEST]


def test_the_manifest_holds_all_that_decides_the_bytes(toy_embeddings: Path) -> None:
    content = json.loads((toy_embeddings / MANIFEST).read_text())
    assert set(content) == {
        "schema_version",
        "kind",
        "corpus",
        "split",
        "source",
        "style",
        "settings",
        "survey",
        "plan",
        "encoder",
        "shards",
        "checksum",
    }
    hashes = {"tower_sha256", "tower_values_sha256"}
    assert set(content["encoder"]) == {"model", "revision", *hashes, "output", "factor", "width", "dtype"}
    assert set(content["style"]) == {"style", "fonts", "glyphs", "sha256"}
    assert content["plan"] == {"rows_in": 10, "rows_per_shard": 4, "num_shards": 3}
    assert content["settings"] == {
        "max_latents": 4096,
        "too_long": "reject",
        "patches_per_call": 2048,
        "store": "float16",
    }
    assert content["shards"]["2"]["file"] == "toy-train-00002-of-00003.parquet"
    counted = {"rows", "rejected", "latents", "truncated", "added", "rounding", "halved"}
    assert set(content["shards"]["2"]) == {"file", "bytes", "sha256", "rejects_sha256", "row_groups", *counted}


def test_a_manifest_of_before_towers_were_hashed_by_value_is_of_the_same_shards(toy_embeddings: Path) -> None:
    told, untold = Manifest.load(toy_embeddings), Manifest.load(toy_embeddings)
    assert told.encoder is not None
    assert untold.encoder is not None
    del untold.encoder["tower_values_sha256"]
    assert told.differences(untold) == []
    assert untold.fingerprint == told.fingerprint
    assert untold.encoding_fingerprint == told.encoding_fingerprint
    untold.encoder["tower_sha256"] = "1" * 64
    assert untold.encoding_fingerprint != told.encoding_fingerprint


def test_an_edited_manifest_is_refused(strips: Path) -> None:
    file = strips / MANIFEST
    file.write_text(file.read_text().replace('"rows_in": 10', '"rows_in": 11'))
    with pytest.raises(ShardError, match="does not match its own checksum"):
        Manifest.load(strips)


@given(data=st.data())
def test_no_changed_byte_of_a_manifest_goes_unseen(data: st.DataObject, toy_strips: Path) -> None:
    content = (toy_strips / MANIFEST).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255))
    changed = content[:place] + bytes([byte]) + content[place + 1 :]
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / MANIFEST).write_bytes(changed)
        if changed == content:
            Manifest.load(Path(name))
            return
        with pytest.raises(ShardError):
            Manifest.load(Path(name))


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"holds no _manifest\.json"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"schema_version": 99}', "{}"])
def test_a_manifest_that_is_none_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ShardError):
        Manifest.load(tmp_path)


def test_a_later_schema_version_says_to_upgrade(strips: Path) -> None:
    edit_manifest(strips, lambda manifest: setattr(manifest, "schema_version", 2))
    with pytest.raises(ShardError, match="schema version 2, this release reads up to 1: upgrade"):
        Manifest.load(strips)


def test_the_fingerprint_is_of_what_decides_the_bytes_not_of_progress(strips: Path) -> None:
    manifest = Manifest.load(strips)
    before = manifest.fingerprint, manifest.encoding_fingerprint
    del manifest.shards[0]
    assert (manifest.fingerprint, manifest.encoding_fingerprint) == before
    assert not manifest.finished


@pytest.mark.parametrize(
    "change",
    [
        {"corpus": "other"},
        {"split": "other"},
        {"source": {"seed": 1}},
        {"style": {"sha256": "other"}},
        {"settings": {"max_latents": 1}},
        {"plan": Plan(rows_in=10, rows_per_shard=5, num_shards=2)},
        {"encoder": {"width": 8}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_is_in_the_fingerprint_and_named_where_it_differs(strips: Path, change: dict[str, Any]) -> None:
    manifest = Manifest.load(strips)
    other = dataclasses.replace(manifest, **change)
    assert other.fingerprint != manifest.fingerprint
    differences = manifest.differences(other)
    assert differences
    assert all(difference.startswith(next(iter(change))) for difference in differences)
    assert manifest.differences(manifest) == []


def test_the_encoding_fingerprint_is_of_style_and_encoder_alone(strips: Path) -> None:
    manifest = Manifest.load(strips)
    plan = Plan(rows_in=1, rows_per_shard=1, num_shards=1)
    same = dataclasses.replace(manifest, corpus="other", split="x", source={}, settings={}, plan=plan)
    assert same.encoding_fingerprint == manifest.encoding_fingerprint
    for change in ({"style": {}}, {"encoder": {"width": 8}}):
        assert dataclasses.replace(manifest, **change).encoding_fingerprint != manifest.encoding_fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"corpus": "../../etc"},
        {"corpus": "/tmp/x"},
        {"split": "train/../../x"},
        {"corpus": ""},
    ],
)
def test_a_manifest_whose_name_is_a_path_is_refused(strips: Path, change: dict[str, str]) -> None:
    edit_manifest(strips, lambda manifest: [setattr(manifest, *item) for item in change.items()])
    with pytest.raises(ShardError, match="can't be its own"):
        Manifest.load(strips)


@pytest.mark.parametrize(
    "file", ["../toy-train-00000-of-00003.parquet", "/etc/passwd", "toy-train-00001-of-00003.parquet"]
)
def test_a_manifest_that_names_another_file_is_refused(strips: Path, file: str) -> None:
    edit_manifest(strips, lambda manifest: replace_entry(manifest, 0, file=file))
    with pytest.raises(ShardError, match="can't be its own"):
        Manifest.load(strips)


def test_a_manifest_with_a_shard_beyond_its_plan_is_refused(strips: Path) -> None:
    edit_manifest(strips, lambda manifest: manifest.shards.update({3: manifest.shards[2]}))
    with pytest.raises(ShardError, match="can't be its own"):
        Manifest.load(strips)


def edit_json(folder: Path, path: str, value: Any) -> None:
    """Put a value at a dotted path of the manifest, whatever it does to it, with a checksum that fits."""
    content = json.loads((folder / MANIFEST).read_text())
    del content["checksum"]
    *names, last = path.split(".")
    inner = content
    for name in names:
        inner = inner[name]
    inner[last] = value
    content["checksum"] = _digest(content)
    (folder / MANIFEST).write_bytes(_manifest_bytes(content))


COUNTS = [
    "schema_version",
    *(f"plan.{name}" for name in ("rows_in", "rows_per_shard", "num_shards")),
    *(f"shards.0.{name}" for name in ("rows", "rejected", "latents", "bytes", "truncated", "added", "halved")),
]
NO_COUNTS = [-1, 1.0, "1", True, None, [], {}, 1 << 63, float("nan")]
TEXTS = ["corpus", "split", "shards.0.file", "shards.0.sha256", "shards.0.rejects_sha256"]
ENCODER = [f"encoder.{name}" for name in ("model", "tower_sha256", "output", "dtype")]
STYLE = [f"style.style.{name}" for name in ("height_px", "font_size_px", "padding_px", "letter_spacing_px", "layout")]
SETTINGS = [f"settings.{name}" for name in ("max_latents", "patches_per_call", "pool", "max_stored_latents")]
DESCRIPTIONS = ["source", "style", "settings", "survey", "plan", "shards", "shards.0"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((path, value) for path in COUNTS for value in NO_COUNTS),
        *((path, value) for path in TEXTS for value in (0, None, [], {"a": 1})),
        *((path, value) for path in DESCRIPTIONS for value in (0, None, [], "words", [1, 2])),
        *(("shards.0.row_groups", value) for value in (4, None, "4", {}, [[4]], [-4], [True], [4.0], ["4"], [None])),
        *(("shards.0.rounding", value) for value in (None, "0", [0.0], 1)),
        *(("shards.0.sha256", value) for value in ("", "0" * 63, "0" * 65, "Z" * 64, "0" * 64 + "\n")),
        *(("kind", value) for value in ("pictures", "", None, 0, ["strips"], "strips")),
        *(("encoder", value) for value in (None, 0, [], "tower", {})),
        *(("encoder.width", value) for value in (0, -4, 4.0, "4", True, None, [], 10**9)),
        *(("settings.store", value) for value in ("float64", None, 0, ["float16"], {})),
        *((path, value) for path in ENCODER for value in (None, 0, {})),
        *(("encoder.factor", value) for value in NO_COUNTS),
        *((path, value) for path in STYLE for value in (None, "32", [], {}, 1.5)),
        *(("style.style.height_px", value) for value in (0, -32, True, 1 << 40)),
        *(("style", value) for value in ({}, {"style": {}}, {"style": {"height_px": 32}})),
        *((path, value) for path in SETTINGS for value in NO_COUNTS),
        *((f"settings.{name}", 0) for name in ("pool", "max_stored_latents", "patches_per_call", "max_latents")),
        *(("settings.resize", value) for value in (None, [], [1], [1, 2, 3], [1, "2"], 7)),
        *(("settings.context", value) for value in ("page", None, 0)),
        *(("settings.longer", value) for value in ("resample", "shorter", None)),
        *(("settings.too_long", value) for value in ("keep", None, 0)),
        *((f"survey.{name}", value) for name in ("missing", "substituted") for value in ([], {"a": "b"}, {"a": -1})),
        *((f"survey.{name}", value) for name in ("duplicates", "duplicate_ids") for value in NO_COUNTS),
        ("survey.more", 1),
        *(("part", value) for value in ([], [1], [0, 2], [3, 2], [1, 0], [1, 2, 3], [1, "2"], [True, 2], 1, "1/2", {})),
        *(("plan.num_shards", value) for value in (0, 1, 2, 10**9)),
        ("plan.rows_per_shard", 0),
        *((f"shards.{index}", {}) for index in ("0", "-1", "1.5", "first", "", "9" * 5000)),
        ("shards.0.more", 1),
        ("plan.more", 1),
        ("more", 1),
        ("checksum", 1),
    ],
)  # fmt: skip
def test_a_manifest_of_other_types_than_ours_is_refused(embeddings: Path, path: str, value: Any) -> None:
    edit_json(embeddings, path, value)
    with pytest.raises(ShardError) as refused:
        Manifest.load(embeddings)
    assert str(embeddings / MANIFEST) in str(refused.value)
    assert verify(embeddings) == (None, [Mismatch(MANIFEST, str(refused.value))])


@pytest.mark.parametrize("path", ["survey.x", "style.x", "source", "shards.0.row_groups"])
@pytest.mark.parametrize("levels", [40, 300])
def test_a_manifest_of_very_many_levels_is_refused(strips: Path, path: str, levels: int) -> None:
    for level in ("list", "dict"):
        value: Any = 0
        for _ in range(levels):
            value = [value] if level == "list" else {"x": value}
        edit_json(strips, path, value)
        with pytest.raises(ShardError, match="more than 32 levels"):
            Manifest.load(strips)


@pytest.mark.parametrize("opening", ["[", '{"x":'])
def test_a_manifest_too_deep_to_be_parsed_is_refused(strips: Path, opening: str) -> None:
    (strips / MANIFEST).write_text(opening * 200_000)
    with pytest.raises(ShardError, match="can't be read"):
        Manifest.load(strips)


@given(data=st.data())
def test_no_value_in_a_manifest_is_a_traceback(data: st.DataObject, toy_embeddings: Path) -> None:
    content = json.loads((toy_embeddings / MANIFEST).read_text())
    paths = [*content, *(f"{name}.{key}" for name in ("plan", "encoder", "settings", "style") for key in content[name])]
    path = data.draw(st.sampled_from([*paths, *(f"shards.1.{name}" for name in content["shards"]["1"])]))
    simple = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    value = data.draw(st.recursive(simple, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(toy_embeddings / MANIFEST, name)
        edit_json(Path(name), path, value)
        try:
            loaded = Manifest.load(Path(name))
        except ShardError:
            return
    assert loaded.finished in (True, False)
    assert loaded.rows_done <= loaded.total("rows") + loaded.total("rejected")
    assert loaded.fingerprint
    assert loaded.encoding_fingerprint
    assert loaded.differences(loaded) == []
