# SPDX-License-Identifier: Apache-2.0
"""The module of the CUDA package's compiled part, for code that calls it directly. No CUDA here."""

from fused_ssim.ssim_map import fusedssim, fusedssim_backward

__all__ = ["fusedssim", "fusedssim_backward"]
