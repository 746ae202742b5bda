"""Columns of the shards, and what of them `datasets` is told. D is the embedding width."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from rotdata.shards.targets import Context, Store


def strip_schema() -> pa.Schema:
    """Columns of a strip shard; the metadata makes the Hub and `datasets` show the image column as pictures."""
    columns = [
        pa.field("id", pa.string()),
        pa.field("question", pa.string()),
        pa.field("cot", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("image", pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])),
        pa.field("width", pa.int32()),
        pa.field("num_latents", pa.int32()),
        pa.field("spans", pa.list_(pa.int32())),
    ]
    return _with_features(columns, image={"_type": "Image"})


def embedding_schema(width: int, store: Store, context: Context = "strip") -> pa.Schema:
    """Columns of an embedding shard of D = `width`.

    Of latents that are pictures of their own the values are bytes, one leaf of Parquet a latent: its dictionary then
    holds each different latent once.
    """
    value = {"float16": pa.float16(), "float32": pa.float32(), "int8": pa.int8()}[store]
    columns = [
        pa.field("id", pa.string()),
        pa.field("question", pa.string()),
        pa.field("cot", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("num_latents", pa.int32()),
        pa.field("spans", pa.list_(pa.int32())),
        pa.field("embedding", pa.list_(pa.large_binary() if context == "latent" else pa.list_(value, width))),
    ]
    if store == "int8":
        columns.append(pa.field("scale", pa.list_(pa.float32())))
    inner: dict[str, Any] = {"feature": {"dtype": store, "_type": "Value"}, "length": width, "_type": "List"}
    if context == "latent":
        inner = {"dtype": "large_binary", "_type": "Value"}
    return _with_features(columns, embedding={"feature": inner, "_type": "List"})


def _with_features(columns: list[pa.Field], **special: dict[str, Any]) -> pa.Schema:
    """A schema whose metadata tells `datasets` the features; those not in `special` follow from the Arrow types."""
    features = {}
    for column in columns:
        if column.name in special:
            features[column.name] = special[column.name]
        elif pa.types.is_list(column.type):
            inner = {"dtype": str(column.type.value_type), "_type": "Value"}
            features[column.name] = {"feature": inner, "_type": "List"}
        else:
            features[column.name] = {"dtype": str(column.type), "_type": "Value"}
    metadata = json.dumps({"info": {"features": features}})
    return pa.schema(columns, metadata={"huggingface": metadata})
