"""Parts of a run made apart, as under a scheduler, and merged into what one run makes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rotdata import shards
from rotdata.corpora import Source
from rotdata.errors import OutputOccupied, ShardError, UsageError
from rotdata.rendering.strips import StripStyle
from rotdata.runs import pipeline, resumable
from rotdata.shards import MANIFEST, Manifest, verify
from tests.helpers import Result, StandInEncoder, contents

TOY = Source(location="toy", corpus="toy", limit=50)
OPTIONS: dict[str, Any] = {"rows_per_shard": 4, "max_latents": 17}


def render_part(out: Path, index: int, count: int) -> None:
    pipeline.render(TOY, StripStyle(), out, **OPTIONS, mode=resumable.Mode(part=(index, count)))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    out = tmp_path / "whole"
    pipeline.render(TOY, StripStyle(), out, **OPTIONS)
    return out


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    out = tmp_path / "parts"
    for index in (3, 1, 2):
        render_part(out, index, 3)
    return out


def test_merged_parts_are_byte_for_byte_one_run(whole: Path, parts: Path) -> None:
    assert sorted(path.name for path in parts.iterdir()) == [f"part-{index:05d}-of-00003" for index in (1, 2, 3)]
    assert all(verify(part)[1] == [] for part in parts.iterdir())
    assert Manifest.load(parts / "part-00002-of-00003").planned == range(1, 13, 3)
    assert resumable.merge(parts) == Manifest.load(whole)
    assert contents(parts) == contents(whole)
    assert resumable.merge(parts) == Manifest.load(whole)
    assert contents(parts) == contents(whole)


def test_embeddings_are_made_in_parts_too(whole: Path, tmp_path: Path) -> None:
    pipeline.embed(whole, StandInEncoder(), tmp_path / "alone")
    for index in (1, 2):
        pipeline.embed(whole, StandInEncoder(), tmp_path / "parts", mode=resumable.Mode(part=(index, 2)))
    resumable.merge(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "alone")


def test_more_parts_than_shards_leave_some_empty(tmp_path: Path) -> None:
    source = Source(location="toy", corpus="toy", limit=5)
    for index in (1, 2, 3):
        pipeline.render(
            source, StripStyle(), tmp_path / "parts", rows_per_shard=4, mode=resumable.Mode(part=(index, 3))
        )
    pipeline.render(source, StripStyle(), tmp_path / "whole", rows_per_shard=4)
    resumable.merge(tmp_path / "parts")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_an_interrupted_part_goes_on(whole: Path, parts: Path) -> None:
    part = parts / "part-00002-of-00003"
    sorted(part.glob("*.parquet"))[1].unlink()
    with pytest.raises(ShardError, match="run --shard 2/3 again"):
        resumable.merge(parts)
    render_part(parts, 2, 3)
    resumable.merge(parts)
    assert contents(parts) == contents(whole)


class Killed(BaseException):
    """In place of SIGKILL."""


@pytest.mark.parametrize("step", range(1, 24))
def test_a_merge_killed_anywhere_goes_on(whole: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    done = 0

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == step:
                raise Killed
            return method(*args, **kwargs)

        return change

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        with pytest.raises(Killed):
            resumable.merge(parts)
    resumable.merge(parts)
    found = {name: content for name, content in contents(parts).items() if not name.endswith(".tmp")}
    assert found == contents(whole)


def test_missing_and_unfinished_parts_are_named(parts: Path) -> None:
    shutil.rmtree(parts / "part-00003-of-00003")
    with pytest.raises(ShardError, match="lacks 1 parts: make them with --shard 3/3"):
        resumable.merge(parts)
    render_part(parts, 3, 3)
    manifest = Manifest.load(parts / "part-00001-of-00003")
    manifest.shards.popitem()
    manifest.save(parts / "part-00001-of-00003")
    with pytest.raises(ShardError, match="1 parts .* are not finished: run --shard 1/3 again"):
        resumable.merge(parts)


def test_parts_of_different_runs_are_not_merged(parts: Path) -> None:
    shutil.rmtree(parts / "part-00003-of-00003")
    pipeline.render(TOY, StripStyle(), parts, rows_per_shard=4, max_latents=30, mode=resumable.Mode(part=(3, 3)))
    with pytest.raises(UsageError, match=r"a part of another run; they differ in settings\.max_latents"):
        resumable.merge(parts)
    shutil.rmtree(parts / "part-00003-of-00003")
    render_part(parts, 1, 4)
    with pytest.raises(ShardError, match="lacks 3 parts"):
        resumable.merge(parts)


def test_a_part_in_hand_is_not_merged(parts: Path) -> None:
    with shards.locked(parts / "part-00002-of-00003"), pytest.raises(OutputOccupied, match="another process"):
        resumable.merge(parts)


def test_parts_and_whole_runs_keep_out_of_each_others_way(whole: Path, parts: Path) -> None:
    with pytest.raises(OutputOccupied, match="holds a whole run"):
        render_part(whole, 1, 3)
    with pytest.raises(OutputOccupied, match="join them with `rotdata merge"):
        pipeline.render(TOY, StripStyle(), parts, **OPTIONS)


def test_a_folder_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no parts"):
        resumable.merge(tmp_path)
    with pytest.raises(UsageError, match="is no folder"):
        resumable.merge(tmp_path / "nowhere")


@pytest.mark.parametrize("asked", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/100000"])
def test_impossible_parts_are_refused(run_rotdata: Callable[..., Result], tmp_path: Path, asked: str) -> None:
    result = run_rotdata("render", "toy", "--limit", "5", "--out", tmp_path / "out", "--shard", asked)
    assert result.code == 2
    assert "--shard" in result.err


def test_the_commands_of_a_scheduler(run_rotdata: Callable[..., Result], tmp_path: Path) -> None:
    command = ("render", "toy", "--limit", "20", "--rows-per-shard", "4")
    for index in (1, 2):
        assert run_rotdata(*command, "--out", tmp_path / "parts", "--shard", f"{index}/2").code == 0
    assert run_rotdata("merge", tmp_path / "parts").code == 0
    assert run_rotdata(*command, "--out", tmp_path / "whole").code == 0
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert (tmp_path / "parts" / MANIFEST).exists()
