"""What was written is read bit for bit, and what is damaged is refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rotdata.corpora import Source, read
from rotdata.errors import ShardError
from rotdata.rendering.strips import StripStyle, render
from rotdata.shards import (
    EmbeddingShards,
    Manifest,
    read_table,
    verify,
)
from tests.helpers import StandInEncoder
from tests.rotdata.shards.samples import (
    edit_manifest,
    embedding_table,
    replace_entry,
    shard_files,
    write_folder,
)


@settings(max_examples=50)
@given(st.data(), st.integers(1, 5), st.sampled_from(["float16", "float32"]))
def test_embeddings_survive_writing_and_reading_bit_for_bit(data: st.DataObject, width: int, store: str) -> None:
    finite = {"allow_nan": False, "allow_infinity": False}
    arrays = st.integers(1, 4).flatmap(lambda count: hnp.arrays(store, (count, width), elements=finite))
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
    manifest = Manifest.load(embeddings)
    with pytest.raises(ShardError, match=f"{file.name} can't be read .*make it again"):
        read_table(embeddings, manifest, manifest.shards[1])


def test_a_shard_of_another_schema_is_refused_when_it_is_read(embeddings: Path) -> None:
    file = shard_files(embeddings)[1]
    table = pq.read_table(file)
    pq.write_table(table.set_column(4, "num_latents", pa.array(["many"] * table.num_rows)), file)
    edit_manifest(embeddings, lambda manifest: replace_entry(manifest, 1, bytes=file.stat().st_size))
    with pytest.raises(ShardError, match="its column num_latents is string, the manifest's is int32"):
        list(EmbeddingShards(embeddings))


def test_row_groups_that_do_not_add_up_are_refused(embeddings: Path) -> None:
    edit_manifest(embeddings, lambda manifest: replace_entry(manifest, 1, row_groups=[4, 4]))
    with pytest.raises(ShardError, match="row groups of 8 rows"):
        EmbeddingShards(embeddings)
    assert [mismatch.problem for mismatch in verify(embeddings)[1]] == [
        "row groups of [4] rows, the manifest says [4, 4]"
    ]


def test_a_damaged_page_is_found_when_it_is_read(embeddings: Path) -> None:
    file = shard_files(embeddings)[1]
    content = bytearray(file.read_bytes())
    start = pq.read_metadata(file).row_group(0).column(6).data_page_offset
    content[start + 60] ^= 1
    file.write_bytes(content)
    with pytest.raises(ShardError, match="truncated or damaged"):
        list(EmbeddingShards(embeddings))
