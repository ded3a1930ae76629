# SPDX-License-Identifier: Apache-2.0
"""Bytes and quality of one model, as it came from training, in this codec's files and in others.

The PLY and every other file get scores on the same views; the table has the differences, too.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.codec_quality import Views
from benchmarks.peers import PEERS
from splat_codec.container import unpack_container
from splat_codec.model_file import ModelFile, encode, in_file_order
from splat_codec.quantizers import Float16, Float32, Quantizer, affine_with_zero
from splat_codec.symbols import (
    QuantizedAttribute,
    QuantizedSplats,
    attribute_channels,
)
from splat_formats.decoded import to_splats
from splat_formats.design_grids import QUALITIES, quantize_splats
from splat_formats.splats import Splats

PLY, FIRST = "PLY", "version 1"

Row = dict[str, Any]
"""`bytes`, and `psnr` and `ssim` where there are views to score it on."""


def version_1(splats: Splats) -> QuantizedSplats:
    """The model as the preset fast3dgs stores it, without fine-tuning."""

    def affine(values: np.ndarray) -> Quantizer:
        return affine_with_zero(float(values.min()), float(values.max()), 256)

    quantizers: dict[str, Quantizer] = {
        "xyz": Float32(),
        "opacity": Float16(),
        "scaling": Float16(),
        "rotation": Float16(),
        "features_dc": affine(splats.features_dc),
        "features_rest": affine(splats.features_rest),
    }
    attributes = {}
    for name, channels in attribute_channels(splats.sh_degree).items():
        rows = getattr(splats, name).reshape(splats.count, channels)
        attributes[name] = QuantizedAttribute(quantizers[name].quantize(rows), quantizers[name])
    return in_file_order(QuantizedSplats(splats.sh_degree, attributes))


def measure_sizes(name: str, splats: Splats, views: Views | None, with_peers: bool) -> Row:
    """The rows by label, under `ways`; prints them as a table."""
    table = _Table(name, splats.count, views)
    floats_of_a_row = 17 + splats.features_rest[:1].size  # three of them are normals
    table.add(PLY, 4 * floats_of_a_row * splats.count, splats)
    first = version_1(splats)
    table.add(FIRST, len(encode(ModelFile(first))), to_splats(first))
    first_layers = {}
    for quality, precision in QUALITIES.items():
        model = quantize_splats(splats, precision).splats
        data = encode(ModelFile(model))
        table.add(quality, len(data), to_splats(model))
        first_layers[quality] = _first_layer_bytes(data)
    if with_peers:
        for label, encoder in PEERS.items():
            peer = encoder(splats)
            table.add(label, peer.size, peer.decoded)
    shares = [f"{quality} {100 * size / table.ways[quality]['bytes']:.0f} %"
              for quality, size in first_layers.items()]  # fmt: skip
    print(f"First layer's part of the bytes: {', '.join(shares)}", flush=True)
    return {
        "gaussians": splats.count,
        "scored_on_photographs": views.are_photographs if views else None,
        "ways": table.ways,
        "first_layer_bytes": first_layers,
    }


def _first_layer_bytes(data: bytes) -> int:
    sections = unpack_container(data).sections
    later = [len(s) for n, s in sections.items() if n[-1:].isdecimal() and not n.endswith("0")]
    return len(data) - sum(later)


@dataclass
class _Table:
    """Prints each row as soon as it is measured."""

    name: str
    count: int
    views: Views | None
    ways: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        print(f"\n| {self.name}, {self.count:,} Gaussians | bytes per Gaussian | x {FIRST} "
              f"| {self._kind()} | against {FIRST} | against the PLY |\n"
              "|---|---|---|---|---|---|", flush=True)  # fmt: skip

    def _kind(self) -> str:
        if self.views and not self.views.are_photographs:
            return "renders, against those of the PLY"
        return "test views"

    def add(self, label: str, size: int, decoded: Splats) -> None:
        row: Row = {"bytes": size}
        is_reference = label == PLY and self.views and not self.views.are_photographs
        if self.views and not is_reference:
            score = self.views.score(decoded)
            row |= {"psnr": score.psnr, "ssim": score.ssim}
        self.ways[label] = row
        times = f"{size / self.ways[FIRST]['bytes']:.3f}" if FIRST in self.ways else ""
        score_text = f"{row['psnr']:.3f} dB, {row['ssim']:.4f}" if "psnr" in row else ""
        print(f"| {label} | {size / self.count:.2f} | {times} | {score_text} | "
              f"{self._change(row, FIRST)} | {self._change(row, PLY)} |", flush=True)  # fmt: skip

    def _change(self, row: Row, other: str) -> str:
        """The change of PSNR and SSIM, if the pictures are photographs."""
        before = self.ways.get(other, row)
        if not self.views or not self.views.are_photographs or before is row:
            return ""
        return f"{row['psnr'] - before['psnr']:+.3f} dB, {row['ssim'] - before['ssim']:+.4f}"
