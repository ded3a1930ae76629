# SPDX-License-Identifier: Apache-2.0
"""Where a compression starts from and where it puts its results, in Inria's model folder.

MODEL/compressed/model.f3dgs                       the file
MODEL/compressed/model.spz, ...                    the decoded model in other formats
MODEL/compressed/ladder/50.f3dgs, ...              files with other numbers of Gaussians
MODEL/compressed/lod/lod-meta.json, lod/*/         the same as levels of detail
MODEL/compressed/report.json                       all figures and settings of the compression
MODEL/compressed/report.html                       the page that is drawn of it
MODEL/compressed/report_views/                     the pictures on this page
MODEL/compressed/rounds/                           checkpoints of the rounds, during a run
MODEL/point_cloud/iteration_K/point_cloud.ply      the decoded model, for every other tool
MODEL/point_cloud/iteration_K/decoded_from.json    excludes it as a start of other compressions

Only files that a compression wrote are replaced or removed. K is the highest number in the folder,
because other tools use the highest. No PyTorch.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath

from gaussian_compression.decoded_mark import (
    PLY_NAME,
    file_sha256,
    is_decoded,
    is_own,
    read_mark,
    write_mark,
)
from gaussian_compression.html_report.frame import is_own_page
from gaussian_compression.html_report.report_page import report_page
from gaussian_compression.report import (
    CompressionReport,
    as_read,
    page_path,
    pictures_folder,
    read_report,
    report_path,
    write_report,
)
from gaussian_compression.report_pictures import is_own_folder
from splat_formats.files import (
    bytes_of_model,
    log_notices,
    read_with_notices,
    readable_names,
    write_splats,
)
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.files import atomic_folder, atomic_path, remove_empty, remove_folder, remove_leftovers

FILE_NAME = "compressed/model.f3dgs"


@dataclass(frozen=True)
class StartModel:
    """The trained model that a compression starts from."""

    path: Path
    iteration: int
    """0 for a file without a model folder."""
    scene: SplatScene
    ply_bytes: int
    """Of its file, or of the files in its folder."""

    @property
    def splats(self) -> Splats:
        """The Gaussians."""
        return self.scene.splats

    @property
    def metadata(self) -> SplatMetadata:
        """What the file holds besides the Gaussians."""
        return self.scene.metadata


@dataclass(frozen=True)
class Outputs:
    """What a compression writes."""

    data: bytes
    """The compressed file."""
    decoded: SplatScene
    report: CompressionReport
    pictures: dict[str, bytes] = field(default_factory=dict)
    """The report's, by file name."""
    exports: dict[str, bytes] = field(default_factory=dict)
    """Other files, by their paths in the folder of the compressed file."""


def start_from_file(path: Path, iteration: int = 0) -> StartModel:
    """The model in one file, or a folder, of any format that can be read."""
    if not path.exists():
        raise InputError(f"no file at {path}: expected {readable_names()}")
    if (path / "point_cloud").is_dir():
        raise InputError(
            f"{path} is a model folder: expected a file; for a model folder, give --pretrained_dir"
        )
    return StartModel(path, iteration, read_with_notices(path), bytes_of_model(path))


def model_folder_of(path: Path) -> Path | None:
    """The model folder that a file is an iteration of; None for a file elsewhere."""
    folders = path.absolute().parents
    return folders[2] if len(folders) > 2 and folders[1].name == "point_cloud" else None


def start_from_folder(model_path: Path) -> StartModel:
    """The highest iteration of a model folder that was not decoded from a compressed file."""
    iteration, ply = highest_ply(model_path)
    return start_from_file(ply, iteration)


def highest_ply(model_path: Path) -> tuple[int, Path]:
    """The iteration that `start_from_folder` starts from, and its PLY. InputError if none."""
    found = trained_ply(model_path)
    if found is None:
        raise InputError(
            f"no trained model in {model_path / 'point_cloud'}: expected "
            "iteration_<N>/point_cloud.ply; train one with train.py, or give --pretrained_dir or "
            "--start_ply"
        )
    return found


def trained_ply(model_path: Path) -> tuple[int, Path] | None:
    """The highest iteration that was not decoded from a compressed file, and its PLY."""
    trained = [
        number
        for number, folder in iterations(model_path).items()
        if (folder / PLY_NAME).exists() and not is_decoded(folder)
    ]
    if not trained:
        return None
    return max(trained), iteration_folder(model_path, max(trained)) / PLY_NAME


def file_path(model_path: Path) -> Path:
    """The compressed file of a model folder."""
    return model_path / FILE_NAME


def rounds_folder(model_path: Path) -> Path:
    """The checkpoints of a model folder's running compression."""
    return model_path / "compressed" / "rounds"


def iteration_folder(model_path: Path, iteration: int) -> Path:
    """The folder of the PLY of `iteration` in a model folder."""
    return model_path / "point_cloud" / f"iteration_{iteration}"


def iterations(model_path: Path) -> dict[int, Path]:
    """The entries iteration_<N> of a model folder, by N."""
    folder = model_path / "point_cloud"
    entries = folder.iterdir() if folder.is_dir() else ()
    numbered = ((entry.name.removeprefix("iteration_"), entry) for entry in entries)
    return {
        int(number): entry
        for number, entry in numbered
        if number.isdecimal() and entry.name == f"iteration_{int(number)}"
    }


def free_iteration(model_path: Path, wanted: int) -> int:
    """`wanted`, or the next number above all iterations that no compression wrote."""
    kept = [n for n, folder in iterations(model_path).items() if not is_own(folder)]
    return max([wanted, *(number + 1 for number in kept)])


def prepare_outputs(model_path: Path, start_path: Path, exports: Sequence[str] = ()) -> None:
    """Removes the temporary files of a killed run.

    InputError where the outputs, with `exports` beside the compressed file, would replace a file
    that no compression wrote.
    """
    for folder in ("compressed", "compressed/rounds", "point_cloud"):
        remove_leftovers(model_path / folder)
    for folder in ("ladder", "lod", "lod/*"):
        for place in (model_path / "compressed").glob(folder):
            remove_leftovers(place)
    file, report = file_path(model_path), report_path(model_path)
    exported = [file.parent / name for name in exports]
    for path in (file, report, page_path(report), *exported):
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: expected an ordinary file or none, move it away")
        if path.exists() and path.samefile(start_path):
            raise InputError(
                f"{path} would be replaced, but is the model to start from: move it away, or give "
                "another folder with -m"
            )
    _check_page(report)
    known = read_report(report).compressed.bytes if report.exists() else None
    foreign = [] if not file.exists() or file.stat().st_size == known else [file]
    foreign += [path for path in exported if path.exists()]
    written = _written_digests(model_path) if foreign else set()
    for path in foreign:
        if file_sha256(path) not in written:
            raise InputError(
                f"{path} would be replaced, but no compression in this folder wrote it: move it "
                "away, or give another folder with -m"
            )


def _written_digests(model_path: Path) -> set[str]:
    """Of the compressed files, and those of other formats, that compressions wrote here."""
    marks = [read_mark(folder) for folder in iterations(model_path).values()]
    digests = [(mark.file_sha256, *mark.exports.values()) for mark in marks if mark is not None]
    return set(chain.from_iterable(digests))


def _check_page(report: Path) -> None:
    """InputError where the report's page or pictures would replace what no compression wrote."""
    page, pictures = page_path(report), pictures_folder(report)
    if page.exists() and not is_own_page(page):
        raise InputError(f"{page} would be replaced, but no compression wrote it: move it away")
    if pictures.exists() and not is_own_folder(pictures):
        raise InputError(
            f"{pictures} would be replaced, but holds files that no compression wrote: move it away"
        )


@dataclass(frozen=True)
class Places:
    """Where the outputs of a compression are written, before they get their names."""

    file: Path
    decoded: Path
    """The folder of the decoded PLY."""
    report: Path
    page: Path


def write_outputs(model_path: Path, start: StartModel, outputs: Outputs) -> None:
    """Writes decoded PLY, mark, files, report and page, and removes the results of earlier runs.

    All are complete on disk before the first gets its name. After a kill in between, the same
    command starts from the same model and writes them again.
    """
    number = outputs.report.compressed.iteration
    with replaced_outputs(model_path, number, outputs.pictures, outputs.exports) as places:
        write_report_and_page(model_path, places, outputs.report, outputs.pictures)
        places.file.write_bytes(outputs.data)
        notices = write_splats(places.decoded / PLY_NAME, outputs.decoded)
        write_mark(places.decoded, FILE_NAME, start.iteration, outputs.data, outputs.exports)
    log_notices(iteration_folder(model_path, number) / PLY_NAME, notices)


@contextmanager
def replaced_outputs(
    model_path: Path,
    number: int,
    pictures: Mapping[str, bytes] | None = None,
    exports: Mapping[str, bytes] | None = None,
) -> Iterator[Places]:
    """Where to write the outputs, whose decoded model is iteration `number`.

    They get their names after the block, and the results of earlier runs are removed; after an
    exception everything is as before. `pictures` and `exports` are as in `Outputs`.
    """
    decoded, file = iteration_folder(model_path, number), file_path(model_path)
    earlier = [n for n, folder in iterations(model_path).items() if is_own(folder)]
    report = report_path(model_path)
    with ExitStack() as complete:  # ends in the reverse order: first the PLY, last the page
        page_at = complete.enter_context(atomic_path(page_path(report)))
        report_at = complete.enter_context(atomic_path(report))
        _write_pictures(pictures_folder(report), pictures or {}, complete)
        file_at = complete.enter_context(atomic_path(file))
        for name, content in (exports or {}).items():
            complete.enter_context(atomic_path(file.parent / name)).write_bytes(content)
        decoded_at = complete.enter_context(atomic_folder(decoded))
        yield Places(file_at, decoded_at, report_at, page_at)
        _remove_exports(model_path, earlier)
    if not pictures and pictures_folder(report).exists():
        remove_folder(pictures_folder(report))  # of an earlier run, as prepare_outputs has checked
    for old in earlier:
        _remove_renders(model_path, old)
        if old != number:
            remove_folder(iteration_folder(model_path, old))


def write_report_and_page(
    model_path: Path, places: Places, report: CompressionReport, pictures: Mapping[str, bytes]
) -> None:
    """Writes the report, and the page that is drawn of it."""
    name = Path(os.path.abspath(model_path)).name  # noqa: PTH100, keeps symlinks
    page = report_page(name, as_read(report), dict(pictures))
    places.page.write_text(page, encoding="utf-8", newline="\n")
    write_report(places.report, report)


def _remove_exports(model_path: Path, iterations: Sequence[int]) -> None:
    """Removes the files of other formats that belong to old decoded models."""
    for number in iterations:
        mark = read_mark(iteration_folder(model_path, number))
        for name, digest in mark.exports.items() if mark is not None else ():
            path = file_path(model_path).parent / name
            if path.is_file() and file_sha256(path) == digest:
                path.unlink()
                remove_empty([model_path / "compressed" / inner for inner in _folders_of(name)])


def _folders_of(name: str) -> list[PurePosixPath]:
    """The folders of a relative path, the innermost first."""
    return list(PurePosixPath(name).parents)[:-1]


def _write_pictures(folder: Path, pictures: Mapping[str, bytes], complete: ExitStack) -> None:
    """Writes the pictures, which get their names when `complete` ends."""
    if pictures:
        pictures_at = complete.enter_context(atomic_folder(folder))
        for name, picture in pictures.items():
            (pictures_at / name).write_bytes(picture)


def _remove_renders(model_path: Path, iteration: int) -> None:
    """Removes render.py's images of an old decoded model, which metrics.py would still score."""
    for split in ("train", "test"):
        folder = model_path / split / f"ours_{iteration}"
        for images in (folder / "renders", folder / "gt"):
            for image in images.glob("[0-9]*.png"):
                image.unlink()
        for place in (folder / "renders", folder / "gt", folder):
            if place.is_dir() and not any(place.iterdir()):
                place.rmdir()
