# SPDX-License-Identifier: Apache-2.0
"""Models and options of the caller's own in `Scene` and `render`: what they need not have.

A model of 2023 has no `device` and no exposures, takes `create_from_pcd(pcd, spatial_lr_scale)`
and `load_ply(path)`, and gives all spherical harmonics in one tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arguments import ModelOptions
from scene.device import default_device
from splat_formats.scene import SplatMetadata
from utils.graphics_utils import BasicPointCloud


def loading_options(args: Any) -> ModelOptions:
    """`args` themselves, or the loading options among the attributes of another object."""
    if isinstance(args, ModelOptions):
        return args
    names = [option.name for option in fields(ModelOptions) if hasattr(args, option.name)]
    return ModelOptions(**{name: getattr(args, name) for name in names})


def device_of(model: Any) -> torch.device:
    """Where the model is, or where it will be if it is empty and does not say."""
    if hasattr(model, "device"):
        return torch.device(model.device)
    positions = model.get_xyz
    return positions.device if positions.numel() else default_device()


def metadata_of(model: Any) -> SplatMetadata:
    """What the model's file said about it, the defaults for a model that does not keep that."""
    metadata = getattr(model, "metadata", None)
    return metadata if isinstance(metadata, SplatMetadata) else SplatMetadata()


def create_from_points(
    model: Any, cloud: BasicPointCloud, cameras: Sequence[Any], extent: float
) -> None:
    """Start the model from a cloud, by either signature of `create_from_pcd`."""
    if _takes(model.create_from_pcd, cloud, cameras, extent):
        model.create_from_pcd(cloud, cameras, extent)
    else:
        model.create_from_pcd(cloud, extent)


def load_model(model: Any, path: Path, with_exposures: bool) -> None:
    """Read the model's PLY, by either signature of `load_ply`."""
    if with_exposures or _takes(model.load_ply, path, with_exposures):
        model.load_ply(path, with_exposures)
    else:
        model.load_ply(path)


def harmonics_of(model: Any) -> tuple[Tensor, Tensor]:
    """(N,1,3) and (N,K,3): the coefficients of degree 0 and the others."""
    if hasattr(model, "get_features_dc"):
        return model.get_features_dc, model.get_features_rest
    coefficients = model.get_features
    return coefficients[:, :1], coefficients[:, 1:]


def _takes(function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether the function can be called with these positional arguments."""
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    return True
