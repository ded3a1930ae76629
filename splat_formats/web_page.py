# SPDX-License-Identifier: Apache-2.0
"""A .f3dgs file and its viewer as one self-contained HTML page. Standard library only.

The page is web/viewer/index.html with its modules joined to one script for the page and one for
each worker, because a page from a file cannot load modules. Its Content-Security-Policy allows
exactly this script and this style, and no network.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

from utils.errors import InputError
from utils.files import is_special, write_bytes

WEB_FOLDER = Path(__file__).parents[1] / "web"
_VIEWER = WEB_FOLDER / "viewer"
_WORKERS = ("load_worker", "sort_worker")
_IMPORT = re.compile(r'^import \{([^}]*)\} from "([^"]+)";[^\n]*\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function\*?|function\*?|class|const|let) (\w+))", re.M)
_EXPORTED_NAME = re.compile(r"(?:async function\*?|function\*?|class|const|let) (\w+)")
_OTHER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)
_SOURCE_TYPES = (".html", ".js", ".css")


def web_files() -> list[Path]:
    """All files of the page. Raises InputError where they are not installed."""
    if not (_VIEWER / "index.html").is_file():
        raise InputError(f"{_VIEWER}: the viewer's page is missing: run this from the repository")
    files = [*WEB_FOLDER.glob("*.js"), *_VIEWER.iterdir()]
    return sorted(path for path in files if path.suffix in _SOURCE_TYPES)


def is_page(path: Path) -> bool:
    """Whether the name is that of a web page."""
    return path.suffix.lower() == ".html" and not is_special(path)


def write_page(path: Path, f3dgs: bytes, title: str) -> None:
    """Writes the page that shows this .f3dgs file, whole or not at all."""
    write_bytes(path, page_of(f3dgs, title))


def page_of(f3dgs: bytes, title: str) -> bytes:
    """The page: the viewer, and the file in base64."""
    web_files()
    session = json.dumps({"name": title, "bytes": len(f3dgs)}).replace("<", "\\u003c")
    style = (_VIEWER / "style.css").read_text(encoding="utf-8")
    script = joined(_VIEWER / "main.js")
    data = [f'<script type="application/json" id="session">{session}</script>']
    for name in _WORKERS:
        source = joined(_VIEWER / f"{name}.js")
        data.append(f'<script type="text/plain" id="{name}">{source}</script>')
    encoded = base64.b64encode(f3dgs).decode("ascii")
    data.append(f'<script type="text/plain" id="model">{encoded}</script>')
    page = (_VIEWER / "index.html").read_text(encoding="utf-8")
    replacements = {
        '<link rel="stylesheet" href="style.css">': f"{_policy(script, style)}\n"
        f"<style>{style}</style>",
        '<script type="module" src="main.js"></script>': "\n".join(data)
        + f'\n<script type="module">{script}</script>',
        "<title>Fast-3DGS viewer</title>": f"<title>{html.escape(title)} - Fast-3DGS</title>",
    }
    for placeholder, content in replacements.items():
        before, found, after = page.partition(placeholder)
        if not found:
            raise InputError(f"{_VIEWER / 'index.html'}: the line {placeholder} is missing")
        page = before + content + after
    return page.encode("utf-8")


def _policy(script: str, style: str) -> str:
    """The tag that allows this script, this style and workers made of the page's own text."""
    rules = (
        "default-src 'none'",
        f"script-src '{_digest(script)}'",
        f"style-src '{_digest(style)}'",
        "worker-src blob:",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(rules)}">'


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode()


def joined(entry: Path) -> str:
    """The module and all that it imports as one script.

    Every module becomes a function that is called once and returns what the module exports.
    Raises InputError for a module with other imports and exports than `import { a } from "b";` and
    `export` before a declaration.
    """
    modules: dict[Path, str] = {}
    _add(entry.resolve(), modules, ())
    script = "\n".join(modules.values())
    if "</script" in script.lower() or "<!--" in script:
        raise InputError(f"{entry}: a page cannot contain </script or <!-- inside of a script")
    return script


def _add(path: Path, modules: dict[Path, str], importers: tuple[Path, ...]) -> None:
    if path in modules:
        return
    if path in importers:
        raise InputError(f"{path}: this module imports itself, through {importers[-1].name}")
    source = path.read_text(encoding="utf-8")
    for _, target in _IMPORT.findall(source):
        _add((path.parent / target).resolve(), modules, (*importers, path))
    body = _IMPORT.sub(lambda found: _bound(found, path), source)
    names = _EXPORT.findall(body)
    body = _EXPORT.sub("", body)
    if other := _OTHER.search(body):
        raise InputError(f"{path}: cannot be joined into a page: {other[0]}")
    modules[path] = (
        f"const {_variable(path)} = (() => {{\n{body}\nreturn {{ {', '.join(names)} }};\n}})();"
    )


def _bound(found: re.Match[str], path: Path) -> str:
    names = found[1].replace(" as ", ": ")
    return f"const {{{names}}} = {_variable((path.parent / found[2]).resolve())};\n"


def _variable(path: Path) -> str:
    return f"module_{path.stem}"
