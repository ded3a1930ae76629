# SPDX-License-Identifier: Apache-2.0
"""Other ways to make SH small in the last stage of compress.py, for benchmarks/rate_term.py."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.scores import BlendingWeight
from gaussian_compression.grid_straight_through import GridStraightThrough
from gaussian_compression.penalties import Penalty, ShMagnitude
from gaussian_compression.scores import ScoreTools
from gaussian_compression.trainable import Betas, StraightThrough
from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from scene.view_batches import BETAS
from splat_codec.grid_splats import GridSplats
from splat_formats.design_grids import order_in_layers
from splat_formats.palettes import palette_of
from splat_formats.repeated_sh import with_shared_sh
from utils.sh_utils import sh_basis


def with_least_energy(
    raw: RawParameters, views: Sequence[Camera], tools: ScoreTools, strength: float
) -> RawParameters:
    """The model with SH of less energy that look alike from where `views` see each Gaussian.

    Ridge regression of the colours that a Gaussian has in the views, weighted by its blending
    weights there (sum 1); `strength` is the weight of the squared coefficients above degree 0.
    """
    weight_of = BlendingWeight(tools)
    weight_of.start(raw)
    functions = (raw.sh_degree + 1) ** 2
    normal = torch.zeros(raw.gaussian_count, functions, functions, dtype=torch.float64)
    for view in views:
        directions = torch.nn.functional.normalize(raw.xyz - view.camera_center, dim=1)
        basis = sh_basis(raw.sh_degree, directions).double()
        weights = weight_of.weight(view).double().clamp(min=0)
        normal += weights[:, None, None] * basis[:, :, None] * basis[:, None, :]
    # The basis function of degree 0 is constant: its entry is proportional to the weights' sum.
    total = normal[:, :1, :1] / sh_basis(0, torch.zeros(1, 3)).double().square()
    seen = total[:, 0, 0] > 0
    normal = normal[seen] / total[seen]
    old = torch.cat([raw.features_dc, raw.features_rest], dim=1)[seen].double()
    penalty = torch.full((functions,), strength, dtype=torch.float64)
    penalty[0] = 0
    new = torch.linalg.solve(normal + torch.diag(penalty), normal @ old).float()
    raw = raw.map(torch.clone)
    raw.features_dc[seen], raw.features_rest[seen] = new[:, :1], new[:, 1:]
    return raw


@dataclass(frozen=True)
class ShLogarithm:
    """The weighted sum of log(1 + magnitude in steps) of the SH, instead of their magnitudes."""

    magnitude: ShMagnitude
    """Its weights are those of one step."""
    steps_per_unit: Tensor
    """(N, 1)"""

    def add(self, coded: RawParameters, gradients: RawParameters) -> None:
        """See Penalty."""
        steps = coded.features_rest * self.steps_per_unit[:, :, None]
        weights = self.magnitude.weights[:, None, None]
        gradients.features_rest.add_(weights * steps.sign() / (1 + steps.abs()))


def with_logarithm(optimizer: GridStraightThrough) -> StraightThrough:
    """`optimizer` with this penalty in place of that on magnitudes."""
    steps = optimizer._quantizer.sh_steps_per_unit
    return _Changed(optimizer, [ShLogarithm(one, steps) for one in optimizer.penalties])


class _Changed:
    """A StraightThrough with other penalties."""

    def __init__(self, inner: GridStraightThrough, penalties: Sequence[Penalty]) -> None:
        self._inner, self.penalties = inner, penalties

    @property
    def seen(self) -> RawParameters:
        return self._inner.seen

    @property
    def coded(self) -> RawParameters:
        return self._inner.coded

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        return self._inner.pull_back(gradients)

    def apply(
        self, gradients: RawParameters, rates: Mapping[str, float], betas: Betas = BETAS
    ) -> None:
        self._inner.apply(gradients, rates, betas)

    def stored(self) -> GridSplats:
        return self._inner.stored()


def with_codebook(raw: RawParameters, entries: int) -> RawParameters:
    """The model with at most so many different rows of SH above degree 0, found by k-means."""
    rest = raw.features_rest.flatten(1).numpy()
    palette = palette_of(rest, entries)
    rows = torch.from_numpy(palette.entries[palette.labels]).reshape(raw.features_rest.shape)
    return raw._replace(features_rest=rows)


class CodebookTraining(_Changed):
    """Trains equal rows of SH together, and stores each once, at its most precise Gaussian.

    The penalty on magnitudes counts each row once, with the weight of this Gaussian.
    """

    def __init__(self, inner: GridStraightThrough, raw: RawParameters, layers: float) -> None:
        """`raw`: the values of `inner` before rounding; `layers`: GridSettings.layer_fraction."""
        rows = raw.features_rest.flatten(1).numpy()
        _, first, labels = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        self._labels, self._layers = torch.from_numpy(labels.reshape(-1)), layers
        self._rows = torch.from_numpy(rows[first])
        super().__init__(inner, [self._once(one) for one in inner.penalties])

    def _once(self, penalty: ShMagnitude) -> ShMagnitude:
        weights = torch.zeros(len(self._rows)).scatter_reduce(
            0, self._labels, penalty.weights, "amax"
        )
        return replace(penalty, weights=weights[self._labels].contiguous())

    def pull_back(self, gradients: RawParameters) -> RawParameters:
        """See Trainable. A row's gradient is the sum of those of its Gaussians."""
        by_coded = self._inner.pull_back(gradients)
        sums = torch.zeros(len(self._rows), *by_coded.features_rest.shape[1:])
        sums.index_add_(0, self._labels, by_coded.features_rest)
        by_coded.features_rest.copy_(sums[self._labels])
        return by_coded

    def stored(self) -> GridSplats:
        """See StraightThrough."""
        splats = self._inner._quantizer.to_grid_splats(self._inner.coded)
        order, ends = order_in_layers(splats, self._layers)
        rows = self._rows[self._labels].numpy()[order]
        return with_shared_sh(splats.reordered(order, ends), rows)
