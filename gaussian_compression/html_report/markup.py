# SPDX-License-Identifier: Apache-2.0
"""HTML and SVG elements as text, in which every string is escaped unless it is markup itself."""

from collections.abc import Iterable, Sequence
from html import escape


class Html(str):
    """Text that is markup, and is not escaped again."""


def markup(content: object) -> Html:
    """The content as markup: Html as it is, None as nothing, everything else escaped."""
    if isinstance(content, Html):
        return content
    return Html("" if content is None else escape(str(content)))


def joined(parts: Iterable[object], between: str = "\n") -> Html:
    """The parts as markup, one after another."""
    return Html(between.join(markup(part) for part in parts if part is not None))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """`<tag attributes>children</tag>`.

    Attributes whose value is None are left out; `class_` is written as class, and `_` as `-`.
    """
    opening = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Html(f"<{tag}{opening}>")
    return Html(f"<{tag}{opening}>{joined(children, '')}</{tag}>")


_VOID = frozenset({"img", "input", "link", "meta"})


def _attribute(value: object) -> str:
    """Numbers of pictures with up to two digits after the point: hundredths of pixels."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def table(head: Sequence[object], rows: Iterable[Sequence[object]], **attributes: object) -> Html:
    """A table whose first column names the rows."""
    titles = element("tr", *(element("th", title, scope="col") for title in head))
    body = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(element("td", cell) for cell in row[1:]),
        )
        for row in rows
    ]
    parts = (element("thead", titles), element("tbody", joined(body)))
    return element("div", element("table", *parts, **attributes), class_="wide")


def details(summary: object, *content: object) -> Html:
    """Content that is shown on demand."""
    return element("details", element("summary", summary), *content)


def section(title: str, *content: object) -> Html:
    """A part of the page under a heading."""
    return element("section", element("h2", title), joined(content))


def paragraph(*content: object, **attributes: object) -> Html:
    """A paragraph."""
    return element("p", *content, **attributes)
