"""Rows of shards as padded batches, and the rows that a training learns from. Runs no language model."""
