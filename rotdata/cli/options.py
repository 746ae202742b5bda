"""Options that several commands of rotdata take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MOST_PROCESSES = 4096
"""Or threads: more would end the machine before the command."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout.")]
Source = Annotated[str, typer.Argument(help="File, folder, glob, Hub dataset id (owner/name), or toy (toy:5-8).")]
CorpusName = Annotated[str, typer.Option(help="Name of the corpus; auto recognises it.")]
Split = Annotated[str, typer.Option(help="Split of the dataset.")]
DatasetConfig = Annotated[str | None, typer.Option(help="Configuration of a Hub dataset.")]
Limit = Annotated[int | None, typer.Option(help="Read no more than this many rows.")]
Folder = Annotated[Path, typer.Argument(help="Folder of strip or embedding shards.")]
Encoder = Annotated[str, typer.Option("--model", help="tiny, qwen3-vl[-2b|-4b|-8b], a model's folder or a Hub id.")]
Device = Annotated[str | None, typer.Option(help="cuda, cuda:1, cpu; by default a GPU if there is one.")]
Tokenizer = Annotated[
    str | None,
    typer.Option(help="A tokenizer.json, its folder, or a Hub id.", show_default="an estimate: bytes / 4"),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be made, and make nothing.")]
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


def part(shard: str | None) -> tuple[int, int] | None:
    """The numbers of I/N."""
    from rotdata.errors import UsageError

    if shard is None:
        return None
    index, slash, count = shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise UsageError(f"--shard takes I/N, as in 3/16, got {shard!r}")
    return int(index), int(count)
