"""Commands around the line: verify and export, and smoke and demo, which run all of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from rotdata.cli.options import Json
from rotdata.console import EXIT_MISMATCH, print_json, tell
from rottrain.cli.options import BaseModel, Checkpoint


def export(
    checkpoint: Checkpoint,
    out: Annotated[Path, typer.Option("--out", help="New folder that transformers and peft load.")],
    model: BaseModel = None,
    base: Annotated[
        str | None,
        typer.Option(help="How others are to name the base model; default its Hub id."),
    ] = None,
    weights: Annotated[
        Literal["adapter", "whole"] | None,
        typer.Option(help="An adapter, or the whole model; default an adapter where only that has learnt."),
    ] = None,
    push: Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Publish it as this model of the Hub.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new model private.")] = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Write a checkpoint as a folder that needs none of this package, with a model card and a script that uses it."""
    from rottrain.export import export as run

    exported = run(checkpoint, out, model=model, base=base, weights=weights, push=push, private=private)
    if json_:
        print_json(dataclasses.asdict(exported))
    else:
        where = f", {exported.url}" if exported.url else ""
        tell(f"{exported.folder}: {exported.weights}, {exported.bytes / 1e6:.1f} MB{where}")


def verify(checkpoint: Checkpoint, json_: Json = False) -> None:  # noqa: FBT002
    """Recompute a checkpoint's hashes, and see that its weights are finite and fit; exit code 4 if anything differs."""
    from rottrain.model.verification import verify as run

    found = run(checkpoint)
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        for mismatch in found.mismatches:
            tell(f"{mismatch.file}: {mismatch.problem}")
        unhashed = "" if found.hashed or found.stage is None else "; it carries no hashes: an earlier release made it"
        tell(f"{found.stage or checkpoint}: {found.files} files, {len(found.mismatches)} mismatches{unhashed}")
    if found.mismatches:
        raise typer.Exit(EXIT_MISMATCH)


def smoke(
    model: Annotated[str, typer.Option("--model", help="tiny, qwen3-vl[-2b|-4b|-8b], a model's folder or a Hub id.")],
    rows: Annotated[int, typer.Option(min=1, help="Toy problems.")] = 16,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each stage.")] = 3,
    trainable: Annotated[
        Literal["head", "lora", "full", "lm-head"], typer.Option(help="What of the language model learns in stage 2.")
    ] = "lora",
    feedback: Annotated[
        Literal["picture", "latent"],
        typer.Option(
            "--feedback",
            help="What is trained and asked: latents fed back as predicted, or as pictures of what is read in them.",
        ),
    ] = "latent",
    keep: Annotated[
        Path | None, typer.Option("--out", help="Keep what is made in this folder; by default it is removed.")
    ] = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Run the whole line on a few rows with a model on this machine: does it work, and a report to paste."""
    from rottrain.smoke import as_report, run_smoke

    found = run_smoke(model, rows=rows, steps=steps, trainable=trainable, feedback=feedback, keep=keep)
    if json_:
        print_json(dataclasses.asdict(found))
    else:
        tell(as_report(found))
    if not found.ok:
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    rows: Annotated[int, typer.Option(min=1, help="Training problems.")] = 8000,
    stage1_steps: Annotated[int, typer.Option(min=1, help="Steps of stage 1.")] = 400,
    stage2_steps: Annotated[int, typer.Option(min=1, help="Steps of stage 2.")] = 1000,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Run the whole line on the embedded model and its toy corpus: corpus to evaluated checkpoint and report."""
    from rottrain.demo import run_demo
    from rottrain.evaluation.evaluate import Result, as_table

    results = run_demo(out, rows=rows, stage1_steps=stage1_steps, stage2_steps=stage2_steps)
    if json_:
        print_json(results)
    else:
        tell(as_table([Result(**result) for result in results]))
