"""A stand-in for the Hugging Face Hub on this machine, to drive the real huggingface_hub and datasets clients against.

Like the Hub it has two origins: `endpoint`, which asks for the token, and a storage of large files behind redirects and
upload links, which does not. Everything is kept in memory, and nothing depends on the clock: a repository made by the
same commits has the same commit hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.message import Message
from fnmatch import fnmatch
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

DATE = "2026-01-01T00:00:00.000Z"
GIT_ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
LFS_ABOVE_BYTES = 10_000


def environment(server: HubServer, home: Path, token: str | None = None) -> dict[str, str]:
    """The environment of a subprocess whose clients know no Hub but this one, and keep what they cache in `home`."""
    ours = {
        "HF_ENDPOINT": server.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # else load_dataset asks a public bucket for a file, to be counted
        "NO_PROXY": "127.0.0.1",
    }
    foreign = re.compile(r"HF_|HUGGING|TRANSFORMERS_OFFLINE|HTTPS?_PROXY|ALL_PROXY|NO_PROXY", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not foreign.match(name)}
    return kept | ours | ({} if token is None else {"HF_TOKEN": token})


@dataclass(frozen=True, slots=True)
class Request:
    """A line of the log. `sent` counts the body offered, read to its end or not; `status` is None if none was sent."""

    method: str
    path: str
    received: int
    sent: int
    status: int | None


@dataclass(frozen=True)
class File:
    """A file of a commit, in git or in the storage of large files. It may lie about its size."""

    content: bytes = field(repr=False)
    large: bool
    claimed_size: int | None = None

    @property
    def size(self) -> int:
        """The size that the Hub tells."""
        return len(self.content) if self.claimed_size is None else self.claimed_size

    @cached_property
    def sha256(self) -> str:
        """The hash by which the storage knows the content."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git holds in place of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The hash by which git knows the file."""
        blob = self.pointer if self.large else self.content
        return _sha1(b"blob %d\0" % len(blob) + blob)


@dataclass(frozen=True, slots=True)
class Commit:
    """A snapshot of every file of a repository."""

    sha: str
    title: str
    files: Mapping[str, File]


@dataclass(slots=True)
class Repository:
    """A dataset's or a model's repository of one branch, main. The last commit is its head."""

    name: str
    private: bool
    commits: list[Commit] = field(default_factory=list)

    @property
    def head(self) -> Commit:
        """The commit that main points to."""
        return self.commits[-1]

    def at(self, revision: str) -> Commit:
        """The commit of a revision: main or a whole commit hash."""
        if revision in {"main", "refs/heads/main"}:
            return self.head
        for commit in self.commits:
            if commit.sha == revision:
                return commit
        raise Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")

    def commit(self, title: str, files: Mapping[str, File]) -> Commit:
        """Make `files` the new head."""
        parent = self.head.sha if self.commits else ""
        listing = [(path, file.oid) for path, file in sorted(files.items())]
        commit = Commit(_sha1(json.dumps([parent, title, listing]).encode()), title, dict(files))
        self.commits.append(commit)
        return commit


class HubServer:
    """The server: a context manager that answers while it is open.

    Objects above `multipart_above` bytes are uploaded in parts of `part_bytes`, smaller ones at once.
    """

    def __init__(
        self,
        *,
        token: str = "hf_stand_in",
        user: str = "tester",
        multipart_above: int = 1 << 20,
        part_bytes: int = 1 << 19,
    ) -> None:
        self.token = token
        self.user = user
        self.multipart_above = multipart_above
        self.part_bytes = part_bytes
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.log: list[Request] = []
        self.errors: list[Exception] = []
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._origins = [_Origin(self), _Origin(self)]
        self.endpoint, self.storage = (origin.url for origin in self._origins)

    def __enter__(self) -> Self:
        for origin in self._origins:
            origin.open()
        return self

    def __exit__(self, *_: object) -> None:
        for origin in self._origins:
            origin.close()
        if self.errors:
            raise ExceptionGroup("the stand-in broke", self.errors)

    def create(self, repo: str, *, private: bool = False) -> Repository:
        """Make a repository, which starts with a .gitattributes as every one on the Hub does."""
        repository = self.repositories[repo] = Repository(repo, private)
        repository.commit("initial commit", {".gitattributes": File(GIT_ATTRIBUTES, large=False)})
        return repository

    def put(self, repo: str, path: str, content: bytes, *, claimed_size: int | None = None) -> None:
        """Commit a file without asking whether a client could have, to a repository made here if there is none."""
        repository = self.repositories.get(repo) or self.create(repo)
        file = File(content, is_large(path, len(content)), claimed_size)
        self.objects[file.sha256] = content
        repository.commit(f"put {path}", {**repository.head.files, path: file})

    def files(self, repo: str) -> dict[str, bytes]:
        """What main holds, by path; .gitattributes is among it."""
        return {path: file.content for path, file in self.repositories[repo].head.files.items()}

    def fail_after(self, *, uploads: int, status: int | None = 500) -> None:
        """Let that many PUTs of large files or their parts succeed, and no more until `heal`."""
        self.fail("PUT", "/lfs/", after=uploads, status=status)

    def fail(self, method: str, prefix: str, *, after: int = 0, status: int | None = 500) -> None:
        """Answer requests with a status, or drop their connections at None, once `after` of them have succeeded."""
        self._faults.append(_Fault(method, prefix, after, status))

    def heal(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    def requests(self, method: str = "", prefix: str = "") -> list[Request]:
        """The log, of one method or of paths that start alike."""
        return [line for line in self.log if method in {"", line.method} and line.path.startswith(prefix)]

    @property
    def uploaded_bytes(self) -> int:
        """Bytes of large files that arrived and were kept."""
        return sum(line.received for line in self.requests("PUT", "/lfs/") if line.status == 200)

    @property
    def downloaded_bytes(self) -> int:
        """Bytes of files, large and small, that were offered to readers."""
        return sum(line.sent for line in self.requests("GET") if line.path.startswith(("/lfs/", "/datasets/")))

    def answer(self, call: Call) -> Answer | None:
        """What to say to a call, None to hang up; either way the log has it first."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.strikes(call)), None)
            answer = _reply(self, call) if fault is None else fault.answer
            sent = 0 if answer is None or call.method == "HEAD" else len(answer.body)
            status = None if answer is None else answer.status
            self.log.append(Request(call.method, unquote(call.path), len(call.body), sent, status))
        return answer


def is_large(path: str, size: int) -> bool:
    """Whether a file belongs in the storage rather than in git."""
    return path.endswith(".parquet") or size > LFS_ABOVE_BYTES


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


# ---- HTTP


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the routes see it; its path is still quoted."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Message
    body: bytes

    @property
    def token(self) -> str | None:
        """The token that came along."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token if scheme == "Bearer" else None

    def asks(self, flag: str) -> bool:
        """Whether the query sets a flag."""
        return self.query.get(flag, ["false"])[-1].lower() in {"true", "1"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. The answer to a HEAD may tell another length than its body's."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    head_length: int | None = None

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> Self:
        """A JSON value."""
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


class Refused(Exception):
    """Ends a call with an error as the Hub words it."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        told = {"X-Error-Message": ascii(message)[1:-1]} | ({} if code is None else {"X-Error-Code": code})
        self.answer = Answer.json({"error": message}, status, **told, **(headers or {}))


@dataclass(slots=True)
class _Fault:
    """A kind of request that fails once `spare` more have succeeded."""

    method: str
    prefix: str
    spare: int
    status: int | None

    def strikes(self, call: Call) -> bool:
        """Whether this call fails; counts it if not."""
        if call.method != self.method or not call.path.startswith(self.prefix):
            return False
        self.spare -= 1
        return self.spare < 0

    @property
    def answer(self) -> Answer | None:
        """What the call that fails is told."""
        return None if self.status is None else Answer.json({"error": "this is a fault"}, self.status)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body leave one by one, and neither should wait for the other
    server: _Origin

    def handle_call(self) -> None:
        """Read a request to its end, then answer it."""
        body = b"".join(self._body())
        target = urlsplit(self.path)
        call = Call(self.command, target.path, parse_qs(target.query), self.headers, body)
        answer = self.server.hub.answer(call)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        head = self.command == "HEAD"
        length = answer.head_length if head and answer.head_length is not None else len(answer.body)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if not head:
            self.wfile.write(answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_call

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self._read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline() or b"0", 16):
            yield self._read(size)
            self.rfile.readline()
        if not self.rfile.readline():
            raise ConnectionAbortedError

    def _read(self, size: int) -> bytes:
        content = self.rfile.read(size)
        if len(content) < size:
            raise ConnectionAbortedError
        return content

    def handle(self) -> None:
        """Serve the connection until either side is through with it."""
        with suppress(ConnectionError):  # a client may leave in the middle of anything
            super().handle()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


class _Origin(ThreadingHTTPServer):
    """A port of the stand-in. Closing it hangs up on everyone and waits for its threads."""

    daemon_threads = False
    request_queue_size = 32

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._connections: set[socket] = set()
        self._loop = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    def open(self) -> None:
        """Start to answer."""
        self._loop.start()

    def close(self) -> None:
        """Stop answering."""
        self.shutdown()
        self._loop.join()
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(SHUT_RDWR)
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep an error of the stand-in itself, to be raised when it closes."""
        if isinstance(error := sys.exception(), Exception):
            self.hub.errors.append(error)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        self._connections.discard(request)
        super().shutdown_request(request)


# ---- routes

Reply = Callable[..., Answer]
_ROUTES: list[tuple[str, re.Pattern[str], Reply]] = []
_PLACES = {"repo": "[^/]+/[^/]+", "path": ".+"}


_MODEL = re.compile(r"^/([^/]+/[^/]+(?:\.git/info|/resolve)/)")
"""How paths of a model's files begin; a model is kept as a dataset of its name is, and answers as one."""


def _route(method: str, template: str) -> Callable[[Reply], Reply]:
    """Have a function answer a method on paths like `template`."""
    pattern = re.sub(r"{(\w+)}", lambda place: f"(?P<{place[1]}>{_PLACES.get(place[1], '[^/]+')})", template)

    def register(reply: Reply) -> Reply:
        _ROUTES.append((method, re.compile(pattern.replace(".git/", r"\.git/")), reply))
        return reply

    return register


def _reply(hub: HubServer, call: Call) -> Answer:
    """What a route says to a call, or that it refuses it."""
    try:
        return _dispatch(hub, call)
    except Refused as refusal:
        return refusal.answer


def _dispatch(hub: HubServer, call: Call) -> Answer:
    if call.token not in {None, hub.token}:
        raise Refused(401, "Invalid credentials in Authorization header")
    method = "GET" if call.method == "HEAD" else call.method
    path = _MODEL.sub(r"/datasets/\1", call.path.replace("/api/models/", "/api/datasets/"))
    for verb, pattern, reply in _ROUTES:
        if verb == method and (match := pattern.fullmatch(path)):
            return reply(hub, call, **{name: unquote(text) for name, text in match.groupdict().items()})
    raise Refused(501, f"the stand-in does not serve {call.method} {call.path}")


def _readable(hub: HubServer, call: Call, repo: str) -> Repository:
    """A repository that the caller may read; one that they may not see is said not to be there."""
    repository = hub.repositories.get(repo)
    if repository is None or (repository.private and call.token is None):
        raise _no_repository(call)
    return repository


def _writable(hub: HubServer, call: Call, repo: str) -> Repository:
    """A repository that the caller may write to."""
    repository = _readable(hub, call, repo)
    if call.token is None:
        raise _no_repository(call)
    return repository


def _no_repository(call: Call) -> Refused:
    # Clients take every 401 about a repository for this code, but below https:// only: here it is spelled out.
    return Refused(401 if call.token is None else 404, "Repository not found", code="RepoNotFound")


def _log_in(call: Call) -> None:
    if call.token is None:
        raise Refused(401, "Invalid username or password.")


@_route("GET", "/api/whoami-v2")
def _whoami(hub: HubServer, call: Call) -> Answer:
    _log_in(call)
    token = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write", "createdAt": DATE}}
    return Answer.json(
        {
            "type": "user",
            "id": "0" * 24,
            "name": hub.user,
            "fullname": hub.user,
            "email": f"{hub.user}@example.invalid",
            "isPro": False,
            "orgs": [],
            "auth": token,
        }
    )


@_route("POST", "/api/validate-yaml")
def _validate_yaml(hub: HubServer, call: Call) -> Answer:
    bare = not json.loads(call.body)["content"].startswith("---\n")
    warnings = [{"message": "empty or missing yaml metadata in repo card"}] if bare else []
    return Answer.json({"errors": [], "warnings": warnings})


@_route("POST", "/api/repos/create")
def _create(hub: HubServer, call: Call) -> Answer:
    _log_in(call)
    wanted = json.loads(call.body)
    kind = wanted.get("type", "model")
    if kind not in {"dataset", "model"}:
        raise Refused(501, "the stand-in has repositories of datasets and models only")
    repo = f"{wanted.get('organization') or hub.user}/{wanted['name']}"
    url = {"url": f"{hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"}
    if repo in hub.repositories:
        return Answer.json({"error": f"You already created this {kind} repo", **url}, 409)
    hub.create(repo, private=wanted.get("visibility") == "private")
    return Answer.json({**url, "name": repo})


@_route("GET", "/api/datasets/{repo}")
@_route("GET", "/api/datasets/{repo}/revision/{revision}")
def _info(hub: HubServer, call: Call, repo: str, revision: str = "main") -> Answer:
    repository = _readable(hub, call, repo)
    commit = repository.at(revision)
    siblings = [_sibling(path, file, blobs=call.asks("blobs")) for path, file in commit.files.items()]
    return Answer.json(
        {
            "_id": "0" * 24,
            "id": repo,
            "author": repo.partition("/")[0],
            "sha": commit.sha,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "createdAt": DATE,
            "lastModified": DATE,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": siblings,
        }
    )


def _sibling(path: str, file: File, *, blobs: bool) -> dict[str, Any]:
    lfs = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)} if file.large else None
    return {"rfilename": path} | ({"size": file.size, "blobId": file.oid, "lfs": lfs} if blobs else {})


@_route("GET", "/api/datasets/{repo}/refs")
def _refs(hub: HubServer, call: Call, repo: str) -> Answer:
    head = _readable(hub, call, repo).head
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": head.sha}
    return Answer.json({"branches": [main], "converts": [], "tags": [], "pullRequests": []})


@_route("GET", "/api/datasets/{repo}/commits/{revision}")
def _commits(hub: HubServer, call: Call, repo: str, revision: str) -> Answer:
    repository = _readable(hub, call, repo)
    until = repository.commits.index(repository.at(revision))
    history = [
        {"id": commit.sha, "title": commit.title, "message": "", "date": DATE, "authors": [{"user": hub.user}]}
        for commit in reversed(repository.commits[: until + 1])
    ]
    return Answer.json(history)


@_route("GET", "/api/datasets/{repo}/tree/{revision}")
@_route("GET", "/api/datasets/{repo}/tree/{revision}/{path}")
def _tree(hub: HubServer, call: Call, repo: str, revision: str, path: str = "") -> Answer:
    entries = _entries(_readable(hub, call, repo).at(revision), expand=call.asks("expand"))
    if path and entries.get(path, {}).get("type") != "directory":
        raise Refused(404, f"{path} does not exist on {revision}", code="EntryNotFound")
    below = f"{path}/" if path else ""
    deep = call.asks("recursive")
    return Answer.json(
        [
            entry
            for name, entry in entries.items()
            if name.startswith(below) and (deep or "/" not in name.removeprefix(below))
        ]
    )


@_route("POST", "/api/datasets/{repo}/paths-info/{revision}")
def _paths_info(hub: HubServer, call: Call, repo: str, revision: str) -> Answer:
    form = parse_qs(call.body.decode())
    entries = _entries(_readable(hub, call, repo).at(revision), expand=form["expand"] == ["true"])
    return Answer.json([entries[path] for path in form["paths"] if path in entries])


def _entries(commit: Commit, *, expand: bool) -> dict[str, dict[str, Any]]:
    """What a listing says about every file and folder, by path."""
    more = {"lastCommit": {"id": commit.sha, "title": commit.title, "date": DATE}} if expand else {}
    entries: dict[str, dict[str, Any]] = {}
    for path, file in sorted(commit.files.items()):
        steps = path.split("/")
        for folder in filter(None, ("/".join(steps[:depth]) for depth in range(1, len(steps)))):
            entries[folder] = {"type": "directory", "path": folder, "oid": _sha1(folder.encode()), "size": 0} | more
        entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": file.size} | more
        if file.large:
            entries[path]["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return entries


@_route("POST", "/api/datasets/{repo}/preupload/{revision}")
def _preupload(hub: HubServer, call: Call, repo: str, revision: str) -> Answer:
    files = _writable(hub, call, repo).at(revision).files
    wanted = json.loads(call.body)
    ignored = [line for line in wanted.get("gitIgnore", "").splitlines() if line and not line.startswith("#")]

    def plan(path: str, size: int) -> dict[str, Any]:
        there = files.get(path)
        return {
            "path": path,
            "uploadMode": "lfs" if is_large(path, size) else "regular",
            "shouldIgnore": any(fnmatch(path, glob) or fnmatch(Path(path).name, glob) for glob in ignored),
            "oid": there and (there.sha256 if there.large else there.oid),
        }

    return Answer.json({"files": [plan(file["path"], file["size"]) for file in wanted["files"]]})


@_route("POST", "/datasets/{repo}.git/info/lfs/objects/batch")
def _batch(hub: HubServer, call: Call, repo: str) -> Answer:
    _writable(hub, call, repo)
    objects = json.loads(call.body)["objects"]
    return Answer.json({"transfer": "multipart", "objects": [_transfer(hub, repo, **wanted) for wanted in objects]})


def _transfer(hub: HubServer, repo: str, oid: str, size: int) -> dict[str, Any]:
    """How to upload an object: in parts, at once, or not at all when it is already here."""
    told: dict[str, Any] = {"oid": oid, "size": size}
    if oid in hub.objects:
        return told
    url = f"{hub.storage}/lfs/{oid}"
    upload: dict[str, Any] = {"href": url}
    if size > hub.multipart_above:
        parts = range(1, -(-size // hub.part_bytes) + 1)
        header = {"chunk_size": str(hub.part_bytes)} | {str(part): f"{url}/{part}" for part in parts}
        upload = {"href": f"{url}/complete", "header": header}
    verify = {"href": f"{hub.endpoint}/datasets/{repo}.git/info/lfs/verify"}
    return told | {"actions": {"upload": upload, "verify": verify}}


@_route("PUT", "/lfs/{oid}")
def _put_object(hub: HubServer, call: Call, oid: str) -> Answer:
    _store(hub, oid, call.body)
    return Answer()


@_route("PUT", "/lfs/{oid}/{part}")
def _put_part(hub: HubServer, call: Call, oid: str, part: str) -> Answer:
    hub.parts.setdefault(oid, {})[int(part)] = call.body
    return Answer(headers={"ETag": f'"{_sha1(call.body)}"'})


@_route("POST", "/lfs/{oid}/complete")
def _complete(hub: HubServer, call: Call, oid: str) -> Answer:
    arrived = hub.parts.pop(oid, {})
    told = {part["partNumber"]: part["etag"].strip('"') for part in json.loads(call.body)["parts"]}
    if told != {part: _sha1(content) for part, content in arrived.items()}:
        raise Refused(400, "these parts have not arrived")
    _store(hub, oid, b"".join(content for _, content in sorted(arrived.items())))
    return Answer.json({"success": True})


def _store(hub: HubServer, oid: str, content: bytes) -> None:
    if hashlib.sha256(content).hexdigest() != oid:
        raise Refused(400, "the content is not what its hash says")
    hub.objects[oid] = content


@_route("POST", "/datasets/{repo}.git/info/lfs/verify")
def _verify(hub: HubServer, call: Call, repo: str) -> Answer:
    _writable(hub, call, repo)
    wanted = json.loads(call.body)
    if len(hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
        raise Refused(404, "the object has not arrived")
    return Answer.json({})


@_route("GET", "/lfs/{oid}")
def _get_object(hub: HubServer, call: Call, oid: str) -> Answer:
    if oid not in hub.objects:
        raise Refused(403, "Access Denied")
    return _ranged(call, hub.objects[oid], {"ETag": f'"{oid}"'})


@_route("POST", "/api/datasets/{repo}/commit/{revision}")
def _commit(hub: HubServer, call: Call, repo: str, revision: str) -> Answer:
    repository = _writable(hub, call, repo)
    if repository.at(revision) is not repository.head:
        raise Refused(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
    header, *changes = map(json.loads, call.body.splitlines())
    if not repository.head.sha.startswith(header["value"].get("parentCommit", "")):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    files = dict(repository.head.files)
    for change in changes:
        _apply(hub, files, change["key"], change["value"])
    commit = repository.commit(header["value"]["summary"], files)
    url = f"{hub.endpoint}/datasets/{repo}/commit/{commit.sha}"
    return Answer.json({"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""})


def _apply(hub: HubServer, files: dict[str, File], key: str, value: Mapping[str, Any]) -> None:
    """Carry out one line of a commit."""
    path = value["path"]
    if key == "file":
        files[path] = File(base64.b64decode(value["content"]), large=False)
    elif key == "lfsFile":
        if value["oid"] not in hub.objects:
            raise Refused(400, f"{path} points to an object that was never uploaded")
        files[path] = File(hub.objects[value["oid"]], large=True)
    elif key in {"deletedFile", "deletedFolder"}:
        folder = path.rstrip("/") + "/"
        gone = [name for name in files if (name == path if key == "deletedFile" else name.startswith(folder))]
        if not gone:
            raise Refused(404, "A file with this name doesn't exist", code="EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise Refused(501, f"the stand-in has no commit operation {key}")


@_route("GET", "/datasets/{repo}/resolve/{revision}/{path}")
def _resolve(hub: HubServer, call: Call, repo: str, revision: str, path: str) -> Answer:
    commit = _readable(hub, call, repo).at(revision)
    about = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    file = commit.files.get(path)
    if file is None:
        raise Refused(404, "Entry not found", code="EntryNotFound", headers=about)
    if not file.large:
        return _ranged(call, file.content, {**about, "ETag": f'"{file.oid}"'}, head_length=file.size)
    linked = {"X-Linked-Size": str(file.size), "X-Linked-ETag": f'"{file.sha256}"', "ETag": f'"{file.sha256}"'}
    return Answer(302, headers={**about, **linked, "Location": f"{hub.storage}/lfs/{file.sha256}"})


def _ranged(call: Call, content: bytes, headers: Mapping[str, str], head_length: int | None = None) -> Answer:
    """The content, or the one range of it that was asked for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if asked is None or asked[0] == "bytes=-":
        return Answer(200, content, headers, head_length)
    size = len(content)
    start = int(asked[1]) if asked[1] else max(size - int(asked[2]), 0)
    stop = min(int(asked[2]) + 1, size) if asked[1] and asked[2] else size
    if start >= stop:
        return Answer(416, headers={**headers, "Content-Range": f"bytes */{size}"})
    return Answer(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})
