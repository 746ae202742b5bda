"""No command replaces what an output's path points at. Devices, pipes and links are the test's own."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rotdata.errors import UsageError
from rotdata.output import check_output, is_stream, replaceable, write_atomically
from rotdata.shards import Manifest, write_shard
from tests.helpers import REPOSITORY, assert_refused, contents, run_installed
from tests.rotdata.shards.samples import embedding_table

NULL = os.makedev(1, 3)
"""Major and minor of the device that takes everything; the node is made in the test's own folder."""


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device node of the test's own."""
    node = tmp_path / "device.png"
    try:
        os.mknod(node, stat.S_IFCHR | 0o666, NULL)
        node.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no device can be made and opened here ({error})")
    return node


def read_pipe(pipe: Path, into: list[bytes]) -> threading.Thread:
    """Begin to read all that is written to a pipe."""
    reader = threading.Thread(target=lambda: into.append(pipe.read_bytes()), daemon=True)
    reader.start()
    return reader


@pytest.mark.parametrize("command", [("preview", "--html"), ("stats", "--plot")])
def test_a_device_stays_a_device(toy_strips: Path, device: Path, command: tuple[str, str]) -> None:
    result = run_installed("rotdata", command[0], toy_strips, command[1], device)
    assert result.code == 0, result.err
    assert stat.S_ISCHR(device.stat().st_mode)
    assert device.stat().st_rdev == NULL
    assert sorted(device.parent.iterdir()) == [device]


@pytest.mark.parametrize(("command", "begin"), [(("preview", "--html"), b"<!"), (("stats", "--plot"), b"\x89PNG")])
def test_a_link_stays_a_link_and_its_target_is_written(
    toy_strips: Path, tmp_path: Path, command: tuple[str, str], begin: bytes
) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target.png", tmp_path / "link.png"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to("elsewhere/target.png")
    result = run_installed("rotdata", command[0], toy_strips, command[1], link)
    assert result.code == 0, result.err
    assert link.is_symlink()
    assert str(link.readlink()) == "elsewhere/target.png"
    assert target.read_bytes().startswith(begin)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert set(contents(tmp_path)) == {"elsewhere/target.png", "link.png"}


@pytest.mark.parametrize("command", [("preview", "--html"), ("stats", "--plot")])
def test_a_pipe_is_written_to(toy_strips: Path, tmp_path: Path, command: tuple[str, str]) -> None:
    pipe = tmp_path / "pipe.svg"
    os.mkfifo(pipe)
    said: list[bytes] = []
    reader = read_pipe(pipe, said)
    result = run_installed("rotdata", command[0], toy_strips, command[1], pipe)
    reader.join(60)
    assert result.code == 0, result.err
    assert b"</" in said[0]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("command", [("preview", "--html"), ("stats", "--plot")])
def test_a_folder_is_refused(toy_strips: Path, tmp_path: Path, command: tuple[str, str]) -> None:
    folder = tmp_path / "folder.png"
    folder.mkdir()
    (tmp_path / "link.png").symlink_to(folder)
    for path in (folder, tmp_path / "link.png"):
        refused = run_installed("rotdata", command[0], toy_strips, command[1], path)
        assert_refused(refused, 2, f"{path} is a folder: name a file in it")
    assert list(folder.iterdir()) == []


def test_stdout_by_its_path_is_written_after_what_was_printed(tmp_path: Path) -> None:
    """Where stdout is a file, renaming over it would send all that is printed later into a file without a name."""
    program = (
        "from pathlib import Path; from rotdata.output import write_atomically;"
        f"print('first'); write_atomically(Path('{tmp_path}/link'), b'second\\n'); print('third')"
    )
    said = tmp_path / "said"
    (tmp_path / "link").symlink_to(said)
    with said.open("wb") as stream:
        subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, stdout=stream, timeout=60)
    assert said.read_text() == "first\nsecond\nthird\n"


def test_what_a_link_leads_to_may_not_be_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("new")
    write_atomically(tmp_path / "link", b"content")
    assert (tmp_path / "new").read_bytes() == b"content"
    assert (tmp_path / "link").is_symlink()


def test_links_in_a_circle_are_an_error_and_stay(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "a", b"content")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_shard_or_manifest_that_is_a_link_is_written_through_it(tmp_path: Path, toy_embeddings: Path) -> None:
    (tmp_path / "disk").mkdir()
    for name in ("a.parquet", "_manifest.json"):
        (tmp_path / name).symlink_to(tmp_path / "disk" / name)
    stored = write_shard(tmp_path, "a.parquet", embedding_table([], 4))
    Manifest.load(toy_embeddings).save(tmp_path)
    assert Manifest.load(tmp_path) == Manifest.load(toy_embeddings)
    assert len((tmp_path / "disk" / "a.parquet").read_bytes()) == stored.bytes
    assert set(contents(tmp_path / "disk")) == {"a.parquet", "_manifest.json"}
    assert all((tmp_path / name).is_symlink() for name in ("a.parquet", "_manifest.json"))


def test_a_device_is_never_renamed_over(device: Path) -> None:
    assert is_stream(device)
    with pytest.raises(UsageError, match="is a device or a pipe: name a file"):
        replaceable(device)
    with pytest.raises(UsageError, match="is a device or a pipe"):
        write_shard(device.parent, device.name, embedding_table([], 4))
    assert sorted(device.parent.iterdir()) == [device]


def test_an_output_is_looked_at_before_the_work(tmp_path: Path) -> None:
    check_output(tmp_path / "new.png", "--plot", [".png", ".svg"])
    with pytest.raises(UsageError, match=r"--plot names a \.png or \.svg file, got .*x\.jpg"):
        check_output(tmp_path / "x.jpg", "--plot", [".png", ".svg"])
    with pytest.raises(UsageError, match="the folder of --log .* does not exist: make it first"):
        check_output(tmp_path / "absent" / "log", "--log")
    with pytest.raises(UsageError, match="--log .* is a folder"):
        check_output(tmp_path, "--log")
