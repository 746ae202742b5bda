"""One of our commands, as a process that ends with the one that started it: `python -m` this module PROGRAM ARGS.

Standard input is a pipe that only the starting process holds. When that is gone, however it went, the pipe ends, and
the command is told to stop as by SIGTERM: it saves what is whole.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the module that the first argument names, with the arguments after it."""
    threading.Thread(target=_stop_with_the_pipe, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _stop_with_the_pipe() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
