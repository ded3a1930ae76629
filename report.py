# SPDX-License-Identifier: Apache-2.0
"""Draw the report of a compression, or compare several: `python report.py MODEL...`.

One model: MODEL/compressed/report.html, from report.json and the pictures beside it. Several: one
page with all curves and figures. PyTorch is not needed.
"""

import logging
import os
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from gaussian_compression.html_report.comparison_page import Run, comparison_page
from gaussian_compression.html_report.frame import is_own_page
from gaussian_compression.html_report.report_page import report_page
from gaussian_compression.report import page_path, pictures_folder, read_report, report_path
from gaussian_compression.report_pictures import stored_pictures
from utils.cli import run, show_messages
from utils.errors import InputError
from utils.files import check_target, write_text
from utils.folder_lock import locked

logger = logging.getLogger("gaussian_compression")

COMPARISON_NAME = "comparison.html"


def main() -> None:
    """Reads the command line and the reports; writes the page and prints its path."""
    show_messages()
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="a model folder, or "
        "the path of a report.json")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page to write (default: "
        f"MODEL/compressed/report.html; for several models, {COMPARISON_NAME})")  # fmt: skip
    args = parser.parse_args()
    sources = [report_file(model) for model in args.models]
    if len(sources) == 1:
        draw_one(args.models[0], sources[0], args.out)
    else:
        compare(args.models, sources, args.out)


def report_file(model: Path) -> Path:
    """The report of a model folder, or `model` itself if it is a file. InputError if missing."""
    if model.is_file():
        return model
    if not model.exists():
        raise InputError(f"{model}: there is no such folder")
    path = report_path(model)
    if not path.is_file():
        raise InputError(
            f"{model}: expected the report of a compression at {path}, found none; compress.py "
            "writes it"
        )
    return path


def draw_one(model: Path, source: Path, out: Path | None) -> None:
    """Draws the page of one report."""
    target = _target(out, page_path(source), [source])
    report = read_report(source)
    missing, pictures = None, {}
    try:
        pictures = stored_pictures(pictures_folder(source), report)
    except InputError as error:
        missing = str(error)
        logger.warning("%s: the page has no pictures", missing)
    own_folder = out is None and source == report_path(model)
    # compress.py must not write the same page meanwhile.
    with locked(model) if own_folder else nullcontext():
        write_text(target, report_page(run_name(model), report, pictures, missing))
    print(f"Report: {target}")


def compare(models: Sequence[Path], sources: Sequence[Path], out: Path | None) -> None:
    """Draws one page of several reports."""
    target = _target(out, Path(COMPARISON_NAME), sources)
    names = distinct_names(models)
    runs = [Run(name, read_report(at)) for name, at in zip(names, sources, strict=True)]
    write_text(target, comparison_page(runs))
    print(f"Comparison: {target}")


def _target(out: Path | None, default: Path, sources: Sequence[Path]) -> Path:
    """The page to write. InputError if it would replace a report, or by default any other file."""
    if out is None and default.exists() and not is_own_page(default):
        raise InputError(
            f"{default} would be replaced, but report.py did not write it: move it away, or give "
            "another name with --out"
        )
    target = default if out is None else out
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{target}: expected a name that ends in .html")
    check_target(target, *sources)
    return target


def run_name(model: Path) -> str:
    """The name of a model folder, also of `.`; of another file, its name."""
    return Path(os.path.abspath(model)).name  # noqa: PTH100, keeps symlinks


def distinct_names(models: Sequence[Path]) -> list[str]:
    """The names of the models; their paths where names are equal, and numbers where paths are."""
    names = [run_name(model) for model in models]
    if len(set(names)) < len(names):
        names = [str(model) for model in models]
    if len(set(names)) < len(names):
        names = [f"{number} {name}" for number, name in enumerate(names, 1)]
    return names


if __name__ == "__main__":
    run(main)
