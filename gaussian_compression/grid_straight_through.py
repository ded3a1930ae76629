# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning as a version-2 file stores it: grids stay, parameters settle on them.

SH are trained in the basis in which they are coded. There the sparsity term is one on what the
file pays for, and a coefficient that it pulls to 0 is one less to store.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from gaussian_compression.axes import with_ordered_axes
from gaussian_compression.codec.grid_splats import GridSplats
from gaussian_compression.design_grids import (
    Precision,
    order_in_layers,
    snap_to_grids,
)
from gaussian_compression.fitted_grids import fit_grids, settle_hidden_scales
from gaussian_compression.grid_quantizer import GridQuantizer
from gaussian_compression.sensitivity import RenderSensitivity
from gaussian_compression.settings import GridSettings
from gaussian_compression.straight_through import ADAM_EPSILON
from scene.kernel_adam import adam
from scene.raw_parameters import RawParameters

NUMBERS_PER_GAUSSIAN = 58
"""What a file stores of one: 3 + 1 + 3 + 3 + 3 numbers and 45 SH coefficients."""


class GridStraightThrough:
    """Adam on parameters in the coding basis, which are seen decoded. See StraightThrough."""

    def __init__(
        self,
        raw: RawParameters,
        quantizer: GridQuantizer,
        hidden_scales: Tensor,
        settings: GridSettings,
    ) -> None:
        """`hidden_scales` (N, 3) stay as they are: no image would tell where they drift to."""
        self._quantizer, self._layer_fraction = quantizer, settings.layer_fraction
        self._hidden_scales = hidden_scales
        self._coded = quantizer.to_coding_basis(raw)
        self._pull = settings.sparsity * quantizer.sh_weights() / max(1, raw.features_rest.numel())
        leaves = [(name, leaf) for name, leaf in self._coded.named() if leaf.numel()]
        self._optimizer = adam([{"params": [leaf], "name": name} for name, leaf in leaves],
                               ADAM_EPSILON)  # fmt: skip
        self.seen = quantizer.decoded(self._coded)

    def step(self, gradients: RawParameters, rates: Mapping[str, float]) -> None:
        """See StraightThrough. Changes `gradients`."""
        pulled = self._quantizer.pull_back(gradients.features_rest)
        pulled.flatten(1).addcmul_(self._coded.features_rest.flatten(1).sign(), self._pull)
        gradients.scaling.masked_fill_(self._hidden_scales, 0)
        gradients = gradients._replace(features_rest=pulled)
        for leaf, gradient in zip(self._coded, gradients, strict=True):
            leaf.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        self._optimizer.step()
        self.seen = self._quantizer.decoded(self._coded)

    def stored(self) -> GridSplats:
        """The model as the file will hold it: what `seen` shows."""
        splats = self._quantizer.to_grid_splats(self._coded)
        return splats.reordered(*order_in_layers(splats, self._layer_fraction))


def on_fitted_grids(
    raw: RawParameters, sensitivity: RenderSensitivity, settings: GridSettings
) -> GridStraightThrough:
    """The optimiser of `raw` (which stays as it is) on grids that fit its measured sensitivities.

    `sensitivity` is that of `raw`, whose ellipsoids have ordered axes.
    """
    device = raw.xyz.device
    splats, measured = raw.to_splats(), sensitivity.per_parameter.to_splats()
    start = replace(
        Precision(),
        weight_exponent=settings.weight_exponent,
        deadzone=settings.deadzone,
        layer_fraction=settings.layer_fraction,
    )
    numbers = NUMBERS_PER_GAUSSIAN * max(1, splats.count)
    tolerance = settings.noise * sensitivity.error / numbers
    grids, classes = fit_grids(splats, measured, tolerance, start)
    splats, hidden = settle_hidden_scales(splats, grids, measured, tolerance)
    far = np.zeros(splats.count, bool)
    far[snap_to_grids(splats, grids, settings.deadzone, classes).far_rows] = True
    quantizer = GridQuantizer(grids, settings.deadzone, classes, far, device)
    settled = raw._replace(scaling=torch.tensor(splats.scaling, device=device))
    hidden_scales = torch.tensor(hidden, device=device)
    return GridStraightThrough(settled, quantizer, hidden_scales, settings)


def with_ordered_raw_axes(raw: RawParameters) -> RawParameters:
    """The same ellipsoids, named as a version-2 file names them."""
    return RawParameters.from_splats(with_ordered_axes(raw.to_splats()), raw.xyz.device)
