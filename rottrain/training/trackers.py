"""Trackers get the figures from the Trainer; from here, at every validation, a table of what some rows came to.

Each is told in its own words, through the callback of transformers that has opened it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from transformers import TrainerCallback
from transformers.integrations import get_available_reporting_integrations

from rotdata.errors import UsageError

Table = Sequence[Mapping[str, str]]
"""Rows, all of the same columns."""

TRACE = "validation_trace"
ROWS = 8
"""Of a table; what they come to is computed once more, beside the figures of all rows."""
NONE = "none"
_MARKUP = "&<>\"'|*_`[]()\\#~"


def trackers(names: str) -> list[str]:
    """Names with commas between them, as transformers has them. Raises UsageError for one that is not installed."""
    asked = [name.strip() for name in names.split(",")]
    there = get_available_reporting_integrations()
    for name in asked:
        if name not in (NONE, *there):
            raise UsageError(
                f"the tracker {name} is not installed or not known: pip install what it needs, or choose "
                f"--report-to {' or '.join([NONE, *there])}"
            )
    return [name for name in asked if name != NONE]


def takers(callbacks: Iterable[TrainerCallback]) -> list[Callable[[Table, int], None]]:
    """What tells each tracker a table of a step; none where there is no tracker that takes one."""
    known = [(each, _TELL.get(type(each).__name__)) for each in callbacks]
    return [partial(tell, each) for each, tell in known if tell is not None]


def as_markdown(table: Table) -> str:
    """A table whose cells are text, whatever stands in them."""
    columns = list(table[0])
    lines = [columns, ["---"] * len(columns), *(list(map(_cell, row.values())) for row in table)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return "".join(f"&#{ord(each)};" if each in _MARKUP else each for each in " ".join(text.split()))


def _tensorboard(callback: Any, table: Table, step: int) -> None:
    callback.tb_writer.add_text(TRACE, as_markdown(table), step)


def _wandb(callback: Any, table: Table, step: int) -> None:
    wandb = callback._wandb  # noqa: SLF001 -- the module, as transformers has found it
    shown = wandb.Table(columns=list(table[0]), data=[list(row.values()) for row in table])
    wandb.log({TRACE: shown, "train/global_step": step})


def _mlflow(callback: Any, table: Table, step: int) -> None:
    columns = {name: [row[name] for row in table] for name in table[0]}
    callback._ml_flow.log_table(data=columns, artifact_file=f"{TRACE}/{step}.json")  # noqa: SLF001 -- as above


def _trackio(callback: Any, table: Table, step: int) -> None:
    import pandas as pd  # which trackio needs

    trackio = callback._trackio  # noqa: SLF001 -- as above
    trackio.log({TRACE: trackio.Table(dataframe=pd.DataFrame(list(table))), "train/global_step": step})


_TELL: Mapping[str, Callable[[Any, Table, int], None]] = {
    "TensorBoardCallback": _tensorboard,
    "WandbCallback": _wandb,
    "MLflowCallback": _mlflow,
    "TrackioCallback": _trackio,
}
