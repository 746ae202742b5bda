"""Shards as tars: what webdataset and any reader of tars find in them, that they resume, and what is refused."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rotdata import tars
from rotdata.errors import OutputOccupied, ShardError, UsageError
from rotdata.runs import pipeline
from rotdata.shards import EmbeddingShards, Manifest, manifest_file, read_table
from rotdata.tars import INDEX, Exported, export
from tests.helpers import REPOSITORY, Result, StandInEncoder, contents, storing
from tests.rotdata.shards.samples import edit_manifest

Run = Callable[..., Result]


def files_of(out: Path) -> dict[str, bytes]:
    """Every file of every tar, in order."""
    found: dict[str, bytes] = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                assert (entry.mtime, entry.uid, entry.gid, entry.uname, entry.mode) == (0, 0, 0, "", 0o644)
                found[entry.name] = tar.extractfile(entry).read()
    return found


def array(content: bytes) -> Any:
    return np.load(io.BytesIO(content), allow_pickle=False)


def test_a_row_of_embeddings_is_its_texts_and_its_latents(toy_embeddings: Path, tmp_path: Path) -> None:
    made = export(toy_embeddings, tmp_path)
    files = files_of(tmp_path)
    assert [*files] == [f"{row:09d}.{suffix}" for row in range(10) for suffix in ("json", "npy")]
    row = 0
    for group in EmbeddingShards(toy_embeddings):
        for inner in range(len(group)):
            told = json.loads(files[f"{row:09d}.json"])
            latents_KD = group.embedding_LD[group.offsets[inner] : group.offsets[inner + 1]]
            assert told == {
                "id": group.ids[inner],
                "question": group.questions[inner],
                "cot": group.cots[inner],
                "answer": group.answers[inner],
                "num_latents": len(latents_KD),
                "spans": group.spans[inner],
            }
            stored = array(files[f"{row:09d}.npy"])
            assert stored.dtype == np.float16
            np.testing.assert_array_equal(stored, latents_KD)
            row += 1
    sizes = [path.stat().st_size for path in sorted(tmp_path.glob("*.tar"))]
    assert made == Exported(rows=10, tars=3, bytes=sum(sizes), made=3)
    index = json.loads((tmp_path / INDEX).read_text())
    assert [(tar["rows"], tar["bytes"]) for tar in index["tars"]] == list(zip((4, 4, 2), sizes, strict=True))


def test_a_row_of_strips_is_its_texts_and_its_picture(toy_strips: Path, tmp_path: Path) -> None:
    export(toy_strips, tmp_path)
    files = files_of(tmp_path)
    manifest = Manifest.load(toy_strips)
    rows = [row for entry in manifest.entries for row in read_table(toy_strips, manifest, entry).to_pylist()]
    assert [files[f"{row:09d}.png"] for row in range(10)] == [row.pop("image")["bytes"] for row in rows]
    assert [json.loads(files[f"{row:09d}.json"]) for row in range(10)] == rows


def test_eight_bits_stay_eight_bits_beside_their_scales(toy_strips: Path, tmp_path: Path) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), tmp_path / "bytes", settings=storing(store="int8"))
    export(tmp_path / "bytes", tmp_path / "tars")
    files = files_of(tmp_path / "tars")
    values, scale = array(files["000000007.npy"]), array(files["000000007.scale.npy"])
    assert (values.dtype, scale.dtype) == (np.int8, np.float32)
    group = EmbeddingShards(tmp_path / "bytes").read_group(1)
    np.testing.assert_array_equal(values * scale[:, None], group.embedding_LD[group.offsets[3] : group.offsets[4]])


def test_latents_of_their_own_come_as_all_do(toy_alone: Path, tmp_path: Path) -> None:
    export(toy_alone, tmp_path)
    files = files_of(tmp_path)
    found = np.concatenate([array(files[f"{row:09d}.npy"]) for row in range(10)])
    np.testing.assert_array_equal(found, np.concatenate([g.embedding_LD for g in EmbeddingShards(toy_alone)]))


def test_rows_a_tar_are_chosen_and_change_no_sample(toy_embeddings: Path, tmp_path: Path) -> None:
    export(toy_embeddings, tmp_path / "as-shards")
    assert export(toy_embeddings, tmp_path / "by-three", rows_per_tar=3).tars == 4
    assert [*contents(tmp_path / "by-three")] != [*contents(tmp_path / "as-shards")]
    assert files_of(tmp_path / "by-three") == files_of(tmp_path / "as-shards")


def test_an_export_that_was_stopped_goes_on_to_the_same_bytes(
    toy_embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(toy_embeddings, tmp_path / "whole")
    write = tars._write_tar

    def stopping(path: Path, *arguments: Any) -> Any:
        if "00001-of" in path.name:
            raise KeyboardInterrupt
        return write(path, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(tars, "_write_tar", stopping)
        with pytest.raises(KeyboardInterrupt):
            export(toy_embeddings, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.tar"))) == 1
    assert export(toy_embeddings, tmp_path / "out").made == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert export(toy_embeddings, tmp_path / "out").made == 0
    [_, damaged, unlisted] = sorted((tmp_path / "out").glob("*.tar"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    index["tars"] = [tar for tar in index["tars"] if tar["file"] != unlisted.name]  # killed before it was entered
    (tmp_path / "out" / INDEX).write_text(json.dumps(index))
    assert export(toy_embeddings, tmp_path / "out").made == 2
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_of_other_things_is_refused(toy_embeddings: Path, toy_strips: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(toy_embeddings, out)
    whole = contents(out)
    with pytest.raises(OutputOccupied, match="tars of other shards, or of another size"):
        export(toy_strips, out)
    with pytest.raises(OutputOccupied, match="or of another size"):
        export(toy_embeddings, out, rows_per_tar=7)
    (out / "toy-train-notes.tar").write_text("mine")
    with pytest.raises(OutputOccupied, match=r"holds other things \(toy-train-notes.tar\)"):
        export(toy_embeddings, out, overwrite=True)
    (out / "toy-train-notes.tar").unlink()
    assert contents(out) == whole
    assert export(toy_strips, out, overwrite=True).made == 3
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(OutputOccupied, match=r"holds files but no index\.json"):
        export(toy_embeddings, tmp_path / "notes", overwrite=True)


@pytest.mark.parametrize("index", ["[]", "{", '{"source": 1}', '{"name": 3, "source": {}, "tars": []}'])
def test_an_index_of_no_export_is_refused(index: str, toy_embeddings: Path, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(OutputOccupied, match="no index"):
        export(toy_embeddings, tmp_path)


def test_shards_that_are_not_whole_are_refused(embeddings_with: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="has 2 of 3 shards"):
        export(embeddings_with(lambda manifest: manifest.shards.pop(1)), tmp_path / "out")
    with pytest.raises(UsageError, match="is a part"):
        export(embeddings_with(lambda manifest: setattr(manifest, "part", [1, 1])), tmp_path / "out")


@pytest.fixture
def embeddings_with(toy_embeddings: Path, tmp_path: Path) -> Callable[..., Path]:
    """Copies of the toy embeddings with another manifest."""
    import shutil

    def changed(edit: Callable[[Manifest], object]) -> Path:
        folder = Path(shutil.copytree(toy_embeddings, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))
        edit_manifest(folder, edit)
        assert manifest_file(folder).exists()
        return folder

    return changed


def test_the_command_says_what_it_made(run_rotdata: Run, toy_embeddings: Path, tmp_path: Path) -> None:
    told = run_rotdata("export-webdataset", toy_embeddings, "--out", tmp_path / "out", "--rows-per-tar", 5)
    assert told.out.startswith(f"{tmp_path / 'out'}: 10 rows in 2 tars, ")
    again = run_rotdata("export-webdataset", toy_embeddings, "--out", tmp_path / "out", "--rows-per-tar", 5, "--json")
    found = json.loads(again.out)
    assert (found["rows"], found["tars"], found["made"]) == (10, 2, 0)
    assert run_rotdata("export-webdataset", toy_embeddings, "--out", tmp_path / "out").code == 2


@pytest.mark.slow
def test_webdataset_reads_them(toy_embeddings: Path, tmp_path: Path) -> None:
    export(toy_embeddings, tmp_path / "out")
    program = f"""
import webdataset
tars = "{tmp_path}/out/toy-train-{{00000..00002}}-of-00003.tar"
rows = list(webdataset.WebDataset(tars, shardshuffle=False).decode())
assert [row["__key__"] for row in rows] == [f"{{n:09d}}" for n in range(10)], rows
for row in rows:
    print(row["json"]["id"], *row["npy"].shape, row["npy"].dtype)
"""
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    expected = [
        f"{name} {end - begin} 4 float16"
        for group in EmbeddingShards(toy_embeddings)
        for name, begin, end in zip(group.ids, group.offsets[:-1], group.offsets[1:], strict=True)
    ]
    assert told.stdout.splitlines() == expected
