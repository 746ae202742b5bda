"""The rotdata command: parse, call, print. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rotdata.console import EXIT_MISMATCH, EXIT_REJECTS, print_json, run_app, say

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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Remove the shards that an earlier run left in --out.")]
MaxRejects = Annotated[
    float, typer.Option(min=0, max=1, help="Share of rows that may be rejected before the exit code is 3.")
]


@app.command()
def render(
    source: Annotated[str, typer.Argument(help="File, folder, Hub dataset id (owner/name), or toy.")],
    out: Out,
    corpus: Annotated[str, typer.Option(help="gsm8k, gsm8k-aug, math, jsonl or toy.")],
    font: Annotated[str, typer.Option(help="A shipped family (see rotdata fonts) or a font file.")] = "DejaVu Sans",
    font_size: Annotated[int, typer.Option(help="Font size in pixels.")] = 20,
    height: Annotated[int, typer.Option(help="Strip height in pixels: the factor of the encoder.")] = 32,
    padding: Annotated[int, typer.Option(help="Blank pixels before and after the text.")] = 4,
    line_break: Annotated[str, typer.Option(help="What stands for a line break.")] = " ",
    on_missing: Annotated[
        Literal["fallback", "box", "error"],
        typer.Option(help="A character the font lacks: another font, a box, a reject."),
    ] = "fallback",
    split: Annotated[str, typer.Option(help="Split of the dataset; also names the shards.")] = "train",
    config: Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")] = None,
    limit: Annotated[int | None, typer.Option(help="Read no more than this many rows.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the toy corpus.")] = 0,
    question_field: Annotated[str, typer.Option(help="Field of the question in a jsonl corpus.")] = "question",
    cot_field: Annotated[str, typer.Option(help="Field of the chain of thought in a jsonl corpus.")] = "cot",
    answer_field: Annotated[str, typer.Option(help="Field of the answer in a jsonl corpus.")] = "answer",
    rows_per_shard: Annotated[int, typer.Option(help="Source rows a shard.")] = 1000,
    max_latents: Annotated[int, typer.Option(help="Rows whose strip has more latents are rejected.")] = 4096,
    max_rejects: MaxRejects = 0.01,
    overwrite: Overwrite = False,  # noqa: FBT002 -- a flag
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Draw every chain of thought of a corpus as a strip."""
    from rotdata import corpora, pipeline
    from rotdata.strips import StripStyle

    rows = corpora.Source(
        location=source,
        corpus=corpus,
        split=split,
        config=config,
        limit=limit,
        seed=seed,
        fields=corpora.Fields(question=question_field, cot=cot_field, answer=answer_field),
    )
    style = StripStyle(
        font=font,
        font_size_px=font_size,
        height_px=height,
        padding_px=padding,
        line_break=line_break,
        on_missing=on_missing,
    )
    summary = pipeline.render(
        rows, style, out, rows_per_shard=rows_per_shard, max_latents=max_latents, overwrite=overwrite
    )
    for title, characters in (("drawn as boxes", summary.boxed), ("drawn by a fallback font", summary.substituted)):
        if characters:
            say(f"{len(characters)} characters {title}: {' '.join(characters)}")
    _finish(summary, out, max_rejects, as_json=json_)


@app.command()
def embed(
    strips: Annotated[Path, typer.Argument(help="Folder that rotdata render made.")],
    out: Out,
    model: Annotated[str, typer.Option(help="tiny, qwen3-vl[-2b|-4b|-8b], a model's folder or a Hub id.")] = "tiny",
    store: Annotated[Literal["float16", "float32"], typer.Option(help="Type of the stored embeddings.")] = "float16",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Arithmetic of the tower; auto is bfloat16 on a GPU and float32 on a CPU."),
    ] = "auto",
    device: Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu; by default a GPU if there is one.")] = None,
    patches_per_call: Annotated[int, typer.Option(help="Patches in one call of the tower.")] = 8192,
    max_rejects: MaxRejects = 0.01,
    overwrite: Overwrite = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Run strips through a frozen vision tower, once, and keep the embeddings."""
    from rotdata import pipeline
    from rotdata.encoders import load_encoder
    from rotdata.models import find_model

    encoder = load_encoder(find_model(model), dtype=None if dtype == "auto" else dtype, device=device)
    summary = pipeline.embed(strips, encoder, out, store=store, patches_per_call=patches_per_call, overwrite=overwrite)
    _finish(summary, out, max_rejects, as_json=json_)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder of strip or embedding shards.")],
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Recompute hashes, counts and finiteness of a folder of shards; exit code 4 if anything differs."""
    from rotdata import shards

    manifest, mismatches = shards.verify(folder)
    if json_:
        print_json(
            {
                "shards": len(manifest.shards),
                "rows": manifest.total("rows"),
                "mismatches": [dataclasses.asdict(mismatch) for mismatch in mismatches],
            }
        )
    else:
        for mismatch in mismatches:
            typer.echo(f"{mismatch.file}: {mismatch.problem}")
        typer.echo(f"{len(manifest.shards)} shards, {manifest.total('rows')} rows, {len(mismatches)} mismatches")
    if mismatches:
        raise typer.Exit(EXIT_MISMATCH)


@app.command()
def fonts(json_: Json = False) -> None:  # noqa: FBT002
    """List the shipped fonts and how many characters each can draw."""
    from rotdata.fonts import shipped_fonts

    faces: list[dict[str, Any]] = [
        {"name": face.name, "characters": len(face.coverage), "sha256": face.sha256} for face in shipped_fonts()
    ]
    if json_:
        print_json(faces)
    else:
        for face in faces:
            typer.echo(f"{face['name']:<24} {face['characters']:>6} characters  sha256 {face['sha256'][:12]}")


def main() -> None:
    """Entry point of the console script."""
    run_app(app)


def _finish(summary: Any, out: Path, max_rejects: float, *, as_json: bool) -> None:
    """Print a summary; exit code 3 if more rows were rejected than `max_rejects` allows."""
    if as_json:
        print_json(dataclasses.asdict(summary))
    else:
        typer.echo(
            f"{out}: {summary.rows_out} of {summary.rows_in} rows, {summary.latents} latents in "
            f"{summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s"
        )
    if summary.rows_rejected:
        share = summary.rows_rejected / summary.rows_in
        say(f"{summary.rows_rejected} rows rejected ({share:.1%}): reasons in {out / 'rejects.jsonl'}")
        if share > max_rejects:
            raise typer.Exit(EXIT_REJECTS)


if __name__ == "__main__":
    main()
