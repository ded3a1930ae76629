# SPDX-License-Identifier: Apache-2.0
"""Make a data set of photographs: `python convert.py -s SOURCE`.

Computes poses for the photographs in SOURCE/input by COLMAP, and writes undistorted images and the
reconstruction to SOURCE/images and SOURCE/sparse/0, for train.py. Steps that are done are skipped.
"""

import logging
from argparse import ArgumentParser
from pathlib import Path

from reconstruction.program import find_program
from reconstruction.resized import resize_images
from reconstruction.steps import (
    Conversion,
    find_photographs,
    largest_model,
    map_photographs,
    match_photographs,
    registered_names,
    report_registered,
    undistort,
)
from scene.camera_models import MODELS
from utils.cli import run, show_messages
from utils.errors import InputError
from utils.folder_lock import locked

logger = logging.getLogger("reconstruction")


def main() -> None:
    """Reads the command line and does the steps."""
    show_messages()
    args = build_parser().parse_args()
    source = args.source_path
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder")
    if args.magick_executable:
        logger.warning(
            "--magick_executable %s is not used: Pillow resizes the images", args.magick_executable
        )
    job = Conversion(
        source, find_program(args.colmap_executable), args.camera, use_gpu=not args.no_gpu
    )
    with locked(source):
        convert(job, args.skip_matching, args.resize)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("-s", "--source_path", type=Path, required=True, help="folder with the folder input")
    add("--no_gpu", action="store_true", help="features and matches on the CPU")
    add("--skip_matching", action="store_true",
        help="use the reconstruction in SOURCE/distorted/sparse")  # fmt: skip
    add("--resize", action="store_true", help="write images_2, images_4 and images_8 too")
    add("--camera", default="OPENCV", choices=list(MODELS),
        metavar="MODEL", help="COLMAP's camera model (default: OPENCV), of all")  # fmt: skip
    add("--colmap_executable", default="",
        help="the program colmap (default: from the PATH, else the package pycolmap)")  # fmt: skip
    add("--magick_executable", default="",
        help="without effect: images are resized without ImageMagick")  # fmt: skip
    return parser


def convert(job: Conversion, skip_matching: bool, resize: bool) -> None:
    """All steps that are not done."""
    names = find_photographs(job)
    if not skip_matching:
        match_photographs(job, names)
        map_photographs(job)
    model = largest_model(job)
    report_registered(model, names)
    undistort(job, model)
    images = registered_names(job.source)
    if resize:
        resize_images(job.source, images)
    print(f"{job.source}: {len(images)} of {len(names)} photographs can be trained on")


if __name__ == "__main__":
    run(main)
