"""The error tree of both packages. Each message names what was wrong, what was found, and the remedy."""

from __future__ import annotations


class RotError(Exception):
    """Something the user can act on; the command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 1


class UsageError(RotError):
    """The command or its arguments can't be right: unknown names, a folder that holds something else."""

    exit_code = 2


class UnknownFont(UsageError):
    """No font of that name or path."""


class UnknownCorpus(UsageError):
    """No corpus reader of that name."""


class UnknownModel(UsageError):
    """Neither a model name of ours, nor a folder, nor something that looks like a Hub id."""


class OutputOccupied(UsageError):
    """The output folder holds something that this run did not make and must not overwrite."""


class SourceError(RotError):
    """A corpus can't be read, or none of its rows has the fields that its reader needs."""


class ShardError(RotError):
    """A shard or manifest is missing, truncated or not what its manifest says."""


class ShardMismatch(RotError):
    """The shards were made for another model than the one that wants to read them."""


class FolderUnwritable(RotError):
    """The disk is full, or the folder can't be written."""


class CheckpointError(RotError):
    """A checkpoint is missing, incomplete, or was made for something else."""


class TrainingError(RotError):
    """Training can't go on: a loss that is not finite, rows that can't be batched."""


class MissingExtra(RotError):
    """A command needs libraries that an extra of the package brings, and they are not installed."""


class Interrupted(RotError):
    """SIGTERM or SIGINT: what was whole is saved, and the same command resumes."""

    exit_code = 130
