"""docs/tutorial.ipynb, run from its first cell to its last, in a kernel and a folder of its own.

python -m tools.notebook    # writes what the cells gave into it
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from rotdata.console import say

TUTORIAL = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"
_LONGEST_CELL_S = 1500


def run(notebook: NotebookNode) -> NotebookNode:
    """The notebook with what its cells gave. Raises CellExecutionError."""
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=_LONGEST_CELL_S, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_warning(output)]
    return notebook


def _is_warning(output: NotebookNode) -> bool:
    """Whether libraries complain there, about the machine and with its paths."""
    return output.output_type == "stream" and output.name == "stderr" and "Warning" in output.text


def main() -> None:
    """Run the tutorial and store it with its outputs."""
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    nbformat.write(run(nbformat.read(TUTORIAL, as_version=4)), TUTORIAL)
    say(f"{TUTORIAL.name} is written")


if __name__ == "__main__":
    main()
