r"""Are two answers in LaTeX the same? Decided by math-verify, in a process of its own.

math-verify guards itself by a signal, which works in a main thread alone and can't interrupt one long operation on
integers, such as 9^{9^{9^9}}. So it runs in a child process, which a watchdog thread ends when time is up, the memory
of which is limited, and which ends with its parent. Answers are read as LaTeX and never evaluated as Python.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import logging
import os
import resource
import signal
import subprocess
import sys
from functools import cache, lru_cache
from pathlib import Path
from threading import Lock
from typing import IO

TIMEOUT_S = 5.0
"""Time for one pair of answers; one that takes longer is not the same."""
MEMORY_BYTES = 2 << 30
MAX_CHARACTERS = 1000
"""Longer texts are no answers to a problem: they are not looked at."""
RELATIVE_TOLERANCE = 1e-4
"""By what share of the larger one two numbers may differ: math-verify's own tolerance is absolute, in which all tiny
numbers are 0."""


def same(prediction: str, reference: str) -> bool:
    """Whether math-verify takes two LaTeX answers for the same; not symmetric, see its `verify`."""
    if max(len(prediction), len(reference)) > MAX_CHARACTERS:
        return False
    return _verdict(prediction, reference)


@lru_cache(maxsize=1 << 14)  # several budgets, modes and seeds give the same answers
def _verdict(prediction: str, reference: str) -> bool:
    return _verifier().same(prediction, reference)


@cache
def _verifier() -> Verifier:
    verifier = Verifier()
    atexit.register(verifier.close)
    return verifier


class Verifier:
    """A child process that compares answers, started when it is first needed and again when it has died."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._lock = Lock()

    def same(self, prediction: str, reference: str) -> bool:
        """Whether the answers are the same; not, if that can't be decided in time and memory. Safe among threads."""
        with self._lock:
            if self._process is None:
                self._process = self._start()
            assert self._process.stdin
            assert self._process.stdout
            try:
                self._process.stdin.write(json.dumps([prediction, reference]) + "\n")
                self._process.stdin.flush()
                verdict = self._process.stdout.readline()
            except BrokenPipeError:
                verdict = ""
            if not verdict:  # it was ended
                self._close()
            return verdict == "true\n"

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            self._close()

    def _start(self) -> subprocess.Popen[str]:
        # -P: this folder has modules with names of the standard library's.
        command = [sys.executable, "-P", str(Path(__file__)), str(self._timeout_s)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 -- ours

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _serve(timeout_s: float) -> None:
    """The child: pairs of answers as JSON lines on stdin, true or false on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 -- a name, not a path
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        _compare("x+1", "1+x")  # what it takes to load is not the first pair's time
        for line in sys.stdin:
            _answer(line, answers, nowhere, timeout_s)


def _answer(line: str, answers: IO[str], nowhere: IO[str], timeout_s: float) -> None:
    faulthandler.dump_traceback_later(timeout_s, exit=True, file=nowhere)
    try:
        verdict = _compare(*json.loads(line))
    except (MemoryError, RecursionError):
        verdict = False
    faulthandler.cancel_dump_traceback_later()
    answers.write(json.dumps(verdict) + "\n")
    answers.flush()


def _compare(prediction: str, reference: str) -> bool:
    from math_verify import LatexExtractionConfig, parse, verify

    _compare_by_size()

    def parsed(latex: str) -> list[object]:
        text = " ".join(latex.replace("$", "").split())
        return parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=0)

    return bool(verify(parsed(reference), parsed(prediction), timeout_seconds=0))


@cache
def _compare_by_size() -> None:
    """Have math-verify take two numbers for the same only if they are near each other for their size, also in sets."""
    from math_verify import grader
    from sympy import Expr, Float

    same_numbers = grader.sympy_numeric_eq

    def value(formula: Expr) -> Expr:
        """A formula's value, its constant term where there are unknowns."""
        found = formula.doit().subs(dict.fromkeys(formula.free_symbols, 0)).evalf(30)
        return Float(0) if isinstance(found, Float) and found._prec == 1 else found  # noqa: SLF001 -- no digit is known

    def near(left: object, right: object, *rounding: int) -> bool:
        if not same_numbers(left, right, *rounding):
            return False
        if not (isinstance(left, Expr) and isinstance(right, Expr)) or left == right:
            return True
        ours, theirs = value(left), value(right)
        if not (ours.is_finite and theirs.is_finite):
            return True
        return bool(abs(ours - theirs) <= RELATIVE_TOLERANCE * max(abs(ours), abs(theirs)))

    grader.sympy_numeric_eq = near


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
