# SPDX-License-Identifier: Apache-2.0
"""Optional packages that are missing or do not load: a logged reason, or a clear error."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from gaussian_renderer import photometric
from gaussian_renderer.rasterizer import installed_package
from scene.gaussians_of_points import initial_log_scaling
from scene.optimizer import _sparse_adam_class
from utils import logged_once, loss_utils, tensorboard_log
from utils.errors import InputError
from utils.optional_modules import installed, load, load_required

BROKEN = {
    "OSError": "import ctypes\nctypes.CDLL('/no/such/library.so')\n",
    "ImportError": "raise ImportError('this processor has no AVX2')\n",
    "AttributeError": "import math\nmath.no_such_function\n",
    "ModuleNotFoundError": "import a_package_that_is_needed_here\n",
    "SyntaxError": "def broken(:\n",
}


class BrokenPackages:
    """Packages in a folder that comes first on the path, in place of those of the same names."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._monkeypatch = folder, monkeypatch
        monkeypatch.syspath_prepend(folder)

    def make(self, name: str, code: str) -> None:
        (self._folder / name).mkdir()
        (self._folder / name / "__init__.py").write_text(code)
        for module in [m for m in sys.modules if f"{m}.".startswith(f"{name}.")]:
            self._monkeypatch.delitem(sys.modules, module)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrokenPackages:
    monkeypatch.setattr(logged_once, "_logged", set())
    for choice in (photometric._fused_l1_ssim, loss_utils._fused_ssim):
        monkeypatch.setattr(*_home(choice), choice.__wrapped__)
    return BrokenPackages(tmp_path, monkeypatch)


def _home(function: object) -> tuple[object, str]:
    """(module, name) of a cached function."""
    return sys.modules[function.__module__], function.__name__  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_package_is_logged_once_with_its_reason(
    packages: BrokenPackages, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    packages.make("broken_extra", BROKEN[kind])
    assert load("broken_extra") is None
    assert load("broken_extra.part") is None
    assert not installed("broken_extra.other")
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"broken_extra is installed but cannot be imported ({kind}: " in record.getMessage()


def test_a_missing_optional_package_is_not_logged(
    packages: BrokenPackages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    packages.make("small_extra", "")
    monkeypatch.setitem(sys.modules, "blocked_extra", None)
    for name in ("no_such_extra", "no_such_extra.part", "small_extra.part", "blocked_extra"):
        assert load(name) is None
    assert load("small_extra") is not None
    assert load("math.part") is None  # a package that is a single file
    assert not caplog.records


def test_a_required_package_that_does_not_load_is_an_error_with_the_reason(
    packages: BrokenPackages,
) -> None:
    packages.make("broken_extra", BROKEN["OSError"])
    message = r"drawing needs the package broken_extra, which cannot be imported \(OSError: .*\): "
    with pytest.raises(InputError, match=message + "pip install it"):
        load_required("broken_extra.part", "drawing", "pip install it")


def test_a_broken_fused_ssim_is_replaced_with_a_warning(
    packages: BrokenPackages, caplog: pytest.LogCaptureFixture
) -> None:
    packages.make("fused_ssim", BROKEN["OSError"])
    image = torch.rand(3, 12, 12)
    assert loss_utils.fast_ssim(image, image) == pytest.approx(1)
    assert photometric._fused_l1_ssim("cpu") is None
    [record] = caplog.records
    assert "fused_ssim is installed but cannot be imported (OSError: " in record.getMessage()


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_rasteriser_is_an_input_error(packages: BrokenPackages, kind: str) -> None:
    packages.make("diff_gaussian_rasterization", BROKEN[kind])
    with pytest.raises(InputError, match=rf"rendering needs .*{kind}: .*pip install"):
        installed_package()
    with pytest.raises(InputError, match=rf"sparse_adam needs .*{kind}: .*pip install"):
        _sparse_adam_class()


def test_a_broken_neighbour_search_is_an_input_error(packages: BrokenPackages) -> None:
    packages.make("simple_knn", BROKEN["OSError"])
    with pytest.raises(InputError, match=r"starting a model .*OSError: .*submodules/simple-knn"):
        initial_log_scaling(torch.rand(9, 3))


def test_a_broken_tensorboard_leaves_training_without_curves(
    packages: BrokenPackages,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    packages.make("tensorboard", BROKEN["AttributeError"])
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert tensorboard_log.open_log(tmp_path) is None
    [record] = caplog.records
    assert "tensorboard is installed but cannot be imported" in record.getMessage()
    assert record.getMessage().endswith("no training curves are written")
