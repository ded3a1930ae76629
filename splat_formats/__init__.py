# SPDX-License-Identifier: Apache-2.0
"""Files that hold trained Gaussians: one module per format, all around `Splats`."""
