"""rottrain: trains a vision-language model to think in the embeddings of its own rendered chain of thought."""

from rotdata import __version__

__all__ = ["__version__"]
