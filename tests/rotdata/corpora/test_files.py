"""Records from files of every format, recognised by content; which files a location means."""

from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotdata.corpora.files import Unreadable, find_files, records
from rotdata.errors import SourceError

ROWS = [{"question": f"q{i}", "answer": f"{i} \u00e9\n,\t'\""} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


def read(path: Path) -> list[Any]:
    return [record for _, record in records(path)]


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def as_csv(rows: list[dict[str, str]], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, fieldnames=list(rows[0]), delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


# Formats.


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.jsonl", LINES),
        ("rows.ndjson", LINES),
        ("rows.json", LINES),  # JSON lines, whatever the name
        ("rows.txt", LINES),
        ("rows", LINES),
        ("rows.dat", gzip.compress(LINES, mtime=0)),
        ("rows.jsonl.gz", gzip.compress(LINES, mtime=0)),
        ("rows.jsonl.zst", zstd(LINES)),
        ("rows.jsonl.zst", zstd(LINES[:30]) + zstd(LINES[30:])),  # two frames
        ("rows.csv.bz2", bz2.compress(as_csv(ROWS))),
        ("rows", lzma.compress(LINES)),
        ("rows.json", json.dumps(ROWS).encode()),
        ("rows.json", json.dumps(ROWS, indent=1).encode()),
        ("rows.jsonl", json.dumps(ROWS, indent=1).encode()),
        ("rows.json.gz", gzip.compress(json.dumps({"version": 1, "data": ROWS}).encode())),
        ("rows.csv", as_csv(ROWS)),
        ("rows.csv.gz", gzip.compress(as_csv(ROWS), mtime=0)),
        ("rows.tsv", as_csv(ROWS, "\t")),
        ("rows.csv", b"\xef\xbb\xbf" + as_csv(ROWS)),
        ("rows.jsonl", LINES.decode().encode("utf-16")),
        ("rows.jsonl", LINES.replace(b"\n", b"\r\n\r\n")),
        ("rows.jsonl", LINES.replace(b"\n", b"\r")),
        ("rows.json", LINES.replace(b"\n", b"\r")),
        ("rows", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r")),
        ("rows.jsonl", LINES.decode().replace("\n", "\r\n").encode("utf-16")),
        ("rows", json.dumps(ROWS).replace("{", "{" + " " * 70_000).encode()),  # a line longer than what is peeked at
    ],
)
def test_the_content_tells_the_format(tmp_path: Path, name: str, content: bytes) -> None:
    assert read(write(tmp_path / name, content)) == ROWS


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bz2.compress, lzma.compress])
def test_a_compressed_file_that_breaks_off_keeps_what_comes_before(tmp_path: Path, compress: Any) -> None:
    noise = [{"question": hashlib.sha256(str(i).encode()).hexdigest()} for i in range(20_000)]
    whole = compress("".join(json.dumps(row) + "\n" for row in noise).encode())
    found = read(write(tmp_path / "rows.jsonl.zst", whole[: len(whole) * 3 // 4]))
    assert isinstance(found[-1], Unreadable)
    assert "breaks off" in found[-1].reason
    assert found[:-1] == noise[: len(found) - 1] != []


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_files_are_read_in_either_form(tmp_path: Path, new: Any) -> None:
    table = pa.Table.from_pylist([row | {"picture": b"png"} for row in ROWS])
    with new(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert read(tmp_path / "rows.arrow") == ROWS
    write(tmp_path / "cut.arrow", (tmp_path / "rows.arrow").read_bytes()[:100])
    with pytest.raises(SourceError, match="no Arrow file that can be read"):
        read(tmp_path / "cut.arrow")


def test_conversations_in_tables_are_read(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "c #### 7"}]}]
    pq.write_table(pa.Table.from_pylist([rows[0] | {"vectors": [[0.5]]}]), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == rows


# Datasets that were saved.


def test_a_saved_dataset_is_its_rows_in_their_order(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=3)
    _, files = find_files(str(tmp_path / "saved"), "test")
    assert [row for file in files for row in read(file)] == ROWS


def test_the_splits_of_a_saved_dataset_are_told_apart(tmp_path: Path) -> None:
    parts = {name: datasets.Dataset.from_list([row]) for name, row in zip(("train", "validation"), ROWS, strict=False)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    for split, row in (("train", ROWS[0]), ("valid", ROWS[1])):
        [file] = find_files(str(tmp_path / "saved"), split)[1]
        assert read(file) == [row]
    with pytest.raises(SourceError, match="holds the splits train, validation, not test"):
        find_files(str(tmp_path / "saved"), "test")


def test_a_saved_dataset_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved", num_shards=2)
    next((tmp_path / "saved").glob("*.arrow")).unlink()
    with pytest.raises(SourceError, match="which is not there: copy the folder whole"):
        find_files(str(tmp_path / "saved"), "train")


# Addresses.


def test_files_at_an_address_are_fetched(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe(
        {"/rot/a/train.jsonl": LINES, "/rot/b/train.jsonl": LINES, "/rot/b/test.jsonl": LINES[:30], "/rot/b/x.png": b""}
    )
    assert not list(find_files("memory://rot", "train")[0].rglob("*.png"))  # only what may be a corpus is fetched
    assert read(find_files("memory://rot/a/train.jsonl", "train")[1][0]) == ROWS
    for address in ("memory://rot", "memory://rot/*/train.jsonl"):
        root, files = find_files(address, "train")
        assert [file.relative_to(root).as_posix() for file in files] == ["a/train.jsonl", "b/train.jsonl"]
    with pytest.raises(SourceError, match="memory://rot/nothing can't be read"):
        find_files("memory://rot/nothing", "train")
    with pytest.raises(SourceError, match="Protocol not known"):
        find_files("nonsense://a", "train")


def test_a_file_on_a_web_server_is_fetched(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl.zst", zstd(LINES))
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        [file] = find_files(f"{address}/rows.jsonl.zst", "train")[1]
        assert read(file) == ROWS
        with pytest.raises(SourceError, match="can't be read"):
            find_files(f"{address}/other.jsonl", "train")
        server.shutdown()


def test_parquet_is_parquet_under_any_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.dat")
    assert read(tmp_path / "rows.dat") == ROWS


def test_pictures_and_embeddings_in_parquet_are_passed_over(tmp_path: Path) -> None:
    rows = [{"question": "q", "image": {"bytes": b"x"}, "raw": b"y", "embedding": [[1.0]], "steps": ["a", "b"]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [{"question": "q", "steps": ["a", "b"]}]


@pytest.mark.parametrize("steps", [pa.list_(pa.large_string()), pa.large_list(pa.string()), pa.list_(pa.float64())])
def test_lists_of_text_and_numbers_in_parquet_are_read(tmp_path: Path, steps: pa.DataType) -> None:
    values = [1.0] if pa.types.is_floating(steps.value_type) else ["a"]
    pq.write_table(pa.table({"steps": pa.array([values], type=steps)}), tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [{"steps": values}]


@given(st.lists(st.fixed_dictionaries({"a": st.text(), "b": st.text()}), min_size=2, max_size=5))
def test_any_text_comes_back_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("formats")
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name, content in (("rows.jsonl", lines), ("rows.json", json.dumps(rows).encode())):
        assert read(write(folder / name, content)) == rows
    encodable = all(
        character < "\ud800" or character > "\udfff" for row in rows for text in row.values() for character in text
    )
    if encodable:
        pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
        assert read(folder / "rows.parquet") == rows
        if all("\r" not in text and "\n" not in text and "\x00" not in text for row in rows for text in row.values()):
            assert read(write(folder / "rows.csv", as_csv(rows))) == rows


# What is broken.


def test_a_truncated_archive_keeps_the_records_before_the_break(tmp_path: Path) -> None:
    many = b"".join(json.dumps({"number": number}).encode() + b"\n" for number in range(5000))
    found = read(write(tmp_path / "rows.jsonl.gz", gzip.compress(many)[:-2000]))
    assert found[:-1] == [{"number": number} for number in range(len(found) - 1)]
    assert len(found) > 1000
    assert isinstance(found[-1], Unreadable)
    assert f"the file breaks off after line {len(found) - 1}: Compressed file ended" in found[-1].reason


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_has_no_records(tmp_path: Path, content: bytes) -> None:
    assert read(write(tmp_path / "rows.jsonl", content)) == []


def test_bytes_that_are_no_utf8_spoil_their_line_alone(tmp_path: Path) -> None:
    found = read(write(tmp_path / "rows.jsonl", b'{"a": "1"}\n{"a": "\xff"}\n{"a": "3"}\n'))
    assert found == [{"a": "1"}, Unreadable("line 2 is not UTF-8: invalid start byte at byte 7"), {"a": "3"}]


def test_a_utf16_file_that_is_cut_keeps_the_records_before_the_cut(tmp_path: Path) -> None:
    *found, last = read(write(tmp_path / "rows.jsonl", LINES.decode().encode("utf-16")[:-3]))
    assert found == ROWS[:2]
    assert "the file breaks off after line 2: 'utf-16" in last.reason


def test_half_a_character_spoils_its_line_alone_in_utf16(tmp_path: Path) -> None:
    lines = LINES.decode().encode("utf-16-le")
    found = read(write(tmp_path / "rows.jsonl", b"\xff\xfe" + lines + b"\x00\xd8\n\x00" + lines))
    assert found[:3] == found[4:] == ROWS
    assert found[3].reason.startswith("line 4 is not UTF-8")


def test_line_separators_of_unicode_are_no_line_ends(tmp_path: Path) -> None:
    rows = [{"a": "b\u2028c\x85d"}] * 2
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for encoding in ("utf-8", "utf-16"):
        assert read(write(tmp_path / "rows.json", lines.encode(encoding))) == rows
    assert read(write(tmp_path / "rows.jsonl", lines.replace("\n", "\r").encode())) == rows


def test_a_document_of_another_encoding_is_to_be_converted(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"is neither UTF-8 nor UTF-16: .*; convert it, for example with iconv"):
        read(write(tmp_path / "rows.json", b'[{"a": "\xe9"}]'))


def test_a_record_of_too_many_fields_is_told_and_one_of_too_few_lacks_them(tmp_path: Path) -> None:
    found = read(write(tmp_path / "rows.csv", b"a,b\n1,2,3\n4\n5,6\n"))
    assert found == [Unreadable("record 1 has more fields than the header"), {"a": "4"}, {"a": "5", "b": "6"}]


def test_a_field_of_a_million_characters_is_read(tmp_path: Path) -> None:
    assert read(write(tmp_path / "rows.csv", b"a\n" + b"x" * 1_000_000 + b"\n")) == [{"a": "x" * 1_000_000}]


@pytest.mark.parametrize("content", [b"PAR1", b"PAR1 and then nothing of the kind", b"text"])
def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match="is no Parquet file"):
        read(write(tmp_path / "rows.parquet", content))


def test_a_value_in_parquet_that_is_none_spoils_its_row_alone(tmp_path: Path) -> None:
    texts = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    pq.write_table(pa.table({"a": texts, "day": pa.array([1, 2, 10**9], type=pa.date32())}), tmp_path / "rows.parquet")
    first, second, third = read(tmp_path / "rows.parquet")
    assert first["a"] == "a"
    assert second.reason.startswith("a value can't be read: 'utf-8' codec can't decode byte 0xff")
    assert third.reason.startswith("a value can't be read: days=1000000000")


def test_a_damaged_page_is_told_by_its_checksum(tmp_path: Path) -> None:
    table = pa.table({"a": [f"{number:064d}" for number in range(20_000)]})
    options = {"write_page_checksum": True, "use_dictionary": False, "compression": "none"}
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=5000, **options)
    content = (tmp_path / "rows.parquet").read_bytes()
    place = content.index(b"%064d" % 12_000)
    *found, last = read(write(tmp_path / "rows.parquet", content[:place] + b"9" + content[place + 1 :]))
    assert found == table.to_pylist()[: len(found)]
    assert len(found) >= 5000
    assert f"the file breaks off after row {len(found) - 1}: " in last.reason
    assert "CRC" in last.reason


# Which files a location means.


def names(location: object, split: str = "train") -> list[str]:
    root, files = find_files(str(location), split)
    return [file.relative_to(root).as_posix() for file in files]


def test_a_glob_means_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv", "deep/d.jsonl"):
        write(tmp_path / name, LINES)
    assert names(tmp_path / "*.jsonl") == ["a.jsonl", "b.jsonl"]
    assert names(tmp_path / "**" / "*.jsonl") == ["a.jsonl", "b.jsonl", "deep/d.jsonl"]
    with pytest.raises(SourceError, match="no file matches"):
        names(tmp_path / "*.parquet")


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ["gsm8k_train.jsonl", "train/1.json"]),
        ("test", ["test-00000-of-00001.jsonl"]),
        ("validation", ["sub/dev.jsonl", "valid.jsonl"]),
        ("val", ["sub/dev.jsonl", "valid.jsonl"]),
    ],
)
def test_names_in_a_folder_tell_splits(tmp_path: Path, split: str, expected: list[str]) -> None:
    for name in ("gsm8k_train.jsonl", "train/1.json", "test-00000-of-00001.jsonl", "valid.jsonl", "sub/dev.jsonl"):
        write(tmp_path / name, LINES)
    write(tmp_path / "notes.md", b"")
    assert names(tmp_path, split) == expected


def test_a_folder_without_the_split_is_refused_with_those_it_has(tmp_path: Path) -> None:
    write(tmp_path / "test.jsonl", LINES)
    write(tmp_path / "dev.jsonl", LINES)
    with pytest.raises(SourceError, match=r"tell the splits test, validation, not train: choose one with --split"):
        names(tmp_path)


def test_a_folder_whose_names_tell_no_split_is_read_whole(tmp_path: Path) -> None:
    for name in ("part-1.jsonl", "part-0.jsonl.gz", "trainer.csv", "contest.json"):
        write(tmp_path / name, LINES)
    assert names(tmp_path, "test") == ["contest.json", "part-0.jsonl.gz", "part-1.jsonl", "trainer.csv"]


def test_a_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    assert names(write(tmp_path / "test.weird", LINES)) == ["test.weird"]
