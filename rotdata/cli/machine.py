"""Commands on what is here before anything is made: fonts, plan, doctor."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rotdata.cli.options import CorpusName, DatasetConfig, Device, Encoder, Json, Limit, Source, Split
from rotdata.cli.summaries import counted
from rotdata.console import print_json, say, tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rotdata.plan import CorpusPlan


def fonts(
    source: Annotated[str | None, typer.Argument(help="A corpus, to see which of its characters each lacks.")] = None,
    corpus: CorpusName = "auto",
    split: Split = "train",
    config: DatasetConfig = None,
    limit: Limit = None,
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
        tell(f"{entry['name']:<32} {entry['characters']:>6} characters  sha256 {entry['sha256'][:12]}")
        if source is not None:
            lacking = f"lacks {counted(entry['missing'])}" if entry["missing"] else "lacks none"
            tell(f"    {entry['covered']:.3%} of the corpus, {lacking}")


def plan(
    source: Source,
    model: Encoder = "tiny",
    corpus: CorpusName = "auto",
    split: Split = "train",
    config: DatasetConfig = None,
    limit: Limit = None,
    font: Annotated[str, typer.Option(help="A family, a style of one, or a font file.")] = "DejaVu",
    font_size: Annotated[int, typer.Option(help="Font size in pixels.")] = 20,
    max_latents: Annotated[int, typer.Option(help="Latents that a strip may have.")] = 4096,
    rows_per_shard: Annotated[int, typer.Option(min=1, help="Source rows a shard.")] = 1000,
    tokenizer: Annotated[str | None, typer.Option(help="A tokenizer.json, its folder, or a Hub id.")] = None,
    out: Annotated[Path, typer.Option(help="Folder whose disk is to hold the shards.")] = Path(),
    device: Device = None,
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Say what rendering and embedding a corpus will take: rows, latents, bytes, time, disk. Makes nothing."""
    from rotdata import corpora
    from rotdata import plan as planning
    from rotdata.corpora.tokens import token_counter
    from rotdata.encoders import check_device
    from rotdata.encoders.models import find_model
    from rotdata.rendering.strips import StripStyle

    if device is not None:
        check_device(device)
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
        tell("\n".join(_plan_lines(found)))
    for warning in found.warnings:
        say(f"warning: {warning}")


def doctor(json_: Json = False) -> None:  # noqa: FBT002
    """Look at versions, fonts, devices, disk and the Hub, and say what to do; exit code 1 if something is missing."""
    from rotdata import doctor as examination

    findings = []
    for finding in examination.examine():
        findings.append(finding)
        if not json_:
            tell(f"{finding.status:<8} {finding.name}: {finding.found}")
            if finding.remedy:
                tell(f"         -> {finding.remedy}")
    if json_:
        print_json([dataclasses.asdict(finding) for finding in findings])
    if any(finding.status == "problem" for finding in findings):
        raise typer.Exit(1)


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
