"""What `rotdata verify` names in shards, training refuses: the real commands, in processes of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from rotdata.shards import verify
from tests.helpers import assert_refused, run_installed
from tests.rotdata.shards.samples import change_shard, edit_manifest, replace_entry


def _claim_rows(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: replace_entry(manifest, 2, rows=4, row_groups=[2, 2]))


def _lose_questions(folder: Path) -> None:
    change_shard(folder, 2, lambda table: table.set_column(1, table.schema.field(1), pa.nulls(2, pa.string())))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (_claim_rows, "row groups of [2] rows, the manifest says [2, 2]"),
        (_lose_questions, "question is null in row 0"),
    ],
)
def test_shards_that_a_stranger_made_up_end_in_one_line(
    embedded: Path, tiny_folder: Path, tmp_path: Path, damage: Callable[[Path], None], problem: str
) -> None:
    folder = Path(shutil.copytree(embedded, tmp_path / "embedded"))
    damage(folder)
    assert any(problem in each.problem for each in verify(folder)[1])
    out = tmp_path / "out"
    result = run_installed(
        "rottrain", "stage1", "--shards", folder, "--model", tiny_folder, "--out", out, "--recipe", "paper"
    )
    assert_refused(result, 1, problem)
