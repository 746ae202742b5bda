"""The public API: its names, that they load late and are typed, and that docs/api.md does what it says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

import rotdata
import rottrain
from tests.helpers import REPOSITORY

PUBLIC = {
    rotdata: [
        "Fields",
        "Manifest",
        "Pictures",
        "RotError",
        "Row",
        "Shards",
        "Source",
        "Strip",
        "StripStyle",
        "Summary",
        "__version__",
        "embed",
        "load_encoder",
        "open_shards",
        "pull",
        "push",
        "render",
        "render_corpus",
        "renumber",
        "verify",
    ],
    rottrain: [
        "Generation",
        "Outcome",
        "Result",
        "RoT",
        "SftConfig",
        "Stage1Config",
        "Stage2Config",
        "__version__",
        "evaluate",
        "sft",
        "stage1",
        "stage2",
    ],
}
PACKAGES = pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)


def fresh(script: str, folder: Path = REPOSITORY) -> str:
    """What a script prints in a process of its own, where warnings are errors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@PACKAGES
def test_the_public_names_are_these(package: ModuleType) -> None:
    assert sorted(package.__all__) == dir(package) == PUBLIC[package]


@PACKAGES
def test_a_type_checker_sees_what_is_loaded(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text())
    [typed] = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert sorted([*imported, "__version__"]) == PUBLIC[package]
    for name, module in imported.items():
        assert getattr(package, name) is getattr(sys.modules[str(module)], name)


@PACKAGES
def test_any_other_name_is_no_attribute(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'renders'"):
        _ = package.renders


def test_importing_the_packages_loads_the_standard_library_alone() -> None:
    said = fresh(
        "import sys; before = set(sys.modules); import rotdata, rottrain; dir(rotdata), dir(rottrain)\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    assert said.split() == ["rotdata", "rottrain"]


def test_drawing_a_strip_loads_no_torch_and_no_arrow() -> None:
    said = fresh(
        "import sys, rotdata; rotdata.render('1+1=2'); print({'torch', 'pyarrow', 'datasets'} & set(sys.modules))"
    )
    assert said == "set()\n"


def test_every_public_name_stands_in_the_documentation() -> None:
    text = (REPOSITORY / "docs" / "api.md").read_text()
    assert not [name for names in PUBLIC.values() for name in names if not re.search(rf"\b{name}\b", text)]


@pytest.mark.slow
def test_the_documentation_s_script_runs(tmp_path: Path) -> None:
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (REPOSITORY / "docs" / "api.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) > 5
    fresh(f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n" + "\n".join(blocks), tmp_path)
    assert (tmp_path / "s2" / "config.json").exists()


@PACKAGES
def test_a_package_says_that_it_is_typed(package: ModuleType) -> None:
    assert (Path(str(package.__file__)).parent / "py.typed").read_bytes() == b""


def test_the_wheel_says_that_it_is_typed(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=REPOSITORY, capture_output=True, check=True)
    [wheel] = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"render_of_thought-{rotdata.__version__}-")
    assert {"rotdata/py.typed", "rottrain/py.typed"} <= set(ZipFile(wheel).namelist())
