# SPDX-License-Identifier: Apache-2.0
"""Random Gaussians before a camera, for comparing rasterisers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from diff_gaussian_rasterization import GaussianRasterizationSettings
from diff_gaussian_rasterization.raw import RawGaussians
from torch import Tensor

from reference.rasterizer_twin import Gaussians, View, world_covariance


@dataclass(frozen=True)
class Scene:
    """float32 parameters as the API takes them, and the view."""

    means: Tensor
    opacities: Tensor
    shs: Tensor
    scales: Tensor
    rotations: Tensor
    settings: GaussianRasterizationSettings

    def off_axis(self, x: float, y: float) -> Scene:
        """The scene with the principal point moved by (x, y) in device coordinates."""
        view, projection = self.settings.viewmatrix, self.settings.projmatrix
        shift = torch.zeros(4, 4)
        shift[2, :2] = torch.tensor([x, y])
        return self.with_settings(projmatrix=projection + view @ shift)

    def with_settings(self, **changes: Any) -> Scene:
        """The same Gaussians in another view."""
        return replace(self, settings=self.settings._replace(**changes))


def view_settings(width: int, height: int, sh_degree: int) -> GaussianRasterizationSettings:
    """A camera along z, slightly rotated and moved."""
    tan_x = 0.6
    tan_y = tan_x * height / width
    angle = 0.3
    view = torch.eye(4)
    view[0, 0] = view[2, 2] = math.cos(angle)
    view[0, 2], view[2, 0] = math.sin(angle), -math.sin(angle)
    view[3, :3] = torch.tensor([0.1, -0.2, 1.5])
    near, far = 0.01, 100.0
    projection = torch.zeros(4, 4)
    projection[0, 0], projection[1, 1] = 1 / tan_x, 1 / tan_y
    projection[2, 2], projection[3, 2] = far / (far - near), -far * near / (far - near)
    projection[2, 3] = 1.0
    return GaussianRasterizationSettings(
        image_height=height,
        image_width=width,
        tanfovx=tan_x,
        tanfovy=tan_y,
        bg=torch.tensor([0.2, 0.5, 0.9]),
        scale_modifier=1.0,
        viewmatrix=view,
        projmatrix=view @ projection,
        sh_degree=sh_degree,
        campos=torch.linalg.inv(view)[3, :3],
        prefiltered=False,
        debug=False,
        antialiasing=False,
    )


def random_scene(
    seed: int, count: int, width: int = 70, height: int = 50, sh_degree: int = 3
) -> Scene:
    """Some Gaussians lie behind the camera, beside the image, or are needles."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Scene(
        means=(uniform(count, 3) - 0.5) * torch.tensor([4.0, 3.0, 5.0]) + torch.tensor([0, 0, 1.5]),
        opacities=uniform(count, 1),
        shs=normal(count, (sh_degree + 1) ** 2, 3) * 0.3,
        scales=torch.exp(normal(count, 3) * 0.7 - 2.5),
        rotations=torch.nn.functional.normalize(normal(count, 4)),
        settings=view_settings(width, height, sh_degree),
    )


def raw_of(scene: Scene) -> RawGaussians:
    """Raw parameters whose activations are the scene's."""
    lengths = torch.linspace(0.5, 2.0, len(scene.means))[:, None]
    return RawGaussians(
        xyz=scene.means,
        features_dc=scene.shs[:, :1].contiguous(),
        features_rest=scene.shs[:, 1:].contiguous(),
        opacity=torch.logit(scene.opacities),
        scaling=scene.scales.log(),
        rotation=scene.rotations * lengths,
    )


def packed_covariances(scene: Scene) -> Tensor:
    """(N, 6) float32: what scales and rotations stand for."""
    gaussians = Gaussians(
        scene.means, scene.opacities, scales=scene.scales, rotations=scene.rotations
    )
    full = world_covariance(gaussians, 1.0)
    return full.reshape(-1, 9)[:, [0, 1, 2, 4, 5, 8]].contiguous()


def twin_view(settings: GaussianRasterizationSettings) -> View:
    """The same view, for the float64 twin."""
    return View(
        height=settings.image_height,
        width=settings.image_width,
        tan_x=settings.tanfovx,
        tan_y=settings.tanfovy,
        background=settings.bg.double(),
        scale_modifier=settings.scale_modifier,
        view=settings.viewmatrix.double(),
        projection=settings.projmatrix.double(),
        sh_degree=settings.sh_degree,
        position=settings.campos.double(),
        antialiasing=settings.compensates(),
        low_pass=0.3 if settings.kernel_size is None else settings.kernel_size,
        offsets=settings.subpixel_offset,
    )
