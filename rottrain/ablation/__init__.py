"""Comparisons: a YAML file of commands, run once each, into one table. Knows commands, not what they do."""
