# SPDX-License-Identifier: Apache-2.0
"""How far the rasteriser is from its float64 PyTorch twin: `python benchmarks/accuracy.py`.

Random scenes of several SH degrees; image, inverse depth, radii, and the gradient of every input of
a random linear function of both images. Prints a table; the tests check its bounds.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from diff_gaussian_rasterization import GaussianRasterizer, native
from reference.random_scenes import Scene, random_scene, twin_view
from reference.rasterizer_twin import Gaussians, render

SCENES = {"SH 0": 0, "SH 1": 1, "SH 2": 2, "SH 3": 3}
HEAD = (
    "| scene | image mean | pixels > 1e-4 | radii unequal | means3D | means2D | opacities | shs "
    "| scales | rotations |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    print(f"{native.instruction_set}; gradients: relative L2 error\n{HEAD}")
    for antialiasing in (False, True):
        for name, degree in SCENES.items():
            scene = random_scene(seed=degree, count=250, sh_degree=degree)
            label = f"{name}{', antialiasing' if antialiasing else ''}"
            print(f"| {label} | {row(scene.with_settings(antialiasing=antialiasing))} |")


def row(scene: Scene) -> str:
    names = {"means": "means3D", "opacities": "opacities", "shs": "shs"}
    names |= {"scales": "scales", "rotations": "rotations"}
    ours = {api: getattr(scene, own).clone().requires_grad_() for own, api in names.items()}
    twins = {own: getattr(scene, own).double().requires_grad_() for own in names}
    screens = torch.zeros_like(scene.means, requires_grad=True)
    twin_screens = torch.zeros(len(scene.means), 2, dtype=torch.float64, requires_grad=True)
    image, radii, depth = GaussianRasterizer(scene.settings)(means2D=screens, **ours)
    expected = render(
        Gaussians(**twins, colors=None, covariances=None), twin_view(scene.settings), twin_screens
    )
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(i.shape, generator=generator) for i in (image, depth)]
    ((image * weights[0]).sum() + (depth * weights[1]).sum()).backward()
    ((expected.image * weights[0]).sum() + (expected.inverse_depth * weights[1]).sum()).backward()
    error = (image - expected.image).abs()
    pairs = [(gradient(ours[api]), gradient(twins[own])) for own, api in names.items()]
    pairs.insert(1, (gradient(screens)[:, :2], gradient(twin_screens)))
    cells = [
        f"{error.mean():.1e}",
        str(int((error > 1e-4).sum())),
        str(int((radii != expected.radii).sum())),
        *(f"{(found.double() - true).norm() / true.norm():.1e}" for found, true in pairs),
    ]
    return " | ".join(cells)


def gradient(leaf: torch.Tensor) -> torch.Tensor:
    if leaf.grad is None:
        raise RuntimeError("an input got no gradient")
    return leaf.grad


if __name__ == "__main__":
    main()
