# SPDX-License-Identifier: Apache-2.0
"""What the viewer shows, found from the command line: models, cameras, photographs. No PyTorch."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arguments import ModelOptions, read_cfg_args
from gaussian_compression.model_folder import file_path, trained_ply
from splat_formats.files import format_to_read
from utils.errors import InputError
from utils.photo_files import find_photos, name_key

CAMERAS_NAME = "cameras.json"
_MOST_CAMERA_BYTES = 1 << 26
_LENS = ("width", "height", "fx", "fy")
_SHEAR_TOLERANCE = 1e-2  # of the products of a rotation's rows, as in scene/poses.py
_BLENDER_SPLITS = ("test", "train")  # the order of cameras.json


@dataclass(frozen=True)
class ServedModel:
    """A file of Gaussians."""

    name: str
    path: Path
    antialiasing: bool = False
    """Whether its model folder records that it was trained with antialiasing."""


@dataclass(frozen=True)
class ServedScene:
    """Models of the same scene, which can be compared, and its training cameras."""

    name: str
    models: tuple[ServedModel, ...]
    white_background: bool | None = None
    """None: not recorded."""
    cameras: tuple[Mapping[str, Any], ...] = ()
    """Entries of cameras.json: name, width, height, fx, fy, position, rotation."""
    photographs: Mapping[int, Path] | None = None
    """Files by the index of the camera."""


@dataclass(frozen=True)
class DatasetChoice:
    """Where the photographs are; None: as the model folder records."""

    source_path: Path | None = None
    images: str | None = None


def scenes_to_serve(paths: Sequence[Path], dataset: DatasetChoice) -> tuple[ServedScene, ...]:
    """One scene for each model folder, and one for all files together.

    Raises InputError for a path without a model. Files are read when the page needs them; here only
    their kind is checked.
    """
    for path in paths:
        if not path.exists():
            raise InputError(f"{path}: there is no such file or folder")
    if dataset.source_path is not None and not dataset.source_path.is_dir():
        raise InputError(f"{dataset.source_path}: there is no such folder of photographs")
    folders = [path for path in paths if is_model_folder(path)]
    files = [path for path in paths if path not in folders]
    for path in files:
        _check_file(path)
    named = zip(folders, _short(folders), strict=True)
    scenes = [folder_scene(folder, name, dataset) for folder, name in named]
    if files:
        models = tuple(map(ServedModel, _short(files), files))
        scenes.append(ServedScene(", ".join(model.name for model in models), models))
    return tuple(scenes)


def _check_file(path: Path) -> None:
    """Raises InputError for what is no file of Gaussians; reads no more than its beginning."""
    try:
        format_to_read(path)
    except InputError as error:
        if path.is_dir():
            raise InputError(
                f"{path}: no model: expected a model folder (with point_cloud/ or compressed/), a "
                "folder of SOG, or a file"
            ) from error
        raise


def is_model_folder(path: Path) -> bool:
    """Whether it is a folder as training or compression writes."""
    return (path / "point_cloud").is_dir() or file_path(path).is_file()


def folder_scene(folder: Path, name: str, dataset: DatasetChoice) -> ServedScene:
    """The trained and the compressed model of a model folder."""
    try:
        recorded = read_cfg_args(folder)
    except FileNotFoundError:
        recorded = {}
    except ValueError as error:
        raise InputError(str(error)) from error
    antialiasing = recorded.get("antialiasing") is True
    models = []
    found = trained_ply(folder)
    if found is not None:
        models.append(ServedModel("original", found[1], antialiasing))
    if file_path(folder).is_file():
        models.append(ServedModel("compressed", file_path(folder), antialiasing))
    if not models:
        raise InputError(
            f"{folder}: no model: expected point_cloud/iteration_<N>/point_cloud.ply or "
            "compressed/model.f3dgs"
        )
    cameras = read_cameras(folder / CAMERAS_NAME)
    options = ModelOptions(**recorded)
    source = dataset.source_path or (Path(options.source_path) if options.source_path else None)
    photographs = find_photographs(source, dataset.images or options.images, cameras)
    background = options.white_background if recorded else None
    return ServedScene(name, tuple(models), background, cameras, photographs)


def _short(paths: Sequence[Path]) -> list[str]:
    """The names of files or folders, also of `.`; the paths where two names are equal."""
    names = [Path(os.path.abspath(path)).name for path in paths]  # noqa: PTH100, keeps links
    return [
        str(path) if names.count(name) > 1 else name
        for path, name in zip(paths, names, strict=True)
    ]


def read_cameras(path: Path) -> tuple[dict[str, Any], ...]:
    """The cameras of a model folder; none without the file. Raises InputError if it is damaged."""
    if not path.is_file():
        return ()
    if path.stat().st_size > _MOST_CAMERA_BYTES:
        raise InputError(f"{path}: longer than {_MOST_CAMERA_BYTES} bytes, so no list of cameras")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON: {error}") from error
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list of cameras, got {type(entries).__name__}")
    return tuple(_camera(path, index, entry) for index, entry in enumerate(entries))


def _camera(path: Path, index: int, entry: Any) -> dict[str, Any]:
    place = f"{path}: camera {index}"
    if not isinstance(entry, dict):
        raise InputError(f"{place}: expected an object, got {entry!r:.40}")
    camera: dict[str, Any] = {
        name: _numbers(entry, name, (), place, positive=True) for name in _LENS
    }
    camera["position"] = _numbers(entry, "position", (3,), place)
    camera["rotation"] = _numbers(entry, "rotation", (3, 3), place)
    matrix = np.array(camera["rotation"])
    with np.errstate(over="ignore", invalid="ignore"):
        is_rotation = np.allclose(matrix @ matrix.T, np.eye(3), atol=_SHEAR_TOLERANCE)
    if not is_rotation or np.linalg.det(matrix) < 0:
        raise InputError(f"{place}: rotation: expected a rotation matrix, got {matrix.tolist()}")
    if not isinstance(entry.get("img_name"), str | int):
        raise InputError(f"{place}: img_name: expected a text, got {entry.get('img_name')!r:.40}")
    camera["name"] = str(entry["img_name"])
    return camera


def _numbers(
    entry: Mapping[str, Any], key: str, shape: tuple[int, ...], place: str, positive: bool = False
) -> Any:
    """Finite numbers of this shape, in lists; InputError for anything else."""
    value = entry.get(key)
    try:
        found = np.array(value)
    except ValueError:  # lists of different lengths
        found = np.array(None)
    is_right = found.shape == shape and found.dtype.kind in "iuf" and np.isfinite(found).all()
    if not is_right or (positive and found.min() <= 0):
        count = " x ".join(map(str, shape)) or "a"
        what = f"{count} {'positive ' * positive}{'numbers' if shape else 'number'}"
        raise InputError(f"{place}: {key}: expected {what}, got {value!r:.40}")
    return found.astype(np.float64).tolist()


def find_photographs(
    source: Path | None, images: str, cameras: Sequence[Mapping[str, Any]]
) -> dict[int, Path]:
    """The file of each camera's photograph, by the camera's index; those not found are left out.

    Only files inside the data set's folder are found, whatever the names are.
    """
    if source is None or not source.is_dir():
        return {}
    if (source / images).is_dir():
        return _by_name(source / images, dict(enumerate(str(c["name"]) for c in cameras)))
    found: dict[int, Path] = {}
    for split, indices in _split_indices(source, cameras).items():
        found |= _by_name(source / split, {i: str(cameras[i]["name"]) for i in indices})
    return found


def _split_indices(source: Path, cameras: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """The cameras of each split of a Blender data set, whose names may occur in both.

    cameras.json lists the test cameras first.
    """
    count = 0
    transforms = source / "transforms_test.json"
    if transforms.is_file():
        try:
            count = len(json.loads(transforms.read_text(encoding="utf-8"))["frames"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return {}
    return dict(
        zip(_BLENDER_SPLITS, (list(range(count)), list(range(count, len(cameras)))), strict=True)
    )


def _by_name(folder: Path, names: Mapping[int, str]) -> dict[int, Path]:
    """Like find_photos; where several files match a name, it has no photograph."""
    inside = {i: name for i, name in names.items() if _is_inside(folder, name) and name_key(name)}
    try:
        found = find_photos(folder, list(inside.values()), ".png")
    except InputError:
        found = {name: folder / name for name in inside.values() if (folder / name).is_file()}
    return {i: found[name] for i, name in inside.items() if name in found}


def _is_inside(folder: Path, name: str) -> bool:
    """Whether the name leads to no other folder; links inside the folder count as its content."""
    base = os.path.normpath(folder.absolute())
    return Path(os.path.normpath(folder.absolute() / name)).is_relative_to(base)
