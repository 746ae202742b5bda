"""docs/tutorial.ipynb: it runs, through the public API alone, and its pictures are in it."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

import rotdata
import rottrain
from tests.helpers import REPOSITORY

TUTORIAL = REPOSITORY / "docs" / "tutorial.ipynb"
LARGEST = 500_000  # bytes
SIZES = "rows, steps, questions = "


@pytest.fixture(scope="module")
def stored() -> Any:
    return nbformat.read(TUTORIAL, as_version=4)


def cells(notebook: Any) -> Iterator[Any]:
    return (cell for cell in notebook.cells if cell.cell_type == "code")


def pictures(notebook: Any) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells(notebook) for output in cell.outputs)


def test_what_is_stored_was_run_from_top_to_bottom(stored: Any) -> None:
    nbformat.validate(stored)
    assert [cell.execution_count for cell in cells(stored)] == [*range(1, 1 + len(list(cells(stored))))]
    assert pictures(stored) == 4
    assert TUTORIAL.stat().st_size < LARGEST
    assert not [output for cell in cells(stored) for output in cell.outputs if output.output_type == "error"]


def test_it_says_nothing_of_the_machine_that_it_ran_on(stored: Any) -> None:
    said = [str(output) for cell in cells(stored) for output in cell.outputs]
    assert said
    assert not [each for each in said if "site-packages" in each or str(Path.home()) in each or "/tmp" in each]


def test_it_uses_public_names_alone(stored: Any) -> None:
    tree = ast.parse("\n".join(cell.source for cell in cells(stored)))
    imports = {
        name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    assert imports == {"matplotlib", "numpy", "rotdata", "rottrain"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    for package in (rotdata, rottrain):
        used = {
            node.attr
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == package.__name__
        }
        assert used
        assert used <= set(package.__all__)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore:Proactor event loop")
def test_it_runs(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With less of everything: what it says of the sizes that are in it is stored."""
    from tools.notebook import run

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    small = nbformat.from_dict(stored)
    sizes = next(cell for cell in cells(small) if cell.source.startswith(SIZES))
    sizes.source = f"{SIZES}300, 60, 4"
    made = run(small)
    assert pictures(made) == 4
    said = "".join(output.text for cell in cells(made) for output in cell.outputs if output.output_type == "stream")
    assert "300 problems" in said
    assert "step 60 of 60" in said
    assert said.count("% right (") == 2
    assert "####" in said
