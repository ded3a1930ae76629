# SPDX-License-Identifier: Apache-2.0
"""The grids of a version-2 file in PyTorch: fine-tuning renders exactly the file's values.

Grids and precision classes stay fixed; symbols follow the parameters. The operations are those of
rounding.py and grid_splats.py, in the same order and precision, and tests check that the results
are bit-identical. (SH of thousands of steps, whose sums are not exact in float32, may differ by one
unit in the last place; the integers are the same.) Operations that decide on an integer are rounded
one by one, so that a kernel can compute the same integers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scene.raw_parameters import RawParameters
from splat_codec.exact_values import FIRST_CHANNELS, NONE, ExactValues
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import (
    CLASSES,
    GREATEST_SYMBOL,
    MATRIX_UNIT,
    EvenGrid,
    Grids,
    Integers,
    LinearRule,
)


class GridSymbols(NamedTuple):
    """The integers of N Gaussians, as GridSplats names them; int32, SH and DC as whole float32."""

    xyz: Tensor
    opacity: Tensor
    scale: Tensor
    rotation: Tensor
    dc: Tensor
    sh: Tensor


class ClassTables(NamedTuple):
    """What depends on the precision class alone: float32 (CLASSES,)."""

    sh_step: Tensor
    """The value of 1 / 4096 SH step."""
    sh_steps_per_unit: Tensor
    """Steps of one unit of a transformed coefficient."""
    dc_size: Tensor
    """Steps of one DC symbol."""


class ExactPlaces(NamedTuple):
    """The E numbers of an attribute, as a matrix (N, C), that are stored exactly."""

    rows: Tensor
    """(E,)"""
    columns: Tensor
    """(E,)"""
    values: Tensor
    """(E,)"""


@dataclass(frozen=True, eq=False)
class FixedValues:
    """Numbers of one model that fine-tuning on grids does not change."""

    settled_scales: npt.NDArray[np.float32]
    """(N, 3): scales that no image shows; NaN for the others."""
    exact: ExactValues = NONE
    """Numbers that the file stores as they are."""
    stand_ins: ExactValues = NONE
    """For the same places, the numbers that the grids are made for."""


class GridQuantizer:
    """Rounds one model to its grids. Parameters are in the *coding basis* (`to_coding_basis`).

    There `features_rest` holds the transform of the SH coefficients, which is what is rounded.
    Scales are in descending order and quaternions have w >= 0, as in the file.
    """

    def __init__(
        self,
        grids: Grids,
        deadzone: float,
        classes: Integers,
        far: npt.NDArray[np.bool_],
        device: torch.device,
        fixed: FixedValues | None = None,
    ) -> None:
        """`classes` (N,), `far` (N,) and `fixed` belong to one model, which this rounds.

        `far`: whether a centre is beyond the cells.
        """
        fixed = fixed or FixedValues(np.full((len(far), 3), np.nan, np.float32))
        self.exact = fixed.exact
        self._exact = _exact_places(fixed.exact, device)
        self._stand_ins = _exact_places(fixed.stand_ins, device)
        self.grids, self.deadzone = grids, deadzone
        self.far = torch.tensor(far, device=device)
        self._any_far = bool(far.any())
        self._settled_scales = torch.tensor(fixed.settled_scales, device=device)
        self.hidden_scales = ~self._settled_scales.isnan()
        self.classes = torch.tensor(classes, dtype=torch.int64, device=device)
        self.tables = _class_tables(grids, device)
        self._sh_steps = self.tables.sh_step[self.classes][:, None]
        self.sh_steps_per_unit = self.tables.sh_steps_per_unit[self.classes][:, None]
        """(N, 1): steps of its Gaussian in one unit of a transformed coefficient."""
        self._dc_size = self.tables.dc_size[self.classes][:, None]
        self.sh_matrix = _float32(grids.sh_transform.matrix, device)
        self.dc_matrix = _float32(grids.dc_transform.matrix, device)
        self.dc_inverse = _float32(grids.dc_transform.inverse_matrix(), device)
        self.dc_unit = float(np.float32(grids.dc_step * MATRIX_UNIT))
        self._dc_low = _float32(np.array(grids.dc_low), device)
        self._origin = _float32(np.array(grids.position.origin), device)

    def to_coding_basis(self, raw: RawParameters) -> RawParameters:
        """A copy of `raw` (decoded basis) in the coding basis.

        Hidden scales get their settled values, exactly stored numbers their stand-ins.
        """
        raw = raw.map(torch.clone)
        _put(self._stand_ins, raw)
        inverse = _float32(self.grids.sh_transform.inverse_matrix(), raw.xyz.device)
        rest = raw.features_rest.flatten(1) @ inverse
        rest = rest.reshape(raw.features_rest.shape)
        scaling = torch.where(self.hidden_scales, self._settled_scales, raw.scaling)
        return raw._replace(features_rest=rest, scaling=scaling)

    def from_coding_basis(self, coded: RawParameters) -> RawParameters:
        """A copy of `coded` in the decoded basis, not rounded, with what is stored exactly."""
        rest = coded.features_rest.flatten(1) @ (self.sh_matrix / MATRIX_UNIT)
        raw = coded.map(torch.clone)._replace(features_rest=rest.reshape(coded.features_rest.shape))
        self.put_exact(raw)
        return raw

    def pull_back(self, gradient: Tensor) -> Tensor:
        """The gradient (N, K, 3) of the SH coefficients as the gradient of their transform."""
        by_code = gradient.flatten(1) @ (self.sh_matrix.T / MATRIX_UNIT)
        return by_code.reshape(gradient.shape)

    def sh_in_steps(self, coded: RawParameters) -> Tensor:
        """The transformed coefficients (N, C) in steps of their Gaussians."""
        return coded.features_rest.flatten(1) * self.sh_steps_per_unit

    def decoded(self, coded: RawParameters) -> RawParameters:
        """The values that the file would decode to, in the decoded basis."""
        return self.values(self.symbols(coded), coded)

    def symbols(self, coded: RawParameters) -> GridSymbols:
        """The nearest integers of every attribute."""
        scale = _descending(_symbols_on(self.grids.scale, coded.scaling))
        return GridSymbols(
            xyz=self._cells(coded.xyz, self._position_shift(scale)),
            opacity=_symbols_on(self.grids.opacity, coded.opacity[:, 0]),
            scale=scale,
            rotation=self._rotation_symbols(coded.rotation, scale),
            dc=self._dc_symbols(coded.features_dc[:, 0]),
            sh=self._sh_symbols(coded),
        )

    def values(self, symbols: GridSymbols, coded: RawParameters) -> RawParameters:
        """The values that the integers decode to; far centres are those of `coded`."""
        grids, position = self.grids, self.grids.position
        half = torch.ones_like(symbols.xyz[:, :1]) << self._position_shift(symbols.scale) >> 1
        xyz = (symbols.xyz + half).float() * position.cell + self._origin
        if self._any_far:
            xyz = torch.where(self.far[:, None], coded.xyz, xyz)
        steps = symbols.dc * self._dc_size + self._dc_low
        dc = (steps.double() @ self.dc_matrix.double()).float() * grids.dc_step
        rest = symbols.sh @ self.sh_matrix * self._sh_steps
        values = RawParameters(
            xyz=xyz,
            features_dc=dc[:, None],
            features_rest=rest.reshape(coded.features_rest.shape),
            opacity=_values_on(grids.opacity, symbols.opacity)[:, None],
            scaling=_values_on(grids.scale, symbols.scale),
            rotation=self._rotation_values(symbols),
        )
        self.put_exact(values)
        return values

    def put_exact(self, values: RawParameters) -> None:
        """Writes the numbers that are stored exactly into decoded values."""
        _put(self._exact, values)

    def without_exact(self, gradients: RawParameters) -> None:
        """Sets the gradients of exactly stored numbers to 0, so that these do not change."""
        for name, place in self._exact.items():
            columns = getattr(gradients, name).view(gradients.gaussian_count, -1)
            columns[place.rows, place.columns] = 0

    def to_grid_splats(self, coded: RawParameters) -> GridSplats:
        """The model as the integers to store, rows in their present order."""
        s = self.symbols(coded)
        far = self.far.nonzero()[:, 0]
        return GridSplats(
            grids=self.grids,
            xyz=_int32(s.xyz),
            opacity=_int32(s.opacity),
            scale=_int32(s.scale),
            precision=_int32(self.classes),
            rotation=_int32(s.rotation),
            dc=_int32(s.dc),
            sh=s.sh.cpu().numpy().astype(np.int16),
            far_rows=_int32(far),
            far_xyz=coded.xyz[far].cpu().numpy(),
            layer_ends=(coded.gaussian_count,),
            exact=self.exact,
        )

    def _position_shift(self, scale: Tensor) -> Tensor:
        return self._rule(self.grids.position.shift, scale)[:, None]

    def _rotation_shift(self, scale: Tensor) -> Tensor:
        return self._rule(self.grids.rotation_shift, scale)[:, None]

    def _rule(self, rule: LinearRule, scale: Tensor) -> Tensor:
        """LinearRule.apply to precision class and scale symbols."""
        total = self.classes * rule.factors[0] + rule.bias
        for axis, factor in enumerate(rule.factors[1:]):
            if factor:
                total += scale[:, axis].long() * factor
        return (total >> 16).clamp_(0, rule.most).int()

    def _cells(self, xyz: Tensor, shift: Tensor) -> Tensor:
        grid = self.grids.position
        scaled = ((xyz - self._origin) / grid.cell).floor_()
        cells = scaled.clamp_(0, 2**grid.bits - 1).int()
        return cells >> shift << shift

    def _rotation_symbols(self, rotation: Tensor, scale: Tensor) -> Tensor:
        w, x, y, z = (rotation * rotation).unbind(1)
        length = _exact_root(((w + x) + y) + z).clamp_(min=1e-12)
        unit = rotation / length[:, None]
        unit = torch.where(unit[:, :1] < 0, -unit, unit)
        turns = (1 << self._rotation_shift(scale)).float() * self.grids.rotation_step
        return (unit[:, 1:] / turns).round_().int()

    def _rotation_values(self, symbols: GridSymbols) -> Tensor:
        shift = self._rotation_shift(symbols.scale)
        vector = (symbols.rotation << shift).float() * self.grids.rotation_step
        x, y, z = (vector * vector).unbind(1)
        w = _exact_root((1 - ((x + y) + z)).clamp_(min=0))
        return torch.cat([w[:, None], vector], dim=1)

    def _dc_symbols(self, dc: Tensor) -> Tensor:
        red, green, blue = dc[:, :1], dc[:, 1:2], dc[:, 2:]
        m = self.dc_inverse
        steps = ((red * m[0] + green * m[1]) + blue * m[2]) / self.dc_unit
        return ((steps - self._dc_low) / self._dc_size).round_().clamp_(0, GREATEST_SYMBOL)

    def _sh_symbols(self, coded: RawParameters) -> Tensor:
        scaled = self.sh_in_steps(coded)
        scaled += torch.copysign(scaled.new_tensor(1 - self.deadzone), scaled)
        return scaled.trunc_().clamp_(-GREATEST_SYMBOL, GREATEST_SYMBOL)


def _exact_places(exact: ExactValues, device: torch.device) -> dict[str, ExactPlaces]:
    """By attribute, for attributes with exactly stored numbers."""
    places = {}
    for name in FIRST_CHANNELS:
        which, rows, columns = exact.by_attribute(name)
        if len(which):
            places[name] = ExactPlaces(
                torch.tensor(rows, device=device),
                torch.tensor(columns, device=device),
                torch.tensor(exact.values[which], device=device),
            )
    return places


def _put(places: dict[str, ExactPlaces], values: RawParameters) -> None:
    for name, place in places.items():
        columns = getattr(values, name).view(values.gaussian_count, -1)
        columns[place.rows, place.columns] = place.values


def _class_tables(grids: Grids, device: torch.device) -> ClassTables:
    sh_step = _float32(np.array(grids.sh_steps), device)
    shifts = grids.dc_shift.apply(np.arange(CLASSES, dtype=np.int32))
    return ClassTables(
        sh_step, _float32(grids.sh_steps_per_unit(), device), _float32(1 << shifts, device)
    )


def _exact_root(values: Tensor) -> Tensor:
    # In double: PyTorch's float32 root may be off by one unit, the decoder's is exact.
    return values.double().sqrt_().float()


def _float32(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


def _int32(values: Tensor) -> Integers:
    return values.cpu().numpy().astype(np.int32)


def _symbols_on(grid: EvenGrid, values: Tensor) -> Tensor:
    return ((values - grid.minimum) / grid.step).round_().clamp_(0, grid.levels - 1).int()


def _values_on(grid: EvenGrid, symbols: Tensor) -> Tensor:
    return symbols.float() * grid.step + grid.minimum


def _descending(scale: Tensor) -> Tensor:
    """Each scale limited to the one before: axes that would change their order become equal."""
    return torch.cummin(scale, dim=1).values
