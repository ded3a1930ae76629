# SPDX-License-Identifier: Apache-2.0
"""Cameras with noise as photographs."""

import math

import numpy as np
import torch

from scene.cameras import Camera


def camera(width: int = 45, height: int = 37) -> Camera:
    """A camera nine units from the origin, towards it; its photograph depends on the size only."""
    generator = np.random.default_rng(0)
    photo = torch.from_numpy(generator.integers(0, 256, (3, height, width), dtype=np.uint8))
    return Camera(
        resolution=(width, height),
        colmap_id=0,
        R=np.eye(3),
        T=np.array([0.1, -0.2, 9.0]),
        FoVx=1.0,
        FoVy=2 * math.atan(math.tan(0.5) * height / width),
        depth_params=None,
        image=None,
        invdepthmap=None,
        image_name="view.png",
        uid=0,
        image_u8=photo,
    )
