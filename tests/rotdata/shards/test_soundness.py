"""What a stranger may put into a shard whose hashes fit is named by verification, and refused by whoever reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from rotdata.errors import ShardError
from rotdata.rendering.png import encode_png
from rotdata.runs import pipeline
from rotdata.shards import EmbeddingShards, embedding_column, verify
from rotdata.shards.soundness import all_finite
from tests.helpers import StandInEncoder, assert_refused, run_installed, storing
from tests.rotdata.shards.samples import change_shard, edit_manifest, replace_entry, shard_files

Change = Callable[[pa.Table], pa.Table]


def column(name: str, change: Callable[[list[Any]], list[Any]]) -> Change:
    """A table with other values in one of its columns."""

    def changed(table: pa.Table) -> pa.Table:
        values = pa.array(change(table.column(name).to_pylist()), table.schema.field(name).type)
        return table.set_column(table.column_names.index(name), table.schema.field(name), values)

    return changed


def row(name: str, value: Any) -> Change:
    """A table with another value in the second row of a column, made of the one that is there if that is callable."""

    def second(values: list[Any]) -> list[Any]:
        return [values[0], value(values[1]) if callable(value) else value, *values[2:]]

    return column(name, second)


def latent(value: Any) -> Change:
    """A table whose second row's second vector is another, or null."""

    def changed(table: pa.Table) -> pa.Table:
        at = table.column_names.index("embedding")
        if isinstance(value, float):
            rows = [np.array(each, np.float16) for each in table.column("embedding").to_pylist()]
            rows[1][1] = value
            return table.set_column(at, table.schema.field("embedding"), embedding_column(rows, table.schema))
        return row("embedding", lambda vectors: [vectors[0], value, *vectors[2:]])(table)

    return changed


def wider(table: pa.Table) -> pa.Table:
    at = table.column_names.index("embedding")
    kind = pa.list_(pa.list_(pa.float16(), 5))
    vectors = [[[*vector, np.float16(0)] for vector in each] for each in table.column("embedding").to_pylist()]
    return table.set_column(at, "embedding", pa.array(vectors, kind))


NO_UTF8 = pa.array([b"\xff", b"q", b"q", b"q"]).view(pa.string())

DAMAGE: dict[str, tuple[Change, str]] = {
    "another column": (lambda table: table.append_column("more", pa.array([1] * 4)), "columns [id, question,"),
    "a column less": (lambda table: table.drop_columns(["answer"]), "columns [id, question, cot, num_latents"),
    "columns in another order": (lambda table: table.select([1, 0, 2, 3, 4, 5, 6]), "columns [question, id"),
    "a column of a dictionary": (
        lambda table: table.set_column(1, "question", table.column(1).dictionary_encode()),
        "its column question is dictionary<",
    ),
    "numbers in another type": (
        lambda table: table.set_column(4, "num_latents", table.column(4).cast(pa.int64())),
        "its column num_latents is int64",
    ),
    "another width": (wider, "its column embedding is list<element: fixed_size_list<element: halffloat>[5]>"),
    **{f"no {name}": (row(name, None), f"{name} is null in row 1") for name in ("id", "question", "cot", "answer")},
    "no number of latents": (row("num_latents", None), "num_latents is null in row 1"),
    "no latent": (row("num_latents", 0), "a row of 0 latents"),
    "latents below none": (row("num_latents", -3), "a row of -3 latents"),
    "text that is no text": (
        lambda table: table.set_column(1, table.schema.field(1), NO_UTF8),
        "values that are none of their column's",
    ),
    "no spans": (row("spans", None), "spans is null in row 1"),
    "empty spans": (row("spans", []), "spans of no latent"),
    "a null in spans": (row("spans", lambda spans: [None, *spans[1:]]), "spans with a null in it"),
    "short spans": (row("spans", lambda spans: spans[:-1]), "spans of another number of latents than num_latents"),
    "negative spans": (row("spans", lambda spans: [-1, *spans[1:]]), "spans that fall, or begin before their text"),
    "falling spans": (row("spans", lambda spans: [spans[1], spans[0], *spans[2:]]), "spans that fall"),
    "spans beyond the text": (row("spans", lambda spans: [*spans[:-1], 10_000]), "spans that end beyond their text"),
    "no embedding": (row("embedding", None), "embedding is null in row 1"),
    "no vector": (latent(None), "embedding with a null in it"),
    "no value": (latent([None] * 4), "embedding with a null in it"),
    "a NaN": (latent(float("nan")), "embeddings that are not finite"),
    "an infinity": (latent(float("-inf")), "embeddings that are not finite"),
    "a vector less": (row("embedding", lambda vectors: vectors[:-1]), "num_latents differs from the embeddings'"),
}  # fmt: skip


def assert_named_and_refused(folder: Path, problem: str) -> None:
    found = verify(folder)[1]
    assert any(problem in each.problem for each in found), found
    with pytest.raises(ShardError, match="is not what its manifest says") as refused:
        list(EmbeddingShards(folder))
    assert problem in str(refused.value)


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_no_shard_of_ours_holds_is_named_and_refused(embeddings: Path, kind: str) -> None:
    change, problem = DAMAGE[kind]
    change_shard(embeddings, 0, change)
    assert_named_and_refused(embeddings, problem)


@pytest.mark.parametrize("kind", ["no question", "no answer", "no number of latents", "text that is no text"])
def test_texts_alone_are_looked_at_too(embeddings: Path, kind: str) -> None:
    change, problem = DAMAGE[kind]
    change_shard(embeddings, 0, change)
    with pytest.raises(ShardError, match=problem.replace("'", ".")):
        EmbeddingShards(embeddings).read_texts(0)


def test_spans_of_resized_strips_are_null(toy_strips: Path, tmp_path: Path) -> None:
    out = tmp_path / "embedded"
    pipeline.embed(toy_strips, StandInEncoder(), out)
    edit_manifest(out, lambda manifest: manifest.settings.update(resize=[1, 100]))
    assert_named_and_refused(out, "spans, though resized strips have none")
    for index in range(3):
        edit_manifest(out, lambda manifest: manifest.settings.pop("resize"))
        change_shard(out, index, column("spans", lambda spans: [None] * len(spans)))
        edit_manifest(out, lambda manifest: manifest.settings.update(resize=[1, 100]))
    assert verify(out)[1] == []
    assert next(iter(EmbeddingShards(out))).spans == [None] * 4


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (row("scale", None), "scale is null in row 1"),
        (row("scale", lambda scale: [None, *scale[1:]]), "scale with a null in it"),
        (row("scale", lambda scale: scale[:-1]), "num_latents differs from the scales' lengths"),
        (row("scale", lambda scale: [float("nan"), *scale[1:]]), "scales that are not finite"),
    ],
)
def test_scales_of_eight_bits_are_looked_at(toy_strips: Path, tmp_path: Path, change: Change, problem: str) -> None:
    pipeline.embed(toy_strips, StandInEncoder(), tmp_path, settings=storing(store="int8"))
    assert verify(tmp_path)[1] == []
    change_shard(tmp_path, 0, change)
    assert_named_and_refused(tmp_path, problem)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"\0" * 7, "latents that are not 4 values of float16"),
        (b"", "latents that are not 4 values of float16"),
        (np.full(4, np.nan, np.float16).tobytes(), "embeddings that are not finite"),
        (None, "embedding with a null in it"),
    ],
)
def test_latents_of_their_own_are_looked_at(toy_alone: Path, tmp_path: Path, value: Any, problem: str) -> None:
    folder = Path(shutil.copytree(toy_alone, tmp_path / "alone"))
    change_shard(folder, 0, row("embedding", lambda latents: [latents[0], value, *latents[2:]]))
    assert_named_and_refused(folder, problem)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rows": 5, "row_groups": [5]}, "row groups of [4] rows, the manifest says [5]"),
        ({"row_groups": [2, 2]}, "row groups of [4] rows, the manifest says [2, 2]"),
        ({"row_groups": [4, 0]}, "row groups of [4] rows, the manifest says [4, 0]"),
        ({"rows": 3, "row_groups": [3]}, "row groups of [4] rows, the manifest says [3]"),
    ],
)  # fmt: skip
def test_rows_and_row_groups_that_a_file_does_not_have_are_named(
    embeddings: Path, changes: dict[str, Any], problem: str
) -> None:
    edit_manifest(embeddings, lambda manifest: replace_entry(manifest, 1, **changes))
    assert_named_and_refused(embeddings, problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (row("image", None), "image is null in row 1"),
        (row("image", {"bytes": None, "path": None}), "image with a null in it"),
        (row("image", {"bytes": b"GIF89a", "path": None}), "a picture that is no PNG"),
        (row("image", {"bytes": b"", "path": None}), "a picture that is no PNG"),
        (row("width", 32), "width differs from the picture's"),
        (
            row("image", {"bytes": encode_png(np.zeros((32, 64), np.uint8)), "path": None}),
            "num_latents differs from what the picture holds",
        ),
        (row("spans", lambda spans: spans[1:]), "spans of another number of latents"),
    ],
)
def test_strips_that_are_none_are_named_and_not_embedded(
    strips: Path, tmp_path: Path, change: Change, problem: str
) -> None:
    change_shard(strips, 0, change)
    assert any(problem in each.problem for each in verify(strips)[1])
    with pytest.raises(ShardError, match="is not what its manifest says"):
        pipeline.embed(strips, StandInEncoder(), tmp_path / "embedded")


@pytest.mark.parametrize("length", [60, 40, 33])
def test_a_picture_cut_short_is_an_error(strips: Path, tmp_path: Path, length: int) -> None:
    change_shard(strips, 0, row("image", lambda image: image | {"bytes": image["bytes"][:length]}))
    with pytest.raises(ShardError, match="a picture can't be read"):
        pipeline.embed(strips, StandInEncoder(), tmp_path / "embedded")


@given(hnp.arrays("float16", hnp.array_shapes(max_dims=1)) | hnp.arrays("float32", hnp.array_shapes(max_dims=1)))
def test_finite_is_what_numpy_calls_so(values: np.ndarray[Any, Any]) -> None:
    assert all_finite(values) == np.isfinite(values).all()


def test_commands_name_what_is_wrong_in_one_line(embeddings: Path, tmp_path: Path) -> None:
    """The real commands, in processes of their own."""
    kinds = ["another column", "no question", "falling spans", "no vector", "no number of latents"]
    for number, kind in enumerate(kinds):
        change, problem = DAMAGE[kind]
        folder = tmp_path / f"damaged-{number}"
        shutil.copytree(embeddings, folder)
        change_shard(folder, 1, change)
        checked = run_installed("rotdata", "verify", folder, "--json")
        assert (checked.code, checked.err) == (4, ""), kind
        assert [(each["file"], problem in each["problem"]) for each in json.loads(checked.out)["mismatches"]] == [
            (shard_files(folder)[1].name, True)
        ]
    folder = tmp_path / "claims"
    shutil.copytree(embeddings, folder)
    edit_manifest(folder, lambda manifest: replace_entry(manifest, 1, rows=6, row_groups=[4, 2]))
    assert run_installed("rotdata", "verify", folder).code == 4
    assert_refused(run_installed("rotdata", "stats", folder), 1, "row groups of [4] rows, the manifest says [4, 2]")
