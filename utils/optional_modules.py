# SPDX-License-Identifier: Apache-2.0
"""Modules that an installed package may or may not have."""

from importlib.util import find_spec


def installed(module: str) -> bool:
    """Whether `package.name` can be imported; the package may be missing, or a single file."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package is not there, or has nothing inside
        return False
