"""Pages of the site that no file in docs/ holds, for mkdocs: made from the README and its kin, and from the code.

The public names and the commands say themselves what they are, so the reference can't fall behind them.
"""

from __future__ import annotations

import posixpath
import re
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

_REPOSITORY = Path(__file__).resolve().parents[1]
_PACKAGES = ("rotdata", "rottrain")
_FROM_ROOT = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that stand at the repository's root, where hosts of code look for them, and their names on the site."""
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(```.*?```|`[^`]*`)", re.DOTALL)
_ROW = re.compile(r"^\|.*$", re.MULTILINE)
_FETCHED = re.compile(r'<script type="module">(?:(?!</script>).)*?mermaid.*?</script>', re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\((?!https?:)([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    for source, name in _FROM_ROOT.items():
        files.append(File.generated(config, name, content=(_REPOSITORY / source).read_text(encoding="utf-8")))
    for name in _PACKAGES:
        package = import_module(name)
        files.append(File.generated(config, f"reference/{name}.md", content=_of_package(package)))
        files.append(File.generated(config, f"reference/{name}-command.md", content=_of_command(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Links as they have to be on the site: written for the repository, they lead to files that it may not have."""
    name = page.file.src_uri
    root = next((source for source, made in _FROM_ROOT.items() if made == name), None)
    folder = PurePosixPath() if root else PurePosixPath("docs") / PurePosixPath(name).parent

    def linked(found: re.Match[str]) -> str:
        text, path, anchor = found[1], posixpath.normpath(folder / found[2]), found[3] or ""
        if path in _FROM_ROOT:
            return f"[{text}]({_FROM_ROOT[path]}{anchor})"
        if path.startswith("docs/"):
            return f"[{text}]({path.removeprefix('docs/')}{anchor})" if root else found[0]
        if not (_REPOSITORY / path).exists():
            return found[0]  # for mkdocs to complain about
        return f"{text} (`{path}` in the repository)"

    def pictured(found: re.Match[str]) -> str:
        return f"![{found[1]}]({posixpath.normpath(folder / found[2]).removeprefix('docs/')})"

    return _PICTURE.sub(pictured, _LINK.sub(linked, _ROW.sub(_as_python_markdown, markdown)))


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:  # noqa: ARG001
    """A notebook's page without the script that would fetch mermaid, of which it has no diagram."""
    return _FETCHED.sub("", output) if page.file.src_uri.endswith(".ipynb") else output


def _as_python_markdown(row: re.Match[str]) -> str:
    """A table's row, in whose code GitHub wants bars escaped, and Python-Markdown shows the escapes."""
    return _CODE.sub(lambda code: code[0].replace(r"\|", "|"), row[0])


def _of_package(package: ModuleType) -> str:
    """What a package offers, each name by its docstring."""
    names = [name for name in package.__all__ if not name.startswith("_")]
    entries = "\n".join(f"::: {package.__name__}.{name}\n" for name in sorted(names, key=str.lower))
    return f"# `{package.__name__}`\n\n[From Python](../api.md) shows how these work together.\n\n{entries}"


def _of_command(name: str) -> str:
    """Every command of a program, as its --help has it."""
    command: Any = typer.main.get_command(import_module(f"{name}.cli").app)
    with command.make_context(name, [], resilient_parsing=True) as context:
        written = get_docs_for_click(obj=command, ctx=context, name=name)
    return "".join(part if part.startswith("`") else part.replace("[", r"\[") for part in _CODE.split(written))
