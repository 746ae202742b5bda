"""Corpora -> rows of question, chain of thought and answer. Knows fields and texts; knows nothing of pictures.

A reader never stops at a bad record: it yields a Reject that says which record and why. It raises SourceError only
where nothing can be read at all, or where none of the first records is what the corpus should have.
"""

from rotdata.corpora.memory import Rows, opened
from rotdata.corpora.readers import CORPORA, Fields, Row
from rotdata.corpora.rows import Reject, Survey, describe, read, resolve, survey
from rotdata.corpora.source import AUTO, TOY_ROWS, Source

__all__ = [
    "AUTO",
    "CORPORA",
    "TOY_ROWS",
    "Fields",
    "Reject",
    "Row",
    "Rows",
    "Source",
    "Survey",
    "describe",
    "opened",
    "read",
    "resolve",
    "survey",
]
