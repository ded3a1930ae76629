# SPDX-License-Identifier: Apache-2.0
"""Checks and times the CUDA kernels on a card, in one run without network.

    python benchmarks/gpu.py --out DIR [--counts 100000 1000000 4000000] [--rounds 20]
    python benchmarks/gpu.py --out DIR --emulate

Correctness and determinism of every kernel against the CPU; times of iterations and of kernels, the
former also against what the memory needs at least, and peaks of memory; frames a second; the same
with gswarp and gsplat, where they are installed; training and compression of the sample scene. A
part that fails is recorded and the next one runs. DIR gets gpu.json and gpu.md; the exit status is
1 if any part failed. With --emulate the first of these runs on the CPU in the emulation
(docs/gpu.md). No GPU has run this program yet.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diff_gaussian_rasterization import check
from diff_gaussian_rasterization.adam import AdamState, RawAdam, adam_step
from diff_gaussian_rasterization.raw import RawGaussians, render

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_checks import CASES, differences, largest_allowed, made_up
from benchmarks.iteration import STEPS, Step, camera_of
from benchmarks.workloads import Pose
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.files import write_json, write_text
from utils.optional_modules import installed

ROOT = Path(__file__).parents[1]
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
PACKAGES = ("diff_gaussian_rasterization", "fused_ssim", "simple_knn")
WARM_UP = 3
SIZE = 1600, 1060
PEERS = ("gswarp", "gsplat")
"""Packages by others, drawn through autograd; only in the loops that need nothing else."""
LOOPS_OF_PEERS = ("fine-tuning", "training")
LARGEST_ON_GRIDS = 1_000_000
"""Gaussians: fitting grids to more of them takes the CPU too long here."""
ON_HOST, AT_ONCE = "photograph on the host", "at once"
COPIED = "copied memory"
COPIED_BYTES = 1 << 30
PASSES = 10
"""How often training moves all parameters at least: drawing and differentiating read them;
gradients are written; Adam reads these, parameters and two moments, and writes the last three."""

Part = Callable[[], dict[str, Any]]
Where = Callable[[], AbstractContextManager[Any]]


def correctness(name: str, device: torch.device, where: Where) -> dict[str, Any]:
    """Differences from the CPU. RuntimeError if large, or if a second run gives other bits."""
    expected = CASES[name](CPU)
    with where():
        found, again = CASES[name](device), CASES[name](device)
    different = differences(found, expected)
    wrong = {key: value for key, value in different.items() if not value <= largest_allowed(key)}
    if wrong:
        raise RuntimeError(f"differs from the CPU: {wrong}")
    unequal = [key for key, value in found.items() if not torch.equal(value, again[key])]
    if unequal:
        raise RuntimeError(f"a second run gives other values: {unequal}")
    return {"differences": different}


def made_up_view(count: int, place: torch.device) -> tuple[RawParameters, Camera]:
    """A model on the GPU, and a camera whose photograph is in `place`."""
    raw = made_up(count, 3).map(lambda tensor: tensor.to(CUDA))
    width, height = SIZE
    world_to_camera = torch.eye(4)
    world_to_camera[2, 3] = 5.0
    photo = torch.randint(0, 256, (3, height, width), dtype=torch.uint8).to(place)
    return raw, camera_of(Pose(width, height, 1200.0, 1200.0, world_to_camera), photo)


def iteration(
    loop: str, count: int, rounds: int, rasterizer: str = "cuda", place: torch.device = CUDA
) -> dict[str, Any]:
    """Milliseconds of the parts of an iteration and of its kernels, and the peak of memory.

    The kernels are ours; those of other rasterisers are not listed one by one. `launching` is the
    host's time for all launches: CUDA graphs could save most of it.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    raw, camera = made_up_view(count, place)
    step = STEPS[loop](raw, camera, backend_for(CUDA, RenderOptions(rasterizer=rasterizer)))
    parts = part_times(step, rounds)
    with timed_launches() as launches:
        step(lambda name: None)
    torch.cuda.synchronize()
    pairs = {name: each.events for name, each in launches.items()}
    kernels = {name: sum(a.elapsed_time(b) for a, b in each) for name, each in pairs.items()}
    return {
        "milliseconds": parts,
        "kernels": kernels,
        "launches": sum(map(len, pairs.values())),
        "launching": 1e3 * sum(each.host_seconds for each in launches.values()),
        "least_bytes": PASSES * sum(tensor.nbytes for tensor in raw),
        "peak_bytes": torch.cuda.max_memory_allocated(),
    }


def rendering(count: int, rounds: int, rasterizer: str = "cuda") -> dict[str, Any]:
    """Milliseconds of a view that is drawn only."""
    raw, camera = made_up_view(count, CUDA)
    backend = backend_for(CUDA, RenderOptions(rasterizer=rasterizer))
    background = torch.zeros(3, device=CUDA)

    @torch.no_grad()
    def draw(lap: Callable[[str], None]) -> None:
        backend.draw(camera, raw, background, 3)
        lap("drawing")

    return {"milliseconds": part_times(draw, rounds)}


def backward_and_adam(count: int, rounds: int, at_once: bool) -> dict[str, Any]:
    """Milliseconds of a view's backward pass and a dense step of Adam, at once or one by one.

    Learning rates are 0, so that the view stays that of the model.
    """
    gaussians = RawGaussians(*made_up_view(count, CUDA)[0])
    gradients, means, variances = (gaussians.empty_like() for _ in range(3))
    for moments in (*means, *variances):
        moments.zero_()
    view = check.view_settings()._replace(image_width=SIZE[0], image_height=SIZE[1])
    frame = render(gaussians, view, training=True)
    d_image, screen = torch.randn_like(frame.image), torch.empty(count, 2, device=CUDA)
    adam = RawAdam(means, variances, [0.0] * 6, step=1)
    states = [
        AdamState(*tensors, 0.0)
        for tensors in zip(gaussians, gradients, means, variances, strict=True)
    ]

    def together(lap: Callable[[str], None]) -> None:
        frame.update(d_image, gaussians, adam, screen=screen)
        lap("both")

    def one_by_one(lap: Callable[[str], None]) -> None:
        frame.backward(d_image, gradients, screen=screen)
        lap("backward")
        adam_step(states, 1)
        lap("Adam")

    return {"milliseconds": part_times(together if at_once else one_by_one, rounds)}


def copied_memory(rounds: int) -> dict[str, Any]:
    """Bytes a second that the card reads and writes when it copies its memory."""
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device=CUDA)
    target = torch.empty_like(source)

    def copy(lap: Callable[[str], None]) -> None:
        target.copy_(source)
        lap("copying")

    times = part_times(copy, rounds)
    return {"bytes_a_second": 2 * COPIED_BYTES / (1e-3 * times["whole iteration"])}


def part_times(step: Step, rounds: int) -> dict[str, float]:
    """The median of each part, and of the whole, by events on the device."""
    pairs: dict[str, list[tuple[Any, Any]]] = {}
    for number in range(WARM_UP + rounds):
        first = last = marked()

        def lap(name: str, counted: bool = number >= WARM_UP) -> None:
            nonlocal last
            now = marked()
            if counted:
                pairs.setdefault(name, []).append((last, now))
            last = now

        step(lap)
        if number >= WARM_UP:
            pairs.setdefault("whole iteration", []).append((first, last))
    torch.cuda.synchronize()
    return {
        name: statistics.median(a.elapsed_time(b) for a, b in each) for name, each in pairs.items()
    }


def marked() -> Any:
    """An event on the current stream."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


@dataclass
class Launches:
    """Those of one kernel."""

    events: list[tuple[Any, Any]] = field(default_factory=list)
    """Before and after each."""
    host_seconds: float = 0.0


@contextmanager
def timed_launches() -> Iterator[dict[str, Launches]]:
    """The launches of our kernels in this context, by the kernel's name."""
    launches: dict[str, Launches] = {}

    def timed(original: Callable[..., None]) -> Callable[..., None]:
        def launch(kernels: Any, name: str, blocks: int, arguments: Any) -> None:
            before, began = marked(), time.perf_counter()
            original(kernels, name, blocks, arguments)
            ended = time.perf_counter()
            found = launches.setdefault(name, Launches())
            found.events.append((before, marked()))
            found.host_seconds += ended - began

        return launch

    classes = [import_module(f"{package}._cuda").Kernels for package in PACKAGES]
    patches = [patch.object(each, "launch", timed(each.launch)) for each in classes]
    for each in patches:
        each.start()
    try:
        yield launches
    finally:
        for each in patches:
            each.stop()


def script(out: Path, name: str, *arguments: object) -> dict[str, Any]:
    """Wall seconds of one of the project's programs. RuntimeError with its output if it fails."""
    began = time.monotonic()
    command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=out)
    if result.returncode != 0:
        raise RuntimeError(f"{name}.py failed: {(result.stdout + result.stderr)[-2000:]}")
    return {"seconds": time.monotonic() - began}


def scripts(out: Path) -> dict[str, Part]:
    """The sample scene, trained and compressed from end to end."""
    scene, model = out / "scene", out / "model"
    common = ("-s", scene, "-m", model, "--rasterizer", "cuda")
    return {
        "sample scene": partial(script, out, "sample_scene", scene),
        "train": partial(script, out, "train", *common, "--eval", "--iterations", 7000, "--quiet"),
        "compress": partial(script, out, "compress", *common),
        "render": partial(script, out, "render", *common, "--skip_train", "--quiet"),
        "metrics": partial(script, out, "metrics", "-m", model),
    }


def parts_of(arguments: argparse.Namespace) -> dict[str, Part]:
    """All parts in their order."""
    if arguments.emulate:
        sys.path.insert(0, str(ROOT / "tests"))
        from cuda_paths import cuda_path

        return {name: partial(correctness, name, CPU, cuda_path) for name in CASES}
    rounds = arguments.rounds
    parts: dict[str, Part] = {"machine": machine}
    parts |= {name: partial(correctness, name, CUDA, nullcontext) for name in CASES}
    parts[COPIED] = partial(copied_memory, rounds)
    for count in arguments.counts:
        parts |= timed_parts(count, rounds)
    return parts | scripts(arguments.out)


def timed_parts(count: int, rounds: int) -> dict[str, Part]:
    """What is timed with so many Gaussians. Names end with the peer, if it is not ours."""
    size = f"{count} Gaussians"
    loops = [loop for loop in STEPS if "grids" not in loop or count <= LARGEST_ON_GRIDS]
    parts: dict[str, Part] = {
        f"{loop}, {size}": partial(iteration, loop, count, rounds) for loop in loops
    }
    streamed = partial(iteration, loops[0], count, rounds, place=CPU)
    parts[f"{loops[0]}, {size}, {ON_HOST}"] = streamed
    parts[f"rendering, {size}"] = partial(rendering, count, rounds)
    both = f"backward and Adam, {size}"
    parts[both] = partial(backward_and_adam, count, rounds, at_once=False)
    parts[f"{both}, {AT_ONCE}"] = partial(backward_and_adam, count, rounds, at_once=True)
    for peer in filter(installed, PEERS):
        for loop in LOOPS_OF_PEERS:
            parts[f"{loop}, {size}, {peer}"] = partial(iteration, loop, count, rounds, peer)
        parts[f"rendering, {size}, {peer}"] = partial(rendering, count, rounds, peer)
    return parts


def machine() -> dict[str, Any]:
    """What `diff_gaussian_rasterization.check` finds. CudaMissingError without a GPU."""
    return check.machine()._asdict()


def measured(part: Part) -> dict[str, Any]:
    """The results of a part; what went wrong in it under "error"."""
    began = time.monotonic()
    try:
        result = part()
    except Exception as error:  # whatever it is, the other parts are of interest
        result = {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
    return result | {"took": time.monotonic() - began}


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = ["| part | result | took, s |", "|---|---|---|"]
    lines += [f"| {name} | {cell(each)} | {each['took']:.1f} |" for name, each in results.items()]
    if found := ratios(results):
        lines += ["", "| our whole iteration, over | ratio |", "|---|---|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in found.items()]
    return "\n".join(lines) + "\n"


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Our usual time over that of each other way, and over that which the memory needs at least."""
    found = {}
    speed = results.get(COPIED, {}).get("bytes_a_second")
    for name, each in results.items():
        if name.endswith((*PEERS, ON_HOST, AT_ONCE)):
            ours = results.get(name.rpartition(", ")[0], {})
            if "milliseconds" in ours and "milliseconds" in each:
                found[name] = whole(ours) / whole(each)
        elif speed is not None and "least_bytes" in each:
            least = 1e3 * each["least_bytes"] / speed
            found[f"{name}, the memory's least time"] = whole(each) / least
    return found


def whole(result: dict[str, Any]) -> float:
    """Milliseconds of all parts together."""
    return result["milliseconds"]["whole iteration"]


def cell(result: dict[str, Any]) -> str:
    """The results of one part in one cell."""
    if "error" in result:
        return "**failed:** " + " ".join(result["error"].split()).replace("|", "\\|")
    if "differences" in result:
        return f"agrees with the CPU, at most {max(result['differences'].values()):.1e} apart"
    if "milliseconds" in result:
        named = {**result["milliseconds"], **result.get("kernels", {})}
        times = ", ".join(f"{name} {value:.3f}" for name, value in named.items()) + " ms"
        if "launches" not in result:
            return f"{times}; {1e3 / whole(result):.0f} a second"
        launches = f"{result['launches']} launches in {result['launching']:.3f} ms of the host"
        return f"{times}; {launches}; {result['peak_bytes'] / 2**20:.0f} MiB"
    shown = {key: value for key, value in result.items() if key != "took"}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def parse_arguments(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(allow_abbrev=False, description=summary)
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--emulate", action="store_true", help="without a GPU: correctness only")
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000, 1_000_000, 4_000_000])
    parser.add_argument("--rounds", type=int, default=20, help="iterations that are timed")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run all parts; 1 if any failed."""
    arguments = parse_arguments(given)
    arguments.out = arguments.out.resolve()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for name, part in parts_of(arguments).items():
        results[name] = measured(part)
        print(f"{name}: {cell(results[name])}", flush=True)
        # After every part: what a crash leaves is the parts before it.
        write_json(arguments.out / "gpu.json", results)
        write_text(arguments.out / "gpu.md", table(results))
    return int(any("error" in each for each in results.values()))


if __name__ == "__main__":
    sys.exit(main())
