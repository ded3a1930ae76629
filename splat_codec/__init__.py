# SPDX-License-Identifier: Apache-2.0
"""Integers and bytes: quantised Gaussians to a file and back. NumPy only, no torch."""
