"""`python -m bench [NAME ...]`: one JSON line a figure; without names, all of them."""

from __future__ import annotations

import importlib
import sys

from bench.common import print_figures

MODULES = {
    "render": "render",
    "render-e2e": "render_e2e",
    "render-scaling": "render_e2e",
    "memory": "memory",
    "read": "read",
    "read-bytes": "read",
    "embed-naive": "embed_naive",
    "embed-naive-4b": "embed_naive",
    "embed-limit": "embed_limit",
    "embed-limit-tiny": "embed_limit",
    "embed-limit-4b": "embed_limit",
    "stage1-student": "stage1",
    "stage1-teacher": "stage1",
    "train-limit": "train_limit",
    "train-limit-stage2": "train_limit",
    "generate": "generate",
    "rot-vs-cot": "rot_vs_cot",
}
"""Figure -> the module that measures it."""


def main(names: list[str]) -> int:
    """Measure the named figures. Exit code 2 for a name that there is not."""
    unknown = [name for name in names if name not in MODULES]
    if unknown:
        print(f"unknown figures {', '.join(unknown)}: there are {', '.join(MODULES)}", file=sys.stderr)
        return 2
    wanted = names or list(MODULES)
    for module in dict.fromkeys(MODULES[name] for name in wanted):
        figures = importlib.import_module(f"bench.{module}").figures()
        print_figures(figure for figure in figures if figure["name"] in wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
