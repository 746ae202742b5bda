"""What both command lines share: results on stdout, everything else on stderr, exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from rotdata import extras
from rotdata.errors import RotError
from rotdata.version import __version__

EXIT_REJECTS = 3
EXIT_MISMATCH = 4
EXIT_INTERRUPTED = 130

MOST = 2**31 - 1
"""No number on a command line is larger: what counts, seeds and sizes all fit into 32 bits."""
_LONGEST_MESSAGE = 2000  # characters
_REORDERING = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
_UNSEEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_REORDERING}]")
"""What a terminal obeys instead of showing it, but for tabs and ends of lines."""
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of the click that typer carries


def _tell_version(context: typer.Context, wanted: bool) -> None:  # noqa: FBT001 -- typer calls it with the flag
    if wanted:
        typer.echo(f"{context.command.name} {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and exit.")
]


class Commands(TyperGroup):
    """A group that quotes what it does not know as text alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As every group does. Raises a usage error."""
        with _quoting():
            return super().parse_args(ctx, args)


class Command(TyperCommand):
    """A command whose arguments are refused where no command could use them, whatever it is about.

    Numbers are finite and no larger than MOST, texts are UTF-8 without a NUL, and paths name something.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, then check what was given. Raises BadParameter, which is a usage error."""
        with _quoting():
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
            rest = super().parse_args(ctx, args)
        parameters: list[Any] = self.params
        for parameter in parameters:
            raw, found = given.get(parameter.name), ctx.params.get(parameter.name)
            for value in found if isinstance(found, list | tuple) else [found]:
                if problem := _problem(value, is_empty=raw == ""):
                    raise typer.BadParameter(problem, ctx=ctx, param=parameter)
        return rest


@contextmanager
def _quoting() -> Iterator[None]:
    """Usage errors that quote an argument show it and do not obey it."""
    try:
        yield
    except _UsageError as error:
        error.message = neutral(str(error.message))  # type: ignore[attr-defined]
        raise


def _problem(value: object, *, is_empty: bool) -> str | None:
    """Why no command can use an argument; None if that is for the command to say."""
    match value:
        case bool():
            return None
        case int() | float() if not abs(value) <= MOST:  # a NaN is not, either
            return f"{value:g} is no number up to {MOST}." if isinstance(value, float) else f"at most {MOST}."
        case Path() if is_empty:
            return "an empty text names no file and no folder."
        case str() | Path():
            text = str(value)
            if "\0" in text:
                return "a text that holds a NUL can't be used."
            if not is_unicode(text):
                return f"{text[:80]!a} is not UTF-8: rename what it names, or convert it."
    return None


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no lone surrogate, as which Python reads other bytes."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def new_app(name: str, summary: str, commands: Mapping[str, Callable[..., None]]) -> typer.Typer:
    """The command line of that name: its commands, --version, completion of shells, tracebacks as Python's."""
    app = typer.Typer(
        name=name,
        cls=Commands,
        help=summary,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    app.callback()(_global_options)
    for command, body in commands.items():
        app.command(command, cls=Command)(body)
    return app


def _global_options(version: Version = False) -> None:  # noqa: FBT002 -- a flag, answered by its callback
    pass


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    typer.echo(_UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False)))


def neutral(text: str) -> str:
    """A text in which every character that a terminal would obey, escapes and the like, is spelt out instead.

    Paths, and all that a stranger wrote into a corpus, a manifest or a checkpoint, may hold some.
    """
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)


def tell(text: str, *, end: str = "\n") -> None:
    """Text for people, on stdout."""
    typer.echo(neutral(text) + end, nl=False)


def say(message: str) -> None:
    """A line for people, on stderr, of a length that can be read."""
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[: _LONGEST_MESSAGE // 2]} [...] {message[-_LONGEST_MESSAGE // 2 :]}"
    typer.echo(neutral(message), err=True)


def run_app(app: Callable[[], object], package: str = "rotdata") -> None:
    """Run a package's command line; errors of ours become one line on stderr and their exit code, no traceback."""
    try:
        # Until a command that can save its work listens itself, being told to stop is an interruption like Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        app()
    except RotError as error:
        _say_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _say_error(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
        sys.exit(1)
    except ModuleNotFoundError as error:
        if (missing := extras.missing(error, package)) is None:
            raise
        _say_error(missing)
        sys.exit(missing.exit_code)
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        _say_error(f"there is not enough memory ({error}): take a smaller batch, a smaller budget or fewer rows")
        sys.exit(1)


def _is_lack_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: Python's, or torch's on a GPU or CPU, which is told by its words alone."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def _say_error(message: object) -> None:
    """An error as one line for people."""
    say("error: " + " ".join(part.strip() for part in str(message).splitlines()))
