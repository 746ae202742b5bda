"""Folders whose manifest and rejects have the names of earlier releases: read, gone on with, published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rotdata.corpora import Source
from rotdata.hub.remote import Head
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline
from rotdata.runs.resumable import Mode
from rotdata.shards import EARLIER, MANIFEST, REJECTS, EmbeddingShards, read_rejects, verify
from tests.helpers import StandInEncoder, contents, write_jsonl

ROWS = [{"question": f"q{n}", "cot": f"<<{n}+1={n + 1}>>", "answer": str(n + 1)} for n in range(5)]


@pytest.fixture
def rows(tmp_path: Path) -> Source:
    """Five rows, and one that is refused."""
    return Source(location=str(write_jsonl(tmp_path / "rows.jsonl", [*ROWS, {"question": "q"}])), corpus="generic")


def draw(rows: Source, out: Path, **mode: bool) -> None:
    pipeline.render(rows, StripStyle(), out, rows_per_shard=4, mode=Mode(**mode))


@pytest.fixture
def earlier(rows: Source, tmp_path: Path) -> Path:
    """A folder of strips as an earlier release left it."""
    draw(rows, tmp_path / "strips")
    for name in (MANIFEST, REJECTS):
        (tmp_path / "strips" / name).rename(tmp_path / "strips" / EARLIER[name])
    return tmp_path / "strips"


def test_they_are_read_and_verified(earlier: Path, tmp_path: Path) -> None:
    manifest, found = verify(earlier)
    assert (manifest is None, found) == (False, [])
    assert len(read_rejects(earlier)) == 1
    pipeline.embed(earlier, StandInEncoder(), tmp_path / "made")
    assert {MANIFEST} == contents(tmp_path / "made").keys() & {MANIFEST, *EARLIER.values()}
    (tmp_path / "made" / MANIFEST).rename(tmp_path / "made" / EARLIER[MANIFEST])
    assert sum(map(len, EmbeddingShards(tmp_path / "made"))) == 5


def test_a_run_goes_on_in_them_under_their_own_names(rows: Source, earlier: Path) -> None:
    whole = contents(earlier)
    (earlier / "generic-train-00001-of-00002.parquet").unlink()
    draw(rows, earlier)
    assert contents(earlier) == whole


def test_a_run_that_overwrites_them_names_its_files_anew(rows: Source, earlier: Path) -> None:
    draw(rows, earlier, overwrite=True)
    assert {MANIFEST, REJECTS} == contents(earlier).keys() & {MANIFEST, REJECTS, *EARLIER.values()}
    assert verify(earlier)[1] == []


def test_a_manifest_of_either_name_beside_the_other_is_a_stranger(earlier: Path) -> None:
    shutil.copy(earlier / EARLIER[MANIFEST], earlier / MANIFEST)
    strangers = {mismatch.file for mismatch in verify(earlier)[1]}
    assert EARLIER[MANIFEST] in strangers


def test_parts_of_an_earlier_release_are_merged(rows: Source, tmp_path: Path) -> None:
    from rotdata.runs.resumable import merge

    draw(rows, tmp_path / "whole")
    for part in (1, 2):
        pipeline.render(rows, StripStyle(), tmp_path / "parts", rows_per_shard=4, mode=Mode(part=(part, 2)))
    for folder in sorted((tmp_path / "parts").iterdir()):
        for name in {MANIFEST, REJECTS} & contents(folder).keys():
            (folder / name).rename(folder / EARLIER[name])
    merge(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_dataset_of_an_earlier_release_is_found_once() -> None:
    names = (MANIFEST, EARLIER[MANIFEST])
    files = {f"rows/{split}/{name}": None for split in ("train", "test") for name in names}
    files["old/train/manifest.json"] = None
    head = Head(repo="a/b", sha="c", private=False, files=files)  # type: ignore[arg-type]
    assert head.splits() == {"rows": ["test", "train"], "old": ["train"]}
