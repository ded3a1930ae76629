# SPDX-License-Identifier: Apache-2.0
"""Real spherical harmonics, degrees 0 to 4, of tensors."""

from typing import TypeVar

import numpy.typing as npt
import torch
from torch import Tensor

from utils.errors import InputError
from utils.sh_terms import C0, higher_terms

MAX_DEGREE = 4

Values = TypeVar("Values", Tensor, npt.NDArray, float)


def sh_basis(deg: int, dirs: Tensor) -> Tensor:
    """(..., (deg + 1)^2) values of the basis functions at unit directions `dirs` (..., 3)."""
    if not 0 <= deg <= MAX_DEGREE:
        raise InputError(f"spherical harmonics exist here for degrees 0 to {MAX_DEGREE}, not {deg}")
    x, y, z = dirs.unbind(-1)
    return torch.stack([torch.full_like(x, C0), *higher_terms(deg, x, y, z)], dim=-1)


def eval_sh(deg: int, sh: Tensor, dirs: Tensor) -> Tensor:
    """(..., C) values of the functions with coefficients `sh` at unit directions `dirs`.

    sh: (..., C, K) with K >= (deg + 1)^2, of which the first (deg + 1)^2 are used; dirs: (..., 3).
    Nothing is added or clamped: a colour is `eval_sh(...) + 0.5`, clamped at 0.
    """
    basis = sh_basis(deg, dirs)
    if sh.shape[-1] < basis.shape[-1]:
        raise InputError(
            f"degree {deg} needs {basis.shape[-1]} coefficients per channel, got {sh.shape[-1]}"
        )
    return (sh[..., : basis.shape[-1]] * basis[..., None, :]).sum(-1)


def RGB2SH(rgb: Values) -> Values:
    """Degree-0 coefficients of colours in 0..1."""
    return (rgb - 0.5) / C0


def SH2RGB(sh: Values) -> Values:
    """Colours in 0..1 of degree-0 coefficients."""
    return sh * C0 + 0.5
