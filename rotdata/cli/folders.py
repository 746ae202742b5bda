"""Commands on folders of shards: verify, repair, merge, export-webdataset, preview, stats."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotdata.cli.options import Folder, Json, MadeBy, Tokenizer
from rotdata.cli.summaries import finish
from rotdata.console import EXIT_MISMATCH, print_json, say, tell

if TYPE_CHECKING:
    from rotdata.encoders import LazyEncoder
    from rotdata.shards import Manifest
    from rotdata.stats import Stats


def verify(
    folder: Folder,
    deep: Annotated[
        int, typer.Option(min=0, metavar="N", help="Draw, and for embeddings encode, N rows again and compare.")
    ] = 0,
    model: MadeBy = None,
    device: Annotated[str | None, typer.Option(help="Where the tower of --deep runs.")] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Recompute hashes, counts and finiteness of a folder of shards; exit code 4 if anything differs."""
    from rotdata import shards

    manifest, mismatches = shards.verify(folder)
    counted, rows = (len(manifest.shards), manifest.total("rows")) if manifest else (0, 0)
    checked = None
    if deep and manifest and not mismatches:
        from rotdata.runs.repair import check_rows

        checked = check_rows(folder, deep, encoder_of(manifest, model, device))
        mismatches += checked.mismatches
    if json_:
        listed = [dataclasses.asdict(mismatch) for mismatch in mismatches]
        found: dict[str, Any] = {"shards": counted, "rows": rows, "mismatches": listed}
        if checked:
            found["deep"] = {name: getattr(checked, name) for name in ("rows", "largest_error", "tolerance")}
        print_json(found)
    else:
        for mismatch in mismatches:
            tell(f"{mismatch.file}: {mismatch.problem}")
        if checked:
            tell(f"{checked.rows} rows made anew, largest error {checked.largest_error:.2e} of {checked.tolerance:.0e}")
        tell(f"{counted} shards, {rows} rows, {len(mismatches)} mismatches")
    if mismatches:
        raise typer.Exit(EXIT_MISMATCH)


def repair(
    folder: Folder,
    origin: Annotated[
        str | None,
        typer.Option("--from", help="Corpus of strips, or strips of embeddings.", show_default="a Hub corpus, toy"),
    ] = None,
    model: MadeBy = None,
    device: Annotated[str | None, typer.Option(help="Where the tower runs.")] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Make the missing and damaged shards of a folder again, with the settings of its manifest."""
    from rotdata import shards
    from rotdata.runs.repair import repair as mend

    encoder = encoder_of(shards.Manifest.load(folder), model, device)
    summary = mend(folder, origin, encoder)
    say(f"{summary.shards_made} shards made again")
    finish(summary, folder, max_rejects=1, as_json=json_, more={"repaired": summary.shards_made})


def merge(
    folder: Annotated[Path, typer.Argument(help="The --out that all the parts have in common.")],
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Join the parts that --shard I/N made into the folder that one run would have made."""
    from rotdata.runs import pipeline, resumable

    finish(pipeline.summarise(resumable.merge(folder)), folder, max_rejects=1, as_json=json_)


def export_webdataset(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="Folder for the tars; an earlier export of the same is resumed.")],
    rows_per_tar: Annotated[
        int | None, typer.Option(min=1, help="Rows a tar.", show_default="as many as a shard")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Remove the tars of an earlier export.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Write a folder of strips or embeddings as tars, for those who stream with webdataset."""
    from rotdata import tars

    made = tars.export(folder, out, rows_per_tar=rows_per_tar, overwrite=overwrite)
    if json_:
        print_json(dataclasses.asdict(made))
    else:
        tell(f"{out}: {made.rows} rows in {made.tars} tars, {made.bytes / 1e6:.1f} MB, {made.made} of them made now")


def preview(
    folder: Folder,
    html: Annotated[Path, typer.Option(help="The page to write.", show_default="preview.html")] = Path("preview.html"),
    rows: Annotated[int, typer.Option(help="Rows to show, spread evenly over the folder.")] = 100,
    tokenizer: Tokenizer = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Write a page of strips with their latents and the characters that each one shows."""
    from rotdata.corpora.tokens import token_counter
    from rotdata.preview import write_preview

    shown, size = write_preview(folder, html, token_counter(tokenizer), rows=rows)
    if json_:
        print_json({"page": str(html), "rows": shown, "bytes": size})
    else:
        tell(f"{html}: {shown} rows, {size / 1e6:.1f} MB; open it in a browser")


def stats(
    folder: Folder,
    tokenizer: Tokenizer = None,
    budgets: Annotated[str, typer.Option(help="Comma-separated numbers of latents.")] = "16,32,64,128",
    plot: Annotated[Path | None, typer.Option(help="Draw the numbers into a .png, .svg or .pdf file.")] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """How long strips are, what rendering compresses, and what a budget cuts off."""
    from rotdata import stats as numbers
    from rotdata.corpora.tokens import token_counter
    from rotdata.output import PLOTS, check_output

    check_output(plot, "--plot", PLOTS)
    found = numbers.measure(folder, token_counter(tokenizer), _whole_numbers("--budgets", budgets))
    if plot is not None:
        numbers.plot(found, plot)
        say(f"plots are in {plot}")
    if json_:
        print_json(found.as_json())
    else:
        tell(_stats_table(found))


def encoder_of(manifest: Manifest, model: str | None, device: str | None) -> LazyEncoder | None:
    """The encoder of embeddings, from what their manifest says; None for strips."""
    if manifest.encoder is None:
        return None
    from rotdata.encoders import LazyEncoder, Placement, check_device, default_device
    from rotdata.encoders.models import find_model

    where = device or default_device()
    check_device(where)
    folder = find_model(model or manifest.encoder["model"], revision=None if model else manifest.encoder["revision"])
    kernel = manifest.settings.get("attention", "grouped")
    return LazyEncoder(folder, Placement(device=where, dtype=manifest.encoder["dtype"], kernel=kernel))


def _whole_numbers(option: str, text: str) -> list[int]:
    """The numbers of a comma-separated option."""
    from rotdata.errors import UsageError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} takes whole numbers with commas between, as in 16,32, got {text!r}") from None


def _stats_table(found: Stats) -> str:
    """A folder's numbers as text."""
    columns = ("mean", "min", "p25", "median", "p75", "p90", "p99", "max")
    tokens = f"text tokens ({found.tokenizer})"
    lines = [
        f"{found.name}, {found.kind}: {found.rows} rows, {found.rows_rejected} rejected, {found.duplicates} repeated",
        "",
        f"{'':<44}" + "".join(f"{name:>9}" for name in columns),
    ]
    for title, spread in (
        ("latents (K)", found.latents),
        ("characters", found.characters),
        (tokens, found.text_tokens),
    ):
        values = (
            f"{getattr(spread, name):>9.1f}" if name == "mean" else f"{getattr(spread, name):>9}" for name in columns
        )
        lines.append(f"{title:<44}" + "".join(values))
    estimate = ", estimated" if found.tokens_estimated else ""
    lines += [
        "",
        f"characters a latent: {found.characters_per_latent:.2f}",
        f"compression from rendering: {found.rendering_compression:.2f} text tokens a latent{estimate}",
        f"rows with fewer latents than text tokens: {found.rows_compressed:.1%}",
        "",
        f"{'budget':>8}{'rows that fit':>16}{'characters held':>18}{'compression from the budget':>30}",
    ]
    lines += [
        f"{each.budget:>8}{each.rows:>16.1%}{each.characters:>18.1%}{each.compression:>29.2f}x"
        for each in found.budgets
    ]
    return "\n".join(lines)
