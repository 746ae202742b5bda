"""Names that a package offers and that are loaded when first asked for, so that importing it loads next to nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from rotdata import extras


def lazily(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that offers names from the modules that have them.

    In the package, beside imports of the same names for type checkers:

        __getattr__, __dir__ = lazily(__name__, {"Strip": "rotdata.rendering.strips"})

    A name whose module needs an extra that is not installed raises MissingExtra.
    """
    namespace = vars(sys.modules[package])

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = import_module(modules[name])
        except ModuleNotFoundError as error:
            if (missing := extras.missing(error, package)) is None:
                raise
            raise missing from error
        namespace[name] = found = getattr(module, name)
        return found

    return load, lambda: sorted(namespace["__all__"])
