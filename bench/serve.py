"""serve-1, serve-8, serve-32: questions a second of that many clients, against as many answered one after the other.

tiny with a random head, 32 latents and exactly 8 answer tokens a question, over HTTP on this machine.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import torch
import uvicorn

from bench.common import compare
from bench.models import tiny, untrained
from rotdata.corpora.toy import toy_problems
from rottrain.generation.generate import RoT
from rottrain.model.backbone import Backbone
from rottrain.model.head import ProjectionHead
from rottrain.serving.app import new_app

CLIENTS, QUESTIONS, LATENTS, TOKENS = (1, 8, 32), 64, 32, 8


def figures() -> Iterator[dict[str, Any]]:
    """A figure for each number of clients."""
    backbone = Backbone.load(tiny(), dtype=torch.float32, device="cpu")
    backbone.eos_id = -1  # never produced: every answer has exactly TOKENS tokens
    torch.manual_seed(0)
    head = ProjectionHead(width_in=backbone.width, width_out=backbone.width, hidden=256, activation="swiglu").eval()
    rot = untrained(backbone, head)
    questions = [problem.question for problem in islice(toy_problems("test"), QUESTIONS)]

    def one_by_one() -> list[str]:
        return [rot.generate([question], budget=LATENTS, max_answer_tokens=TOKENS)[0].reply for question in questions]

    with _served(rot) as port, ThreadPoolExecutor(max(CLIENTS)) as pool:
        for clients in CLIENTS:
            shares = [questions[first::clients] for first in range(clients)]

            def ours(shares: list[list[str]] = shares) -> list[int]:
                return list(pool.map(lambda share: _ask(port, share), shares))

            yield compare(f"serve-{clients}", ours, one_by_one, units=QUESTIONS, unit="questions/s", rounds=2)


def _ask(port: int, questions: list[str]) -> int:
    """What a client does: one question after the other on one connection; how many were answered."""
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        for question in questions:
            asked = {"messages": [{"role": "user", "content": question}], "budget": LATENTS, "max_tokens": TOKENS}
            connection.request("POST", "/v1/chat/completions", json.dumps(asked), {"Content-Type": "application/json"})
            answered = connection.getresponse()
            assert answered.status == 200, answered.read()
            answered.read()
    return len(questions)


@contextmanager
def _served(rot: RoT) -> Iterator[int]:
    """A server in a thread of this process; its port."""
    app = new_app(rot, name="tiny", api_key=None, batch_size=32, most_waiting=256, most_bytes=1 << 20)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        serving.start()
        while not server.started:
            time.sleep(0.01)
        yield int(listening.getsockname()[1])
        server.should_exit = True
        serving.join()
