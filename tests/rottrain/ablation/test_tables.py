"""Results in one file, and the tables and plots made from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rotdata.errors import UsageError
from rottrain.ablation.tables import (
    FAILURE,
    HISTORY,
    RESULT,
    Plot,
    Row,
    Section,
    Table,
    as_markdown,
    draw,
    half_width,
    read,
    records,
    write,
    write_section,
)

TABLE = Table(title="Budgets", columns={"accuracy": ".1%", "reasoning_tokens": ".1f"}, plots=[Plot(x="budget", y="accuracy")])  # fmt: skip  # noqa: E501


def row(arm: str = "rot", seed: int = 0, settings: str = "{}", record: str = RESULT, **values: Any) -> Row:
    keys = {"table": "budgets", "arm": arm, "settings": settings, "seed": seed, "source": "answers", "split": "test"}
    return {**keys, "record": record, "error": None, **values}


def section(table: Table) -> Section:
    return Section(title="Results", values={"rows": 4, "model": None}, tables={"budgets": table})


def test_a_line_is_the_mean_over_seeds_with_its_interval() -> None:
    rows = [row(seed=seed, accuracy=value, reasoning_tokens=18) for seed, value in enumerate((0.5, 0.6, 0.7))]
    text = as_markdown(rows, TABLE)
    assert "| rot | 60.0% ± 24.8% | 18.0 ± 0.0 |" in text
    assert "over 3 seeds" in text
    assert half_width((0.5, 0.6, 0.7)) == pytest.approx(4.303 * 0.1 / 3**0.5)
    many = [0.0, 1.0] * 11
    assert half_width(many) == pytest.approx(2.0796 * (11 * 0.5 / 21) ** 0.5 / 22**0.5, rel=1e-3)


def test_one_seed_has_the_interval_that_the_command_gave() -> None:
    said = {"accuracy": 0.9, "interval.low": 0.826, "interval.high": 0.945, "reasoning_tokens": 1.5}
    other = row(source="timed", **said | {"interval.low": 0.1})
    assert "| rot | 90.0% [82.6%, 94.5%] | 1.5 |" in as_markdown([row(**said), other], TABLE)


def test_a_figure_without_an_interval_gets_none() -> None:
    assert "| rot | 90.0% | 1.5 |" in as_markdown([row(accuracy=0.9, n=100, reasoning_tokens=1.5)], TABLE)


def test_lines_are_told_apart_by_varied_settings_and_columns() -> None:
    rows = [
        row(settings=f'{{"answers.budget": {budget}, "lr": 1}}', mode=mode, accuracy=budget / 10)
        for budget in (4, 8)
        for mode in ("rot", "cot")
    ]
    lines = as_markdown(rows, Table(title="", by=["mode"], columns={"accuracy": ".2f"})).splitlines()
    assert lines[0] == "| arm | answers.budget | mode | accuracy |"
    assert lines[2:4] == ["| rot | 4 | rot | 0.40 |", "| rot | 4 | cot | 0.40 |"]


def test_a_table_shows_the_entries_of_a_list_and_estimates_with_their_intervals() -> None:
    changes = [
        row(record="conditions", name=name) | {"flips.value": 0.5, "flips.low": 0.25, "flips.high": 0.75}
        for name in ("zero", "mean")
    ]
    table = Table(title="", of="conditions", by=["name"], columns={"flips": ".0%"})
    assert "| rot | zero | 50% [25%, 75%] |" in as_markdown([row(accuracy=1.0), *changes], table)
    both = [*changes[:1], changes[0] | {"seed": 1, "flips.value": 0.7}]
    assert "| rot | zero | 60% ± 127% |" in as_markdown(both, table)


def test_a_column_is_of_the_first_step_or_of_the_one_before_the_slash() -> None:
    rows = [row(accuracy=1.0, seconds=5.0), row(accuracy=0.0, seconds=2.0) | {"source": "timed"}]
    lines = as_markdown(rows, Table(title="", columns={"accuracy": ".0%", "timed/seconds": ".1f"})).splitlines()
    assert lines[0] == "| arm | accuracy | seconds |"
    assert lines[2] == "| rot | 100% | 2.0 |"


def test_columns_of_one_name_say_whose_they_are() -> None:
    rows = [row(accuracy=1.0), row(accuracy=0.0) | {"source": "drawn"}]
    columns = {"accuracy": ".0%", "drawn/accuracy": ".0%", "drawn/seconds": ".1f"}
    lines = as_markdown(rows, Table(title="", columns=columns)).splitlines()
    assert lines[0] == "| arm | accuracy | drawn: accuracy | seconds |"


def test_what_failed_is_listed_and_what_a_result_lacks_is_a_dash() -> None:
    rows = [row(arm="a|b", accuracy=1.0), row(arm="c", seed=2, record=FAILURE) | {"error": "exit code 1: no"}]
    text = as_markdown(rows, TABLE)
    assert r"| a\|b | 100.0% | - |" in text
    assert "Missing:\n- c, seed 2: exit code 1: no" in text


def test_a_result_becomes_records_with_what_it_lists() -> None:
    said = {"mode": "rot", "timings": {"answer_s": 0.5}, "bins": [{"p": 0.1, "n": 3}, 7], "words": ["x"], "none": None}
    assert list(records([said])) == [
        (RESULT, {"mode": "rot", "timings.answer_s": 0.5}),
        ("bins", {"mode": "rot", "timings.answer_s": 0.5, "p": 0.1, "n": 3}),
    ]
    with pytest.raises(ValueError, match="a JSON object or a list of them"):
        list(records("yes"))


def test_the_file_gives_back_rows_and_how_to_show_them(tmp_path: Path) -> None:
    rows = [row(accuracy=1, budget="auto"), row(arm="b", accuracy=0.5, budget=8, flag=True)]
    write(tmp_path / "results.parquet", rows, section(TABLE))
    found, shown = read(tmp_path / "results.parquet")
    assert [(each["accuracy"], each["budget"], each["flag"]) for each in found] == [(1.0, "auto", None), (0.5, "8", 1)]
    assert shown.tables["budgets"].plots == [Plot(x="budget", y="accuracy")]
    for content in (b"", b"PAR1", b"text"):
        (tmp_path / "other.parquet").write_bytes(content)
        with pytest.raises(UsageError, match="other.parquet"):
            read(tmp_path / "other.parquet")


def test_the_section_has_every_table_and_its_plots(tmp_path: Path) -> None:
    rows = [row(seed=seed, budget=budget, accuracy=budget / 10) for seed in (0, 1) for budget in (4, 8)]
    losses = [row(record=HISTORY, step=step, loss=1 / step) for step in (1, 2)]
    plots = [Plot(x="budget", y="accuracy"), Plot(of=HISTORY, x="step", y="loss"), Plot(x="budget", y="absent")]
    table = Table(title="Budgets", about="Of one.", by=["budget"], columns={"accuracy": ".0%"}, plots=plots)
    write(tmp_path / "results.parquet", [*rows, *losses], section(table))
    text = write_section(tmp_path, tmp_path / "results.parquet")
    assert text.startswith("## Results\n\nShared by all arms, unless a table says otherwise: rows 4.\n\n### Budgets\n")
    assert "| rot | 8 | 80% ± 0% |" in text
    assert text.count("![") == 2
    assert (tmp_path / "tables.md").read_text() == text
    pictures = {file.name: file.read_bytes() for file in tmp_path.glob("*.png")}
    assert sorted(pictures) == ["budgets-1.png", "budgets-2.png"]
    write_section(tmp_path, tmp_path / "results.parquet")
    assert pictures == {file.name: file.read_bytes() for file in tmp_path.glob("*.png")}


def test_a_plot_leaves_out_what_is_no_number(tmp_path: Path) -> None:
    plot = Plot(x="p", y="share", guide="diagonal", source="answers")
    rows = [row(p=0.5, share=float("nan")), row(p="auto", share=0.5), row(p=0.5, share=0.5) | {"source": "other"}]
    assert not draw(rows, plot, tmp_path / "a.png")
    assert draw([*rows, row(p=0.5, share=0.5)], plot, tmp_path / "a.png")


def test_what_a_stranger_wrote_into_results_is_no_markup(tmp_path: Path) -> None:
    tricks = "<img src=x onerror=alert(1)> [a](javascript:b) \x1b[31m\n# c"
    rows = [row(arm=tricks, accuracy=1, budget=8), row(arm=tricks, record=FAILURE, error=tricks)]
    table = Table(title=tricks, about=f"{tricks}\n\n[d]: {tricks}", columns={"accuracy": ".0%"}, plots=[])
    shown = Section(title=tricks, values={tricks: tricks}, tables={"budgets": table})
    write(tmp_path / "results.parquet", rows, shown)
    text = write_section(tmp_path, tmp_path / "results.parquet")
    assert (tmp_path / "tables.md").read_text() == text
    assert "<" not in text
    assert "](" not in text
    assert "]:" not in text
    assert "\x1b" not in text
    assert "\n# c" not in text
    assert text.count(r"&lt;img src=x onerror=alert(1)> [a]&#40;javascript:b) \x1b[31m # c") == 9


@pytest.mark.parametrize("name", ["../outside", "/outside", ".hidden", "a/b"])
def test_a_table_is_never_part_of_a_path(tmp_path: Path, name: str) -> None:
    shown = Section(title="Results", values={}, tables={name: TABLE})
    write(tmp_path / "results.parquet", [row(budget=1, accuracy=1) | {"table": name}], shown)
    with pytest.raises(UsageError, match="which is no file's name"):
        write_section(tmp_path, tmp_path / "results.parquet")
