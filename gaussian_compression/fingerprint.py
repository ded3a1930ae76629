# SPDX-License-Identifier: Apache-2.0
"""What the result of a compression depends on: digests of model and views; machine and software.

A run continues from its rounds only with the same model, views and settings. In another environment
results are rounded differently: the run can continue, but its bytes may differ.
"""

import hashlib
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scene.cameras import Camera
from scene.raw_parameters import RawParameters
from splat_formats.splats import Splats
from utils import ranks

KERNEL_PACKAGES = ("diff_gaussian_rasterization", "fused_ssim", "simple_knn", "plane_coder")
_DIGITS = 16
_CAMERA_FIELDS = ("R", "T", "FoVx", "FoVy", "trans", "scale", "full_proj_transform")


def splats_digest(splats: Splats) -> str:
    """A digest of all parameters."""
    digest = hashlib.sha256()
    for name in RawParameters._fields:
        digest.update(np.ascontiguousarray(getattr(splats, name)).tobytes())
    return digest.hexdigest()[:_DIGITS]


def views_digest(views: Sequence[Camera]) -> str:
    """A digest of names, photographs as loaded and camera parameters, in this order of views."""
    digest = hashlib.sha256()
    for view in views:
        digest.update(f"{view.image_name}\n{tuple(view.image_u8.shape)}\n".encode())
        digest.update(view.image_u8.cpu().contiguous().numpy().data)
        for extra in (view.alpha_mask, view.exposure):
            if extra is not None:
                digest.update(extra.cpu().contiguous().numpy().data)
        for name in _CAMERA_FIELDS:
            value = getattr(view, name)
            value = value.cpu().numpy() if isinstance(value, torch.Tensor) else value
            digest.update(np.asarray(value, np.float64).tobytes())
    return digest.hexdigest()[:_DIGITS]


def environment(device: torch.device) -> dict[str, Any]:
    """Machine and software, on which rounding depends, as JSON values."""
    found = np.show_config(mode="dicts")
    together = {"processes": ranks.count()} if ranks.count() > 1 else {}
    return {
        **together,
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": torch.__version__,
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "numpy": np.__version__,
        "numpy_instruction_sets": found["SIMD Extensions"].get("found", []),
        "FAST3DGS_ISA": os.environ.get("FAST3DGS_ISA"),
        "kernels": {name: _package(name) for name in KERNEL_PACKAGES},
    }


def _package(name: str) -> dict[str, str | None] | None:
    """Version, digest of the files and instruction set of a package; None: not installed."""
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a spec, put into sys.modules by hand
        return {"version": None, "files": None, "instruction_set": None}
    if spec is None:
        return None
    try:
        found: str | None = version(name)
    except PackageNotFoundError:
        found = None
    return {"version": found, "files": _files(spec), "instruction_set": _instruction_set(name)}


def _files(spec: ModuleSpec) -> str:
    digest = hashlib.sha256()
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in (".py", ".so", ".pyd"):
                digest.update(f"{path.relative_to(folder).as_posix()}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def _instruction_set(package: str) -> str | None:
    """The instruction set of the package's compiled library, if there is one for this processor."""
    for name in (package, f"{package}.native", f"{package}._C"):
        with suppress(ImportError, OSError):
            found = getattr(import_module(name), "instruction_set", None)
            if isinstance(found, str):
                return found
    return None
