# SPDX-License-Identifier: Apache-2.0
"""Times the training loss, fused and as PyTorch convolutions, in one run on the same images.

    python benchmarks/loss.py [--threads 2] [--rounds 20] [--json loss.json]

CPU milliseconds count all threads and can be compared even under load; wall milliseconds are the
best round. The rounds of all cases are interleaved, so that other load affects all of them.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import fused_ssim
import torch
from fused_ssim import fused_l1_ssim, l1_ssim_value_and_gradient
from torch import Tensor
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from utils.files import write_json

SIZES = ((648, 420), (1600, 1060))
LAMBDA_DSSIM = 0.2


@dataclass(frozen=True)
class Timing:
    """One row of the table."""

    case: str
    width: int
    height: int
    wall_ms: float  # best round
    cpu_ms: float  # median round, all threads
    loss: float


def window() -> Tensor:
    """The 11x11 Gaussian of SSIM for three channels, (3, 1, 11, 11)."""
    line = torch.exp(-(torch.arange(-5.0, 6.0) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    return torch.outer(line, line).expand(3, 1, 11, 11).contiguous()


def convolution_loss(image: Tensor, target: Tensor, gaussian: Tensor) -> Tensor:
    """The same loss by five grouped convolutions; `target` is float32."""

    def blur(values: Tensor) -> Tensor:
        return functional.conv2d(values[None], gaussian, padding=5, groups=3)

    mean_x, mean_y = blur(image), blur(target)
    variances = blur(image * image) - mean_x**2 + blur(target * target) - mean_y**2
    covariance = blur(image * target) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + 0.01**2) * (2 * covariance + 0.03**2)
    denominator = (mean_x**2 + mean_y**2 + 0.01**2) * (variances + 0.03**2)
    l1 = (image - target).abs().mean()
    return (1 - LAMBDA_DSSIM) * l1 + LAMBDA_DSSIM * (1 - (numerator / denominator).mean())


def with_backward(loss: Callable[[Tensor], Tensor], image: Tensor) -> float:
    """The loss; its gradient is computed and discarded."""
    variable = image.detach().requires_grad_()
    value = loss(variable)
    value.backward()
    return value.item()


def direct(image: Tensor, target: Tensor, gradient: Tensor) -> float:
    """The loss; its gradient overwrites the last one."""
    l1, ssim, _ = l1_ssim_value_and_gradient(image, target, LAMBDA_DSSIM, out=gradient)
    return (1 - LAMBDA_DSSIM) * l1 + LAMBDA_DSSIM * (1 - ssim)


def make_cases(width: int, height: int) -> dict[str, Callable[[], float]]:
    """Case name -> the work to time, which returns the loss."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(256, (3, height, width), generator=generator).to(torch.uint8)
    decoded = target.float() / 255
    noise = 0.1 * torch.randn((3, height, width), generator=generator)
    image = (decoded + noise).clamp(0, 1)
    gaussian = window()
    fused = partial(fused_l1_ssim, target=target, lambda_dssim=LAMBDA_DSSIM)
    convolution = partial(convolution_loss, target=decoded, gaussian=gaussian)
    return {
        "fused, value": lambda: fused(image).item(),
        "convolution, value": lambda: convolution(image).item(),
        "fused, value and gradient": partial(direct, image, target, torch.empty_like(image)),
        "fused, autograd": partial(with_backward, fused, image),
        "convolution, autograd": partial(with_backward, convolution, image),
    }


def time_size(width: int, height: int, rounds: int) -> list[Timing]:
    """The timings of all cases at one image size, after one round that does not count."""
    cases = make_cases(width, height)
    wall: dict[str, list[float]] = {case: [] for case in cases}
    cpu: dict[str, list[float]] = {case: [] for case in cases}
    losses = {case: work() for case, work in cases.items()}
    for _ in range(rounds):
        for case, work in cases.items():
            wall_start, cpu_start = time.perf_counter(), time.process_time()
            work()
            cpu[case].append(1e3 * (time.process_time() - cpu_start))
            wall[case].append(1e3 * (time.perf_counter() - wall_start))
    return [
        Timing(case, width, height, min(wall[case]), median(cpu[case]), losses[case])
        for case in cases
    ]


def print_table(timings: list[Timing]) -> None:
    print(f"{'case':<28}{'size':>12}{'wall ms':>10}{'CPU ms':>10}{'loss':>14}")
    for row in timings:
        size = f"{row.width}x{row.height}"
        print(f"{row.case:<28}{size:>12}{row.wall_ms:>10.2f}{row.cpu_ms:>10.2f}{row.loss:>14.8f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the timings to this file")
    arguments = parser.parse_args()
    if arguments.threads < 1 or arguments.rounds < 1:
        sys.exit("error: --threads and --rounds must be at least 1.")
    torch.set_num_threads(arguments.threads)

    timings = [row for width, height in SIZES for row in time_size(width, height, arguments.rounds)]
    print_table(timings)
    if arguments.json:
        report = {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "instruction_set": fused_ssim.instruction_set,
            "torch": torch.__version__,
            "threads": arguments.threads,
            "rounds": arguments.rounds,
            "timings": [asdict(row) for row in timings],
        }
        write_json(arguments.json, report)


if __name__ == "__main__":
    main()
