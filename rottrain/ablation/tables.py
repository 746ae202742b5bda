"""Results of a comparison in one Parquet file, and the Markdown tables and plots that are made from that file alone.

A line of the file is what one command said of one arm and seed: `record` is "result" for that itself, "history" for a
line of a training's losses, "failure" where there is none, and else the field of the result that listed it. How each
table is to be shown lies in the file's metadata.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeGuard
from urllib.parse import quote

from rotdata.console import neutral
from rotdata.errors import UsageError
from rotdata.extras import needing
from rotdata.output import write_atomically
from rottrain.metrics.intervals import half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RESULTS, SECTION = "results.parquet", "tables.md"
RESULT, HISTORY, FAILURE = "result", "history", "failure"
KEYS = ("table", "arm", "settings", "seed", "source", "split", "record", "error")
"""Columns that every line has; the others are what the commands said."""
_METADATA = b"rottrain.tables"
_FORMAT = re.compile(r"\.\d[%efg]")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot: a line an arm, with the 95% interval over seeds where there are several."""

    x: str
    y: str
    of: str = RESULT
    """The record whose columns they are."""
    source: str | None = None
    """Only what this step of an arm said."""
    guide: Literal["none", "diagonal"] = "none"
    """What is drawn to compare with: nothing, or where x and y are the same."""

    def __post_init__(self) -> None:
        """Raise UsageError for a guide that there is not."""
        if self.guide not in ("none", "diagonal"):
            raise UsageError(f"a plot's guide is none or diagonal, got {self.guide!r}")


@dataclass(frozen=True, kw_only=True)
class Table:
    """How one table is shown."""

    title: str
    about: str = ""
    of: str = RESULT
    """The record whose figures it shows: what a step said, or the entries of a list within that."""
    by: Sequence[str] = ()
    """Columns of the results that tell lines of one arm apart."""
    columns: Mapping[str, str]
    """Column of the results -> how its numbers are written: .1%, .2f, .3g. A column is of the first step that an arm
    measures, or of the one that stands before a slash."""
    plots: Sequence[Plot] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for a way to write numbers that is none."""
        for name, written in self.columns.items():
            if not _FORMAT.fullmatch(written):
                raise UsageError(f"the column {name} is written as .1%, .2f or .3g say, got {written!r}")


@dataclass(frozen=True, kw_only=True)
class Section:
    """All that is shown: the tables by name, under one title."""

    title: str
    about: str = ""
    values: Mapping[str, Any]
    """What all arms share."""
    tables: Mapping[str, Table]

    def as_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Section:
        """A section as `as_json` wrote it."""
        content = json.loads(text)
        tables = {
            name: Table(**(table | {"plots": [Plot(**plot) for plot in table["plots"]]}))
            for name, table in content["tables"].items()
        }
        return cls(**(content | {"tables": tables}))


@dataclass(frozen=True, kw_only=True)
class _Line:
    """One line of a table, over its seeds."""

    labels: tuple[str, ...]
    rows: list[Row]

    def means(self, column: str) -> list[float]:
        """One figure a seed; of an estimate its value."""
        source, _, name = column.rpartition("/")
        by_seed: dict[int, list[float]] = {}
        for row in self.rows:
            found = [each for each in (row.get(name), row.get(f"{name}.value")) if _is_number(each)]
            if found and row["source"] == (source or self.rows[0]["source"]):
                by_seed.setdefault(row["seed"], []).append(float(found[0]))
        return [statistics.fmean(values) for values in by_seed.values()]

    def written(self, column: str, form: str) -> str:
        """Mean and interval as people read them."""
        values = self.means(column)
        if not values:
            return "-"
        mean = statistics.fmean(values)
        if len(values) > 1:
            return f"{mean:{form}} ± {half_width(values):{form}}"
        interval = self._interval(column)
        return f"{mean:{form}}" + (f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else "")

    def _interval(self, column: str) -> tuple[float, float] | None:
        """That of one seed, as the command said it: an estimate's own, or an evaluation's of its accuracy."""
        source, _, name = column.rpartition("/")
        rows = [row for row in self.rows if row["source"] == (source or self.rows[0]["source"])]
        for estimate in (name, "interval") if name == "accuracy" else (name,):
            if len(rows) == 1 and _is_number(rows[0].get(f"{estimate}.low")):
                return rows[0][f"{estimate}.low"], rows[0][f"{estimate}.high"]
        return None


def records(result: Any) -> Iterator[tuple[str, Row]]:
    """What a command said, one thing or a list of them, as records with plain values; lists within it follow it."""
    for said in result if isinstance(result, list) else [result]:
        if not isinstance(said, Mapping):
            raise ValueError(f"a result is a JSON object or a list of them, got {said!r:.80}")  # noqa: TRY004 -- of a file, not of an argument
        plain = dict(_plain(said))
        yield RESULT, plain
        for name, value in said.items():
            if isinstance(value, list):
                yield from ((name, plain | dict(_plain(each))) for each in value if isinstance(each, Mapping))


def _plain(said: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Its scalars; those of mappings within it by dotted names."""
    for name, value in said.items():
        if isinstance(value, Mapping):
            yield from _plain(value, f"{prefix}{name}.")
        elif isinstance(value, str | int | float):
            yield f"{prefix}{name}", value


def write(path: Path, rows: Sequence[Row], section: Section) -> None:
    """Write the Parquet file, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys([*KEYS, *(name for row in rows for name in row)]))
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    table = pa.table(columns).replace_schema_metadata({_METADATA: section.as_json()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def _column(values: Sequence[Any]) -> Any:
    """Values of one column as Arrow has them: text where some are text, else numbers."""
    import pyarrow as pa

    present = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in present):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    if any(isinstance(value, float) for value in present):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else int(value) for value in values], pa.int64())


def read(path: Path) -> tuple[list[Row], Section]:
    """The file's lines and how they are shown. Raises UsageError for a file that `write` did not make."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} can't be read as Parquet ({error}): give the {RESULTS} of an ablation") from error
    metadata = table.schema.metadata or {}
    if _METADATA not in metadata:
        raise UsageError(f"{path} is not the {RESULTS} of an ablation")
    try:
        section = Section.from_json(metadata[_METADATA])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} says nothing sound of how it is shown ({error}): it is of another release") from error
    if strange := [name for name in section.tables if "/" in name or name.startswith(".")]:
        raise UsageError(f"{path} names a table {strange[0]!r}, which is no file's name: don't trust where it is from")
    return table.to_pylist(), section


def write_section(folder: Path, results: Path) -> str:
    """Draw the plots of `results` into `folder`, write the Markdown beside them, and return it.

    Raises MissingExtra if there are plots to draw and no matplotlib.
    """
    rows, section = read(results)
    parts = [f"## {_words(section.title)}", _paragraphs(section.about), _of_values(section.values)]
    for name, table in section.tables.items():
        of_table = [row for row in rows if row["table"] == name]
        parts += [f"### {_words(table.title)}", _paragraphs(table.about), as_markdown(of_table, table)]
        for number, plot in enumerate(table.plots, 1):
            file = folder / f"{name}-{number}.png"
            if draw(of_table, plot, file, by=table.by):
                parts.append(f"![{_words(f'{table.title}: {plot.y} against {plot.x}')}]({quote(file.name)})")
    text = "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    write_atomically(folder / SECTION, text.encode())
    return text


def _of_values(values: Mapping[str, Any]) -> str:
    listed = ", ".join(f"{name} {value}" for name, value in values.items() if value is not None)
    return f"Shared by all arms, unless a table says otherwise: {_words(listed)}." if listed else ""


def as_markdown(rows: Sequence[Row], table: Table) -> str:
    """A table's lines, its arms in the order of the file, and what is missing."""
    results = [row for row in rows if row["record"] == table.of]
    varied = _varied(results)
    lines = _lines(results, varied, table.by)
    words = ["arm", *varied, *table.by, *_headings(table.columns)]
    written = [_table_line(word.replace("_", " ") for word in words), f"|{'---|' * len(words)}"]
    written += [
        _table_line([*line.labels, *(line.written(name, form) for name, form in table.columns.items())])
        for line in lines
    ]
    text = "\n".join(written)
    if lines:
        text += f"\n\n{_how_sure(lines)}"
    failures = dict.fromkeys(
        f"{row['arm']}, seed {row['seed']}: {row['error']}" for row in rows if row["record"] == FAILURE
    )
    if failures:
        text += "\n\nMissing:\n" + "\n".join(f"- {_words(each)}" for each in failures)
    return text


def _headings(columns: Iterable[str]) -> list[str]:
    """What columns show; where several show the same, whose it is, too."""
    parts = [name.rpartition("/") for name in columns]
    shown = Counter(name for _, _, name in parts)
    return [f"{source}: {name}" if source and shown[name] > 1 else name for source, _, name in parts]


def _table_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(_words(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _words(text: str) -> str:
    """A line of text in which nothing is HTML, a link or a terminal's command: results may be a stranger's."""
    shown = neutral(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return shown.replace("](", "]&#40;").replace("]:", "]&#58;")


def _paragraphs(text: str) -> str:
    return "\n\n".join(map(_words, text.split("\n\n")))


def _how_sure(lines: Sequence[_Line]) -> str:
    counts = sorted({len({row["seed"] for row in line.rows}) for line in lines})
    if counts == [1]:
        return "One seed; in brackets 95% intervals over questions."
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    return f"Mean and 95% interval over {seeds} seeds (Student's t)."


def _lines(rows: Sequence[Row], varied: Sequence[str], by: Sequence[str]) -> list[_Line]:
    """Rows that agree in arm, `varied` settings and `by`, together; named by these."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        settings = json.loads(row["settings"])
        labels = (row["arm"], *(_label(settings.get(name)) for name in varied), *(_label(row.get(name)) for name in by))
        groups.setdefault(labels, []).append(row)
    return [_Line(labels=labels, rows=found) for labels, found in groups.items()]


def _varied(rows: Iterable[Row]) -> list[str]:
    """Settings that have more than one value within an arm."""
    values: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for name, value in json.loads(row["settings"]).items():
            values.setdefault((name, row["arm"]), set()).add(_label(value))
    return list(dict.fromkeys(name for (name, _), found in values.items() if len(found) > 1))


def _label(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def draw(rows: Iterable[Row], plot: Plot, file: Path, *, by: Sequence[str] = ()) -> bool:
    """Draw a plot into `file`, a line for what differs in arm, settings or `by`; whether there was anything to draw."""
    shown = [
        row
        for row in rows
        if row["record"] == plot.of
        and plot.source in (None, row["source"])
        and _is_number(row.get(plot.x))
        and _is_number(row.get(plot.y))
    ]
    if not shown:
        return False
    with needing("report", "a plot"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if plot.guide == "diagonal":
        axes.axline((0, 0), slope=1, color="#999999", linewidth=1, linestyle="--")
    varied = [name for name in _varied(shown) if name.rpartition(".")[2].replace("-", "_") != plot.x]
    for line in _lines(shown, varied, [name for name in by if name != plot.x]):
        _draw_line(axes, line, plot)
    axes.set_xlabel(plot.x.replace("_", " "))
    axes.set_ylabel(plot.y.replace("_", " "))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, metadata={"Software": None}, format=file.suffix[1:])
    write_atomically(file, drawn.getvalue())
    return True


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _draw_line(axes: Axes, line: _Line, plot: Plot) -> None:
    places = sorted({row[plot.x] for row in line.rows})
    at = [_Line(labels=line.labels, rows=[row for row in line.rows if row[plot.x] == place]) for place in places]
    values = [each.means(plot.y) for each in at]
    means = [statistics.fmean(each) for each in values]
    label = ", ".join(part for part in line.labels if part != "-")
    (drawn,) = axes.plot(places, means, marker="." if len(places) < 30 else None, label=label)
    if any(len(each) > 1 for each in values):
        halves = [half_width(each) if len(each) > 1 else 0.0 for each in values]
        low, high = ([mean + sign * half for mean, half in zip(means, halves, strict=True)] for sign in (-1, 1))
        axes.fill_between(places, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)
