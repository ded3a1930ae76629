# SPDX-License-Identifier: Apache-2.0
"""The steps from photographs to undistorted images with poses; each is skipped if it is done.

    input/                    the photographs
    distorted/database.db     features and matches; matching.db until all are there
    distorted/sparse/<N>/     reconstructions
    images/, sparse/0/        the result

A step writes under another name, which is changed when the step is complete.
"""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reconstruction.database import DatabaseContent, read_database
from reconstruction.program import Program
from scene.colmap_loader import (
    CAMERA_MODELS,
    Image,
    count_images,
    read_extrinsics_binary,
    read_extrinsics_text,
)
from utils.errors import InputError
from utils.files import atomic_folder
from utils.photo_files import listed, photo_names

logger = logging.getLogger(__name__)

_BUNDLE_ADJUSTMENT_TOLERANCE = "0.000001"  # of all poses together; COLMAP's default is 0, slower
_SAME_POSE = 1e-6  # relative


@dataclass(frozen=True)
class Conversion:
    """What to convert, by which program."""

    source: Path
    program: Program
    camera: str = "OPENCV"
    """COLMAP's name of the camera model, one camera for all photographs."""
    use_gpu: bool = True

    @property
    def photographs(self) -> Path:
        """The folder of the photographs."""
        return self.source / "input"

    @property
    def database(self) -> Path:
        """The database with all features and matches."""
        return self.source / "distorted" / "database.db"

    @property
    def unfinished_database(self) -> Path:
        """The database until then. COLMAP goes on with what it holds."""
        return self.source / "distorted" / "matching.db"

    @property
    def models(self) -> Path:
        """The folder of the reconstructions."""
        return self.source / "distorted" / "sparse"

    def gpu_arguments(self, command: str) -> tuple[str, str]:
        """The option of `command` that chooses a GPU, and its value."""
        return self.program.gpu_option(command), str(int(self.use_gpu))

    @property
    def gpu_hint(self) -> str:
        """Advice for a step that failed."""
        return " (without a GPU or a display, give --no_gpu)" if self.use_gpu else ""


def find_photographs(job: Conversion) -> list[str]:
    """Names of the photographs below input/. InputError if there are none."""
    if not job.photographs.is_dir():
        raise InputError(f"{job.photographs}: expected a folder with the photographs")
    names = photo_names(job.photographs)
    if not names:
        raise InputError(f"{job.photographs}: expected photographs (.jpg, .png, ...), found none")
    return names


def match_photographs(job: Conversion, names: list[str]) -> None:
    """The database. InputError if no photograph has features."""
    if job.database.exists():
        logger.info("%s is complete: features and matches are skipped", job.database)
        check_database(job, job.database, names)
        return
    working = job.unfinished_database
    working.parent.mkdir(exist_ok=True)
    if working.exists():
        logger.info("%s holds a part: going on", working)
        check_camera(job, working, read_database(working))
    job.program.run(
        *("feature_extractor", "--database_path", working, "--image_path", job.photographs),
        *("--ImageReader.single_camera", "1", "--ImageReader.camera_model", job.camera),
        *job.gpu_arguments("feature_extractor"),
        hint=job.gpu_hint,
    )
    check_database(job, working, names)
    job.program.run(
        *("exhaustive_matcher", "--database_path", working),
        *job.gpu_arguments("exhaustive_matcher"),
        hint=job.gpu_hint,
    )
    read_database(working)
    working.rename(job.database)


def check_database(job: Conversion, path: Path, names: list[str]) -> None:
    """InputError for a database that is of no use; a warning for photographs that it lacks."""
    content = read_database(path)
    check_camera(job, path, content)
    if not any(content.keypoints.values()):
        raise InputError(
            f"{job.photographs}: no features were found in {len(content.keypoints)} photographs, "
            "so that no poses can be computed: they may be blank or too small"
        )
    if missing := [name for name in names if not content.keypoints.get(name)]:
        logger.warning(
            "%d of %d photographs have no features in %s: they cannot be read, are blank, or were "
            "added later (then remove %s to start again): %s",
            *(len(missing), len(names), path, path.parent, listed(missing)),
        )


def check_camera(job: Conversion, path: Path, content: DatabaseContent) -> None:
    """InputError if the database is of another camera model."""
    known = {model.model_id: model.model_name for model in CAMERA_MODELS}
    found = sorted(known.get(number, f"number {number}") for number in content.camera_models)
    if found not in ([], [job.camera]):
        raise InputError(
            f"{path} has cameras of the model {', '.join(found)}, but --camera is {job.camera}: "
            f"remove {path.parent} to start again"
        )


def map_photographs(job: Conversion) -> None:
    """The reconstructions. InputError if none was found."""
    if _numbered(job.models):
        logger.info("%s is complete: mapping is skipped", job.models)
        return
    with atomic_folder(job.models) as folder:
        job.program.run(
            *("mapper", "--database_path", job.database, "--image_path", job.photographs),
            *("--output_path", folder),
            *("--Mapper.ba_global_function_tolerance", _BUNDLE_ADJUSTMENT_TOLERANCE),
            hint=". COLMAP needs overlapping photographs from different places",
        )
        if not _numbered(folder):
            raise InputError(
                f"{job.program.name} found no reconstruction of the photographs in "
                f"{job.photographs}: it needs overlapping photographs from different places"
            )


def largest_model(job: Conversion) -> Path:
    """The reconstruction with the most images. InputError if there is none."""
    models = _numbered(job.models) or [path for path in [job.models] if _images_file(path)]
    if not models:
        raise InputError(
            f"{job.models}: expected reconstructions (images.bin and cameras.bin in 0, 1, ...), "
            "found none"
        )
    sizes = {model: _image_count(model) for model in models}
    largest = max(models, key=lambda model: sizes[model])
    if len(models) > 1:
        counts = ", ".join(f"{model.name}: {size}" for model, size in sizes.items())
        logger.info("Using %s, which has the most images (%s)", largest, counts)
    if not sizes[largest]:
        raise InputError(f"{largest}: the reconstruction has no images")
    return largest


def report_registered(model: Path, names: list[str]) -> None:
    """Reports how many photographs have a pose, and warns of those that have none."""
    registered = set(_images(model))
    missing = [name for name in names if name not in registered]
    if missing:
        logger.warning(
            "%d of %d photographs have no pose and are left out: %s",
            *(len(missing), len(names), listed(missing)),
        )
    else:
        logger.info("All %d photographs have a pose", len(names))


def undistort(job: Conversion, model: Path) -> None:
    """images/ and sparse/0/. InputError if there are such folders of something else."""
    result = job.source / ".undistorted"
    target = job.source / "sparse" / "0"
    if not result.exists():
        if _images_file(target):
            _check_result(job, model)
            logger.info("%s is complete: undistortion is skipped", target)
            return
        _check_free(job)
        with atomic_folder(result) as folder:
            job.program.run(
                *("image_undistorter", "--image_path", job.photographs, "--input_path", model),
                *("--output_path", folder, "--output_type", "COLMAP"),
            )
            _arrange(job, folder)
    # The poses come last: they mark that the images are there.
    for name in ("images", "sparse"):
        if (result / name).exists():
            (result / name).rename(job.source / name)
    shutil.rmtree(result)


def _check_free(job: Conversion) -> None:
    """InputError if a folder of the result is there, which is not overwritten."""
    for name in ("images", "sparse"):
        folder = job.source / name
        if folder.exists() and any(folder.iterdir()):
            raise InputError(
                f"{folder} exists, but {job.source / 'sparse' / '0'} has no reconstruction: move "
                f"{folder} away, which convert.py does not overwrite"
            )
        if folder.exists():
            folder.rmdir()


def _check_result(job: Conversion, model: Path) -> None:
    """InputError if the result that is there is of another reconstruction, or lacks images."""
    result = job.source / "sparse" / "0"
    found, expected = _images(result), _images(model)
    if found.keys() != expected.keys() or not all(
        _same_pose(found[name], expected[name]) for name in found
    ):
        raise InputError(
            f"{result} is not of the reconstruction {model}: move {job.source / 'images'} and "
            f"{job.source / 'sparse'} away, which convert.py does not overwrite"
        )
    lost = [name for name in found if not (job.source / "images" / name).is_file()]
    if lost:
        raise InputError(
            f"{job.source / 'images'} lacks {len(lost)} of {len(found)} images: {listed(lost)}; "
            f"remove {job.source / 'images'} and {job.source / 'sparse'} to make them again"
        )


def _same_pose(one: Image, other: Image) -> bool:
    scale = max(1.0, float(np.abs(other.tvec).max()))
    return bool(np.allclose(one.tvec, other.tvec, atol=_SAME_POSE * scale))


def _arrange(job: Conversion, folder: Path) -> None:
    """Moves COLMAP's sparse/* to sparse/0/*; removes its scripts for dense reconstruction."""
    flat = folder / "flat"
    if not (folder / "sparse").is_dir() or not (folder / "images").is_dir():
        raise InputError(f"{job.program.name} image_undistorter wrote no folders images and sparse")
    (folder / "sparse").rename(flat)
    (folder / "sparse").mkdir()
    flat.rename(folder / "sparse" / "0")
    for entry in list(folder.iterdir()):
        if entry.name not in ("images", "sparse"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def registered_names(source: Path) -> list[str]:
    """Names of the images of the result."""
    return sorted(_images(source / "sparse" / "0"))


def _numbered(folder: Path) -> list[Path]:
    """The reconstructions 0, 1, ... in a folder, in order."""
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in entries if path.name.isdecimal() and _images_file(path)]
    return sorted(found, key=lambda path: int(path.name))


def _images_file(model: Path) -> Path | None:
    files = [model / "images.bin", model / "images.txt"]
    return next((path for path in files if path.is_file()), None)


def _image_count(model: Path) -> int:
    path = _images_file(model)
    assert path is not None
    return count_images(path)


def _images(model: Path) -> dict[str, Image]:
    path = _images_file(model)
    assert path is not None
    read = read_extrinsics_binary if path.suffix == ".bin" else read_extrinsics_text
    return {image.name: image for image in read(path).values()}
