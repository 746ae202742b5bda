"""THE CONTRACT between rotdata and rottrain: schemas of the shards, the manifest, writer, reader and verification.

A folder of shards holds _manifest.json, NAME-00007-of-00385.parquet for each entry of its plan, and _rejects.jsonl if
rows were refused. Everything that decides the bytes stands in the manifest; nothing in the folder depends on time, host
or number of workers. docs/shard-format.md describes the format for readers of other languages.
"""

from rotdata.output import write_atomically
from rotdata.shards.dataset import EmbeddedRow, Shards
from rotdata.shards.files import (
    EARLIER,
    MANIFEST,
    REJECTS,
    Files,
    LocalFiles,
    called,
    clear,
    file_sha256,
    holds_bytes,
    is_leftover,
    is_shard_file,
    locked,
    manifest_file,
    rejects_file,
    remove_leftovers,
    unwritable,
)
from rotdata.shards.manifest import SCHEMA_VERSION, Kind, Manifest, Plan, ShardEntry
from rotdata.shards.reader import EmbeddedRows, EmbeddingShards, Texts, read_groups, read_table, sample, stored_latents
from rotdata.shards.rejects import read_rejects, reject_line, rejects_by_shard, rejects_sha256, write_rejects
from rotdata.shards.schema import embedding_schema, strip_schema
from rotdata.shards.targets import Context
from rotdata.shards.verification import Mismatch, intact, listed, verify
from rotdata.shards.writer import ShardFile, embedding_column, write_shard

__all__ = [
    "EARLIER",
    "MANIFEST",
    "REJECTS",
    "SCHEMA_VERSION",
    "Context",
    "EmbeddedRow",
    "EmbeddedRows",
    "EmbeddingShards",
    "Files",
    "Kind",
    "LocalFiles",
    "Manifest",
    "Mismatch",
    "Plan",
    "ShardEntry",
    "ShardFile",
    "Shards",
    "Texts",
    "called",
    "clear",
    "embedding_column",
    "embedding_schema",
    "file_sha256",
    "holds_bytes",
    "intact",
    "is_leftover",
    "is_shard_file",
    "listed",
    "locked",
    "manifest_file",
    "read_groups",
    "read_rejects",
    "read_table",
    "reject_line",
    "rejects_by_shard",
    "rejects_file",
    "rejects_sha256",
    "remove_leftovers",
    "sample",
    "stored_latents",
    "strip_schema",
    "unwritable",
    "verify",
    "write_atomically",
    "write_rejects",
    "write_shard",
]
