# SPDX-License-Identifier: Apache-2.0
"""The commands of the program `colmap` that convert.py needs, by the package pycolmap.

Run as a program of its own, so that Ctrl-C ends a step that takes hours in C++, and a crash there
is one message. Imports nothing of the project. Names of commands and options: COLMAP's command
line, https://colmap.github.io/cli.html.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any


def main() -> None:
    """Runs the step that the command line names."""
    args = build_parser().parse_args()
    pycolmap = imported()
    STEPS[args.command](pycolmap, args)


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    features = commands.add_parser("feature_extractor", allow_abbrev=False)
    matcher = commands.add_parser("exhaustive_matcher", allow_abbrev=False)
    mapper = commands.add_parser("mapper", allow_abbrev=False)
    undistorter = commands.add_parser("image_undistorter", allow_abbrev=False)
    for command in (features, matcher, mapper):
        command.add_argument("--database_path", type=Path, required=True)
    for command in (features, mapper, undistorter):
        command.add_argument("--image_path", type=Path, required=True)
    for command in (mapper, undistorter):
        command.add_argument("--output_path", type=Path, required=True)
    one: dict[str, Any] = {"type": int, "choices": (0, 1)}
    features.add_argument("--ImageReader.single_camera", dest="single_camera", default=0, **one)
    features.add_argument("--ImageReader.camera_model", dest="camera_model", default="OPENCV")
    features.add_argument("--FeatureExtraction.use_gpu", dest="use_gpu", default=1, **one)
    matcher.add_argument("--FeatureMatching.use_gpu", dest="use_gpu", default=1, **one)
    mapper.add_argument(
        "--Mapper.ba_global_function_tolerance", dest="tolerance", type=float, default=0.0
    )
    undistorter.add_argument("--input_path", type=Path, required=True)
    undistorter.add_argument("--output_type", default="COLMAP")
    return parser


def imported() -> Any:
    """The package; ends the program where it cannot be imported, or is too old."""
    try:
        import pycolmap
    except ImportError as error:
        sys.exit(f"error: pycolmap cannot be imported ({error}): pip install pycolmap")
    if not hasattr(pycolmap, "FeatureExtractionOptions"):
        version = getattr(pycolmap, "__version__", "of unknown version")
        sys.exit(
            f"error: expected pycolmap 4 or newer, found {version}: pip install --upgrade pycolmap"
        )
    return pycolmap


def extract(pycolmap: Any, args: Namespace) -> None:
    """Keypoints of all photographs, into the database; those that it holds are skipped."""
    reader = pycolmap.ImageReaderOptions()
    reader.camera_model = args.camera_model
    mode = pycolmap.CameraMode.SINGLE if args.single_camera else pycolmap.CameraMode.AUTO
    pycolmap.extract_features(
        args.database_path,
        args.image_path,
        camera_mode=mode,
        reader_options=reader,
        device=device(pycolmap, args.use_gpu),
    )


def match(pycolmap: Any, args: Namespace) -> None:
    """Matches of all pairs of photographs, into the database; those that it holds are skipped."""
    pycolmap.match_exhaustive(args.database_path, device=device(pycolmap, args.use_gpu))


def reconstruct(pycolmap: Any, args: Namespace) -> None:
    """Poses and points, into numbered folders."""
    options = pycolmap.IncrementalPipelineOptions()
    options.ba_global_function_tolerance = args.tolerance
    models = pycolmap.incremental_mapping(
        args.database_path, args.image_path, args.output_path, options
    )
    if not models:
        sys.exit("error: no reconstruction was found")


def undistort(pycolmap: Any, args: Namespace) -> None:
    """Photographs and cameras without distortion."""
    pycolmap.undistort_images(
        args.output_path, args.input_path, args.image_path, output_type=args.output_type
    )


def device(pycolmap: Any, use_gpu: int) -> Any:
    """A GPU where one can be used and is wanted."""
    return pycolmap.Device.auto if use_gpu else pycolmap.Device.cpu


STEPS = {
    "feature_extractor": extract,
    "exhaustive_matcher": match,
    "mapper": reconstruct,
    "image_undistorter": undistort,
}

if __name__ == "__main__":
    main()
