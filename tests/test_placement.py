# SPDX-License-Identifier: Apache-2.0
"""The benchmark of schedules and placements: its variants, relocation, cameras between cameras."""

import random
from typing import Any, cast

import numpy as np
import pytest
import torch
from reference.random_splats import random_raw

from benchmarks.placement import Variant, camera_between, relocate, trained_in_rounds, variant_of
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.choose_backend import backend_for
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from utils.errors import InputError


def test_a_variant_is_the_default_with_changes() -> None:
    assert variant_of("base") == Variant()
    assert variant_of("steps=2,pos=30") == Variant(steps=2, pos=30.0)


@pytest.mark.parametrize("text", ["", "steps", "size=2", "steps=much"])
def test_other_variants_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="--variants: expected"):
        variant_of(text)


def test_opacities_without_a_gradient_decay_with_the_learning_rate() -> None:
    raw, backend = random_raw(20, 1), backend_for(torch.device("cpu"), RenderOptions())
    before = raw.map(torch.clone)
    model = trained_in_rounds(raw, Variant(opacity_decay=0.25), backend)
    rates = dict.fromkeys(RawParameters._fields, 0.5)
    model.apply(raw.map(torch.zeros_like), rates)
    torch.testing.assert_close(raw.opacity, before.opacity - 0.125)
    assert all(torch.equal(now, then) for now, then in zip(raw[:3], before[:3], strict=True))


def test_relocated_copies_are_together_as_opaque_as_their_origin() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"xyz": (5, 3), "features_dc": (5, 1, 3), "features_rest": (5, 3, 3),
              "opacity": (5, 1), "scaling": (5, 3), "rotation": (5, 4)}  # fmt: skip
    raw = RawParameters(**{
        name: torch.randn(shape, generator=generator) for name, shape in shapes.items()
    })  # fmt: skip
    before = raw.map(torch.clone)
    relocate(raw, torch.tensor([0, 3]), torch.tensor([0.0, 0, 1, 0, 0]), generator)
    assert torch.equal(raw.xyz[[0, 3]], before.xyz[[2, 2]])
    transparency = 1 - torch.sigmoid(raw.opacity[2])
    assert torch.allclose(transparency**3, 1 - torch.sigmoid(before.opacity[2]), atol=1e-6)
    assert (raw.scaling[2] < before.scaling[2]).all()
    for new, old in zip(raw, before, strict=True):
        assert torch.equal(new[[1, 4]], old[[1, 4]])


def test_a_camera_between_two_looks_between_them() -> None:
    def camera(angle: float) -> Camera:
        c, s = np.cos(angle), np.sin(angle)
        rotation = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        centre = np.array([10 * angle, 0.0, 0.0])
        return Camera(
            (8, 6), 1, rotation, -rotation.T @ centre, 1.0, 0.8, None, None, None, "photo", 0,
            image_u8=torch.zeros(3, 6, 8, dtype=torch.uint8),
        )  # fmt: skip

    made = camera_between([camera(0.0), camera(0.4)], random.Random(0), 7)
    x = float(made.camera_center[0])
    assert 0.2 * 4 <= x <= 0.8 * 4
    assert np.allclose(made.R @ made.R.T, np.eye(3), atol=1e-6)
    angle = np.arctan2(cast(Any, made.R)[0, 2], made.R[0, 0])
    assert angle == pytest.approx(x / 10, abs=0.02)
    assert made.uid == 7
