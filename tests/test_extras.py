"""What works without the extras, in processes that find no library of an extra, and what asks for one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from rotdata.extras import EXTRAS, missing
from tests.helpers import REPOSITORY, Result, assert_refused, contents
from tests.hub_server import HubServer, environment

HIDDEN = {module for modules in EXTRAS.values() for module in modules}
HIDING = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden!r} else find(name, path, target)
PathFinder.find_spec = staticmethod(find_spec)
"""
BUILT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

Run = Callable[..., Result]


@pytest.fixture
def bare(tmp_path: Path) -> Run:
    """Run python ARGUMENTS in a process of its own that finds no library of any extra."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDING.format(hidden=HIDDEN))

    def run(*arguments: object, **environment: str) -> Result:
        paths = os.pathsep.join([str(hidden), str(REPOSITORY)])
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=(environment or dict(os.environ)) | {"PYTHONPATH": paths},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


def test_nothing_of_an_extra_is_found_there(bare: Run) -> None:
    asked = f"import importlib.util as u; print([n for n in {sorted(HIDDEN)} if u.find_spec(n)])"
    assert bare("-c", asked) == Result(0, "[]\n", "")


@pytest.mark.slow
def test_strips_are_drawn_measured_verified_and_published_without_any_extra(bare: Run, tmp_path: Path) -> None:
    rotdata = ("-m", "rotdata")
    strips, again = tmp_path / "strips", tmp_path / "again"
    with HubServer() as server:
        away = environment(server, tmp_path / "home", server.token)
        for command in (
            ("render", "toy", "--limit", 6, "--rows-per-shard", 4, "--num-proc", 2, "--out", strips),
            ("stats", strips),
            ("verify", strips, "--deep", 3),
            ("preview", strips, "--html", tmp_path / "page.html"),
            ("push", strips, "tester/rows"),
            ("pull", "tester/rows", "--out", again),
        ):
            done = bare(*rotdata, *command, **away)
            assert done.code == 0, done.err
            assert "Traceback" not in done.err
        assert "tester/rows" in server.repositories
    assert contents(again) == contents(strips)
    planned = bare(*rotdata, "plan", "toy", "--limit", 6)
    assert planned.code == 0, planned.err
    assert "how long embedding takes was not measured: running a tower needs an extra" in planned.err


def test_shards_are_read_without_torch_and_a_loader_asks_for_it(bare: Run, toy_embeddings: Path) -> None:
    program = f"""
import sys, rotdata
shards = rotdata.open_shards({str(toy_embeddings)!r})
print(len(shards), shards[0].latents_KD.shape[1], rotdata.verify({str(toy_embeddings)!r})[1])
for call in (shards.loader, shards.torch_dataset, lambda: rotdata.load_encoder("tiny"), lambda: rotdata.Pictures,
             lambda: rotdata.embed("strips", out="out")):
    try:
        call()
    except rotdata.RotError as error:
        print(type(error).__name__, str(error).endswith("pip install 'render-of-thought[embed]'"))
import rottrain
try:
    rottrain.RoT
except rotdata.RotError as error:
    print(error)
"""
    done = bare("-c", program)
    assert done.err == ""
    assert done.out.splitlines() == [
        "10 4 []",
        *["MissingExtra True"] * 5,
        "torch is not installed, which this needs: pip install 'render-of-thought[train]'",
    ]


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (("rotdata", "embed", "STRIPS", "--out", "out"), "embed"),
        (("rotdata", "verify", "SHARDS", "--deep", "1"), "embed"),
        (("rotdata", "stats", "STRIPS", "--plot", "plot.png"), "report"),
        (("rotdata", "render", "http://127.0.0.1:1/rows.jsonl", "--out", "out"), "http"),
        (("rottrain", "stage1", "--shards", "SHARDS", "--out", "out"), "train"),
        (("rottrain", "generate", "SHARDS", "How many?"), "train"),
        (("rottrain", "serve", "SHARDS"), "serve"),
    ],
)
def test_a_command_that_needs_an_extra_says_how_to_install_it(
    arguments: tuple[str, ...], extra: str, bare: Run, toy_strips: Path, toy_embeddings: Path
) -> None:
    folders = {"STRIPS": str(toy_strips), "SHARDS": str(toy_embeddings)}
    done = bare("-m", *(folders.get(each, each) for each in arguments))
    assert_refused(done, 1, f"pip install 'render-of-thought[{extra}]'")


def test_help_needs_no_extra(bare: Run) -> None:
    for program in ("rotdata", "rottrain"):
        assert bare("-m", program, "--help").code == 0


def test_what_no_extra_brings_is_no_missing_extra() -> None:
    assert missing(ModuleNotFoundError(name="rotdata.nonsense"), "rotdata") is None
    assert missing(ModuleNotFoundError("nameless"), "rotdata") is None
    assert "[train]" in str(missing(ModuleNotFoundError(name="torch.nn"), "rottrain"))
    assert "[embed]" in str(missing(ModuleNotFoundError(name="torch.nn"), "rotdata"))


def requirements(*extras: str) -> list[Requirement]:
    """What the package requires, or what some of its extras add; not itself."""
    optional = BUILT["optional-dependencies"]
    listed = [each for extra in extras for each in optional[extra]] if extras else BUILT["dependencies"]
    return [found for found in map(Requirement, listed) if found.name != BUILT["name"]]


def test_an_extra_brings_the_modules_that_it_is_there_for() -> None:
    distributions = metadata.packages_distributions()
    for extra, modules in EXTRAS.items():
        names = {canonical(each.name) for each in requirements(extra)}
        assert {canonical(distributions[module][0]) for module in modules} <= names, extra
    assert not {canonical(distributions[module][0]) for module in HIDDEN} & {
        canonical(each.name) for each in requirements()
    }


def test_all_brings_every_extra() -> None:
    [everything] = map(Requirement, BUILT["optional-dependencies"]["all"])
    assert everything.extras == EXTRAS.keys()


def test_what_users_install_has_an_upper_bound_and_what_is_tested_is_within() -> None:
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE))
    unbounded: list[Any] = []
    for each in requirements() + requirements(*EXTRAS):
        if not any(clause.operator == "<" for clause in each.specifier):
            unbounded.append(each.name)
        assert each.specifier.contains(pinned[canonical(each.name)]), each
    assert unbounded == ["fsspec"]  # whose versions are dates; datasets bounds it


def canonical(name: str) -> str:
    """A distribution's name as constraints.txt spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()
