"""The language model without its eyes: weights, adapter, caches, head, glyph probe, checkpoints. Knows no rows."""
