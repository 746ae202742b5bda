"""rottrain serve: a checkpoint behind an OpenAI-compatible interface."""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import suppress
from typing import Annotated

import typer

from rotdata.console import say
from rotdata.errors import UsageError
from rotdata.extras import needing
from rottrain.cli.options import BaseModel, Checkpoint

KEY = "ROTTRAIN_API_KEY"


def serve(
    checkpoint: Checkpoint,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine a key is needed.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="What clients call the model.", show_default="the checkpoint's folder")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together, at most.")] = 32,
    most_waiting: Annotated[int, typer.Option(min=1, help="Questions that may wait; further ones get 429.")] = 256,
    most_bytes: Annotated[int, typer.Option(min=1, help="Bytes of a request; larger ones get 413.")] = 1 << 20,
    model: BaseModel = None,
) -> None:
    """Answer clients of OpenAI's chat completions; ROTTRAIN_API_KEY holds the key that they have to bear."""
    key = os.environ.get(KEY) or None
    if key is None and not _is_loopback(host):
        raise UsageError(f"beyond this machine a key is needed: put one into {KEY}, or listen on 127.0.0.1")
    with needing("serve", "serving"):
        import uvicorn

        from rottrain.serving.app import new_app
    from rottrain.generation.generate import RoT

    rot = RoT.from_pretrained(checkpoint, model=model)
    if rot.config.feedback == "picture":
        rot.load_tower()  # the first request that reads what no one has read before does not wait for it
    known_as = name or checkpoint.resolve().name
    app = new_app(
        rot, name=known_as, api_key=key, batch_size=batch_size, most_waiting=most_waiting, most_bytes=most_bytes
    )
    with _listening(host, port) as listening, suppress(KeyboardInterrupt):
        where, bound = listening.getsockname()[:2]
        shown = f"[{where}]" if ":" in where else where
        say(f"{known_as} answers at http://{shown}:{bound}/v1; Ctrl-C stops it after the questions that it has")
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UsageError."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"{host} port {port} can't be listened on: {error}; choose another --host or --port"
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
