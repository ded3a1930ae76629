# SPDX-License-Identifier: Apache-2.0
"""A model and its optimisers as the twelve values of a checkpoint, in Inria's order, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scene.exposure import exposure_state, restore_exposures
from scene.optimizer import restore_optimizer
from scene.raw_parameters import RawParameters
from utils.errors import InputError

if TYPE_CHECKING:
    from scene.gaussian_model import GaussianModel

EXPOSURE_KEY = "exposures"
"""Of the optimiser's state in a checkpoint; `Optimizer.load_state_dict` ignores it."""


def capture(model: GaussianModel) -> tuple:
    """The twelve values; the optimiser's state has the exposures, which other programs ignore."""
    exposures = exposure_state(model._exposure, model.exposure_mapping, model.exposure_optimizer)
    return (
        model.active_sh_degree,
        model._xyz,
        model._features_dc,
        model._features_rest,
        model._scaling,
        model._rotation,
        model._opacity,
        model.max_radii2D,
        model.xyz_gradient_accum,
        model.denom,
        {**model.trained_by.state_dict(), EXPOSURE_KEY: exposures},
        float(model.spatial_lr_scale),
    )


def restore(model: GaussianModel, values: tuple, training_args: Any | None) -> None:
    """Gives the model the twelve values; with `training_args`, its optimisers too.

    InputError for values of another SH degree.
    """
    degree, xyz, dc, rest, scaling, rotation, opacity, *others = values
    max_radii2D, xyz_gradient_accum, denom, state, spatial_scale = others
    parameters = RawParameters(xyz, dc, rest, opacity, scaling, rotation)
    if parameters.sh_degree != model.max_sh_degree:
        raise InputError(
            f"expected a checkpoint of SH degree {model.max_sh_degree}, got {parameters.sh_degree}"
        )
    model.active_sh_degree = degree
    model.spatial_lr_scale = float(spatial_scale)
    model._set_parameters(parameters.map(lambda tensor: tensor.detach().to(model.device)))
    exposures = state.get(EXPOSURE_KEY)
    if exposures is not None and not model.exposure_mapping:
        model._set_images(exposures["names"])
    if training_args is not None:
        model.training_setup(training_args)
    if exposures is not None:
        rows, optimizer = model.exposure_mapping, model.exposure_optimizer
        restore_exposures(exposures, rows, model._exposure, optimizer)
    if training_args is None:
        return
    model.max_radii2D = max_radii2D.to(model.device)
    model.xyz_gradient_accum = xyz_gradient_accum.to(model.device)
    model.denom = denom.to(model.device)
    restore_optimizer(model.trained_by, state)
