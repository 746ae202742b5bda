"""The HTTP application: /v1/chat/completions with streaming, /v1/models, /health. Answers are RoT.generate's."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from rotdata.errors import RotError
from rotdata.version import __version__
from rottrain.analysis.read_back import spell
from rottrain.analysis.read_back_methods import scaled
from rottrain.generation.generate import Generation, RoT
from rottrain.metrics import scoring
from rottrain.serving.batching import Batcher, QueueFull
from rottrain.serving.requests import ChatRequest, Settings


def new_app(
    rot: RoT, *, name: str, api_key: str | None, batch_size: int, most_waiting: int, most_bytes: int
) -> FastAPI:
    """The application that answers with `rot` under the model name `name`.

    With `api_key` every request but /health has to bear it. More than `most_waiting` questions, or a body of more than
    `most_bytes`, are refused with 429 and 413.
    """

    def answer(questions: Sequence[str], settings: Settings) -> list[Generation]:
        return rot.generate(questions, **vars(settings), batch_size=batch_size)

    batcher: Batcher[Settings, Generation] = Batcher(answer, batch_size=batch_size, most_waiting=most_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        answering = asyncio.create_task(batcher.run())
        yield
        answering.cancel()
        with suppress(asyncio.CancelledError):
            await answering

    app = FastAPI(title="Render-of-Thought", version=__version__, lifespan=lifespan)
    app.add_middleware(_Guarded, api_key=api_key, most_bytes=most_bytes)
    _tell_errors(app)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": name, "object": "model", "created": started, "owned_by": "render-of-thought"}
        return {"object": "list", "data": [entry]}

    @app.post("/v1/chat/completions")
    async def complete(asked: ChatRequest) -> Response:
        question, settings = asked.question(), asked.settings()
        if asked.model not in (None, name):
            return _refusal(404, f"there is no model {asked.model!r} here, only {name!r}", "model_not_found")
        prompt_tokens = len(rot.prompt_ids(question))
        made = await batcher.ask(question, settings)
        reply = _Reply(rot, made, name=name, prompt_tokens=prompt_tokens)
        if not asked.stream:
            return JSONResponse(reply.whole())
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        return StreamingResponse(reply.streamed(with_usage=with_usage), media_type="text/event-stream")

    started = int(time.time())
    return app


def _tell_errors(app: FastAPI) -> None:
    """Write errors as OpenAI's interface does."""

    @app.exception_handler(QueueFull)
    async def full(_: Request, __: Exception) -> Response:
        return _refusal(429, "as many questions wait as may: ask again later", "queue_full", retry_after_s=1)

    @app.exception_handler(RotError)
    async def unusable(_: Request, error: Exception) -> Response:
        return _refusal(400, str(error), "invalid_request")

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _refusal(error.status_code, error.detail, "not_found" if error.status_code == 404 else "invalid_request")

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = error.errors()[0]
        where = ".".join(str(step) for step in found["loc"] if step != "body")
        return _refusal(400, f"{where}: {found['msg']}" if where else found["msg"], "invalid_request")


class _Reply:
    """A generation as OpenAI's interface writes it."""

    def __init__(self, rot: RoT, made: Generation, *, name: str, prompt_tokens: int) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": name}
        self._content = scoring.extract(made.reply) or made.reply
        self._thought = _read_back(rot, made)
        self._finish = "stop" if made.complete else "length"
        said = made.reasoning_tokens + made.answer_tokens
        self._usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": said,
            "total_tokens": prompt_tokens + said,
            "completion_tokens_details": {"reasoning_tokens": made.reasoning_tokens},
        }

    def whole(self) -> dict[str, Any]:
        """The reply as one object."""
        message = {"role": "assistant", "content": self._content, "reasoning_content": self._thought}
        choice = {"index": 0, "message": message, "finish_reason": self._finish, "logprobs": None}
        return self._head | {"object": "chat.completion", "choices": [choice], "usage": self._usage}

    def streamed(self, *, with_usage: bool) -> Iterator[str]:
        """The reply as server-sent events: first the thought, then the answer."""
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        if self._thought:
            deltas.append({"reasoning_content": self._thought})
        deltas.append({"content": self._content})
        for delta in deltas:
            yield self._event([{"index": 0, "delta": delta, "finish_reason": None}])
        yield self._event([{"index": 0, "delta": {}, "finish_reason": self._finish}])
        if with_usage:
            yield self._event([], usage=self._usage)
        yield "data: [DONE]\n\n"

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        chunk = self._head | {"object": "chat.completion.chunk", "choices": choices} | more
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"


def _read_back(rot: RoT, made: Generation) -> str | None:
    """What was thought, as picture feedback or the glyph probe read it; None where neither can."""
    if made.thought is not None:
        return made.thought.text
    if rot.glyphs is None or made.latents_KD is None or not len(made.latents_KD):
        return None
    return spell(rot.glyphs, scaled(rot, made.latents_KD)).text


class _Guarded:
    """Lets requests pass that bear the key and whose bodies are small enough; reads a body before it is parsed."""

    def __init__(self, app: Any, *, api_key: str | None, most_bytes: int) -> None:
        self._app, self._api_key, self._most_bytes = app, api_key, most_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Refuse, or hand on with the body as it was read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        if self._api_key is not None and scope["path"] != "/health" and not self._bears_key(request):
            await _refusal(401, "give the key as Authorization: Bearer KEY", "invalid_api_key")(scope, receive, send)
            return
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > self._most_bytes:
                refusal = _refusal(413, f"a request has at most {self._most_bytes} bytes", "request_too_large")
                await refusal(scope, receive, send)
                return
        read = False

        async def again() -> Any:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, again, send)

    def _bears_key(self, request: Request) -> bool:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        expected = (self._api_key or "").encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(key.strip().encode(), expected)


def _refusal(status: int, message: str, code: str, retry_after_s: int | None = None) -> JSONResponse:
    """An error as OpenAI's interface writes it."""
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code}
    return JSONResponse({"error": error}, status_code=status, headers=headers)
