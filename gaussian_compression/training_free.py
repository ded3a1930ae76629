# SPDX-License-Identifier: Apache-2.0
"""Compress a PLY in seconds, without photographs: quantise and encode, nothing else. No torch.

`python compress.py --training_free --start_ply scene.ply -m OUT [--quality high] [--sh_degree 2]`
"""

import json
import logging
import math
import time
from argparse import ArgumentParser
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from splat_codec.blocks import for_blocks
from splat_codec.grid_splats import GridSplats
from splat_codec.model_file import ModelFile, bytes_per_section, encode
from splat_formats.axes import with_ordered_axes
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.file_description import describe, to_entries
from splat_formats.files import log_notices, read_with_notices, write_splats
from splat_formats.outliers import without_invisible
from splat_formats.repairs import showable
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import MAX_SH_DEGREE, REST_COEFFICIENTS, Splats
from utils.cli import show_messages
from utils.errors import InputError
from utils.files import atomic_path, write_text

logger = logging.getLogger(__name__)

ITERATION = 1  # of the decoded model in the output folder


@dataclass(frozen=True)
class TrainingFreeResult:
    """The file's bytes, the model they decode to, and what is worth knowing about it."""

    data: bytes
    decoded: Splats
    report: dict[str, Any]


def main() -> None:
    """Reads the command line and the PLY, writes file, decoded PLY and report."""
    args = build_parser().parse_args()
    show_messages()
    if not args.start_ply.is_file():
        raise InputError(f"no PLY at {args.start_ply}")
    began = time.monotonic()
    scene = read_with_notices(args.start_ply)
    metadata = replace(
        scene.metadata, antialiasing=args.antialiasing or scene.metadata.antialiasing, notices=()
    )
    result = compress_without_training(
        scene.splats, args.quality, args.sh_degree, args.position_bits, metadata
    )
    folder = args.model_path / "compressed"
    with atomic_path(folder / "model.f3dgs") as path:
        path.write_bytes(result.data)
    write_text(folder / "report.json", json.dumps(result.report, indent=1))
    decoded = args.model_path / "point_cloud" / f"iteration_{ITERATION}"
    write_text(decoded / "decoded_from.json", json.dumps({"file": "compressed/model.f3dgs"}))
    ply = decoded / "point_cloud.ply"
    log_notices(ply, write_splats(ply, SplatScene(result.decoded, metadata)))
    ply_bytes = args.start_ply.stat().st_size
    print(f"{folder / 'model.f3dgs'}: {len(result.data) / 1e6:.3g} MB, "
          f"{ply_bytes / len(result.data):.1f} times smaller, "
          f"{time.monotonic() - began:.1f} s")  # fmt: skip
    for name, error in result.report["errors"].items():
        print(f"  {name}: root mean square {error['rms']:.3g}, greatest {error['max']:.3g}")


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--training_free", action="store_true", help="this mode")
    parser.add_argument("--start_ply", type=Path, required=True, help="the model to compress")
    parser.add_argument("-m", "--model_path", type=Path, required=True, help="folder to write to")
    parser.add_argument("--quality", choices=sorted(QUALITIES), default="high")
    parser.add_argument("--position_bits", type=int, choices=range(12, 21), help="of the finest "
        "position grid, an axis (default: what the finest Gaussians need)")  # fmt: skip
    parser.add_argument("--sh_degree", type=int, choices=range(MAX_SH_DEGREE + 1),
                        help="drop the higher spherical harmonics")  # fmt: skip
    parser.add_argument("--antialiasing", action="store_true", help="record that the model was "
        "trained with antialiasing, where the start model does not")  # fmt: skip
    return parser


def compress_without_training(
    splats: Splats,
    quality: str = "high",
    sh_degree: int | None = None,
    position_bits: int | None = None,
    metadata: SplatMetadata | None = None,
) -> TrainingFreeResult:
    """The compressed model. InputError if no Gaussian is left that could be shown.

    `metadata`: what the file is to hold beside the Gaussians.
    """
    began = time.monotonic()
    shown = showable(_cut_to_degree(splats, sh_degree))
    if not shown.splats.count:
        raise InputError("the model holds no Gaussians that could be shown")
    for notice in shown.notices:
        logger.warning("start model: %s", notice)
    kept, adjustments = without_invisible(shown.splats)
    if not kept.count:
        raise InputError(f"no image shows any of the {shown.splats.count:,} Gaussians: their alpha "
                         "is below 1/255 everywhere")  # fmt: skip
    quantized = quantize_splats(kept, replace(QUALITIES[quality], position_bits=position_bits))
    exact = len(np.unique(quantized.splats.exact.rows))
    adjustments = replace(adjustments, stored_exactly=exact)
    adjustments.log()
    settings = {"quality": quality, "training_free": True}
    if position_bits is not None:
        settings["position_bits"] = position_bits
    entries = describe(splats, settings, **to_entries(metadata or SplatMetadata()))
    data = encode(ModelFile(quantized.splats, entries))
    decoded = to_splats(quantized.splats)
    report = {
        "gaussians": kept.count,
        "dropped_non_finite": shown.dropped,
        "adjustments": asdict(adjustments),
        "sh_degree": kept.sh_degree,
        "quality": quality,
        "bytes": len(data),
        "bytes_per_gaussian": round(len(data) / kept.count, 3),
        "bytes_per_section": bytes_per_section(data),
        "layers": _layer_report(quantized.splats),
        "errors": attribute_errors(kept, decoded, quantized.order),
        "seconds": round(time.monotonic() - began, 2),
    }
    return TrainingFreeResult(data, decoded, report)


def attribute_errors(
    splats: Splats, decoded: Splats, order: npt.NDArray[np.intp]
) -> dict[str, dict[str, float]]:
    """Root mean square and greatest difference of every attribute, as decoded, by its name.

    Row i of `decoded` was row order[i] of `splats`. In the attributes' own units; rotations in
    radians, between the same ellipsoids' axes.
    """
    blocks: list[dict[str, tuple[float, float]]] = []

    def measure(block: slice) -> None:
        before = with_ordered_axes(splats.rows(order[block]))
        blocks.append(_differences(before, decoded.rows(block)))

    for_blocks(decoded.count, measure)
    errors = {}
    for name, size in _sizes(decoded).items():
        squares = math.fsum(block[name][0] for block in blocks)
        errors[name] = {"rms": math.sqrt(squares / max(1, size)),
                        "max": max((block[name][1] for block in blocks), default=0.0)}  # fmt: skip
    return errors


def _differences(a: Splats, b: Splats) -> dict[str, tuple[float, float]]:
    """Sum of squares and maximum of the difference in each attribute."""
    names = ("xyz", "opacity", "scaling", "features_dc", "features_rest")
    sizes = {name: np.abs(getattr(a, name) - getattr(b, name)) for name in names}
    cosine = np.abs((a.rotation * b.rotation).sum(axis=1))
    sizes["rotation"] = 2 * np.arccos(np.minimum(cosine, 1))
    return {
        name: (float(np.square(size, dtype=np.float64).sum()), float(size.max(initial=0)))
        for name, size in sizes.items()
    }


def _sizes(splats: Splats) -> dict[str, int]:
    """Numbers of each attribute; a rotation counts as one."""
    sizes = {field.name: getattr(splats, field.name).size for field in fields(splats)}
    return {**sizes, "rotation": splats.count}


def _layer_report(splats: GridSplats) -> list[int]:
    return list(splats.layer_ends)


def _cut_to_degree(splats: Splats, sh_degree: int | None) -> Splats:
    if sh_degree is None or sh_degree == splats.sh_degree:
        return splats
    if sh_degree > splats.sh_degree:
        raise InputError(f"--sh_degree {sh_degree}: the model has only degree {splats.sh_degree}")
    kept = REST_COEFFICIENTS[sh_degree]
    return replace(splats, features_rest=np.ascontiguousarray(splats.features_rest[:, :kept]))
