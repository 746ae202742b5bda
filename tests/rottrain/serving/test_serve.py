"""`rottrain serve` as a process of its own, asked by OpenAI's client."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from rottrain.generation.generate import RoT
from rottrain.metrics import scoring

QUESTIONS = [f"Ann has {count} figs and finds {count % 7}. How many?" for count in range(64)]


@contextmanager
def serving(checkpoint: Path, *options: Any, key: str = "") -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server on a free port of this machine, and the port; stopped at the end if it still runs."""
    command = [sys.executable, "-m", "rottrain", "serve", str(checkpoint), "--port", "0", *map(str, options)]
    server = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"ROTTRAIN_API_KEY": key, "OMP_NUM_THREADS": "1"},
    )
    assert server.stderr is not None
    try:
        told = server.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", told)
        assert found, told + server.stderr.read()
        yield server, int(found[1])
    finally:
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def port(stage2_checkpoint: Path) -> Iterator[int]:
    with serving(stage2_checkpoint, "--name", "figs", "--batch-size", 8, "--most-bytes", 4000) as (_, port):
        yield port


@pytest.fixture(scope="module")
def client(port: int) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, question: str, **options: Any) -> Any:
    return client.chat.completions.create(
        model="figs", messages=[{"role": "user", "content": question}], max_tokens=4, **options
    )


def raw(port: int, body: bytes, **headers: str) -> tuple[int, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"} | headers)
        answered = connection.getresponse()
        return answered.status, json.loads(answered.read())


def test_sixty_four_at_once_are_answered_as_one_by_one(client: openai.OpenAI, stage2_checkpoint: Path) -> None:
    with ThreadPoolExecutor(64) as pool:
        made = list(pool.map(lambda question: ask(client, question, extra_body={"budget": 3}), QUESTIONS))
    alone = RoT.from_pretrained(stage2_checkpoint).generate(QUESTIONS, budget=3, max_answer_tokens=4)
    for one, other in zip(made, alone, strict=True):
        assert one.choices[0].message.content == (scoring.extract(other.reply) or other.reply)
        assert one.usage.completion_tokens_details.reasoning_tokens == 3
        assert one.usage.total_tokens == one.usage.prompt_tokens + 3 + other.answer_tokens


def test_a_stream_is_the_same_reply_in_pieces(client: openai.OpenAI) -> None:
    whole = ask(client, QUESTIONS[0])
    chunks = list(ask(client, QUESTIONS[0], stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        whole.choices[0].message.content
    )
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage


def test_the_model_is_listed_and_others_are_not_found(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["figs"]
    with pytest.raises(openai.NotFoundError, match="only 'figs'"):
        client.chat.completions.create(model="other", messages=[{"role": "user", "content": "7?"}])


def test_content_may_come_in_parts(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": QUESTIONS[1][:9]}, {"type": "text", "text": QUESTIONS[1][9:]}]
    assert ask(client, parts).choices == ask(client, QUESTIONS[1]).choices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra_body": {"budget": -1}}, "budget is from 0"),
        ({"extra_body": {"budget": 10**9}}, "budget is from 0"),
        ({"extra_body": {"budgett": 3}}, "budgett is not to be had here"),
        ({"extra_body": {"halt": 1.5}}, "halt: "),
        ({"extra_body": {"feedback": "picture"}}, "picture feedback needs latents that are pictures"),
        ({"stop": ["\n"]}, "stop is not to be had here"),
        ({"n": 2}, "n: "),
        ({"temperature": 1e9}, "temperature: "),
        ({"logprobs": True}, "logprobs is not to be had here"),
    ],
)
def test_what_can_not_be_had_is_refused_by_name(client: openai.OpenAI, options: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, QUESTIONS[0], **options)
    assert message in refused.value.message


def test_a_conversation_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="one message of role user"):
        client.chat.completions.create(
            model="figs", messages=[{"role": "system", "content": "Be kind."}, {"role": "user", "content": "7?"}]
        )


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b'{"messages": []}', b'{"messages": [{"role": "user"}]}'])
def test_a_body_that_is_no_request_is_refused(port: int, body: bytes) -> None:
    status, refused = raw(port, body)
    assert status == 400
    assert refused["error"]["type"] == "invalid_request_error"


def test_a_question_that_is_no_text_is_refused(port: int) -> None:
    status, refused = raw(port, rb'{"messages": [{"role": "user", "content": "a\ud800"}]}')
    assert status == 400
    assert "surrogate" in refused["error"]["message"]


def test_a_request_that_is_too_large_is_refused_with_413(port: int) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "7" * 5000}]}).encode()
    assert raw(port, body)[0] == 413


def health(port: int) -> Any:
    with closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read())


def test_a_server_with_a_key_and_a_short_queue(stage2_checkpoint: Path) -> None:
    options = ("--most-waiting", 1, "--batch-size", 1)
    with serving(stage2_checkpoint, *options, key="secret") as (server, port), ThreadPoolExecutor(12) as pool:
        body = json.dumps({"messages": [{"role": "user", "content": "7?"}], "budget": 50, "max_tokens": 4}).encode()
        assert raw(port, body)[0] == 401
        assert raw(port, body, Authorization="Bearer wrong")[0] == 401
        assert health(port) == {"status": "ok"}  # needs no key

        asked = [pool.submit(raw, port, body, Authorization="Bearer secret") for _ in range(12)]
        assert {each.result()[0] for each in asked} == {200, 429}

        last = pool.submit(raw, port, body, Authorization="Bearer secret")
        while not last.running():
            time.sleep(0.01)
        time.sleep(0.2)
        assert health(port) == {"status": "ok"}  # the request before it has been taken by now
        server.send_signal(signal.SIGTERM)
        assert last.result()[0] == 200  # a server that is stopped answers what it has
        _, said = server.communicate(timeout=60)
        assert (server.returncode, said) == (0, "")


def test_beyond_this_machine_a_key_is_needed(stage2_checkpoint: Path) -> None:
    command = [sys.executable, "-m", "rottrain", "serve", str(stage2_checkpoint), "--host", "0.0.0.0"]
    told = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"ROTTRAIN_API_KEY": ""}
    )
    assert (told.returncode, told.stdout) == (2, "")
    assert "a key is needed: put one into ROTTRAIN_API_KEY" in told.stderr
