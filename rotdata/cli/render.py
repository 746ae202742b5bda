"""rotdata render: a corpus becomes strips."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

import typer

from rotdata.cli.options import (
    MOST_PROCESSES,
    DatasetConfig,
    DryRun,
    Json,
    Limit,
    MaxRejects,
    Out,
    Overwrite,
    Part,
    RetryRejects,
    Source,
    part,
)
from rotdata.cli.summaries import finish, print_plan
from rotdata.console import say


def render(
    source: Source,
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
    lines: Annotated[
        int, typer.Option(min=1, help="Lines of cells in one latent; with --cells, and for embed --context latent.")
    ] = 1,
    align_steps: Annotated[  # noqa: FBT002
        bool, typer.Option("--align-steps", help="Each line or <<...>> begins a latent; with --cells.")
    ] = False,
    align_numbers: Annotated[  # noqa: FBT002
        bool, typer.Option("--align-numbers", help="Each number of a calculation begins a latent, its sign first.")
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
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            help="A font for what the others lack, again for more; auto chooses installed ones by coverage; none.",
            show_default="auto",
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the dataset; also names the shards.")] = "train",
    config: DatasetConfig = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the toy corpus.")] = 0,
    question_field: Annotated[
        str, typer.Option(help="Field of the question in a generic corpus; messages[0].content leads into one.")
    ] = "question",
    cot_field: Annotated[str, typer.Option(help="Field of the chain of thought in a generic corpus.")] = "cot",
    answer_field: Annotated[str, typer.Option(help="Field of the answer in a generic corpus.")] = "answer",
    id_field: Annotated[str, typer.Option(help="Field of the id in a generic corpus.")] = "id",
    last_number: Annotated[  # noqa: FBT002
        bool, typer.Option("--last-number", help="A reply that marks no answer is answered by its last number.")
    ] = False,
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
    max_boxes: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of a row's characters without a glyph beyond which it is rejected.",
            show_default="0.1",
        ),
    ] = None,
    num_proc: Annotated[int, typer.Option(max=MOST_PROCESSES, help="Processes that draw.")] = 1,
    check_ocr: Annotated[int, typer.Option(min=0, help="Read this many strips back by OCR and count the errors.")] = 0,
    max_rejects: MaxRejects = 0.01,
    overwrite: Overwrite = False,  # noqa: FBT002
    retry_rejects: RetryRejects = False,  # noqa: FBT002
    shard: Part = None,
    dry_run: DryRun = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Draw every chain of thought of a corpus as a strip."""
    from rotdata import corpora, legibility
    from rotdata.rendering.strips import StripStyle
    from rotdata.runs import pipeline, resumable

    rows = corpora.Source(
        location=source,
        corpus=corpus,
        split=split,
        config=config,
        limit=limit,
        seed=seed,
        fields=corpora.Fields(
            question=question_field, cot=cot_field, answer=answer_field, id=id_field, last_number=last_number
        ),
        calc=calc,
        latex=latex,
        asymptote=asymptote,
    )
    choice = _choice(fallback)
    by_cells: dict[str, Any] = {"font": font, "font_size_px": font_size, "padding_px": padding}
    style = StripStyle(
        **{name: value for name, value in by_cells.items() if value is not None},
        height_px=_height(height, model),
        line_break=line_break,
        foreground=background if inverted else foreground,
        background=foreground if inverted else background,
        on_missing=on_missing,
        fallback=() if choice else tuple(fallback or ()),
        kerning=kerning,
        letter_spacing_px=letter_spacing,
        cells=cells,
        lines=lines,
        align_steps=align_steps,
        align_numbers=align_numbers,
        begin_mark=begin_mark,
        end_mark=end_mark,
        layout=layout,
        square_px=square,
    )
    most = pipeline.most_latents(style) if max_latents is None else max_latents
    options: dict[str, Any] = {"rows_per_shard": rows_per_shard, "max_latents": most, "too_long": too_long}
    options["fallback"] = choice or "none"
    if max_boxes is not None:
        options["max_boxes"] = max_boxes
    if dry_run:
        manifest = pipeline.plan_render(corpora.resolve(rows), style, **options)
        print_plan(manifest, out, as_json=json_)
        return
    if check_ocr:
        legibility.load_reader()  # what is missing is better said before than after
    mode = resumable.Mode(overwrite=overwrite, retry_rejects=retry_rejects, part=part(shard))
    summary = pipeline.render(rows, style, out, **options, num_proc=num_proc, mode=mode)
    found = legibility.check_folder(out, check_ocr) if check_ocr else None
    if found:
        say(
            f"{found.strips} strips read back: {found.errors} of {found.characters} characters wrong ({found.rate:.2%})"
        )
    if summary.rows_rejected and summary.missing and style.on_missing == "fallback":
        _say_fonts(summary.missing)
    finish(summary, out, max_rejects, as_json=json_, more={"legibility": found.as_json()} if found else {})


def _say_fonts(missing: dict[str, int]) -> None:
    """Which fonts would draw what had none."""
    from rotdata.rendering.fallback import fonts_for, remedy

    names = [f"--fallback {shlex.quote(name)}" for name in fonts_for(missing)]
    add = f"{' '.join(names)} would help: it is installed here" if names else remedy(missing)
    say(f"for the characters in no font: {add}")


def _choice(fallback: list[str] | None) -> Literal["auto", "none"] | None:
    """How fallback fonts are chosen, where none is named."""
    from rotdata.errors import UsageError

    words = [name for name in fallback or ["auto"] if name in ("auto", "none")]
    if not words:
        return None
    if len(fallback or words) > 1:
        raise UsageError(f"--fallback {words[0]} stands alone: leave it out, or the fonts")
    return "auto" if words[0] == "auto" else "none"


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
