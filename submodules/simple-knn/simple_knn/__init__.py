# SPDX-License-Identifier: Apache-2.0
"""Distances of 3D points to their nearest neighbours; the one function is `_C.distCUDA2`."""

from ._C import supported_devices

__all__ = ["supported_devices"]
