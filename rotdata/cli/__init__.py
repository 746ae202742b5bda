"""The rotdata command: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import dataclasses
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rotdata.console import EXIT_MISMATCH, EXIT_REJECTS, print_json, run_app, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotdata.encoders import LazyEncoder
    from rotdata.plan import CorpusPlan
    from rotdata.shards import Manifest
    from rotdata.stats import Stats

_LISTED = 20  # characters named one by one

app = typer.Typer(
    name="rotdata",
    help="Chains of thought -> strips (pictures of one line of text) -> a frozen vision encoder's embeddings of them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for the shards; an earlier run of the same thing is resumed.")]
MadeBy = Annotated[
    str | None,
    typer.Option("--model", help="The model that made embeddings, if it lies elsewhere.", show_default="as recorded"),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove the shards that an earlier run left in --out.")]
Part = Annotated[
    str | None,
    typer.Option("--shard", metavar="I/N", help="Make part I of N, as under a scheduler; rotdata merge joins them."),
]
RetryRejects = Annotated[bool, typer.Option("--retry-rejects", help="Make shards again that rejected rows.")]
MaxRejects = Annotated[
    float, typer.Option(min=0, max=1, help="Share of rows that may be rejected before the exit code is 3.")
]


@app.command()
def render(
    source: Annotated[str, typer.Argument(help="File, folder, glob, Hub dataset id (owner/name), or toy (toy:5-8).")],
    out: Out,
    corpus: Annotated[str, typer.Option(help="Name of the corpus (docs/corpora.md); auto recognises it.")] = "auto",
    font: Annotated[
        str | None,
        typer.Option(
            help="A family (see rotdata fonts), a style of one, or a font file.",
            show_default="DejaVu, or mono in cells",
        ),
    ] = None,
    font_size: Annotated[
        int | None, typer.Option(help="Font size in pixels.", show_default="20, or what fits the cells")
    ] = None,
    height: Annotated[
        int | None, typer.Option(help="Strip height in pixels: the factor of the encoder.", show_default="32")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--for", help="Take the height from this model: tiny, qwen3-vl, a folder, a Hub id.")
    ] = None,
    padding: Annotated[
        int | None, typer.Option(help="Blank pixels before and after the text.", show_default="4, or 0 with --cells")
    ] = None,
    line_break: Annotated[str, typer.Option(help="What stands for a line break.")] = " ",
    foreground: Annotated[int, typer.Option(help="Grey value of the ink, 0 to 255.")] = 0,
    background: Annotated[int, typer.Option(help="Grey value of the paper.")] = 255,
    inverted: Annotated[bool, typer.Option("--inverted", help="White on black.")] = False,  # noqa: FBT002 -- a flag
    kerning: Annotated[Literal["none", "pairs"], typer.Option(help="Whether a word's letters are kerned.")] = "none",
    letter_spacing: Annotated[int, typer.Option(help="Pixels between letters beyond the font's own.")] = 0,
    cells: Annotated[
        int | None, typer.Option(help="Characters a latent, each in a cell of its own, so that none straddles two.")
    ] = None,
    align_steps: Annotated[  # noqa: FBT002
        bool, typer.Option("--align-steps", help="Each line or <<...>> begins a latent; with --cells.")
    ] = False,
    begin_mark: Annotated[str, typer.Option(help="Drawn before every text.")] = "",
    end_mark: Annotated[str, typer.Option(help="Drawn after every text.")] = "",
    layout: Annotated[
        Literal["line", "square"], typer.Option(help="One line, or lines wrapped into a square (the paper's ablation).")
    ] = "line",
    square: Annotated[int, typer.Option(help="Side of the square in pixels.")] = 1024,
    on_missing: Annotated[
        Literal["fallback", "box", "error"],
        typer.Option(help="A character the font lacks: another font, a box, a reject."),
    ] = "fallback",
    split: Annotated[str, typer.Option(help="Split of the dataset; also names the shards.")] = "train",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read no more than this many rows.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the toy corpus.")] = 0,
    question_field: Annotated[str, typer.Option(help="Field of the question in a generic corpus.")] = "question",
    cot_field: Annotated[str, typer.Option(help="Field of the chain of thought in a generic corpus.")] = "cot",
    answer_field: Annotated[str, typer.Option(help="Field of the answer in a generic corpus.")] = "answer",
    id_field: Annotated[str, typer.Option(help="Field of the id in a generic corpus.")] = "id",
    calc: Annotated[
        Literal["keep", "strip", "only"] | None,
        typer.Option(help="Calculator marks <<...>>.", show_default="strip for gsm8k, else keep"),
    ] = None,
    latex: Annotated[Literal["raw", "unicode"], typer.Option(help="LaTeX as it is, or as Unicode text.")] = "raw",
    asymptote: Annotated[
        Literal["keep", "drop", "mark", "reject"], typer.Option(help="What becomes of drawings in [asy] blocks.")
    ] = "keep",
    rows_per_shard: Annotated[int, typer.Option(help="Source rows a shard.")] = 1000,
    max_latents: Annotated[
        int | None, typer.Option(help="Latents that a strip may have.", show_default="4096, or what the square holds")
    ] = None,
    too_long: Annotated[
        Literal["reject", "truncate", "split"], typer.Option(help="What becomes of rows with more latents.")
    ] = "reject",
    num_proc: Annotated[int, typer.Option(help="Processes that draw.")] = 1,
    check_ocr: Annotated[int, typer.Option(min=0, help="Read this many strips back by OCR and count the errors.")] = 0,
    max_rejects: MaxRejects = 0.01,
    overwrite: Overwrite = False,  # noqa: FBT002
    retry_rejects: RetryRejects = False,  # noqa: FBT002
    shard: Part = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Draw every chain of thought of a corpus as a strip."""
    from rotdata import corpora, legibility
    from rotdata.rendering.strips import StripStyle, font_size_for_cells
    from rotdata.runs import pipeline, resumable

    rows = corpora.Source(
        location=source,
        corpus=corpus,
        split=split,
        config=config,
        limit=limit,
        seed=seed,
        fields=corpora.Fields(question=question_field, cot=cot_field, answer=answer_field, id=id_field),
        calc=calc,
        latex=latex,
        asymptote=asymptote,
    )
    height_px = _height(height, model)
    font = font or ("DejaVu" if cells is None else "DejaVu Sans Mono")
    if font_size is None:
        font_size = 20 if cells is None else font_size_for_cells(font, cells, height_px)
    style = StripStyle(
        font=font,
        font_size_px=font_size,
        height_px=height_px,
        padding_px=padding if padding is not None else 4 if cells is None else 0,
        line_break=line_break,
        foreground=background if inverted else foreground,
        background=foreground if inverted else background,
        on_missing=on_missing,
        kerning=kerning,
        letter_spacing_px=letter_spacing,
        cells=cells,
        align_steps=align_steps,
        begin_mark=begin_mark,
        end_mark=end_mark,
        layout=layout,
        square_px=square,
    )
    if max_latents is None:
        max_latents = pipeline.DEFAULT_MAX_LATENTS if layout == "line" else (square // height_px) ** 2
    options: dict[str, Any] = {"rows_per_shard": rows_per_shard, "max_latents": max_latents, "too_long": too_long}
    if dry_run:
        manifest = pipeline.plan_render(corpora.resolve(rows), style, **options)
        _print_plan(manifest, out, as_json=json_)
        return
    if check_ocr:
        legibility.load_reader()  # what is missing is better said before than after
    mode = resumable.Mode(overwrite=overwrite, retry_rejects=retry_rejects, part=_part(shard))
    summary = pipeline.render(rows, style, out, **options, num_proc=num_proc, mode=mode)
    found = legibility.check_folder(out, check_ocr) if check_ocr else None
    if found:
        say(
            f"{found.strips} strips read back: {found.errors} of {found.characters} characters wrong ({found.rate:.2%})"
        )
    _finish(summary, out, max_rejects, as_json=json_, more={"legibility": found.as_json()} if found else {})


@app.command()
def embed(
    strips: Annotated[Path, typer.Argument(help="Folder that rotdata render made.")],
    out: Out,
    model: Annotated[str, typer.Option(help="tiny, qwen3-vl[-2b|-4b|-8b], a model's folder or a Hub id.")] = "tiny",
    store: Annotated[
        Literal["float16", "float32", "int8"],
        typer.Option(help="Type of the stored embeddings; int8 has one scale a latent."),
    ] = "float16",
    pool: Annotated[int, typer.Option(help="Store the mean of so many neighbouring latents.")] = 1,
    max_latents: Annotated[
        int | None, typer.Option(help="Latents that a row may have after pooling.", show_default="no limit")
    ] = None,
    longer: Annotated[
        Literal["reject", "truncate", "resample"], typer.Option(help="What becomes of rows with more latents.")
    ] = "reject",
    resize: Annotated[
        Literal["none", "reference"],
        typer.Option(help="Scale strips as the model's stock processor would, for comparison; spans are lost."),
    ] = "none",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Arithmetic of the tower; auto is bfloat16 where the hardware has it."),
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu; by default a GPU if there is one.")] = None,
    devices: Annotated[
        str | None, typer.Option(help="Comma-separated devices, a process each; all is every GPU.")
    ] = None,
    num_proc: Annotated[
        int, typer.Option(min=1, help="Processes on a CPU, which share its threads; actors of the engine ray.")
    ] = 1,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: actors of the cluster that RAY_ADDRESS names, each on the same device."),
    ] = "local",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of a CPU that one process computes with.")] = None,
    patches_per_call: Annotated[
        int | None,
        typer.Option(min=1, help="Patches in one call of the tower.", show_default="2048 on a CPU, what fits on a GPU"),
    ] = None,
    max_rejects: MaxRejects = 0.01,
    overwrite: Overwrite = False,  # noqa: FBT002
    retry_rejects: RetryRejects = False,  # noqa: FBT002
    shard: Part = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Run strips through a frozen vision tower, once, and keep the embeddings.

    What an earlier run in --out has chosen by itself (revision, dtype, patches a call) is gone on with.
    """
    import torch

    from rotdata.encoders import (
        LazyEncoder,
        Placement,
        default_device,
        default_kernel,
        default_precision,
        patches_that_fit,
    )
    from rotdata.encoders.models import HUB_MODELS, find_model
    from rotdata.runs import pipeline, resumable
    from rotdata.runs.embedding import EmbedSettings
    from rotdata.shards.targets import TargetSettings

    before = pipeline.Chosen() if overwrite else pipeline.chosen(out)
    same = before.model in {model, HUB_MODELS.get(model.lower())}
    folder = find_model(model, revision=before.revision if same else None)
    places = _places(device, devices, num_proc, engine)
    first = places[0] if places else device or default_device()
    precision = dtype if dtype != "auto" else before.dtype or default_precision(first)
    kernel = before.kernel or default_kernel(first, precision)
    encoder = LazyEncoder(folder, Placement(device=first, dtype=precision, kernel=kernel), threads)
    settings = EmbedSettings(
        targets=TargetSettings(store=store, pool=pool, max_latents=max_latents, longer=longer),
        resize=folder.resize_limits() if resize == "reference" else None,
        patches_per_call=patches_per_call or before.patches_per_call or patches_that_fit(encoder),
        kernel=kernel,
    )
    if dry_run:
        _print_plan(pipeline.plan_embed(strips, encoder, settings), out, as_json=json_)
        return
    shared = threads or max(1, torch.get_num_threads() // max(1, len(places)))
    team = [encoder.on(place, threads=shared) for place in places]
    mode = resumable.Mode(overwrite=overwrite, retry_rejects=retry_rejects, part=_part(shard))
    summary = pipeline.embed(strips, encoder, out, settings=settings, team=team, engine=engine, mode=mode)
    _finish(summary, out, max_rejects, as_json=json_)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of strip or embedding shards.")],
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

        checked = check_rows(folder, deep, _encoder_of(manifest, model, device))
        mismatches += checked.mismatches
    if json_:
        listed = [dataclasses.asdict(mismatch) for mismatch in mismatches]
        found: dict[str, Any] = {"shards": counted, "rows": rows, "mismatches": listed}
        if checked:
            found["deep"] = {name: getattr(checked, name) for name in ("rows", "largest_error", "tolerance")}
        print_json(found)
    else:
        for mismatch in mismatches:
            typer.echo(f"{mismatch.file}: {mismatch.problem}")
        if checked:
            typer.echo(
                f"{checked.rows} rows made anew, largest error {checked.largest_error:.2e} of {checked.tolerance:.0e}"
            )
        typer.echo(f"{counted} shards, {rows} rows, {len(mismatches)} mismatches")
    if mismatches:
        raise typer.Exit(EXIT_MISMATCH)


@app.command()
def repair(
    folder: Annotated[Path, typer.Argument(help="Folder of strip or embedding shards.")],
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

    encoder = _encoder_of(shards.Manifest.load(folder), model, device)
    summary = mend(folder, origin, encoder)
    say(f"{summary.shards_made} shards made again")
    _finish(summary, folder, max_rejects=1, as_json=json_, more={"repaired": summary.shards_made})


@app.command()
def push(
    folder: Annotated[Path, typer.Argument(help="Finished folder of strips or embeddings.")],
    repo: Annotated[str, typer.Argument(help="Dataset of the Hub, OWNER/NAME.")],
    config: Annotated[
        str | None,
        typer.Option(
            help="Name of the configuration; one that is given replaces what is there.",
            show_default="CORPUS-MODEL-FONT-SIZEpx",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new dataset private.")] = False,  # noqa: FBT002
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the card, and write nothing.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Publish a folder of shards as a dataset of the Hub, with a card; the same command resumes."""
    from rotdata import hub

    pushed = hub.push(folder, repo, config=config, private=private, dry_run=dry_run)
    if json_:
        print_json(dataclasses.asdict(pushed))
        return
    if dry_run:
        typer.echo(pushed.card)
    verb = "would be uploaded" if dry_run else "uploaded"
    say(
        f"{pushed.url}: {pushed.config}, split {pushed.split}: {pushed.files_uploaded} files, "
        f"{pushed.bytes_uploaded / 1e6:.1f} MB {verb}, {pushed.files_unchanged} there already"
    )


@app.command()
def pull(
    repo: Annotated[str, typer.Argument(help="Dataset of the Hub, OWNER/NAME.")],
    out: Out,
    config: Annotated[str | None, typer.Option(help="Configuration, where the dataset has several.")] = None,
    split: Annotated[str | None, typer.Option(help="Split, where the configuration has several.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.")] = None,
    overwrite: Overwrite = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Fetch a published folder, byte for byte, and verify it."""
    from rotdata import hub
    from rotdata.runs import pipeline

    manifest = hub.pull(repo, out, config=config, split=split, revision=revision, overwrite=overwrite)
    _finish(pipeline.summarise(manifest), out, max_rejects=1, as_json=json_)


@app.command()
def merge(
    folder: Annotated[Path, typer.Argument(help="The --out that all the parts have in common.")],
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Join the parts that --shard I/N made into the folder that one run would have made."""
    from rotdata.runs import pipeline, resumable

    _finish(pipeline.summarise(resumable.merge(folder)), folder, max_rejects=1, as_json=json_)


@app.command()
def preview(
    folder: Annotated[Path, typer.Argument(help="Folder of strip or embedding shards.")],
    html: Annotated[Path, typer.Option(help="The page to write.", show_default="preview.html")] = Path("preview.html"),
    rows: Annotated[int, typer.Option(help="Rows to show, spread evenly over the folder.")] = 100,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A tokenizer.json, its folder, or a Hub id.", show_default="an estimate: bytes / 4"),
    ] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Write a page of strips with their latents and the characters that each one shows."""
    from rotdata.corpora.tokens import token_counter
    from rotdata.preview import write_preview

    shown = write_preview(folder, html, token_counter(tokenizer), rows=rows)
    if json_:
        print_json({"page": str(html), "rows": shown, "bytes": html.stat().st_size})
    else:
        typer.echo(f"{html}: {shown} rows, {html.stat().st_size / 1e6:.1f} MB; open it in a browser")


@app.command()
def stats(
    folder: Annotated[Path, typer.Argument(help="Folder of strip or embedding shards.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="A tokenizer.json, its folder, or a Hub id.", show_default="an estimate: bytes / 4"),
    ] = None,
    budgets: Annotated[str, typer.Option(help="Comma-separated numbers of latents.")] = "16,32,64,128",
    plot: Annotated[Path | None, typer.Option(help="Draw the numbers into a .png, .svg or .pdf file.")] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """How long strips are, what rendering compresses, and what a budget cuts off."""
    from rotdata import stats as numbers
    from rotdata.corpora.tokens import token_counter

    found = numbers.measure(folder, token_counter(tokenizer), _whole_numbers("--budgets", budgets))
    if plot is not None:
        numbers.plot(found, plot)
        say(f"plots are in {plot}")
    if json_:
        print_json(found.as_json())
    else:
        typer.echo(_stats_table(found))


@app.command()
def fonts(
    source: Annotated[str | None, typer.Argument(help="A corpus, to see which of its characters each lacks.")] = None,
    corpus: Annotated[str, typer.Option(help="Name of the corpus; auto recognises it.")] = "auto",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read no more than this many rows.")] = None,
    installed: Annotated[bool, typer.Option("--installed", help="List this machine's fonts too.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """List fonts and how many characters each can draw, of all or of a corpus."""
    from rotdata import corpora
    from rotdata.rendering.fonts import installed_fonts, shipped_fonts
    from rotdata.rendering.strips import StripStyle, renderer

    faces = (*shipped_fonts(), *(installed_fonts() if installed else ()))
    listed: list[dict[str, Any]] = [
        {"name": face.name, "characters": len(face.coverage), "file": face.path.name, "sha256": face.sha256}
        for face in faces
    ]
    if source is not None:
        asked = corpora.Source(location=source, corpus=corpus, split=split, config=config, limit=limit)
        characters = corpora.survey(asked).characters
        for entry, face in zip(listed, faces, strict=True):
            alone = StripStyle(font=str(face.path), on_missing="box")
            entry["missing"] = renderer(alone).stand_ins(characters)["missing"]
            entry["covered"] = 1 - sum(entry["missing"].values()) / max(1, characters.total())
    if json_:
        print_json(listed)
        return
    for entry in listed:
        typer.echo(f"{entry['name']:<32} {entry['characters']:>6} characters  sha256 {entry['sha256'][:12]}")
        if source is not None:
            lacking = f"lacks {_counted(entry['missing'])}" if entry["missing"] else "lacks none"
            typer.echo(f"    {entry['covered']:.3%} of the corpus, {lacking}")


@app.command()
def plan(
    source: Annotated[str, typer.Argument(help="File, folder, glob, Hub dataset id (owner/name), or toy (toy:5-8).")],
    model: Annotated[str, typer.Option(help="tiny, qwen3-vl[-2b|-4b|-8b], a model's folder or a Hub id.")] = "tiny",
    corpus: Annotated[str, typer.Option(help="Name of the corpus; auto recognises it.")] = "auto",
    split: Annotated[str, typer.Option(help="Split of the dataset.")] = "train",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read no more than this many rows.")] = None,
    font: Annotated[str, typer.Option(help="A family, a style of one, or a font file.")] = "DejaVu",
    font_size: Annotated[int, typer.Option(help="Font size in pixels.")] = 20,
    max_latents: Annotated[int, typer.Option(help="Latents that a strip may have.")] = 4096,
    rows_per_shard: Annotated[int, typer.Option(help="Source rows a shard.")] = 1000,
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer.json, its folder, or a Hub id.")] = None,
    out: Annotated[Path, typer.Option(help="Folder whose disk is to hold the shards.")] = Path(),
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu; by default a GPU if there is one.")] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Say what rendering and embedding a corpus will take: rows, latents, bytes, time, disk. Makes nothing."""
    from rotdata import corpora
    from rotdata import plan as planning
    from rotdata.corpora.tokens import token_counter
    from rotdata.encoders.models import find_model
    from rotdata.rendering.strips import StripStyle

    folder = find_model(model, files=("config.json",))
    found = planning.plan(
        corpora.Source(location=source, corpus=corpus, split=split, config=config, limit=limit),
        StripStyle(font=font, font_size_px=font_size, height_px=folder.factor_px()),
        folder,
        out,
        max_latents=max_latents,
        rows_per_shard=rows_per_shard,
        counter=token_counter(tokenizer) if tokenizer else None,
        device=device,
    )
    if json_:
        print_json(found.as_json())
    else:
        typer.echo("\n".join(_plan_lines(found)))
    for warning in found.warnings:
        say(f"warning: {warning}")


@app.command()
def doctor(json_: Json = False) -> None:  # noqa: FBT002
    """Look at versions, fonts, devices, disk and the Hub, and say what to do; exit code 1 if something is missing."""
    from rotdata import doctor as examination

    findings = []
    for finding in examination.examine():
        findings.append(finding)
        if not json_:
            typer.echo(f"{finding.status:<8} {finding.name}: {finding.found}")
            if finding.remedy:
                typer.echo(f"         -> {finding.remedy}")
    if json_:
        print_json([dataclasses.asdict(finding) for finding in findings])
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


def _encoder_of(manifest: Manifest, model: str | None, device: str | None) -> LazyEncoder | None:
    """The encoder of embeddings, from what their manifest says; None for strips."""
    if manifest.encoder is None:
        return None
    from rotdata.encoders import LazyEncoder, Placement, default_device
    from rotdata.encoders.models import find_model

    folder = find_model(model or manifest.encoder["model"], revision=None if model else manifest.encoder["revision"])
    kernel = manifest.settings.get("attention", "grouped")
    return LazyEncoder(
        folder, Placement(device=device or default_device(), dtype=manifest.encoder["dtype"], kernel=kernel)
    )


def _part(shard: str | None) -> tuple[int, int] | None:
    """The numbers of I/N."""
    from rotdata.errors import UsageError

    if shard is None:
        return None
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard takes I/N, as in 3/16, got {shard!r}")
    return int(index), int(count)


def _places(device: str | None, devices: str | None, num_proc: int, engine: str) -> list[str]:
    """The device of each process or actor; none if this process does the work."""
    from rotdata.errors import UsageError

    if engine == "ray":
        if devices is not None:
            raise UsageError("--engine ray places its actors itself: --num-proc says how many, --device on what")
        from rotdata.encoders import default_device

        return [device or default_device()] * num_proc
    if devices is None:
        if num_proc > 1 and device not in {None, "cpu"}:
            raise UsageError(f"--num-proc shares a CPU, --device says {device}: --devices names a device a process")
        return ["cpu"] * num_proc if num_proc > 1 else []
    if device is not None or num_proc > 1:
        raise UsageError("--devices names a device a process: leave --device and --num-proc out")
    if devices != "all":
        return devices.split(",")
    import torch

    if not torch.cuda.device_count():
        raise UsageError("--devices all found no GPU: leave it out to use the CPU")
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


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


def _plan_lines(found: CorpusPlan) -> Iterator[str]:
    """What a corpus will take, as text."""
    from rotdata.plan import histogram_lines

    spread = found.latents_per_row
    yield f"{found.name}: {found.rows} rows and {found.rejects} rejects, {found.latents} latents"
    yield f"latents a row: mean {spread.mean:.1f}, median {spread.median}, 90% up to {spread.p90}, longest {spread.max}"
    if found.tokens_per_latent is not None:
        yield f"text tokens a latent: {found.tokens_per_latent:.2f} ({found.tokenizer})"
    yield from histogram_lines(found.latents_histogram)
    yield f"strips: {found.strips_gigabytes:.2f} GB, rendered in {_duration(found.render_s)} by one process"
    for choice in found.choices:
        how = "by the probe" if choice.measured else "raw values"
        pooled = f", pooled by {choice.pool}" if choice.pool > 1 else ""
        yield f"embeddings as {choice.store}{pooled}: {choice.gigabytes:.2f} GB in {choice.shards} shards ({how})"
    if found.embed_s is not None:
        yield f"embedding with {found.model}, {found.device}: {_duration(found.embed_s)}"
    yield f"free disk: {found.free_gigabytes:.1f} GB"


def _duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _height(height: int | None, model: str | None) -> int:
    """The strips' height: as given, or as a model needs it."""
    if model is None:
        return 32 if height is None else height
    from rotdata.encoders.models import find_model
    from rotdata.errors import UsageError

    factor = find_model(model, files=("config.json",)).factor_px()
    if height not in (None, factor):
        raise UsageError(f"--for {model} makes strips {factor} px high, --height says {height}: leave one of them out")
    return factor


def _print_plan(manifest: Manifest, out: Path, *, as_json: bool) -> None:
    """What a run would make."""
    plan = {
        "corpus": manifest.corpus,
        "split": manifest.split,
        "rows_in": manifest.plan.rows_in,
        "shards": manifest.plan.num_shards,
        **manifest.survey,
    }
    if as_json:
        print_json(plan)
        return
    typer.echo(f"{out} would hold {manifest.plan.num_shards} shards of {manifest.plan.rows_in} rows of {manifest.name}")
    _say_survey(manifest.survey)


def _say_survey(survey: dict[str, Any]) -> None:
    """What a corpus holds that one may not expect."""
    for name, title in (("missing", "in no font"), ("substituted", "drawn by a fallback font")):
        found: dict[str, int] = survey[name]
        if found:
            say(f"{len(found)} characters {title}: {_counted(found)}")
    if survey["duplicates"]:
        say(f"{survey['duplicates']} rows repeat an earlier one; they are kept")
    if survey["duplicate_ids"]:
        say(f"{survey['duplicate_ids']} rows have the id of an earlier one; they are kept")


def _counted(found: dict[str, int]) -> str:
    """Characters with their counts, the most frequent first."""
    most = sorted(found, key=lambda character: -found[character])
    listed = ", ".join(f"{_name(character)} ({found[character]})" for character in most[:_LISTED])
    return listed + (f" and {len(most) - _LISTED} more" if len(most) > _LISTED else "")


def _name(character: str) -> str:
    """A character so that a terminal shows it safely."""
    shown = f"{character} " if character.isprintable() and not unicodedata.combining(character) else ""
    return f"{shown}U+{ord(character):04X}"


def _finish(summary: Any, out: Path, max_rejects: float, *, as_json: bool, more: dict[str, Any] | None = None) -> None:
    """Print a summary; exit code 3 if more rows were rejected than `max_rejects` allows."""
    if as_json:
        print_json(dataclasses.asdict(summary) | (more or {}))
    else:
        typer.echo(
            f"{out}: {summary.rows_out} of {summary.rows_in} rows, {summary.latents} latents in "
            f"{summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s"
        )
    _say_survey(dataclasses.asdict(summary))
    for count, what in (
        (summary.rows_truncated, "rows show the beginning of their text only"),
        (summary.rows_added, "rows were added by splitting long ones"),
    ):
        if count:
            say(f"{count} {what}")
    if summary.rows_rejected:
        share = summary.rows_rejected / summary.rows_in
        say(f"{summary.rows_rejected} rows rejected ({share:.1%}): reasons in {out / 'rejects.jsonl'}")
        if share > max_rejects:
            raise typer.Exit(EXIT_REJECTS)


if __name__ == "__main__":
    main()
