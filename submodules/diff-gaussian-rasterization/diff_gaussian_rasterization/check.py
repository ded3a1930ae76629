# SPDX-License-Identifier: Apache-2.0
"""Whether the CUDA kernels run on this machine: `python -m diff_gaussian_rasterization.check`.

It names what was found, compiles the kernels that draw a view and its derivatives, runs them once,
and compares the results with those of the CPU. Exit status 0 if all agree, else 1.
"""

from __future__ import annotations

import importlib.metadata
import sys
from typing import NamedTuple

import torch

from . import raw
from ._cuda import BindingsDriver, CudaMissingError, NvrtcCompiler, cache_folder
from .settings import GaussianRasterizationSettings

LARGEST_DIFFERENCE = 1e-3
"""Between the two devices, relative to the length of all numbers of an output.

Rounding gives about 1e-6. A pixel in which it decides otherwise where a Gaussian ends gives more.
"""

_COUNT, _WIDTH, _HEIGHT, _SH_DEGREE = 300, 70, 50, 3


class Machine(NamedTuple):
    """What CUDA needs, as found on this machine."""

    card: str
    architecture: str
    """Like "sm_90"."""
    memory: int
    """Bytes."""
    driver: str
    nvrtc: str
    bindings: str
    pytorch: str

    def lines(self) -> list[str]:
        """The text for a terminal."""
        return [
            f"card: {self.card}, {self.memory / 2**30:.1f} GiB, {self.architecture}",
            f"driver: {self.driver}",
            f"compiler: {self.nvrtc}",
            f"cuda-bindings: {self.bindings}",
            f"PyTorch: {self.pytorch}",
            f"compiled kernels: {cache_folder()}",
        ]


def machine(device: int = 0) -> Machine:
    """What was found; CudaMissingError with one sentence that names the first thing missing."""
    if not torch.cuda.is_available():
        kind = f"made for CUDA {torch.version.cuda}" if torch.version.cuda else "made without CUDA"
        raise CudaMissingError(
            f"PyTorch {torch.__version__}, which is {kind}, finds no CUDA device on this machine."
        )
    driver, compiler = BindingsDriver(), NvrtcCompiler()
    properties = torch.cuda.get_device_properties(device)
    return Machine(
        card=properties.name,
        architecture=driver.architecture(device),
        memory=properties.total_memory,
        driver=driver.version(),
        nvrtc=compiler.version(),
        bindings=importlib.metadata.version("cuda-bindings"),
        pytorch=torch.__version__,
    )


def small_frame(device: torch.device) -> dict[str, torch.Tensor]:
    """The outputs of one made-up view and its derivatives, on the CPU, computed on `device`."""
    gaussians = raw.RawGaussians(*(tensor.to(device) for tensor in _made_up()))
    frame = raw.render(gaussians, view_settings(), training=True, inverse_depth=True, clamp=True)
    gradients = gaussians.empty_like()
    weights = torch.linspace(-1, 1, 3 * _HEIGHT * _WIDTH).view(3, _HEIGHT, _WIDTH).to(device)
    frame.backward(weights, gradients, weights[:1].clone())
    named = {f"gradient of {name}": part for name, part in gradients._asdict().items()}
    assert frame.inverse_depth is not None
    outputs = {"image": frame.image, "inverse depth": frame.inverse_depth, "radii": frame.radii}
    return {name: tensor.cpu() for name, tensor in (outputs | named).items()}


def differences(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> dict[str, float]:
    """The length of the difference, relative to that of what is expected, of each output."""
    return {
        name: float((found[name].double() - right.double()).norm() / right.double().norm())
        for name, right in expected.items()
    }


def main() -> int:
    """Print what was found and whether the results agree; the exit status."""
    try:
        for line in machine().lines():
            print(line)
        found = small_frame(torch.device("cuda", 0))
    except CudaMissingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    different = differences(found, small_frame(torch.device("cpu")))
    for name, difference in different.items():
        print(f"difference from the CPU, {name}: {difference:.1e}")
    # A difference that is not a number is not small, either.
    wrong = [name for name, d in different.items() if not d <= LARGEST_DIFFERENCE]
    if wrong:
        print(
            f"error: expected differences of at most {LARGEST_DIFFERENCE}, but {', '.join(wrong)} "
            "differ more: the kernels do not work on this card.",
            file=sys.stderr,
        )
        return 1
    print("The kernels run on this card and agree with the CPU.")
    return 0


def _made_up() -> raw.RawGaussians:
    """Gaussians in a ball around the origin."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(_COUNT, *shape, generator=generator)

    others = (_SH_DEGREE + 1) ** 2 - 1
    return raw.RawGaussians(
        xyz=0.5 * normal(3),
        features_dc=normal(1, 3),
        features_rest=0.2 * normal(others, 3),
        opacity=normal(1),
        scaling=0.5 * normal(3) - 2.5,
        rotation=normal(4),
    )


def view_settings() -> GaussianRasterizationSettings:
    """A camera that looks along z from a distance of 3."""
    world_view, projection = torch.eye(4), torch.zeros(4, 4)
    world_view[3, 2] = 3.0
    tan_x, far, near = 0.5, 100.0, 0.01
    tan_y = tan_x * _HEIGHT / _WIDTH
    projection[0, 0], projection[1, 1] = 1 / tan_x, 1 / tan_y
    projection[2, 2], projection[3, 2] = far / (far - near), -far * near / (far - near)
    projection[2, 3] = 1.0
    return GaussianRasterizationSettings(
        image_height=_HEIGHT,
        image_width=_WIDTH,
        tanfovx=tan_x,
        tanfovy=tan_y,
        bg=torch.tensor([0.2, 0.5, 0.9]),
        scale_modifier=1.0,
        viewmatrix=world_view,
        projmatrix=world_view @ projection,
        sh_degree=_SH_DEGREE,
        campos=torch.tensor([0.0, 0.0, -3.0]),
        prefiltered=False,
        debug=False,
    )


if __name__ == "__main__":
    sys.exit(main())
