"""rotdata: chains of thought as pictures of one line of text, and as a frozen vision encoder's embeddings of them.

What `__all__` lists is public and stable; docs/api.md shows it by example. Importing this loads none of it.
"""

from typing import TYPE_CHECKING

from rotdata.lazy import lazily
from rotdata.version import __version__

if TYPE_CHECKING:
    from rotdata.api import embed, open_shards, render_corpus, renumber
    from rotdata.corpora import Fields, Row, Source
    from rotdata.encoders import load_encoder
    from rotdata.errors import RotError
    from rotdata.hub import pull, push
    from rotdata.pictures import Pictures
    from rotdata.rendering.strips import Strip, render
    from rotdata.rendering.style import StripStyle
    from rotdata.runs.pipeline import Summary
    from rotdata.shards import Manifest, Shards, verify
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "Fields": "rotdata.corpora",
            "Manifest": "rotdata.shards",
            "Pictures": "rotdata.pictures",
            "RotError": "rotdata.errors",
            "Row": "rotdata.corpora",
            "Shards": "rotdata.shards",
            "Source": "rotdata.corpora",
            "Strip": "rotdata.rendering.strips",
            "StripStyle": "rotdata.rendering.style",
            "Summary": "rotdata.runs.pipeline",
            "embed": "rotdata.api",
            "load_encoder": "rotdata.encoders",
            "open_shards": "rotdata.api",
            "pull": "rotdata.hub",
            "push": "rotdata.hub",
            "render": "rotdata.rendering.strips",
            "render_corpus": "rotdata.api",
            "renumber": "rotdata.api",
            "verify": "rotdata.shards",
        },
    )

__all__ = [
    "Fields",
    "Manifest",
    "Pictures",
    "RotError",
    "Row",
    "Shards",
    "Source",
    "Strip",
    "StripStyle",
    "Summary",
    "__version__",
    "embed",
    "load_encoder",
    "open_shards",
    "pull",
    "push",
    "render",
    "render_corpus",
    "renumber",
    "verify",
]
