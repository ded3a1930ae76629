# SPDX-License-Identifier: Apache-2.0
"""Steps of Adam whose gradient is the mean over several views.

Zhao et al. 2024 (On Scaling Up 3D Gaussian Splatting Training): with B views a step, learning rates
are multiplied by the square root of B, and the decay rates of the moments raised to the power B.
Fine-tuning follows both. Training from scratch multiplies the rates by B (Goyal et al. 2017, for
gradient descent): its gradients are alike in all views for long, so that with the square root the
parameters move less far in the same number of views. docs/scale.md has the comparison.
"""

import math

BETAS = (0.9, 0.999)
"""The decay rates of Adam's moments, with one view a step."""


def training_rate_factor(views: int) -> float:
    """What learning rates are multiplied by in training, for a step on this number of views."""
    return float(views)


def rate_factor(views: int) -> float:
    """The same in fine-tuning."""
    return math.sqrt(views)


def betas_of(views: int) -> tuple[float, float]:
    """The decay rates of the moments, for a step on this number of views."""
    return BETAS[0] ** views, BETAS[1] ** views
