"""How many tokens a text takes: by a tokenizer, or a stated estimate without one. Knows texts, not strips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rotdata.errors import UsageError

BYTES_A_TOKEN = 4


@dataclass(frozen=True, kw_only=True)
class TokenCounter:
    """Counts the tokens of texts."""

    name: str
    """The tokenizer's folder name or Hub id; for an estimate, how it is made."""
    estimated: bool
    count: Callable[[Sequence[str]], list[int]]
    """Tokens of each text, without special ones."""


def token_counter(tokenizer: str | None) -> TokenCounter:
    """A counter by a tokenizer.json, a folder that holds one, or a Hub id; without one, UTF-8 bytes over four.

    Raises UsageError for what is no tokenizer.
    """
    if tokenizer is None:
        return TokenCounter(name=f"an estimate: UTF-8 bytes / {BYTES_A_TOKEN}", estimated=True, count=_estimate)
    from tokenizers import Tokenizer

    path = Path(tokenizer).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        loaded = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(tokenizer)
    except Exception as error:  # tokenizers raises bare Exception for anything wrong with a file or the Hub
        raise UsageError(
            f"{tokenizer} is no tokenizer that can be loaded ({error}): "
            "give a tokenizer.json, a folder that holds one, or a Hub id"
        ) from error
    loaded.no_truncation()
    loaded.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(encoded.ids) for encoded in loaded.encode_batch_fast(list(texts), add_special_tokens=False)]

    return TokenCounter(name=path.resolve().name if path.exists() else tokenizer, estimated=False, count=count)


def _estimate(texts: Sequence[str]) -> list[int]:
    return [-(-len(text.encode()) // BYTES_A_TOKEN) for text in texts]
