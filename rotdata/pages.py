"""Self-contained HTML pages that need no network, and in which nothing runs but their own scripts.

Text of corpora and models is untrusted: every value is escaped, and a Content-Security-Policy lets nothing run or load
but the page's own scripts and styles, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def environment(package: str) -> Environment:
    """Templates of a package, and this one's; every value is escaped, an unknown name is an error."""
    return Environment(
        loader=ChoiceLoader([PackageLoader(each, "templates") for each in dict.fromkeys((package, "rotdata"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_page(package: str, template: str, *, styles: list[str], scripts: list[str], **values: Any) -> str:
    """A page of a package's template, with its styles and its script inside, which alone it allows.

    Before them stand what all pages share: page.css and theme.js.
    """
    sheets = [_own("rotdata", "page.css"), *(_own(package, name) for name in styles)]
    script = "".join([_own("rotdata", "theme.js"), *(_own(package, name) for name in scripts)])
    policy = (
        f"default-src 'none'; img-src data:; style-src {' '.join(map(_sha256, sheets))}; script-src {_sha256(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        environment(package)
        .get_template(template)
        .render(styles=[Markup(sheet) for sheet in sheets], script=Markup(script), policy=Markup(policy), **values)  # noqa: S704 -- our own files
    )


def _own(package: str, name: str) -> str:
    """A style sheet or script."""
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def _sha256(content: str) -> str:
    """A hash as a Content-Security-Policy has it."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
