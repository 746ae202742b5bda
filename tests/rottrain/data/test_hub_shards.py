"""The commands in front of a stand-in Hub: push, pull, and training that streams what a folder would give."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from tests.helpers import REPOSITORY, contents
from tests.hub_server import HubServer, environment

STEPS = ("--max-steps", "2", "--batch-size", "2", "--rollout", "teacher", "--precision", "float32")


def test_a_pushed_folder_is_trained_on_as_if_it_were_here(tiny_folder: Path, embedded: Path, tmp_path: Path) -> None:
    with HubServer() as server:

        def run(module: str, *arguments: object, code: int = 0) -> Any:
            done = subprocess.run(
                [sys.executable, "-m", module, *map(str, arguments), "--json"],
                env=environment(server, tmp_path / "home", server.token) | {"OMP_NUM_THREADS": "1"},
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == code, done.stderr
            assert server.token not in done.stdout + done.stderr
            return json.loads(done.stdout) if done.stdout else done.stderr

        assert run("rotdata", "push", embedded, "tester/rows", "--dry-run")["files_uploaded"] > 0
        assert not server.repositories
        pushed = run("rotdata", "push", embedded, "tester/rows")
        assert pushed["files_uploaded"] > 0
        assert run("rotdata", "push", embedded, "tester/rows")["files_uploaded"] == 0
        run("rotdata", "pull", "tester/rows", "--out", tmp_path / "pulled")
        assert contents(tmp_path / "pulled") == contents(embedded)
        model = ("--model", tiny_folder, *STEPS)
        run("rottrain", "stage1", "--shards", embedded, "--out", tmp_path / "local", *model)
        for number, name in enumerate(("tester/rows", f"hf://datasets/tester/rows/{pushed['config']}/train")):
            out = tmp_path / f"streamed-{number}"
            run("rottrain", "stage1", "--shards", name, "--out", out, *model, "--workers", number)
            for file in (tmp_path / "local").glob("*.safetensors"):
                mine, theirs = load_file(out / file.name), load_file(file)
                assert all((mine[key] == theirs[key]).all() for key in theirs)
        assert "tester/nothing" in run("rottrain", "stage1", "--shards", "tester/nothing", "--out", out, *model, code=1)
        assert "check the path" in run("rottrain", "stage1", "--shards", "no such", "--out", out, *model, code=2)
