"""The Hub's client: asked patiently, its errors told in one line that holds no token."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

from rotdata.errors import RotError, UsageError

T = TypeVar("T")

_WAITS_S = (1.0, 3.0)

_REMEDIES = {
    401: "check the name; if it is private or to be written, log in with `hf auth login` or set HF_TOKEN",
    403: "log in with `hf auth login`, or set HF_TOKEN to a token with write access",
    404: "check the name, and that your token may see it (`hf auth login`)",
    409: "someone else changed it: run the same command again",
    412: "someone else committed meanwhile: the same command goes on from there",
    413: "it is more than the Hub takes: make smaller shards with --rows-per-shard, or see your quota",
    416: "the file ends before the size that the Hub told: don't trust it",
    429: "too many requests: the same command resumes in some minutes",
    507: "the Hub has no room left for you: see your quota; the same command resumes",
}


class HubError(RotError):
    """The Hub can't be reached, refuses, or does not hold what was asked for."""


def check_repo(repo: str, *, kind: Literal["dataset", "model"] = "dataset") -> None:
    """Raise UsageError for a name that the Hub would refuse."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # exported at run time only

    try:
        validate_repo_id(repo)
        right = repo.count("/") == 1
    except HFValidationError:
        right = False
    if not right:
        raise UsageError(f"a {kind}'s name is OWNER/NAME in letters, digits, '-', '_' and '.', got {repo!r}")


def endpoint() -> str:
    """The address of the Hub."""
    from huggingface_hub import HfApi

    return HfApi().endpoint


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the client's errors into a HubError of one line, free of tokens and of signed addresses."""
    try:
        yield
    except _client_errors() as error:
        raise HubError(f"{what}: {_reason(error)}") from None


def patiently(ask: Callable[[], T]) -> T:
    """Ask for something again after errors that pass; of the client's calls only some do so themselves."""
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    for wait_s in _WAITS_S:
        try:
            return ask()
        except (HfHubHTTPError, httpx.TransportError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in {429, 500, 502, 503, 504}:
                raise
        time.sleep(wait_s)
    return ask()


def tidy(text: str) -> str:
    """Words of others for a line of ours: short, printable, without what may be a token or a signed address."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            text = text.replace(token, "[token]")
    text = re.sub(r"\b(hf|api_org)_\w+|\beyJ[\w.-]+", "[token]", text)
    text = re.sub(r"(https?://[^\s?'\"]+)\?[^\s'\"]+", r"\1", text)
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= 240 else f"{text[:240]}..."


def _client_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub.errors import DeviceCodeError, OIDCError, RevisionResolutionError
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]  # exported at run time only

    return (
        OSError, ValueError, RuntimeError, httpx.HTTPError, httpx.InvalidURL, DeviceCodeError, OIDCError,
        RevisionResolutionError,
    )  # fmt: skip


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set: unset it"
        if isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            remedy = _REMEDIES.get(status, "the same command resumes" if status >= 500 else "check what was asked for")
            return f"the Hub answers {status} ({tidy(cause.server_message or type(cause).__name__)}): {remedy}"
    for cause in causes:
        if isinstance(cause, (httpx.HTTPError, ConnectionError, TimeoutError)):
            return f"the Hub can't be reached ({type(cause).__name__}): the same command resumes once it can"
    return tidy(str(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
