"""Accuracy, tokens and time on a corpus, with intervals, as tables and logs. Does not ask why an answer came."""
