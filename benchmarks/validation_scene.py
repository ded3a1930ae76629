# SPDX-License-Identifier: Apache-2.0
"""A data set without its test views: `python benchmarks/validation_scene.py SCENE OUT`.

The guard views of compress.py, every eighth training view, are the test views of OUT (with --eval).
A model trained on OUT, and its compression, have then seen neither these nor SCENE's test views, so
that settings can be chosen on them. OUT contains links to SCENE's files.
"""

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from arguments import ModelOptions
from gaussian_compression.validation_split import ViewSplit, split_off_guard
from scene.camera_info import CameraInfo
from scene.colmap_scene import is_colmap_scene
from scene.dataset_readers import readSceneInfo
from scene.held_out import LIST_NAME
from scene.transforms_scene import TEST_FILE, TRAIN_FILE
from utils.cli import run
from utils.errors import InputError
from utils.files import atomic_folder, write_json, write_text


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("scene", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    make(args.scene.resolve(), args.out)


def make(source: Path, out: Path) -> None:
    """Writes the data set, whole or not at all. InputError if `out` exists."""
    if out.exists():
        raise InputError(f"{out} exists: expected the name of a new folder")
    info = readSceneInfo(ModelOptions(source_path=str(source), eval=True), with_points=False)
    if not info.test_cameras:
        raise InputError(f"{source}: expected test views, found none")
    split = split_off_guard(info.train_cameras)
    with atomic_folder(out) as folder:
        if is_colmap_scene(source):
            _colmap(source, folder, split)
        elif (source / TRAIN_FILE).is_file():
            _transforms(source, folder, split)
        else:
            raise InputError(f"{source}: expected a COLMAP scene, or one with {TRAIN_FILE}")


def _colmap(source: Path, folder: Path, split: ViewSplit[CameraInfo]) -> None:
    """Photographs of the views left, the whole reconstruction, and the list of test views."""
    for camera in (*split.training, *split.guard):
        _link(Path(camera.image_path), folder / Path(camera.image_path).relative_to(source))
    names = "".join(f"{camera.image_name}\n" for camera in split.guard)
    for path in sorted((source / "sparse").rglob("*")):
        if path.is_file() and path.name != LIST_NAME:
            _link(path, folder / path.relative_to(source))
            write_text(folder / path.relative_to(source).parent / LIST_NAME, names)


def _transforms(source: Path, folder: Path, split: ViewSplit[CameraInfo]) -> None:
    """A file of cameras for each set, made of the one for training."""
    values = json.loads((source / TRAIN_FILE).read_text(encoding="utf-8"))
    for name, cameras in ((TRAIN_FILE, split.training), (TEST_FILE, split.guard)):
        kept = {Path(camera.image_path).with_suffix("") for camera in cameras}
        frames = [frame for frame in values["frames"] if _is_of(frame, source, kept)]
        if len(frames) != len(cameras):
            raise InputError(
                f"{source / TRAIN_FILE}: expected a frame for each of {len(cameras)} photographs, "
                f"found {len(frames)}"
            )
        write_json(folder / name, {**values, "frames": frames})
    for camera in (*split.training, *split.guard):
        _link(Path(camera.image_path), folder / Path(camera.image_path).relative_to(source))


def _is_of(frame: dict[str, str], source: Path, photos: Collection[Path]) -> bool:
    return (source / frame["file_path"]).with_suffix("") in photos


def _link(path: Path, link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(path)


if __name__ == "__main__":
    run(main)
