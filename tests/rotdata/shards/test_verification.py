"""Verification finds every damage and names it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rotdata.corpora import Source
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.shards import (
    MANIFEST,
    REJECTS,
    Manifest,
    Mismatch,
    intact,
    read_rejects,
    verify,
    write_rejects,
)
from tests.helpers import Result, StandInEncoder
from tests.rotdata.shards.samples import (
    edit_manifest,
    embedding_table,
    replace_entry,
    shard_files,
    write_folder,
)


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
        "spans of another number of latents than num_latents",
        "num_latents differs from the embeddings' lengths",
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
