# SPDX-License-Identifier: Apache-2.0
"""Finding and reading LPIPS's weight files. No file is unpickled."""

import hashlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lpipsPyTorch.modules.download import (
    FILES,
    OFF_VARIABLE,
    DownloadError,
    downloads_are_off,
    fetch,
)
from utils.errors import InputError

FOLDER_VARIABLE = "LPIPS_WEIGHTS"
"""Environment variable with folders to search first, separated as in PATH."""


class WeightsNotFound(InputError):  # noqa: N818, the name states the error
    """Weight files that are in none of the searched folders."""

    def __init__(self, names: Sequence[str], folders: Sequence[Path], reason: str = ""):
        super().__init__(
            f"LPIPS weights {' and '.join(names)} not found in "
            f"{', '.join(map(str, folders))}: put them into one of these folders, or set the "
            f"environment variable {FOLDER_VARIABLE} to theirs{reason}"
        )
        self.names = tuple(names)
        self.folders = tuple(folders)


def find_weights(
    names: tuple[str, str], version: str, folder: Path | None = None, download: bool = True
) -> tuple[Path, Path]:
    """The files of the trunk and of the linear layers, `names`; missing ones are fetched.

    The trunk's is torchvision's. The other, `<net_type>.pth`, is that of the LPIPS authors, which
    their package `lpips` contains. With a `folder` both must be in it, and nothing is fetched.
    `WeightsNotFound` names those that are missing, and says why they were not fetched.
    """
    if folder is not None:
        return _found(names, [folder])
    folders = [*_folders(), *_lpips_package_folders(version)]
    try:
        return _found(names, folders)
    except WeightsNotFound as error:
        reason = _not_fetched(error.names, download)
        if reason:
            raise WeightsNotFound(error.names, folders, reason) from error
    return _found(names, folders)


def _found(names: tuple[str, str], folders: Sequence[Path]) -> tuple[Path, Path]:
    trunk, linear = (
        next((folder / name for folder in folders if (folder / name).is_file()), None)
        for name in names
    )
    if trunk is None or linear is None:
        found = zip(names, (trunk, linear), strict=True)
        raise WeightsNotFound([name for name, path in found if path is None], folders)
    return trunk, linear


def _not_fetched(names: Sequence[str], download: bool) -> str:
    """Fetches the files into the cache of torch.hub; "" or why that was not done."""
    if not download or downloads_are_off():
        switch = f"the environment variable {OFF_VARIABLE}" if download else "--no_download"
        return f". They were not fetched, as {switch} says"
    if unknown := [name for name in names if name not in FILES]:
        return f". No address of {' and '.join(unknown)} is known"
    try:
        fetch(list(names), _cache())
    except DownloadError as error:
        return f". They could not be fetched: {error}"
    return ""


def trunk_weights(path: Path) -> dict[str, Tensor]:
    """The convolutions of a torchvision weight file, named as in its `features` module.

    Raises `InputError` if the file's SHA-256 does not begin with the digits in its name.
    """
    expected = path.stem.rpartition("-")[2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(expected):
        raise InputError(f"{path}: damaged: its SHA-256 begins {digest[:8]}, expected {expected}")
    return {
        name.removeprefix("features."): tensor
        for name, tensor in _load(path).items()
        if name.startswith("features.")
    }


def linear_weights(path: Path) -> list[Tensor]:
    """(1, C, 1, 1) non-negative channel weights, one per compared layer."""
    state = _load(path)
    names = [f"lin{i}.model.1.weight" for i in range(len(state))]
    if not names or any(name not in state for name in names):
        raise InputError(f"{path}: expected lin0.model.1.weight, ..., found {sorted(state)}")
    return [state[name] for name in names]


def _folders() -> list[Path]:
    named = os.environ.get(FOLDER_VARIABLE, "")
    folders = [Path(folder) for folder in named.split(os.pathsep) if folder]
    return [*folders, _cache()]


def _cache() -> Path:
    """Where torch.hub keeps the files that it fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _lpips_package_folders(version: str) -> list[Path]:
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        return []
    return [Path(spec.origin).parent / "weights" / f"v{version}"]


def _load(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise many kinds
        raise InputError(f"{path}: not a file of PyTorch weights: {error}") from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise InputError(f"{path}: expected named weights, found {type(state).__name__}")
    return dict(state)
