# SPDX-License-Identifier: Apache-2.0
"""`fast3dgs COMMAND ARGUMENTS` runs a script of this project, as `python SCRIPT ARGUMENTS` does."""

import ast
import difflib
import sys
from pathlib import Path
from types import ModuleType

from fast3dgs import __version__

EXIT_USAGE = 2  # as argparse has it
_HERE = Path(__file__).resolve().parent
_INSTALLED = _HERE / "tree"


def scripts_folder() -> Path:
    """The folder of the scripts: in the installed package, or the checkout that this file is in."""
    return _INSTALLED if _INSTALLED.is_dir() else _HERE.parent


def commands() -> dict[str, Path]:
    """Name of each command -> its script, in alphabetic order."""
    scripts = sorted(scripts_folder().glob("*.py"))
    return {path.stem.replace("_", "-"): path for path in scripts}


def main() -> None:
    """Runs the command that the first argument names."""
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(help_text(), file=sys.stdout if words else sys.stderr)
        sys.exit(0 if words else EXIT_USAGE)
    if words[0] == "--version":
        print(f"fast3dgs {__version__}")
        return
    name, known = words[0].replace("_", "-"), commands()
    if name not in known:
        print(f"error: {_unknown(words[0], known)}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    sys.argv = [f"fast3dgs {name}", *words[1:]]
    run_script(known[name])


def run_script(path: Path) -> None:
    """Runs the file as the module `__main__`; its folder is the first that imports search.

    `sys.argv[0]`, which messages and reports show, stays what it is, unlike with `runpy`.
    """
    sys.path.insert(0, str(path.parent))
    module = ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    exec(compile(path.read_bytes(), path, "exec"), module.__dict__)


def help_text() -> str:
    """One line for each command."""
    known = commands()
    width = max(map(len, known))
    lines = [f"  {name:<{width}}  {summary(path)}" for name, path in known.items()]
    end = "fast3dgs COMMAND --help shows the options of a command, fast3dgs --version the version."
    return "\n".join(("usage: fast3dgs COMMAND ...", "", *lines, "", end))


def summary(path: Path) -> str:
    """The first sentence of a script's docstring. The script is not run: that takes seconds."""
    text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    line = text.split("\n\n")[0].replace("\n", " ")
    return line.partition(". ")[0].partition(": `")[0].rstrip(".:")


def _unknown(name: str, known: dict[str, Path]) -> str:
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=1)
    advice = f" Did you mean {near[0]}?" if near else ""
    return f"fast3dgs has no command {name!r}.{advice} fast3dgs --help lists all."
