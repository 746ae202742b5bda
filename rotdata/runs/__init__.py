"""Resumable runs that make folders of shards: render, embed, on one machine or a cluster, and repair."""
