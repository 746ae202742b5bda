"""`python -m bench [NAME ...]`: one JSON line a figure; without names, all of them."""

from __future__ import annotations

import importlib
import sys

from bench.common import print_figures

FIGURES = {
    "render": "render:figures",
    "render-e2e": "render_e2e:figures",
    "render-scaling": "render_e2e:figures",
    "memory": "memory:figures",
    "read": "read:figures",
    "read-batches": "read:figures",
    "read-bytes": "read:figures",
    "embed-naive": "embed_naive:figures",
    "embed-naive-4b": "embed_naive:figures_4b",
    "embed-limit": "embed_limit:figures",
    "embed-limit-tiny": "embed_limit:tiny_figures",
    "embed-limit-4b": "embed_limit:figures_4b",
    "embed-book": "embed_book:figures",
    "book-bytes": "embed_book:figures",
    "stage1-student": "stage1:figures",
    "stage1-teacher": "stage1:figures",
    "train-limit": "train_limit:figures",
    "train-limit-stage2": "train_limit:figures",
    "train-vs-words": "pictures:training_figures",
    "generate": "generate:figures",
    "feedback": "pictures:figures",
    "rot-vs-cot": "rot_vs_cot:figures",
    "serve-1": "serve:figures",
    "serve-8": "serve:figures",
    "serve-32": "serve:figures",
}
"""Figure -> the function that measures it, and perhaps its neighbours: module:function."""


def main(names: list[str]) -> int:
    """Measure the named figures. Exit code 2 for a name that there is not."""
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        print(f"unknown figures {', '.join(unknown)}: there are {', '.join(FIGURES)}", file=sys.stderr)
        return 2
    wanted = names or list(FIGURES)
    for place in dict.fromkeys(FIGURES[name] for name in wanted):
        module, function = place.split(":")
        figures = getattr(importlib.import_module(f"bench.{module}"), function)()
        print_figures(figure for figure in figures if figure["name"] in wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
