# SPDX-License-Identifier: Apache-2.0
"""The frame of a page: one HTML file that loads nothing, from any place.

Its Content-Security-Policy allows the style sheet and the script of this package, by their digests,
and pictures within the file. Nothing else is loaded or run, whatever the report contains.
"""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path

from gaussian_compression.html_report.markup import Html, element, joined

_GENERATOR = "Fast-3DGS report"
_HEAD_BYTES = 2000
"""From the start of a page: they contain the name of the program that made it."""


def page(title: str, *content: object) -> str:
    """The whole page."""
    style, script = style_sheet(), _resource("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; "
        f"script-src '{_digest(script)}'; base-uri 'none'; form-action 'none'"
    )
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="generator", content=_GENERATOR),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Html(style)),
    ]
    body = [element("h1", title), *content, element("script", Html(script))]
    return (
        "<!DOCTYPE html>\n"
        + element("html", element("head", joined(head)), element("body", joined(body)), lang="en")
        + "\n"
    )


def style_sheet() -> str:
    """The style sheet of the page, on which the plots depend."""
    return _resource("page.css")


def is_own_page(path: Path) -> bool:
    """Whether this program made the page in the file, so that it may be replaced."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return str(element("meta", name="generator", content=_GENERATOR)).encode() in file.read(
            _HEAD_BYTES
        )


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
