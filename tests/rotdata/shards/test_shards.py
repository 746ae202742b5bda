"""The contract: schemas that other libraries read, exact round trips, and the detection of every damage."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from rotdata.corpora import Source, read
from rotdata.errors import OutputOccupied, ShardError
from rotdata.rendering.strips import StripStyle, render
from rotdata.runs import pipeline
from rotdata.shards import (
    MANIFEST,
    REJECTS,
    EmbeddingShards,
    Manifest,
    Mismatch,
    Plan,
    ShardEntry,
    embedding_column,
    embedding_schema,
    intact,
    locked,
    read_rejects,
    read_table,
    strip_schema,
    verify,
    write_atomically,
    write_rejects,
    write_shard,
)
from rotdata.shards.manifest import _digest, _manifest_bytes
from tests.helpers import REPOSITORY, Result, StandInEncoder, contents

VALUE = datasets.Value
TEXT_FEATURES = {name: VALUE("string") for name in ("id", "question", "cot", "answer")}
STRIP_FEATURES = datasets.Features(
    TEXT_FEATURES
    | {
        "image": datasets.Image(),
        "width": VALUE("int32"),
        "num_latents": VALUE("int32"),
        "spans": datasets.List(VALUE("int32")),
    }
)


def embedding_features(width: int, store: str) -> datasets.Features:
    return datasets.Features(
        TEXT_FEATURES
        | {
            "num_latents": VALUE("int32"),
            "spans": datasets.List(VALUE("int32")),
            "embedding": datasets.List(datasets.List(VALUE(store), length=width)),
        }
    )


def embedding_table(latents: list[NDArray[Any]], width: int, store: Any = "float16") -> pa.Table:
    """A shard's table of rows with these latents and no text to speak of."""
    schema = embedding_schema(width, store)
    columns = {name: [f"{name} {row}" for row in range(len(latents))] for name in TEXT_FEATURES}
    counts = [len(row) for row in latents]
    columns |= {"num_latents": counts, "spans": [list(range(count + 1)) for count in counts]}
    table = pa.table(columns, schema=schema.remove(schema.get_field_index("embedding")))
    return table.append_column(schema.field("embedding"), embedding_column(latents, schema)).cast(schema)


def write_folder(folder: Path, tables: list[pa.Table], width: int, store: str = "float16") -> Manifest:
    """A finished folder of embedding shards."""
    rows = [table.num_rows for table in tables]
    manifest = Manifest(
        kind="embeddings",
        corpus="toy",
        split="train",
        source={},
        style={},
        settings={"store": store},
        plan=Plan(rows_in=sum(rows), rows_per_shard=max(rows), num_shards=len(tables)),
        encoder={"width": width},
    )
    for index, table in enumerate(tables):
        file = manifest.shard_file(index)
        stored = write_shard(folder, file, table)
        latents = sum(table.column("num_latents").to_pylist())
        manifest.shards[index] = ShardEntry(
            file=file, rows=table.num_rows, rejected=0, latents=latents, **dataclasses.asdict(stored)
        )
    manifest.save(folder)
    return manifest


@pytest.fixture
def strips(toy_strips: Path, tmp_path: Path) -> Path:
    """A copy of the toy strips that a test may damage."""
    return Path(shutil.copytree(toy_strips, tmp_path / "strips"))


@pytest.fixture
def embeddings(toy_embeddings: Path, tmp_path: Path) -> Path:
    """A copy of the toy embeddings that a test may damage."""
    return Path(shutil.copytree(toy_embeddings, tmp_path / "embeddings"))


def shard_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def edit_manifest(folder: Path, edit: Callable[[Manifest], object]) -> None:
    """Save the folder's manifest with something else in it and a checksum that fits."""
    manifest = Manifest.load(folder)
    edit(manifest)
    manifest.save(folder)


# Schemas.


def test_strip_shards_have_the_schema_that_datasets_would_write() -> None:
    assert strip_schema().equals(STRIP_FEATURES.arrow_schema)
    assert datasets.Features.from_arrow_schema(strip_schema()) == STRIP_FEATURES


@pytest.mark.parametrize("store", ["float16", "float32"])
def test_embedding_shards_have_the_schema_that_datasets_would_write(store: Any) -> None:
    features = embedding_features(2560, store)
    assert embedding_schema(2560, store).equals(features.arrow_schema)
    assert datasets.Features.from_arrow_schema(embedding_schema(2560, store)) == features


def test_datasets_reads_a_strip_shard_as_pictures(toy_strips: Path, tmp_path: Path) -> None:
    data = datasets.Dataset.from_parquet(str(shard_files(toy_strips)[0]), cache_dir=str(tmp_path))
    assert data.features == STRIP_FEATURES
    rows = list(read(Source(location="toy", corpus="toy", limit=4)))
    for row, expected in zip(data, rows, strict=True):
        assert (row["id"], row["question"], row["cot"], row["answer"]) == dataclasses.astuple(expected)
        strip = render(expected.cot, StripStyle())
        assert isinstance(row["image"], Image.Image)
        np.testing.assert_array_equal(np.asarray(row["image"]), strip.pixels)
        assert (row["width"], row["num_latents"]) == (strip.pixels.shape[1], strip.num_latents)
        assert row["spans"] == strip.spans.tolist()


def test_datasets_loads_a_folder_of_embedding_shards(toy_embeddings: Path, tmp_path: Path) -> None:
    files = [str(file) for file in shard_files(toy_embeddings)]
    data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert data.features == embedding_features(4, "float16")
    assert len(data) == 10
    lengths = [(len(row["embedding"]), len(row["embedding"][0])) for row in data]
    assert lengths == [(row["num_latents"], 4) for row in data]


def test_datasets_loads_a_folder_with_a_shard_of_no_rows(toy_strips: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_strips, tmp_path / "strips")
    file = shard_files(tmp_path / "strips")[0].name
    write_shard(tmp_path / "strips", file, read_table(toy_strips, Manifest.load(toy_strips).shards[0]).slice(0, 0))
    rows = datasets.load_dataset("parquet", data_dir=str(tmp_path / "strips"), split="train", cache_dir=str(tmp_path))
    assert rows.features == STRIP_FEATURES
    assert len(rows) == 6


def test_row_groups_stay_below_what_the_hub_shows(tmp_path: Path) -> None:
    latents = [np.zeros((50, 2560), np.float16)] * 600  # 154 MB
    write_shard(tmp_path, "big.parquet", embedding_table(latents, 2560))
    metadata = pq.read_metadata(tmp_path / "big.parquet")
    sizes = [metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)]
    assert len(sizes) > 1
    assert max(sizes) < 100e6


# Round trips.


@settings(max_examples=50)
@given(st.data(), st.integers(1, 5), st.sampled_from(["float16", "float32"]))
def test_embeddings_survive_writing_and_reading_bit_for_bit(data: st.DataObject, width: int, store: str) -> None:
    arrays = st.integers(1, 4).flatmap(lambda count: hnp.arrays(store, (count, width)))
    latents = data.draw(st.lists(st.lists(arrays, min_size=1, max_size=3), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as name:
        write_folder(Path(name), [embedding_table(rows, width, store) for rows in latents], width, store)
        groups = list(EmbeddingShards(Path(name)))
    assert [len(group) for group in groups] == [len(rows) for rows in latents]
    for group, rows in zip(groups, latents, strict=True):
        assert group.offsets.tolist() == [0, *np.cumsum([len(row) for row in rows])]
        assert group.embedding_LD.dtype == store
        assert group.embedding_LD.tobytes() == np.concatenate(rows).tobytes()


def test_rows_keep_their_text(toy_embeddings: Path) -> None:
    groups = list(EmbeddingShards(toy_embeddings))
    rows = list(read(Source(location="toy", corpus="toy", limit=10)))
    assert [row_id for group in groups for row_id in group.ids] == [row.id for row in rows]
    assert [text for group in groups for text in group.questions] == [row.question for row in rows]
    assert [text for group in groups for text in group.cots] == [row.cot for row in rows]
    assert [text for group in groups for text in group.answers] == [row.answer for row in rows]


def test_each_row_has_its_own_latents(toy_embeddings: Path) -> None:
    encoder = StandInEncoder()
    for group in EmbeddingShards(toy_embeddings):
        for row, cot in enumerate(group.cots):
            latents = group.embedding_LD[group.offsets[row] : group.offsets[row + 1]]
            expected = encoder.latents(render(cot, StripStyle()).pixels).astype(np.float16)
            np.testing.assert_array_equal(latents, expected)


def test_values_are_a_view_of_arrows_memory(toy_embeddings: Path) -> None:
    for group in EmbeddingShards(toy_embeddings):
        assert not group.embedding_LD.flags.owndata
        assert not group.embedding_LD.flags.writeable
        assert group.embedding_LD.dtype == np.float16


def test_row_groups_can_be_read_in_any_order(toy_embeddings: Path) -> None:
    shards = EmbeddingShards(toy_embeddings)
    assert (shards.width, shards.group_rows) == (4, [4, 4, 2])
    for index, group in reversed(list(enumerate(shards))):
        assert shards.read_group(index).ids == group.ids


def test_a_shard_of_several_row_groups_is_read_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    latents = [rng.normal(size=(count, 8)).astype(np.float16) for count in rng.integers(1, 9, 50)]
    table = embedding_table(latents, 8)
    write_folder(tmp_path, [table], 8)
    [file] = shard_files(tmp_path)
    pq.write_table(table, file, row_group_size=7)
    changes = {"bytes": file.stat().st_size, "row_groups": [7] * 7 + [1]}
    edit_manifest(tmp_path, lambda manifest: replace_entry(manifest, 0, **changes))
    shards = EmbeddingShards(tmp_path)
    assert shards.group_rows == [7] * 7 + [1]
    read_back = [
        group.embedding_LD[start:stop]
        for group in shards
        for start, stop in zip(group.offsets[:-1], group.offsets[1:], strict=True)
    ]
    for mine, theirs in zip(read_back, latents, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_two_writes_are_byte_identical(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = embedding_table([rng.normal(size=(5, 16)).astype(np.float16) for _ in range(20)], 16)
    written = [write_shard(tmp_path, f"{name}.parquet", table) for name in "ab"]
    assert written[0] == written[1]
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_nothing_but_the_written_file_stays(tmp_path: Path) -> None:
    write_shard(tmp_path, "a.parquet", embedding_table([np.zeros((1, 2), np.float16)], 2))
    write_atomically(tmp_path / "b.json", b"{}")
    write_rejects(tmp_path, [{"shard": 0, "id": "x", "reason": "y"}])
    assert set(contents(tmp_path)) == {"a.parquet", "b.json", REJECTS}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a", b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rotdata.shards.files.os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_rejects_round_trip_and_none_leave_no_file(tmp_path: Path) -> None:
    rejects = [
        {"shard": 0, "id": "a\u2028b", "reason": "no glyph for \N{CRAB}\n"},
        {"shard": 1, "id": "", "reason": ""},
    ]
    write_rejects(tmp_path, rejects)
    assert read_rejects(tmp_path) == rejects
    write_rejects(tmp_path, [])
    assert contents(tmp_path) == {}
    assert read_rejects(tmp_path) == []


# The manifest.


def replace_entry(manifest: Manifest, index: int, **changes: Any) -> None:
    manifest.shards[index] = dataclasses.replace(manifest.shards[index], **changes)


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
    assert set(content["encoder"]) == {"model", "revision", "tower_sha256", "output", "factor", "width", "dtype"}
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
    with pytest.raises(ShardError, match=r"holds no manifest\.json"):
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


# The reader refuses.


def test_an_unfinished_folder_is_refused(embeddings: Path) -> None:
    edit_manifest(embeddings, lambda manifest: manifest.shards.pop(1))
    with pytest.raises(ShardError, match="has 2 of 3 shards: run the same `rotdata embed` again"):
        EmbeddingShards(embeddings)


def test_strips_are_refused_where_embeddings_are_needed(strips: Path) -> None:
    with pytest.raises(ShardError, match="holds strips, not embeddings: make them with `rotdata embed"):
        EmbeddingShards(strips)


def test_a_truncated_shard_is_refused(embeddings: Path) -> None:
    file = shard_files(embeddings)[1]
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ShardError, match=rf"{file.name} has {size - 10} bytes, its manifest says {size}"):
        EmbeddingShards(embeddings)


def test_a_missing_shard_is_refused(embeddings: Path) -> None:
    file = shard_files(embeddings)[1]
    file.unlink()
    with pytest.raises(ShardError, match=f"{file.name} can't be read"):
        EmbeddingShards(embeddings)


def test_a_shard_that_is_no_parquet_is_refused(embeddings: Path) -> None:
    file = shard_files(embeddings)[1]
    file.write_bytes(b"x" * file.stat().st_size)
    with pytest.raises(ShardError, match=f"{file.name} can't be read"):
        list(EmbeddingShards(embeddings))
    with pytest.raises(ShardError, match=f"{file.name} can't be read .*make it again"):
        read_table(embeddings, Manifest.load(embeddings).shards[1])


# Verification.


def test_a_folder_as_it_was_made_has_no_mismatch(toy_strips: Path, toy_embeddings: Path) -> None:
    for folder in (toy_strips, toy_embeddings):
        manifest, mismatches = verify(folder)
        assert mismatches == []
        assert manifest.finished


def test_verify_finds_a_missing_shard(strips: Path) -> None:
    file = shard_files(strips)[1]
    file.unlink()
    assert verify(strips)[1] == [Mismatch(file.name, "missing")]


def test_verify_finds_a_truncated_shard(strips: Path) -> None:
    file = shard_files(strips)[1]
    file.write_bytes(file.read_bytes()[:100])
    [mismatch] = verify(strips)[1]
    assert mismatch.file == file.name
    assert mismatch.problem.startswith("100 bytes with another SHA-256")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.99])
def test_verify_finds_a_flipped_bit(embeddings: Path, share: float) -> None:
    file = shard_files(embeddings)[1]
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 1
    file.write_bytes(content)
    assert [mismatch.file for mismatch in verify(embeddings)[1]] == [file.name]
    assert not intact(embeddings, Manifest.load(embeddings).shards[1])


def test_verify_does_not_trust_a_damaged_manifest(strips: Path) -> None:
    (strips / MANIFEST).write_bytes((strips / MANIFEST).read_bytes()[:-5])
    manifest, [mismatch] = verify(strips)
    assert manifest is None
    assert mismatch.file == MANIFEST


def test_verify_finds_every_flipped_byte_and_every_missing_or_truncated_file(
    tmp_path: Path, run_rotdata: Callable[..., Result]
) -> None:
    strips = tmp_path / "strips"
    pipeline.render(Source(location="toy", limit=10), StripStyle(), strips, rows_per_shard=4, max_latents=17)
    pipeline.embed(strips, StandInEncoder(), tmp_path / "embeddings")
    files = [path for folder in (strips, tmp_path / "embeddings") for path in sorted(folder.iterdir())]
    assert {REJECTS, MANIFEST} < {path.name for path in files}
    rng = np.random.default_rng(0)
    for damage in range(110):
        file = files[rng.integers(len(files))]
        content = file.read_bytes()
        place = int(rng.integers(len(content)))
        if damage < 100:
            file.write_bytes(
                content[:place] + bytes([content[place] ^ int(rng.integers(1, 256))]) + content[place + 1 :]
            )
        else:
            file.write_bytes(content[:place])
        found = verify(file.parent)[1]
        assert file.name in {mismatch.file for mismatch in found}, (file, place)
        if damage % 10 == 0:
            result = run_rotdata("verify", file.parent, "--json")
            assert result.code == 4
            assert json.loads(result.out)["mismatches"] == [dataclasses.asdict(mismatch) for mismatch in found]
        file.write_bytes(content)
        assert verify(file.parent)[1] == []
    for file in files:
        if file.name != MANIFEST:
            content = file.read_bytes()
            file.unlink()
            assert file.name in {mismatch.file for mismatch in verify(file.parent)[1]}
            file.write_bytes(content)


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
        *(("part", value) for value in ([], [1], [0, 2], [3, 2], [1, 0], [1, 2, 3], [1, "2"], [True, 2], 1, "1/2", {})),
        *(("plan.num_shards", value) for value in (0, 1, 2)),
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


def test_a_shard_of_another_schema_is_refused_when_it_is_read(embeddings: Path) -> None:
    file = shard_files(embeddings)[1]
    table = pq.read_table(file)
    pq.write_table(table.set_column(4, "num_latents", pa.array(["many"] * table.num_rows)), file)
    edit_manifest(embeddings, lambda manifest: replace_entry(manifest, 1, bytes=file.stat().st_size))
    with pytest.raises(ShardError, match="other columns than its manifest says"):
        list(EmbeddingShards(embeddings))


def test_row_groups_that_do_not_add_up_are_refused(embeddings: Path) -> None:
    edit_manifest(embeddings, lambda manifest: replace_entry(manifest, 1, row_groups=[4, 4]))
    with pytest.raises(ShardError, match="row groups of 8 rows"):
        EmbeddingShards(embeddings)
    assert [mismatch.problem for mismatch in verify(embeddings)[1]] == ["row groups of [4], the manifest says [4, 4]"]


def test_a_damaged_page_is_found_when_it_is_read(embeddings: Path) -> None:
    file = shard_files(embeddings)[1]
    content = bytearray(file.read_bytes())
    start = pq.read_metadata(file).row_group(0).column(6).data_page_offset
    content[start + 60] ^= 1
    file.write_bytes(content)
    with pytest.raises(ShardError, match="truncated or damaged"):
        list(EmbeddingShards(embeddings))


def test_row_groups_of_the_manifest_are_those_of_the_files(tmp_path: Path) -> None:
    latents = [np.zeros((300, 2560), np.float16) for _ in range(100)]  # 150 MB
    manifest = write_folder(tmp_path, [embedding_table(latents, 2560)], 2560)
    metadata = pq.read_metadata(tmp_path / manifest.shards[0].file)
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert manifest.shards[0].row_groups == rows
    assert len(rows) > 1


def test_verify_finds_a_shard_that_was_never_made(strips: Path) -> None:
    edit_manifest(strips, lambda manifest: manifest.shards.pop(2))
    assert verify(strips)[1] == [
        Mismatch("toy-train-00002-of-00003.parquet", "not made yet: run the same command again")
    ]


@pytest.mark.parametrize(("column", "problem"), [("rows", "4 rows"), ("latents", "latents, the manifest says 1")])
def test_verify_counts_rows_and_latents_anew(strips: Path, column: str, problem: str) -> None:
    edit_manifest(strips, lambda manifest: replace_entry(manifest, 0, **{column: 1}))
    assert any(problem in mismatch.problem for mismatch in verify(strips)[1])


def test_verify_finds_rows_that_went_nowhere(strips: Path) -> None:
    edit_manifest(strips, lambda manifest: setattr(manifest, "plan", dataclasses.replace(manifest.plan, rows_in=11)))
    assert verify(strips)[1] == [Mismatch(MANIFEST, "10 rows out and rejected, 11 rows in")]


def test_verify_finds_embeddings_that_are_not_finite(tmp_path: Path) -> None:
    latents = [np.zeros((2, 4), np.float16), np.full((1, 4), np.nan, np.float16)]
    write_folder(tmp_path, [embedding_table(latents, 4)], 4)
    assert [mismatch.problem for mismatch in verify(tmp_path)[1]] == ["embeddings that are not finite"]


def test_verify_finds_latents_that_were_miscounted(tmp_path: Path) -> None:
    table = embedding_table([np.zeros((2, 4), np.float16), np.zeros((1, 4), np.float16)], 4)
    index = table.schema.get_field_index("num_latents")
    wrong = table.set_column(index, table.schema.field("num_latents"), pa.array([1, 2], pa.int32()))
    write_folder(tmp_path, [wrong], 4)
    assert [mismatch.problem for mismatch in verify(tmp_path)[1]] == [
        "num_latents differs from the embeddings' lengths"
    ]


def test_verify_counts_the_lines_of_rejects(tmp_path: Path) -> None:
    source = Source(location="toy", corpus="toy", limit=10)
    pipeline.render(source, StripStyle(), tmp_path, rows_per_shard=4, max_latents=17)
    assert verify(tmp_path)[1] == []
    count = len(read_rejects(tmp_path))
    assert 0 < count < 10
    write_rejects(tmp_path, read_rejects(tmp_path)[1:])
    assert verify(tmp_path)[1] == [Mismatch(REJECTS, f"{count - 1} lines, the manifest counts {count}")]


def test_a_file_that_is_not_of_the_folder_is_named(strips: Path) -> None:
    (strips / "notes.txt").touch()
    (strips / "toy-train-00009-of-00003.parquet").touch()
    assert verify(strips)[1] == [
        Mismatch("notes.txt", "not of this folder: remove it"),
        Mismatch("toy-train-00009-of-00003.parquet", "not of this folder: remove it"),
    ]


# The lock.


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rotdata",
        "render",
        "toy",
        "--corpus",
        "toy",
        "--limit",
        "2",
        "--out",
        str(tmp_path),
    ]
    with locked(tmp_path):
        refused = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert refused.returncode == OutputOccupied.exit_code
    assert f"another process is writing {tmp_path}" in refused.stderr
    assert contents(tmp_path) == {}
    allowed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert allowed.returncode == 0


def test_the_lock_leaves_no_file_and_goes_with_its_holder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        assert contents(tmp_path) == {}
