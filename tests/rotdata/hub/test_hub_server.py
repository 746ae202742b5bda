"""The stand-in for the Hub, through the clients that other tests put in front of it."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from email.message import Message
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers import REPOSITORY, contents
from tests.hub_server import GIT_ATTRIBUTES, HubServer, environment

REPO = "tester/rows"
CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---
# Rows
"""


@pytest.fixture
def server() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of a card and two shards, of 300 KB for one upload and of 1.5 MB for four parts."""
    folder = tmp_path / "shards"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    for name, rows in (("small", 300), ("large", 1500)):
        noise = random.Random(name)
        table = pa.table({"id": range(rows), "noise": [noise.randbytes(1024) for _ in range(rows)]})
        pq.write_table(table, folder / "data" / f"{name}.parquet", row_group_size=100, compression="none")
    return folder


def repository(folder: Path) -> dict[str, bytes]:
    """What the repository of a folder holds."""
    return {".gitattributes": GIT_ATTRIBUTES, **contents(folder)}


def client(function: Callable[..., Any], server: HubServer, home: Path, *arguments: object, token: bool = True) -> Any:
    """What a function of this module returns in a process of its own whose Hub is the server."""
    name = function.__name__
    program = f"import json, sys; from {__name__} import {name}; print(json.dumps({name}(*sys.argv[1:])))"
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment(server, home, server.token if token else None),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def outcome(call: Callable[[], object]) -> str:
    """How a call to the Hub ends, in words."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(call())
    except HfHubHTTPError as error:
        return f"{type(error).__name__} {error.response.status_code}"


def push(folder: str, *, into: str = "") -> str:
    """Commit a folder, and give the commit."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    operations = [
        CommitOperationAdd(into + str(path.relative_to(folder)), path)
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    ]
    return api.create_commit(REPO, operations, commit_message="push", repo_type="dataset", num_threads=1).oid


def push_onto(parent: str) -> None:
    """Commit a small file provided that nobody has committed since."""
    from huggingface_hub import CommitOperationAdd, HfApi

    note = CommitOperationAdd("note.txt", b"note")
    HfApi().create_commit(REPO, [note], commit_message="note", repo_type="dataset", parent_commit=parent)


def push_and_read(folder: str, pulled: str) -> dict[str, Any]:
    """Push a folder, push it again, push it under another name, then read all that came of it."""
    from huggingface_hub import CommitOperationDelete, HfApi, hf_hub_download, snapshot_download

    api = HfApi()
    first = push(folder)
    again = push(folder)
    push(folder, into="copy/")
    deletions = [CommitOperationDelete("copy/README.md"), CommitOperationDelete("copy/data/")]
    parent = api.dataset_info(REPO).sha
    last = api.create_commit(REPO, deletions, commit_message="delete", repo_type="dataset", parent_commit=parent).oid
    snapshot_download(REPO, repo_type="dataset", local_dir=pulled)
    tree = api.list_repo_tree(REPO, repo_type="dataset", recursive=True, expand=True)
    return {
        "commits": [first, again, last],
        "history": [commit.commit_id for commit in api.list_repo_commits(REPO, repo_type="dataset")],
        "head": api.list_repo_refs(REPO, repo_type="dataset").branches[0].target_commit,
        "user": api.whoami()["name"],
        "tree": {entry.path: getattr(entry, "size", None) for entry in tree},
        "folder": [entry.path for entry in api.list_repo_tree(REPO, "data", repo_type="dataset")],
        "paths": [entry.path for entry in api.get_paths_info(REPO, ["data", "nothing"], repo_type="dataset")],
        "card": Path(hf_hub_download(REPO, "README.md", repo_type="dataset")).read_text(),
        "copied": Path(hf_hub_download(REPO, "copy/README.md", repo_type="dataset", revision=parent)).read_text(),
        "refused": [
            outcome(lambda: api.dataset_info("tester/nothing")),
            outcome(lambda: hf_hub_download(REPO, "nothing", repo_type="dataset")),
            outcome(lambda: api.dataset_info(REPO, revision="nothing")),
            outcome(lambda: api.create_repo(REPO, repo_type="dataset")),
            outcome(lambda: push_onto(first)),
        ],
    }


def test_what_is_pushed_can_be_read(server: HubServer, shards: Path, tmp_path: Path) -> None:
    pulled = tmp_path / "pulled"
    told = client(push_and_read, server, tmp_path / "home", shards, pulled)

    files = repository(shards)
    shas = [commit.sha for commit in server.repositories[REPO].commits]
    assert server.files(REPO) == files
    assert {path: (pulled / path).read_bytes() for path in files} == files
    assert told == {
        "commits": [shas[1], shas[1], shas[3]],
        "history": shas[::-1],
        "head": shas[3],
        "user": server.user,
        "tree": {"data": None, **{path: len(data) for path, data in files.items()}},
        "folder": ["data/large.parquet", "data/small.parquet"],
        "paths": ["data"],
        "card": CARD,
        "copied": CARD,
        "refused": [
            "RepositoryNotFoundError 404",
            "RemoteEntryNotFoundError 404",
            "RevisionNotFoundError 404",
            "HfHubHTTPError 409",
            "HfHubHTTPError 412",
        ],
    }

    # Three pushes have sent every file once: the large one in parts, the small one whole.
    large, small = files["data/large.parquet"], files["data/small.parquet"]
    part = server.part_bytes
    assert [line.received for line in server.requests("PUT", f"/lfs/{sha256(small).hexdigest()}")] == [len(small)]
    assert [line.received for line in server.requests("PUT", f"/lfs/{sha256(large).hexdigest()}/")] == [
        min(part, len(large) - start) for start in range(0, len(large), part)
    ]
    assert server.uploaded_bytes == len(large) + len(small)


def read_row_group(path: str, group: str) -> list[int]:
    """The ids of one row group, read over HTTP."""
    from huggingface_hub import HfFileSystem

    with HfFileSystem().open(path, block_size=1 << 14) as file:
        return pq.ParquetFile(file).read_row_group(int(group))["id"].to_pylist()


def test_a_row_group_costs_less_than_its_file(server: HubServer, shards: Path, tmp_path: Path) -> None:
    data = (shards / "data" / "large.parquet").read_bytes()
    server.put(REPO, "data/large.parquet", data)
    path = f"datasets/{REPO}/data/large.parquet"
    assert client(read_row_group, server, tmp_path / "home", path, 7) == list(range(700, 800))
    assert 100 * 1024 < server.downloaded_bytes < len(data) / 3
    assert {line.status for line in server.requests("GET", "/lfs/")} == {206}


def load_dataset() -> dict[str, list[int]]:
    """The rows of a dataset, loaded and streamed, and of one that has no card."""
    import datasets

    return {
        "loaded": datasets.load_dataset(REPO, split="train")["id"][:],
        "streamed": [row["id"] for row in datasets.load_dataset(REPO, split="train", streaming=True)],
        "without a card": datasets.load_dataset("tester/bare", split="train")["id"][:],
    }


def test_datasets_loads_and_streams(server: HubServer, shards: Path, tmp_path: Path) -> None:
    files = repository(shards)
    for path, data in files.items():
        server.put(REPO, path, data)
    server.put("tester/bare", "data/small.parquet", files["data/small.parquet"])
    server.put(REPO, "other/small.parquet", b"no configuration names this")
    small, large = [*range(300)], [*range(1500)]
    assert client(load_dataset, server, tmp_path / "home", token=False) == {
        "loaded": large + small,
        "streamed": large + small,
        "without a card": small,
    }


def knock(token: str) -> list[str]:
    """How reads and writes end for a stranger, and reads for one who knows the token."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    note = [CommitOperationAdd("note.txt", b"note")]
    return [
        outcome(lambda: api.dataset_info("tester/private")),
        outcome(lambda: api.hf_hub_download("tester/private", "note.txt", repo_type="dataset")),
        outcome(lambda: api.dataset_info("tester/private", token="wrong")),
        outcome(lambda: api.create_repo("tester/new", repo_type="dataset")),
        outcome(lambda: api.create_commit("tester/public", note, commit_message="note", repo_type="dataset")),
        outcome(lambda: api.dataset_info("tester/public").id),
        outcome(lambda: api.create_repo("tester/owned", private=True, repo_type="dataset", token=token).repo_id),
        outcome(lambda: api.dataset_info("tester/owned", token=token).private),
        outcome(lambda: api.dataset_info("tester/owned")),
    ]


def test_strangers_may_read_what_is_public(server: HubServer, tmp_path: Path) -> None:
    server.create("tester/private", private=True)
    server.create("tester/public")
    assert client(knock, server, tmp_path / "home", server.token, token=False) == [
        "RepositoryNotFoundError 401",
        "RepositoryNotFoundError 401",
        "HfHubHTTPError 401",
        "HfHubHTTPError 401",
        "RepositoryNotFoundError 401",
        "tester/public",
        "tester/owned",
        "True",
        "RepositoryNotFoundError 401",
    ]


def push_without_retries(folder: str) -> str:
    """Push a folder, and give the commit or what went wrong, without half a minute of waits between retries."""
    from huggingface_hub.utils import http_backoff

    http_backoff.__kwdefaults__["max_retries"] = 0
    try:
        return push(folder)
    except RuntimeError as error:
        return f"{error} {type(error.__cause__).__name__}"


def test_an_interrupted_push_goes_on_where_it_was(server: HubServer, shards: Path, tmp_path: Path) -> None:
    large, small = ((shards / "data" / f"{name}.parquet").read_bytes() for name in ("large", "small"))
    wrong = "Error while uploading 'data/small.parquet' to the Hub."

    server.fail_after(uploads=-(-len(large) // server.part_bytes))
    told = client(push_without_retries, server, tmp_path / "home", shards)
    assert told == f"{wrong} HfHubHTTPError"
    assert server.uploaded_bytes == len(large)
    server.heal()

    server.fail_after(uploads=0, status=None)
    told = client(push_without_retries, server, tmp_path / "home", shards)
    assert told == f"{wrong} RemoteProtocolError"
    assert server.uploaded_bytes == len(large)
    assert server.files(REPO) == {".gitattributes": GIT_ATTRIBUTES}
    server.heal()

    assert client(push_without_retries, server, tmp_path / "home", shards) == server.repositories[REPO].head.sha
    assert server.uploaded_bytes == len(large) + len(small)
    assert server.files(REPO) == repository(shards)


def test_ranges_and_lies(server: HubServer) -> None:
    server.put(REPO, "notes.txt", b"0123456789", claimed_size=3)
    server.put(REPO, "a.parquet", b"0123456789", claimed_size=1 << 40)

    def ask(method: str, path: str, asked: str | None = None) -> tuple[int, bytes, Message]:
        connection = http.client.HTTPConnection(server.endpoint.removeprefix("http://"))
        connection.request(method, path, headers={} if asked is None else {"Range": f"bytes={asked}"})
        answer = connection.getresponse()
        told = answer.status, answer.read(), answer.headers
        connection.close()
        return told

    path = f"/datasets/{REPO}/resolve/main/notes.txt"
    for method, asked, *expected in (
        ("HEAD", None, 200, b"", "3", None),
        ("GET", None, 200, b"0123456789", "10", None),
        ("GET", "2-4", 206, b"234", "3", "bytes 2-4/10"),
        ("GET", "8-99", 206, b"89", "2", "bytes 8-9/10"),
        ("GET", "9-", 206, b"9", "1", "bytes 9-9/10"),
        ("GET", "-2", 206, b"89", "2", "bytes 8-9/10"),
        ("GET", "10-", 416, b"", "0", "bytes */10"),
    ):
        status, body, headers = ask(method, path, asked)
        assert [status, body, headers["Content-Length"], headers["Content-Range"]] == expected
    assert ask("HEAD", f"/datasets/{REPO}/resolve/main/a.parquet")[2]["X-Linked-Size"] == str(1 << 40)
    assert ask("GET", "/nothing")[0] == 501
