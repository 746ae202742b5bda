"""A folder of shards in numbers: how long its strips are, what rendering compresses, and what a budget cuts off.

Compression has two sources that are never added up here. Rendering alone turns so many text tokens into so many
latents. A budget spends a fixed number of latents whatever the text needs: it compresses further by leaving out.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from rotdata import shards
from rotdata.corpora.tokens import TokenCounter
from rotdata.errors import ShardError, UsageError
from rotdata.extras import needing
from rotdata.output import PLOTS, check_output, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_BUDGETS = (16, 32, 64, 128)

_ROWS_PER_BATCH = 1000
_QUANTILES = {"p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "p99": 0.99}


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Exact summary of a count per row; quantiles are values that occur (the lower of two)."""

    mean: float
    min: int
    p25: int
    median: int
    p75: int
    p90: int
    p99: int
    max: int

    @classmethod
    def of(cls, histogram: Counter[int]) -> Distribution:
        """Of values and how often each occurs."""
        values = np.array(sorted(histogram), dtype=np.int64)
        if not len(values):
            return cls(mean=0.0, min=0, p25=0, median=0, p75=0, p90=0, p99=0, max=0)
        counts = np.array([histogram[value] for value in values.tolist()], dtype=np.int64)
        below = np.cumsum(counts)
        at = {name: int(values[np.searchsorted(below, share * below[-1])]) for name, share in _QUANTILES.items()}
        mean = float((values * counts).sum() / below[-1])
        return cls(mean=round(mean, 3), min=int(values[0]), max=int(values[-1]), **at)


@dataclass(frozen=True, kw_only=True)
class BudgetCoverage:
    """What a budget of latents holds of the corpus."""

    budget: int
    rows: float
    """Share of rows whose strip fits."""
    characters: float
    """Share of all characters that stand within the first `budget` latents of their row."""
    compression: float
    """Mean text tokens over the budget: what the budget, not the rendering, compresses."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """The numbers of a folder."""

    name: str
    kind: str
    rows: int
    rows_rejected: int
    rows_truncated: int
    duplicates: int
    latents: Distribution
    characters: Distribution
    text_tokens: Distribution
    tokenizer: str
    tokens_estimated: bool
    characters_per_latent: float
    rendering_compression: float
    """Text tokens over latents, of all rows together; of a truncated row the tokens of what its strip shows."""
    rows_compressed: float
    """Share of rows whose strip has fewer latents than the text that it shows has tokens."""
    budgets: list[BudgetCoverage]
    latents_histogram: dict[int, int]
    characters_by_latent: list[int]
    """Characters in the first, second, ... latents of all rows."""

    def as_json(self) -> dict[str, Any]:
        """The numbers, JSON-ready; the histogram's keys become strings."""
        return asdict(self)


def measure(folder: Path, counter: TokenCounter, budgets: Sequence[int] = DEFAULT_BUDGETS) -> Stats:
    """Read a finished folder of strips or embeddings, a batch of rows at a time. Raises ShardError, UsageError."""
    if not budgets or min(budgets) < 1:
        raise UsageError(f"budgets are numbers of latents, at least 1, got {', '.join(map(str, budgets)) or 'none'}")
    manifest = shards.Manifest.load(folder)
    if not manifest.finished:
        done, planned = len(manifest.shards), len(manifest.planned)
        raise ShardError(f"{folder} has {done} of {planned} shards: run the command that makes it again to finish it")
    latents, characters, tokens = Counter[int](), Counter[int](), Counter[int]()
    by_latent = np.zeros(0, dtype=np.int64)
    compressed = tokens_drawn = 0
    with tqdm(total=manifest.total("rows"), unit="row", desc="stats", disable=None) as bar:
        for texts, counts, spans in _batches(folder, manifest):
            taken = counter.count(texts)
            latents.update(counts)
            characters.update(map(len, texts))
            tokens.update(taken)
            drawn = _tokens_drawn(texts, taken, spans, counter)
            tokens_drawn += sum(drawn)
            compressed += sum(k < t for k, t in zip(counts, drawn, strict=True))
            by_latent = _add(by_latent, spans)
            bar.update(len(texts))
    rows, all_latents = latents.total(), sum(k * count for k, count in latents.items())
    means = {what: Distribution.of(found) for what, found in (("k", latents), ("c", characters), ("t", tokens))}
    return Stats(
        name=manifest.name,
        kind=manifest.kind,
        rows=rows,
        rows_rejected=manifest.total("rejected"),
        rows_truncated=manifest.total("truncated"),
        duplicates=manifest.survey.get("duplicates", 0),
        latents=means["k"],
        characters=means["c"],
        text_tokens=means["t"],
        tokenizer=counter.name,
        tokens_estimated=counter.estimated,
        characters_per_latent=_ratio(int(by_latent.sum()), all_latents),
        rendering_compression=_ratio(tokens_drawn, all_latents),
        rows_compressed=_ratio(compressed, rows),
        budgets=[_coverage(budget, latents, characters, by_latent, means["t"].mean) for budget in budgets],
        latents_histogram=dict(sorted(latents.items())),
        characters_by_latent=by_latent.tolist(),
    )


def plot(stats: Stats, file: Path) -> None:
    """Draw how long the strips are and what each budget holds. Raises MissingExtra, UsageError for an odd suffix."""
    with needing("report", "a plot"):
        from matplotlib.figure import Figure
    check_output(file, "--plot", PLOTS)
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    _draw(stats, figure)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=file.suffix[1:])
    write_atomically(file, drawn.getvalue())


def _batches(folder: Path, manifest: shards.Manifest) -> Iterator[tuple[list[str], list[int], list[NDArray[np.int32]]]]:
    """Texts, numbers of latents and spans, some rows at a time."""
    for entry in manifest.entries:
        for group in shards.read_groups(folder, manifest, entry, ["cot", "num_latents", "spans"]):
            for batch in group.to_batches(max_chunksize=_ROWS_PER_BATCH):
                spans = batch.column("spans")
                if spans.null_count:
                    raise ShardError(f"{folder} holds resized strips without spans: no latent has characters there")
                yield (
                    batch.column("cot").to_pylist(),
                    batch.column("num_latents").to_pylist(),
                    [row.values.to_numpy() for row in spans],
                )


def _tokens_drawn(
    texts: list[str], tokens: list[int], spans: list[NDArray[np.int32]], counter: TokenCounter
) -> list[int]:
    """Tokens of what each strip shows; a truncated row leaves out the rest, which is no merit of rendering."""
    drawn = list(tokens)
    ends = [int(row[-1]) for row in spans]
    cut = [row for row, text in enumerate(texts) if ends[row] < len(text)]
    for row, count in zip(cut, counter.count([texts[row][: ends[row]] for row in cut]), strict=True):
        drawn[row] = count
    return drawn


def _add(by_latent: NDArray[np.int64], spans: list[NDArray[np.int32]]) -> NDArray[np.int64]:
    """Add the characters of each latent of some rows to those of its place."""
    shown = [np.diff(row) for row in spans]
    places = np.concatenate([np.arange(len(row)) for row in shown]) if shown else np.zeros(0, dtype=np.int64)
    weights = np.concatenate(shown) if shown else np.zeros(0)
    added = np.bincount(places, weights=weights, minlength=len(by_latent)).astype(np.int64)
    added[: len(by_latent)] += by_latent
    return added


def _coverage(
    budget: int, latents: Counter[int], characters: Counter[int], by_latent: NDArray[np.int64], mean_tokens: float
) -> BudgetCoverage:
    fitting = sum(count for k, count in latents.items() if k <= budget)
    total = sum(length * count for length, count in characters.items())
    return BudgetCoverage(
        budget=budget,
        rows=_ratio(fitting, latents.total()),
        characters=_ratio(int(by_latent[:budget].sum()), total),
        compression=_ratio(mean_tokens, budget),
    )


def _ratio(over: float, under: float) -> float:
    return round(over / under, 4) if under else 0.0


def _draw(stats: Stats, figure: Figure) -> None:
    lengths, coverage = figure.subplots(1, 2)
    shown = max(stats.latents.p99 * 11 // 10, max(each.budget for each in stats.budgets) + 1, 10)
    step = -(-shown // 60)
    shown = -(-shown // step) * step  # whole bars, so that every row is in one or counted as longer
    values, counts = list(stats.latents_histogram), list(stats.latents_histogram.values())
    lengths.hist(values, bins=np.arange(0, shown + 1, step), weights=counts, color="#2f6fde", alpha=0.85)
    lengths.set(xlabel="latents of a strip (K)", ylabel="rows")
    lengths.set_title(f"{stats.name}: {stats.rows:,} rows", pad=18)
    lengths.set_xlim(0, shown)
    beyond = sum(count for k, count in stats.latents_histogram.items() if k > shown)
    if beyond:
        lengths.annotate(
            f"{beyond:,} rows are longer", (1, 0.95), xycoords="axes fraction", ha="right", color="#5b6477"
        )
    budgets = np.arange(shown + 1)
    fitting = np.bincount(values, weights=counts, minlength=shown + 1).cumsum()[: shown + 1] / max(1, stats.rows)
    by_latent = np.zeros(shown)
    by_latent[: len(stats.characters_by_latent)] = stats.characters_by_latent[:shown]
    total = max(1.0, stats.characters.mean * stats.rows)
    held = np.concatenate([[0], by_latent.cumsum()]) / total
    coverage.plot(budgets, 100 * held, color="#1b7f4b", label="characters within the budget")
    coverage.plot(budgets, 100 * fitting, color="#2f6fde", label="rows that fit whole")
    coverage.set(xlabel="budget (latents)", ylabel="share of the corpus (%)")
    coverage.set_title("what a budget holds", pad=18)
    coverage.set_xlim(0, shown)
    coverage.set_ylim(0, 102)
    coverage.legend(loc="lower right", frameon=False)
    for axes in (lengths, coverage):
        axes.spines[["top", "right"]].set_visible(False)
        for each in stats.budgets:
            axes.axvline(each.budget, color="#b3372f", linewidth=0.8, linestyle=":")
            axes.annotate(
                str(each.budget), (each.budget, 1.0), xycoords=("data", "axes fraction"), fontsize=8, color="#b3372f",
                ha="center", va="bottom",
            )  # fmt: skip
