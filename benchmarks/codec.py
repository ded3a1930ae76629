# SPDX-License-Identifier: Apache-2.0
"""The file format in figures: `python benchmarks/codec.py [--only snowmiku] [--json OUT.json]`.

For each model: bytes and test-view quality of version 2 at each quality against the version-1 file
of the preset fast3dgs without fine-tuning; bytes by attribute; what each part of the codec gives;
and the speed on a million Gaussians made by repeating a model with jitter.
"""

import json
import resource
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from arguments import ModelOptions, PipelineOptions
from benchmarks.peers import PEERS, in_morton_order
from gaussian_compression.codec.attribute_sizes import bytes_by_attribute
from gaussian_compression.codec.container import unpack_container
from gaussian_compression.codec.grid_file import record_layers
from gaussian_compression.codec.grid_splats import GridSplats
from gaussian_compression.codec.grids import MATRIX_UNIT, Transform
from gaussian_compression.codec.histograms import design_tables
from gaussian_compression.codec.model_file import ModelFile, decode, encode, in_file_order
from gaussian_compression.codec.quantizers import Float16, Float32, Quantizer, affine_with_zero
from gaussian_compression.codec.symbols import (
    QuantizedAttribute,
    QuantizedSplats,
    attribute_channels,
)
from gaussian_compression.decoded import to_splats
from gaussian_compression.design_grids import QUALITIES, Precision, quantize_splats
from gaussian_renderer.evaluation import evaluate
from scene import Scene
from scene.gaussian_model import GaussianModel
from splat_formats.ply import read_ply
from splat_formats.splats import Splats

DATA = Path(__file__).parents[1].parent / "shared" / "data"
CASES = {
    "snowmiku": ("snowmiku_model/point_cloud/iteration_12000/point_cloud.ply", "snowmiku"),
    "fox": ("fox_model/point_cloud/iteration_10000/point_cloud.ply", "fox"),
    "playbot": ("playbot_model", None),
}


@dataclass(frozen=True)
class Views:
    """Test views, and how they are drawn."""

    scene: Scene
    background: torch.Tensor

    def scores(self, splats: Splats) -> tuple[float, float]:
        """Mean PSNR in dB and mean SSIM."""
        model = GaussianModel.from_splats(splats, device=torch.device("cpu"))
        cameras = self.scene.getTestCameras()
        scores = evaluate(cameras, model, PipelineOptions(), self.background)
        return (
            float(np.mean([score.psnr for score in scores])),
            float(np.mean([score.ssim for score in scores])),
        )


def load_views(source: Path, splats: Splats) -> Views:
    options = ModelOptions(
        source_path=str(source), model_path="", eval=True, resolution=2, data_device="cpu"
    )
    model = GaussianModel.from_splats(splats, device=torch.device("cpu"))
    return Views(Scene(options, model, shuffle=False), torch.zeros(3))


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


def measure_model(name: str, splats: Splats, views: Views | None) -> dict[str, Any]:
    first = version_1(splats)
    first_bytes = len(encode(ModelFile(first)))
    first_scores = views.scores(to_splats(first)) if views else None
    print(f"{name}: {splats.count:,} Gaussians; version 1: {first_bytes / splats.count:.2f} "
          f"bytes per Gaussian{_score_text(first_scores)}", flush=True)  # fmt: skip
    result: dict[str, Any] = {
        "gaussians": splats.count,
        "version_1": {"bytes": first_bytes, "scores": first_scores},
    }
    for quality, precision in QUALITIES.items():
        model = quantize_splats(splats, precision).splats
        data = encode(ModelFile(model))
        scores = views.scores(to_splats(model)) if views else None
        change = None
        if scores and first_scores:
            change = scores[0] - first_scores[0], scores[1] - first_scores[1]
        layer = _first_layer_bytes(data)
        print(f"  {quality:7s}{len(data) / splats.count:6.2f} bytes per Gaussian, "
              f"{len(data) / first_bytes:.3f} x version 1{_change_text(change)}; first layer "
              f"{100 * layer / len(data):.0f} % of the bytes", flush=True)  # fmt: skip
        result[quality] = {
            "bytes": len(data),
            "ratio": len(data) / first_bytes,
            "psnr_and_ssim_change": change,
            "first_layer_bytes": layer,
        }
    return result


def measure_peers(name: str, splats: Splats, views: Views | None) -> dict[str, Any]:
    """Bytes and quality of other formats, against the model as it is."""
    ordered = in_morton_order(splats)
    before = views.scores(ordered) if views else None
    print(f"{name}, as a PLY{_score_text(before)}", flush=True)
    result: dict[str, Any] = {"ply": before}

    def report(label: str, size: int, decoded: Splats) -> None:
        scores = views.scores(decoded) if views else None
        change = (scores[0] - before[0], scores[1] - before[1]) if scores and before else None
        print(f"  {label:34s}{size / splats.count:6.2f} bytes per Gaussian{_change_text(change)}",
              flush=True)  # fmt: skip
        result[label] = {"bytes": size, "psnr_and_ssim_change": change}

    for quality in ("high", "medium"):
        model = quantize_splats(splats, QUALITIES[quality]).splats
        report(f"this codec, {quality}", len(encode(ModelFile(model))), to_splats(model))
    for label, encoder in PEERS.items():
        peer = encoder(ordered)
        report(label, peer.size, peer.decoded)
    return result


def _score_text(scores: tuple[float, float] | None) -> str:
    return f", {scores[0]:.3f} dB, SSIM {scores[1]:.4f}" if scores else ""


def _change_text(change: tuple[float, float] | None) -> str:
    return f", {change[0]:+.3f} dB, SSIM {change[1]:+.5f}" if change else ""


def _first_layer_bytes(data: bytes) -> int:
    sections = unpack_container(data).sections
    later = [len(s) for n, s in sections.items() if n[-1:].isdecimal() and not n.endswith("0")]
    return len(data) - sum(later)


def order_zero_bytes(model: GridSplats) -> float:
    """Bytes per Gaussian that contexts save: each plane under one histogram, less the real."""
    saved = 0.0
    counts = record_layers(model).families.counts()
    tables = design_tables(counts)
    first = 0
    for _, plane in counts:
        rows = tables.frequencies[tables.context_map[first : first + len(plane)]]
        first += len(plane)
        total = plane.sum(axis=0)
        used = total > 0
        alone = -(total[used] * np.log2(total[used] / total.sum())).sum()
        met = plane > 0
        saved += alone + (plane[met] * np.log2(rows[met] / 4096)).sum()
    return float(saved) / 8 / model.count


def ablation(splats: Splats) -> dict[str, dict[str, float]]:
    """Bytes per Gaussian by attribute at quality high, and with parts of the codec taken away."""
    high = QUALITIES["high"]
    model = quantize_splats(splats, high).splats
    rows = {"as it is": bytes_by_attribute(model)}
    rows["one layer"] = bytes_by_attribute(_quantized(splats, layer_fraction=0.0))
    rows["no colour or SH transform"] = bytes_by_attribute(_untransformed(splats, high))
    rows["same precision for all"] = bytes_by_attribute(_quantized(splats, weight_exponent=0.0))
    for label, row in rows.items():
        sizes = {name: size / splats.count for name, size in row.items()}
        parts = ", ".join(f"{name} {size:.2f}" for name, size in sizes.items())
        print(f"  {label}: {sum(sizes.values()):.2f} ({parts})", flush=True)
    saved = order_zero_bytes(model)
    print(f"  contexts save {saved:.2f} bytes per Gaussian against one histogram a plane")
    return {**rows, "saved by contexts": {"all": saved}}


def _quantized(splats: Splats, **changes: float) -> GridSplats:
    precision: Precision = replace(QUALITIES["high"], **changes)  # type: ignore[arg-type]
    return quantize_splats(splats, precision).splats


def _untransformed(splats: Splats, precision: Precision) -> GridSplats:
    """The model with the nearest integers of the channels themselves."""
    quantized = quantize_splats(splats, precision)
    model = quantized.splats
    channels = model.grids.sh_channels
    identity = (np.eye(channels) * MATRIX_UNIT).astype(np.int16)
    steps = np.array(model.grids.sh_steps)[model.precision, None] * MATRIX_UNIT
    scaled = splats.features_rest.reshape(splats.count, -1)[quantized.order] / steps
    magnitude = np.floor(np.abs(scaled) + 1 - precision.deadzone)
    grids = replace(model.grids, sh_transform=Transform(identity))
    return replace(model, grids=grids, sh=np.copysign(magnitude, scaled).astype(np.int16))


def repeated(splats: Splats, count: int) -> Splats:
    """`count` Gaussians: the model again and again, each time a little different."""
    generator = np.random.default_rng(0)
    spread = {"xyz": 0.02, "features_dc": 0.02, "features_rest": 0.005, "opacity": 0.1,
              "scaling": 0.05, "rotation": 0.02}  # fmt: skip
    rows = np.arange(count) % splats.count
    arrays = {}
    for name, deviation in spread.items():
        values = getattr(splats, name)[rows]
        noise = generator.standard_normal(values.shape, np.float32) * np.float32(deviation)
        arrays[name] = values + noise
    return Splats(**arrays)


def speed(splats: Splats, count: int) -> dict[str, Any]:
    """Wall and CPU seconds of each step, and the peak of memory."""
    many = repeated(splats, count)
    times: dict[str, Any] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        times[step] = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        print(f"  {step}: {times[step]['wall']:.2f} s, {times[step]['cpu']:.2f} s of CPU")
        return result

    print(f"speed, {count:,} Gaussians:", flush=True)
    model = timed("quantise", lambda: quantize_splats(many, QUALITIES["high"])).splats
    data = timed("encode, with its check", lambda: encode(ModelFile(model)))
    back = timed("decode", lambda: decode(data)).splats
    timed("integers to values", lambda: to_splats(back))
    times["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times["ply_bytes"] = count * 248
    print(f"  peak memory {times['peak_bytes'] / times['ply_bytes']:.1f} x the PLY")
    return times


def main() -> None:
    parser = ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the models and scenes")
    parser.add_argument("--only", nargs="*", choices=sorted(CASES), default=sorted(CASES))
    parser.add_argument("--no_views", action="store_true", help="bytes and speed only")
    parser.add_argument("--speed_count", type=int, default=1_000_000, help="0: no speed")
    parser.add_argument("--peers", action="store_true", help="compare with SPZ and SOG, only")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    args = parser.parse_args()
    figures: dict[str, Any] = {"qualities": {n: asdict(p) for n, p in QUALITIES.items()}}
    for name in args.only:
        ply, source = CASES[name]
        path = args.data / ply
        if path.is_dir():
            path = next(path.rglob("point_cloud.ply"))
        splats = read_ply(path)
        views = load_views(args.data / source, splats) if source and not args.no_views else None
        if args.peers:
            figures[name] = measure_peers(name, splats, views)
            continue
        figures[name] = measure_model(name, splats, views)
        figures[name]["ablation"] = ablation(splats)
    if args.speed_count and not args.peers:
        figures["speed"] = speed(splats, args.speed_count)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
