"""`python -m tests.rottrain.killed EVENT PATTERN COUNT ...`: rottrain, killed the COUNT-th time that it touches a file.

EVENT is what Python calls it as it audits itself, before it is done: open (to write), os.rename, os.remove, os.link.
PATTERN is of the file's last two names. SIGKILL is what ends it: nothing is tidied up.
"""

from __future__ import annotations

import os
import signal
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from rottrain.cli import main


def kill_at(event: str, pattern: str, count: int) -> None:
    """Have this process killed there."""
    left = count

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if name != event or not isinstance(arguments[0], str | os.PathLike):
            return
        if name == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        if fnmatch("/".join(Path(arguments[0]).parts[-2:]), pattern):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


if __name__ == "__main__":
    event, pattern, count, *arguments = sys.argv[1:]
    kill_at(event, pattern, int(count))
    sys.argv = ["rottrain", *arguments]
    main()
