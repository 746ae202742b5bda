"""rotdata embed: strips become embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rotdata.cli.options import (
    MOST_PROCESSES,
    Device,
    DryRun,
    Encoder,
    Json,
    MaxRejects,
    Out,
    Overwrite,
    Part,
    RetryRejects,
    part,
)
from rotdata.cli.summaries import finish, print_plan
from rotdata.extras import needing


def embed(
    strips: Annotated[Path, typer.Argument(help="Folder that rotdata render made.")],
    out: Out,
    model: Encoder = "tiny",
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
    context: Annotated[
        Literal["strip", "latent"],
        typer.Option(help="What a latent is encoded with: its whole strip, or (of strips in cells) its own picture."),
    ] = "strip",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(help="Arithmetic of the tower; auto is bfloat16 where the hardware has it."),
    ] = "auto",
    device: Device = None,
    devices: Annotated[
        str | None, typer.Option(help="Comma-separated devices, a process each; all is every GPU.")
    ] = None,
    num_proc: Annotated[
        int,
        typer.Option(
            min=1, max=MOST_PROCESSES, help="Processes on a CPU, which share its threads; actors of the engine ray."
        ),
    ] = 1,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: actors of the cluster that RAY_ADDRESS names, each on the same device."),
    ] = "local",
    threads: Annotated[
        int | None, typer.Option(min=1, max=MOST_PROCESSES, help="Threads of a CPU that one process computes with.")
    ] = None,
    patches_per_call: Annotated[
        int | None,
        typer.Option(min=1, help="Patches in one call of the tower.", show_default="2048 on a CPU, what fits on a GPU"),
    ] = None,
    max_rejects: MaxRejects = 0.01,
    overwrite: Overwrite = False,  # noqa: FBT002
    retry_rejects: RetryRejects = False,  # noqa: FBT002
    shard: Part = None,
    dry_run: DryRun = False,  # noqa: FBT002
    json_: Json = False,  # noqa: FBT002
) -> None:
    """Run strips through a frozen vision tower, once, and keep the embeddings.

    What an earlier run in --out has chosen by itself (revision, dtype, patches a call) is gone on with.
    """
    with needing("embed", "running a tower"):
        import torch

    from rotdata.encoders import check_device, default_device
    from rotdata.runs import pipeline, resumable
    from rotdata.runs.embedding import EmbedSettings
    from rotdata.shards.targets import TargetSettings

    places = _places(device, devices, num_proc, engine)
    first = places[0] if places else device or default_device()
    for place in {first, *places} if engine == "local" else ():  # the actors of a cluster have other devices
        check_device(place)
    encoder, patches = pipeline.pick_encoder(
        out,
        model,
        device=first,
        dtype=dtype,
        patches_per_call=patches_per_call,
        threads=threads,
        overwrite=overwrite,
    )
    settings = EmbedSettings(
        targets=TargetSettings(store=store, pool=pool, max_latents=max_latents, longer=longer),
        resize=encoder.folder.resize_limits() if resize == "reference" else None,
        patches_per_call=patches,
        kernel=encoder.where.kernel,
        context=context,
    )
    if dry_run:
        print_plan(pipeline.plan_embed(strips, encoder, settings), out, as_json=json_)
        return
    shared = threads or max(1, torch.get_num_threads() // max(1, len(places)))
    team = [encoder.on(place, threads=shared) for place in places]
    mode = resumable.Mode(overwrite=overwrite, retry_rejects=retry_rejects, part=part(shard))
    summary = pipeline.embed(strips, encoder, out, settings=settings, team=team, engine=engine, mode=mode)
    finish(summary, out, max_rejects, as_json=json_)


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
