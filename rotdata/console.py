"""What both command lines share: results on stdout, everything else on stderr, exit codes."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Annotated, Any

import typer

from rotdata.errors import RotError
from rotdata.version import __version__

EXIT_REJECTS = 3
EXIT_MISMATCH = 4
EXIT_INTERRUPTED = 130


def _tell_version(context: typer.Context, wanted: bool) -> None:  # noqa: FBT001 -- typer calls it with the flag
    if wanted:
        typer.echo(f"{context.command.name} {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
]


def new_app(name: str, summary: str) -> typer.Typer:
    """A command line of that name without commands yet: --version, completion of shells, tracebacks as Python's."""
    app = typer.Typer(
        name=name, help=summary, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    app.callback()(_global_options)
    return app


def _global_options(version: Version = False) -> None:  # noqa: FBT002 -- a flag, answered by its callback
    pass


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def say(message: str) -> None:
    """A line for people, on stderr."""
    typer.echo(message, err=True)


def run_app(app: typer.Typer) -> None:
    """Run a command line; errors of ours become one line on stderr and their exit code, never a traceback."""
    try:
        # Until a command that can save its work listens itself, being told to stop is an interruption like Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        app()
    except RotError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        say(f"error: {error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(1)
