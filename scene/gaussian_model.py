# SPDX-License-Identifier: Apache-2.0
"""The trainable model, with Inria's attribute and method names; smaller modules do the work.

Values are stored raw, as in the PLY: logit opacity, log scale, unnormalised wxyz quaternion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from scene import captured, densification
from scene.array_operations import ArrayOperations, TorchOperations
from scene.device import default_device
from scene.exposure import (
    EXPOSURE_NAME,
    ExposureAdam,
    exposure_schedule,
    numbered,
    read_exposures,
    unchanged_exposures,
)
from scene.gaussians_of_points import gaussians_of_points
from scene.optimizer import (
    append_rows,
    create_optimizer,
    for_views,
    keep_rows,
    learning_rates,
    replace_tensor,
)
from scene.raw_parameters import RawParameters
from splat_formats.files import log_notices, read_with_notices, write_splats
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import Splats
from utils.errors import InputError
from utils.general_utils import (
    build_scaling_rotation,
    get_expon_lr_func,
    inverse_sigmoid,
    strip_symmetric,
)
from utils.graphics_utils import BasicPointCloud

# Optimiser group -> attribute, in the order of the groups, which is that of RawParameters.
ATTRIBUTES = {
    "xyz": "_xyz",
    "f_dc": "_features_dc",
    "f_rest": "_features_rest",
    "opacity": "_opacity",
    "scaling": "_scaling",
    "rotation": "_rotation",
}
RESET_OPACITY = 0.01


def covariance_from_scaling_rotation(scaling: Tensor, modifier: float, rotation: Tensor) -> Tensor:
    """World covariances (N,6) as xx, xy, xz, yy, yz, zz."""
    root = build_scaling_rotation(modifier * scaling, rotation)
    return strip_symmetric(root @ root.transpose(1, 2))


class GaussianModel:
    """N Gaussians, their optimiser and their densification statistics, on one device."""

    _xyz: Tensor
    _features_dc: Tensor
    _features_rest: Tensor
    _opacity: Tensor
    _scaling: Tensor
    _rotation: Tensor

    def __init__(
        self,
        sh_degree: int,
        optimizer_type: str = "default",
        device: torch.device | str | None = None,
        operations: ArrayOperations | None = None,
    ) -> None:
        """`operations`: the operations that train the model; None: those of PyTorch."""
        self.operations = TorchOperations() if operations is None else operations
        self.active_sh_degree = 0
        self.max_sh_degree = sh_degree
        self.optimizer_type = optimizer_type
        self.device = default_device() if device is None else torch.device(device)
        for name in ATTRIBUTES.values():
            setattr(self, name, torch.empty(0, device=self.device))
        self.max_radii2D = torch.empty(0, device=self.device)
        self.xyz_gradient_accum = torch.empty(0, device=self.device)
        self.denom = torch.empty(0, device=self.device)
        self.tmp_radii: Tensor | None = None
        self.optimizer: Optimizer | None = None
        self.metadata = SplatMetadata()
        self.percent_dense = 0.0
        self.spatial_lr_scale = 0.0
        self._set_images(())
        self.pretrained_exposures: dict[str, Tensor] | None = None
        self.setup_functions()

    def setup_functions(self) -> None:
        """Set the functions that convert between stored and effective values."""
        self.scaling_activation = torch.exp
        self.scaling_inverse_activation = torch.log
        self.covariance_activation = covariance_from_scaling_rotation
        self.opacity_activation = torch.sigmoid
        self.inverse_opacity_activation = inverse_sigmoid
        self.rotation_activation = functional.normalize

    # Effective values

    @property
    def get_scaling(self) -> Tensor:
        """Standard deviations (N,3), world units."""
        return self.scaling_activation(self._scaling)

    @property
    def get_rotation(self) -> Tensor:
        """Unit quaternions (N,4), wxyz."""
        return self.rotation_activation(self._rotation)

    @property
    def get_xyz(self) -> Tensor:
        """Centres (N,3), world units."""
        return self._xyz

    @property
    def get_features(self) -> Tensor:
        """A copy of all SH coefficients (N,K+1,3)."""
        return torch.cat((self._features_dc, self._features_rest), dim=1)

    @property
    def get_features_dc(self) -> Tensor:
        """SH coefficients of degree 0, (N,1,3)."""
        return self._features_dc

    @property
    def get_features_rest(self) -> Tensor:
        """SH coefficients above degree 0, (N,K,3)."""
        return self._features_rest

    @property
    def get_opacity(self) -> Tensor:
        """Opacities (N,1) in 0..1."""
        return self.opacity_activation(self._opacity)

    @property
    def get_exposure(self) -> Tensor:
        """The trained exposures (n,3,4), in the order of `exposure_mapping`."""
        return self._exposure

    def get_exposure_from_name(self, image_name: str) -> Tensor:
        """The exposure (3,4) of a training image: the loaded one, if exposures were loaded.

        InputError for an image that has none.
        """
        if self.pretrained_exposures is None:
            row = self.exposure_mapping.get(image_name)
            found = None if row is None else self._exposure[row]
        else:
            found = self.pretrained_exposures.get(image_name)
        if found is None:
            raise InputError(
                f"the model has no exposure of the image {image_name}: exposures belong to the "
                "images of the training with --train_test_exp"
            )
        return found

    def exposures(self) -> dict[str, Tensor]:
        """The exposures (3,4) by image name; empty for a model without training images."""
        if self.pretrained_exposures is not None:
            return dict(self.pretrained_exposures)
        return {name: self._exposure[row] for name, row in self.exposure_mapping.items()}

    def get_covariance(self, scaling_modifier: float = 1) -> Tensor:
        """World covariances (N,6) as xx, xy, xz, yy, yz, zz."""
        return self.covariance_activation(self.get_scaling, scaling_modifier, self._rotation)

    def oneupSHdegree(self) -> None:
        """Activate one more SH band, up to the model's degree."""
        self.active_sh_degree = min(self.active_sh_degree + 1, self.max_sh_degree)

    # Making, loading and saving

    def create_from_pcd(
        self,
        pcd: BasicPointCloud,
        cam_infos: Sequence[Any] | float,
        spatial_lr_scale: float | None = None,
    ) -> None:
        """Start from a coloured cloud: one isotropic Gaussian per point, sized by its neighbours.

        The 2023 form `create_from_pcd(pcd, spatial_lr_scale)` is accepted too.
        """
        if spatial_lr_scale is None:
            if not isinstance(cam_infos, (int, float, np.number)):
                raise TypeError("create_from_pcd needs spatial_lr_scale, a number")
            spatial_lr_scale = float(cam_infos)
        elif not isinstance(cam_infos, (int, float, np.number)):
            self._set_images([image.image_name for image in cam_infos])
        self.spatial_lr_scale = float(spatial_lr_scale)
        self._set_parameters(
            gaussians_of_points(
                pcd, self.max_sh_degree, self.inverse_opacity_activation, self.device
            )
        )
        self.active_sh_degree = 0

    @classmethod
    def from_splats(cls, splats: Splats, device: torch.device | str | None = None) -> GaussianModel:
        """A model of the splats' own SH degree holding a copy of them."""
        model = cls(splats.sh_degree, device=device)
        model.load_splats(splats)
        return model

    @classmethod
    def from_ply(cls, path: str | Path, device: torch.device | str | None = None) -> GaussianModel:
        """The model in a point_cloud.ply, with the SH degree of the file."""
        scene = read_with_notices(path)
        model = cls.from_splats(scene.splats, device)
        model.metadata = replace(scene.metadata, notices=())
        return model

    @classmethod
    def from_raw(cls, raw: RawParameters) -> GaussianModel:
        """A model that holds these tensors (no copy, no optimiser); all bands active."""
        model = cls(raw.sh_degree, device=raw.xyz.device)
        for attribute, tensor in zip(ATTRIBUTES.values(), raw, strict=True):
            setattr(model, attribute, tensor)
        model.active_sh_degree = model.max_sh_degree
        return model

    def load_splats(self, splats: Splats) -> None:
        """Take a copy of `splats`, whose SH degree must be the model's; all bands active."""
        if splats.sh_degree != self.max_sh_degree:
            raise InputError(
                f"expected Gaussians of SH degree {self.max_sh_degree}, but these have degree "
                f"{splats.sh_degree}: give --sh_degree {splats.sh_degree}"
            )
        self._set_parameters(RawParameters.from_splats(splats, self.device))
        self.active_sh_degree = self.max_sh_degree

    def to_splats(self) -> Splats:
        """The six raw tensors, copied to NumPy."""
        return self.raw_parameters().to_splats()

    def raw_parameters(self) -> RawParameters:
        """The six trainable tensors themselves, not copies."""
        return RawParameters(*(getattr(self, name) for name in ATTRIBUTES.values()))

    def load_ply(self, path: str | Path, use_train_test_exp: bool = False) -> None:
        """Read a point_cloud.ply; all SH bands become active.

        Positions are relative to `metadata.origin`, which is 0 unless float32 is too coarse. With
        `use_train_test_exp` the exposures are read from the exposure.json of the model folder.
        """
        if use_train_test_exp:
            folder = Path(path).absolute().parents[2]
            self.pretrained_exposures = read_exposures(folder / EXPOSURE_NAME, self.device)
        scene = read_with_notices(path)
        try:
            self.load_splats(scene.splats)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        self.metadata = replace(scene.metadata, notices=())

    def save_ply(self, path: str | Path) -> None:
        """Write a point_cloud.ply, making its folder."""
        log_notices(path, write_splats(path, SplatScene(self.to_splats(), self.metadata)))

    def construct_list_of_attributes(self) -> list[str]:
        """Names of the PLY's properties, in file order."""
        higher = self._features_rest.shape[1] * self._features_rest.shape[2]
        return [
            *("x", "y", "z", "nx", "ny", "nz"),
            *(f"f_dc_{i}" for i in range(self._features_dc.shape[1] * self._features_dc.shape[2])),
            *(f"f_rest_{i}" for i in range(higher)),
            "opacity",
            *(f"scale_{i}" for i in range(self._scaling.shape[1])),
            *(f"rot_{i}" for i in range(self._rotation.shape[1])),
        ]

    def capture(self) -> tuple:
        """The twelve values of a checkpoint, in Inria's order.

        The optimiser's state has the exposures, too, which other programs ignore.
        """
        return captured.capture(self)

    def restore(self, model_args: tuple, training_args: Any | None = None) -> None:
        """Take the twelve values of `capture`; with `training_args`, the optimiser too."""
        captured.restore(self, model_args, training_args)

    def _set_parameters(self, parameters: RawParameters) -> None:
        for name, tensor in zip(ATTRIBUTES.values(), parameters, strict=True):
            setattr(self, name, nn.Parameter(tensor.contiguous()))
        self.max_radii2D = torch.zeros(self._xyz.shape[0], device=self.device)
        # An optimiser of the replaced tensors must not be used any more.
        self.optimizer = None

    def _set_images(self, names: Sequence[str]) -> None:
        """Forget all exposures, and start those of the images with these names."""
        self.exposure_mapping = numbered(names)
        matrices = unchanged_exposures(len(self.exposure_mapping), self.device)
        self._exposure: nn.Parameter = nn.Parameter(matrices)
        self.exposure_optimizer: Optimizer | None = None

    def _assign(self, parameters: dict[str, nn.Parameter]) -> None:
        for name, parameter in parameters.items():
            setattr(self, ATTRIBUTES[name], parameter)

    @property
    def trained_by(self) -> Optimizer:
        """The optimiser. Raises `InputError` before `training_setup`."""
        if self.optimizer is None:
            raise InputError("this model has no optimiser yet: call training_setup first")
        return self.optimizer

    # Training

    def training_setup(self, training_args: Any) -> None:
        """Create the optimisers, their schedules and empty densification statistics."""
        self.percent_dense = training_args.percent_dense
        densification.reset_statistics(self)
        parameters = dict(zip(ATTRIBUTES, self.raw_parameters(), strict=True))
        rates = learning_rates(training_args, self.spatial_lr_scale)
        self.optimizer = create_optimizer(parameters, rates, self.optimizer_type, self.operations)
        self.xyz_scheduler_args = get_expon_lr_func(
            lr_init=rates["xyz"],
            lr_final=training_args.position_lr_final * self.spatial_lr_scale,
            lr_delay_mult=training_args.position_lr_delay_mult,
            max_steps=training_args.position_lr_max_steps,
        )
        self.exposure_optimizer = ExposureAdam(self._exposure)
        self.exposure_scheduler_args = exposure_schedule(training_args)

    def update_learning_rate(self, iteration: int) -> float:
        """Set the rates of `iteration` (the first is 1); return that of positions."""
        rate = float(self.xyz_scheduler_args(iteration))
        for group in self.trained_by.param_groups:
            if group["name"] == "xyz":
                group["lr"] = rate
        if self.exposure_optimizer is not None:
            for group in self.exposure_optimizer.param_groups:
                group["lr"] = float(self.exposure_scheduler_args(iteration))
        return rate

    def step_exposures(self, views: int = 1) -> None:
        """Update the exposures if one has a gradient, a mean over so many views, and drop it."""
        if self.exposure_optimizer is not None:
            with for_views(self.exposure_optimizer, views):
                self.exposure_optimizer.step()
            self.exposure_optimizer.zero_grad(set_to_none=True)

    def reset_opacity(self) -> None:
        """Lower every opacity to at most 0.01 and set its moments to zero."""
        capped = self.get_opacity.detach().clamp_max(RESET_OPACITY)
        lowered = self.inverse_opacity_activation(capped)
        self._assign(self.replace_tensor_to_optimizer(lowered, "opacity"))

    def replace_tensor_to_optimizer(self, tensor: Tensor, name: str) -> dict[str, nn.Parameter]:
        """The new parameter of the named group, with zero moments, as {name: parameter}."""
        return replace_tensor(self.trained_by, tensor, name)

    def _prune_optimizer(self, mask: Tensor) -> dict[str, nn.Parameter]:
        return keep_rows(self.trained_by, mask)

    @torch.no_grad()
    def prune_points(self, mask: Tensor) -> None:
        """Remove the Gaussians where `mask` (N,) is true."""
        keep = ~mask
        if self.optimizer is None:
            self._set_parameters(self.raw_parameters().rows(keep))
            return
        self._assign(self._prune_optimizer(keep))
        self.xyz_gradient_accum = self.xyz_gradient_accum[keep]
        self.denom = self.denom[keep]
        self.max_radii2D = self.max_radii2D[keep]
        if self.tmp_radii is not None:
            self.tmp_radii = self.tmp_radii[keep]

    def cat_tensors_to_optimizer(self, tensors_dict: dict[str, Tensor]) -> dict[str, nn.Parameter]:
        """The six parameters followed by the given rows, whose moments are zero."""
        return append_rows(self.trained_by, tensors_dict)

    @torch.no_grad()
    def densification_postfix(
        self,
        new_xyz: Tensor,
        new_features_dc: Tensor,
        new_features_rest: Tensor,
        new_opacities: Tensor,
        new_scaling: Tensor,
        new_rotation: Tensor,
        new_tmp_radii: Tensor | None = None,
    ) -> None:
        """Append Gaussians and restart the statistics."""
        rows = {
            "xyz": new_xyz,
            "f_dc": new_features_dc,
            "f_rest": new_features_rest,
            "opacity": new_opacities,
            "scaling": new_scaling,
            "rotation": new_rotation,
        }
        self._assign(self.cat_tensors_to_optimizer(rows))
        if self.tmp_radii is not None and new_tmp_radii is not None:
            self.tmp_radii = torch.cat((self.tmp_radii, new_tmp_radii))
        densification.reset_statistics(self)

    @torch.no_grad()
    def densify_and_clone(self, grads: Tensor, grad_threshold: float, scene_extent: float) -> None:
        """Copy the small Gaussians whose mean screen gradient (N,1) reaches the threshold."""
        densification.clone(self, grads, grad_threshold, scene_extent)

    @torch.no_grad()
    def densify_and_split(
        self, grads: Tensor, grad_threshold: float, scene_extent: float, N: int = 2
    ) -> None:
        """Replace the large Gaussians whose mean screen gradient reaches the threshold by N."""
        densification.split(self, grads, grad_threshold, scene_extent, N)

    @torch.no_grad()
    def densify_and_prune(
        self,
        max_grad: float,
        min_opacity: float,
        extent: float,
        max_screen_size: float | None,
        radii: Tensor | None = None,
    ) -> None:
        """Clone, split and prune. A `max_screen_size` turns on pruning of large Gaussians.

        `radii` (N,) are kept in `tmp_radii` for code that overrides these methods.
        """
        self.tmp_radii = radii
        densification.densify_and_prune(
            self, max_grad, min_opacity, extent, prune_large=bool(max_screen_size)
        )
        self.tmp_radii = None

    @torch.no_grad()
    def add_densification_stats(
        self, viewspace_point_tensor: Tensor, update_filter: Tensor
    ) -> None:
        """Add the screen gradients (`viewspace_point_tensor.grad`) of the visible Gaussians."""
        if viewspace_point_tensor.grad is None:
            raise InputError("viewspace_points has no gradient: call backward() on the loss first")
        densification.add_gradients(self, viewspace_point_tensor.grad, update_filter)
