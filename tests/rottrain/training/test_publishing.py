"""Runs that keep their states on a stand-in Hub while they last, and at the end what they made."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import REPOSITORY, contents
from tests.hub_server import HubServer, environment

pytestmark = pytest.mark.slow
COMMIT = "/api/models/tester/run/commit"


@pytest.fixture
def launch(embedded: Path, tiny_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """A run of stage 1 in a process of its own that pushes to a server."""

    def start(server: HubServer, out: Path, *options: object) -> subprocess.Popen[str]:
        recipe = ("--recipe", "paper", "--rollout", "teacher", "--batch-size", 4, "--save-steps", 1, "--max-steps", 3)
        command = ("stage1", "--shards", embedded, "--model", tiny_folder, "--out", out, *recipe, "--json", *options)
        return subprocess.Popen(
            [sys.executable, "-m", "rottrain", *map(str, command)],
            env=environment(server, tmp_path / "home", server.token) | {"OMP_NUM_THREADS": "1"},
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_states_are_pushed_as_they_are_saved_and_a_failure_does_not_end_the_training(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    with HubServer() as server:
        server.fail("POST", COMMIT, after=1, status=403)
        process = launch(server, tmp_path / "out", "--push-to-hub", "tester/run", "--hub-private")
        while process.poll() is None:
            if any(line.status == 403 for line in server.requests("POST", COMMIT)):
                server.heal()
            time.sleep(0.02)
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert json.loads(out)["url"] == f"{server.endpoint}/tester/run"
        assert (
            "warning: the state of step 2 is not on the Hub (pushing to tester/run failed: the Hub answers 403" in err
        )
        assert "1 states did not reach the Hub when they were saved; the finished checkpoint has" in err
        repository = server.repositories["tester/run"]
        assert repository.private
        assert [commit.title for commit in repository.commits[1:]] == [
            "State of step 1",
            "State of step 3",
            "Checkpoint of out",
        ]
        first, later = (
            {path.partition("/")[0] for path in commit.files} - {".gitattributes"} for commit in repository.commits[1:3]
        )
        assert (first, later) == ({"checkpoint-1", "run.json"}, {"checkpoint-2", "checkpoint-3", "run.json"})
        kept = {name: content for name, content in server.files("tester/run").items() if name != ".gitattributes"}
        assert kept == contents(tmp_path / "out")


def test_a_run_goes_on_elsewhere_from_what_was_pushed_and_the_end_insists(
    launch: Callable[..., Any], tmp_path: Path
) -> None:
    with HubServer() as server:
        server.fail("POST", COMMIT, after=2, status=403)
        first = launch(server, tmp_path / "here", "--push-to-hub", "tester/run")
        _, err = first.communicate()
        assert first.returncode == 1
        assert f"{tmp_path / 'here'} is finished, but not on the Hub, as 1 of its states were not: pushing" in err
        for name, content in server.files("tester/run").items():
            file = tmp_path / "there" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (tmp_path / "there" / ".gitattributes").unlink()
        server.heal()
        there, again = (launch(server, tmp_path / name, "--push-to-hub", "tester/run") for name in ("there", "here"))
        for process in (there, again):
            _, err = process.communicate()
            assert process.returncode == 0, err
        assert contents(tmp_path / "there") == contents(tmp_path / "here")
        assert server.files("tester/run").keys() == {*contents(tmp_path / "here"), ".gitattributes"}
        refused = launch(server, tmp_path / "new", "--push-to-hub", "no-owner")
        _, err = refused.communicate()
        assert refused.returncode == 2
        assert "a model's name is OWNER/NAME" in err
        assert "step 1" not in err
