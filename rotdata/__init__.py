"""rotdata: chains of thought as pictures of one line of text, and as a frozen vision encoder's embeddings of them."""

__version__ = "0.1.0"
