# SPDX-License-Identifier: Apache-2.0
"""Imports modules that may be missing, or cannot be imported."""

import logging
from importlib import import_module
from types import ModuleType

from utils.errors import InputError
from utils.logged_once import log_once

logger = logging.getLogger(__name__)


def load(
    module: str, package: str | None = None, instead: str = "slower code is used"
) -> ModuleType | None:
    """The module, or None where it is not installed or cannot be imported.

    An installed package that cannot be imported (compiled for another machine, not built, made
    for another version of what it needs) gives one warning, with the reason and what happens
    `instead`. `package` is the one whose absence is normal: by default the one that `module` is in.
    """
    package = package or module.partition(".")[0]
    try:
        return import_module(module)
    except Exception as error:  # a package may raise anything when it is imported
        if not _is_absent(module, package, error):
            text = f"{package} is installed but cannot be imported ({_reason(error)}): {instead}"
            log_once(logger, text, logging.WARNING)
        return None


def installed(module: str) -> bool:
    """Whether `load` returns the module."""
    return load(module) is not None


def load_required(module: str, purpose: str, install: str) -> ModuleType:
    """The module, without which `purpose` is impossible. `install` is the command that installs it.

    Raises InputError with the reason where it is not installed or cannot be imported.
    """
    try:
        return import_module(module)
    except Exception as error:
        package = module.partition(".")[0]
        raise InputError(
            f"{purpose} needs the package {package}, which cannot be imported ({_reason(error)}): "
            f"{install}"
        ) from error


def supported_devices(package: ModuleType) -> tuple[str, ...]:
    """The device types that a kernel package runs on; CUDA if it has no list, as the originals."""
    return tuple(getattr(package, "supported_devices", ("cuda",)))


def _is_absent(module: str, package: str, error: Exception) -> bool:
    """Whether the module itself, its package, or a package that it is part of was not found."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return missing == package or (missing is not None and f"{module}.".startswith(f"{missing}."))


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
