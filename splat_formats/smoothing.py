# SPDX-License-Identifier: Apache-2.0
"""The 3D smoothing filter of Mip-Splatting as part of the Gaussians themselves. NumPy only.

Yu et al., "Mip-Splatting: Alias-free 3D Gaussian Splatting", CVPR 2024, equation 9: each Gaussian
is convolved with an isotropic one of standard deviation f, and keeps its integral over space.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from splat_formats.splats import Splats


def with_smoothing(splats: Splats, filters: npt.NDArray[np.floating]) -> Splats:
    """The Gaussians convolved with Gaussians of standard deviations `filters` (N,), world units.

    Sizes s become sqrt(s^2 + f^2); opacities shrink with the product of s / sqrt(s^2 + f^2). Rows
    with f = 0 stay as they are.
    """
    rows = np.flatnonzero(filters != 0)
    if not len(rows):
        return splats
    scales = splats.scaling[rows].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_filters = np.log(np.abs(filters[rows].astype(np.float64)))[:, None]
        wider = np.logaddexp(2 * scales, 2 * log_filters) / 2
        shrinkage = np.where(np.isposinf(scales), 0, scales - wider).sum(axis=1, keepdims=True)
        log_alpha = -np.logaddexp(0, -splats.opacity[rows].astype(np.float64)) + shrinkage
        logits = log_alpha - np.log(-np.expm1(log_alpha))
        return replace(
            splats,
            scaling=_with_rows(splats.scaling, rows, wider),
            opacity=_with_rows(splats.opacity, rows, logits),
        )


def _with_rows(
    values: npt.NDArray[np.float32], rows: npt.NDArray[np.intp], new: npt.NDArray[np.float64]
) -> npt.NDArray[np.float32]:
    changed = values.copy()
    changed[rows] = new
    return changed
