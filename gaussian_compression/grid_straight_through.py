# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning with the quantisation of a version-2 file: on fixed grids.

SH are trained in the basis in which they are coded. There the sparsity term acts on the numbers
that take space in the file, and a coefficient of 0 is one less to store.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from gaussian_compression.bit_allocation import fit_grids, settle_hidden_scales
from gaussian_compression.grid_quantizer import FixedValues, GridQuantizer
from gaussian_compression.penalties import ShMagnitude
from gaussian_compression.sensitivity import RenderSensitivity
from gaussian_compression.settings import GridSettings
from gaussian_compression.trainable import ADAM_EPSILON, AdamSteps, Betas
from scene.array_operations import ArrayOperations
from scene.raw_parameters import RawParameters
from scene.view_batches import BETAS
from splat_codec.exact_values import ExactValues
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import MATRIX_UNIT, LinearRule
from splat_codec.rounding import rows_beyond_cells
from splat_formats.axes import with_ordered_axes
from splat_formats.design_grids import GridSteps, order_in_layers
from splat_formats.outliers import set_aside, with_clamped_opacity
from splat_formats.snap_to_grids import snap_to_grids
from splat_formats.splats import Splats

if TYPE_CHECKING:
    from diff_gaussian_rasterization import grid_step as kernel

NUMBERS_OF = {"xyz": 3, "opacity": 1, "scaling": 3, "rotation": 3, "features_dc": 3}
"""How many numbers a file stores for a Gaussian, without SH."""
NUMBERS_BESIDE_SH = sum(NUMBERS_OF.values())


class _OnGrids:
    """What both optimisers below have in common: all but the step.

    `coded` are the full-precision parameters, in the coding basis; `seen` are the decoded values.
    """

    def __init__(
        self,
        raw: RawParameters,
        quantizer: GridQuantizer,
        settings: GridSettings,
        pull: float,
        operations: ArrayOperations,
    ) -> None:
        """`raw`, in the decoded basis, is not changed.

        `pull`: weight in the loss of the mean magnitude of SH, in steps of their Gaussians.
        """
        self._quantizer, self._layer_fraction = quantizer, settings.layer_fraction
        self.coded = quantizer.to_coding_basis(raw)
        self.penalties = coded_sparsity(self.coded, quantizer, pull, operations)
        self.seen = quantizer.decoded(self.coded)

    def trained(self) -> RawParameters:
        """The full-precision parameters, in the decoded basis."""
        return self._quantizer.from_coding_basis(self.coded)

    def stored(self) -> GridSplats:
        """See StraightThrough."""
        return _in_file_order(self._quantizer.to_grid_splats(self.coded), self._layer_fraction)

    def _without_fixed(self, gradients: RawParameters) -> None:
        """Sets the gradients of numbers that do not change to 0."""
        self._quantizer.without_exact(gradients)
        gradients.scaling.masked_fill_(self._quantizer.hidden_scales, 0)


class PlainGridStraightThrough(_OnGrids):
    """In PyTorch operations, on any device."""

    def __init__(
        self,
        raw: RawParameters,
        quantizer: GridQuantizer,
        settings: GridSettings,
        pull: float,
        operations: ArrayOperations,
    ) -> None:
        super().__init__(raw, quantizer, settings, pull, operations)
        self._adam = AdamSteps(self.coded, operations)

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """See Trainable."""
        self._without_fixed(gradients)
        return gradients._replace(features_rest=self._quantizer.pull_back(gradients.features_rest))

    def apply(
        self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas = BETAS
    ) -> None:
        """See Trainable."""
        self._adam(gradients, rates, betas)
        self.seen = self._quantizer.decoded(self.coded)


class KernelGridStraightThrough(_OnGrids):
    """In a fused kernel: the values of PlainGridStraightThrough, up to rounding in Adam.

    The same parameters decode to the same values, bit by bit.
    """

    def __init__(
        self,
        raw: RawParameters,
        quantizer: GridQuantizer,
        settings: GridSettings,
        pull: float,
        operations: ArrayOperations,
    ) -> None:
        """The operations must have `grid_kernels`."""
        super().__init__(raw, quantizer, settings, pull, operations)
        self.seen = self.seen.map(torch.Tensor.contiguous)
        self._kernels = cast(Any, operations.grid_kernels)
        self._moments = raw.map(torch.zeros_like), raw.map(torch.zeros_like)
        self._steps = 0
        classes = quantizer.classes.to(torch.uint8)
        grids = kernel_grids(quantizer, self._kernels)
        self._step = self._kernels.GridStep(grids, classes, quantizer.far)

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """See Trainable. Overwrites `gradients`."""
        self._without_fixed(gradients)
        self._step.pull_back(gradients.features_rest)
        return gradients

    def apply(
        self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas = BETAS
    ) -> None:
        """See Trainable. Overwrites `seen`."""
        self._steps += 1
        kernels = self._kernels
        columns = zip(self.coded, gradients, *self._moments, strict=True)
        states = [
            kernels.AdamState(*column, rates[name])
            for name, column in zip(RawParameters._fields, columns, strict=True)
        ]
        model = kernels.SeenModel(*map(kernels.SeenState, states, self.seen))
        self._step(model, self._steps, betas, ADAM_EPSILON)
        self._quantizer.put_exact(self.seen)


GridStraightThrough = PlainGridStraightThrough | KernelGridStraightThrough


def coded_sparsity(
    coded: RawParameters, quantizer: GridQuantizer, pull: float, operations: ArrayOperations
) -> list[ShMagnitude]:
    """The penalty on the mean magnitude of coded SH, in steps of their Gaussians."""
    if not pull or not coded.features_rest.numel():
        return []
    weights = pull / coded.features_rest.numel() * quantizer.sh_steps_per_unit
    return [ShMagnitude(weights.flatten().contiguous(), operations)]


def grid_straight_through(
    raw: RawParameters,
    quantizer: GridQuantizer,
    sensitivity: RenderSensitivity,
    settings: GridSettings,
    operations: ArrayOperations,
) -> GridStraightThrough:
    """The optimiser of `raw`, which has ordered axes and is not changed, on these grids."""
    fused = operations.grid_kernels is not None
    kind = KernelGridStraightThrough if fused else PlainGridStraightThrough
    pull = settings.sparsity * sensitivity.absolute_error
    return kind(raw, quantizer, settings, pull, operations)


def on_fitted_grids(
    raw: RawParameters,
    sensitivity: RenderSensitivity,
    settings: GridSettings,
    operations: ArrayOperations,
) -> GridStraightThrough:
    """The optimiser of `raw`, which is not changed, on grids that fit its measured sensitivities.

    `sensitivity` is that of `raw`, whose ellipsoids have ordered axes.
    """
    quantizer = fitted_quantizer(raw, sensitivity, settings)
    return grid_straight_through(raw, quantizer, sensitivity, settings, operations)


def fitted_quantizer(
    raw: RawParameters, sensitivity: RenderSensitivity, settings: GridSettings
) -> GridQuantizer:
    """Grids and precision classes that fit the measured sensitivities of `raw`."""
    splats, exact = set_aside(with_clamped_opacity(raw.to_splats())[0])
    measured = _sensitivity_of_grids(sensitivity.per_parameter.to_splats(), exact)
    start = replace(
        GridSteps(),
        weight_exponent=settings.weight_exponent,
        deadzone=settings.deadzone,
        layer_fraction=settings.layer_fraction,
        position_bits=settings.position_bits,
    )
    numbers = (NUMBERS_BESIDE_SH + 3 * splats.features_rest.shape[1]) * splats.count
    tolerance = settings.noise / numbers
    grids, classes = fit_grids(splats, measured, tolerance, start)
    pixels = sensitivity.pixel_sizes.cpu().numpy().astype(np.float64)
    settled, hidden = settle_hidden_scales(splats, grids, measured, tolerance, pixels)
    far = np.zeros(splats.count, bool)
    far[rows_beyond_cells(splats.xyz, grids.position)] = True
    settled_scales = np.where(hidden, settled.scaling, np.float32(np.nan))
    # This adds colours that the integers do not reach.
    exact = snap_to_grids(splats, grids, settings.deadzone, classes, exact).exact
    stand_ins = exact.taken_from(splats.columns())
    return GridQuantizer(
        grids,
        settings.deadzone,
        classes,
        far,
        raw.xyz.device,
        FixedValues(settled_scales, exact, stand_ins),
    )


def _sensitivity_of_grids(measured: Splats, exact: ExactValues) -> Splats:
    """The sensitivity to numbers on grids: 0 for numbers that are stored exactly or not finite.

    The other numbers of Gaussians with exactly stored ones count at most as much as the greatest of
    all others: else one of colour 10^4 would decide how fine all positions and rotations are.
    """
    columns = {name: np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
               for name, values in measured.columns().items()}  # fmt: skip
    rows = np.unique(exact.rows)
    if 0 < len(rows) < measured.count:
        for values in columns.values():
            greatest = np.delete(values, rows, axis=0).max(axis=0)
            values[rows] = np.minimum(values[rows], greatest)
    ExactValues(exact.rows, exact.channels, np.zeros(len(exact), np.float32)).put_into(columns)
    shapes = {name: getattr(measured, name).shape for name in columns}
    return Splats(**{name: values.reshape(shapes[name]) for name, values in columns.items()})


def with_ordered_raw_axes(raw: RawParameters) -> RawParameters:
    """The same ellipsoids with descending scales, as in a version-2 file (splat_formats.axes)."""
    return RawParameters.from_splats(with_ordered_axes(raw.to_splats()), raw.xyz.device)


def _in_file_order(splats: GridSplats, layer_fraction: float) -> GridSplats:
    return splats.reordered(*order_in_layers(splats, layer_fraction))


def kernel_grids(quantizer: GridQuantizer, kernels: Any) -> "kernel.Grids":
    """The quantiser's grids in the types of the fused kernels (`ArrayOperations.grid_kernels`)."""
    grids, tables = quantizer.grids, quantizer.tables
    position, opacity, scale = grids.position, grids.opacity, grids.scale
    return kernels.Grids(
        position=kernels.Cells(
            position.origin, position.cell, position.bits, _kernel_rule(position.shift, kernels)
        ),
        opacity=kernels.EvenGrid(opacity.minimum, opacity.step, opacity.levels),
        scale=kernels.EvenGrid(scale.minimum, scale.step, scale.levels),
        rotation=kernels.Turns(grids.rotation_step, _kernel_rule(grids.rotation_shift, kernels)),
        colour=kernels.Colour(
            forward=quantizer.dc_inverse,
            unit=quantizer.dc_unit,
            inverse=quantizer.dc_matrix,
            step=grids.dc_step,
            low=grids.dc_low,
            size=tables.dc_size,
        ),
        harmonics=kernels.Harmonics(
            matrix=quantizer.sh_matrix,
            unit=MATRIX_UNIT,
            step=tables.sh_step,
            steps_per_unit=tables.sh_steps_per_unit,
            rounding=1 - quantizer.deadzone,
        ),
    )


def _kernel_rule(rule: LinearRule, kernels: Any) -> "kernel.Rule":
    return kernels.Rule(rule.bias, rule.factors, rule.most)
