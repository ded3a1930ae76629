# SPDX-License-Identifier: Apache-2.0
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from gaussian_compression.measuring import mean_quality
from gaussian_renderer.evaluation import DrawnView
from utils.errors import InputError
from utils.perceptual_metrics import LEAST_SIDE, extra_measures, flip_measure, ms_ssim


def images(height: int, width: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """A photograph-like image and a disturbed one, uint8 (3, H, W)."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (5 + i) + y / 17) * np.cos(y / (9 - i)) for i in range(3)]
    photo = 127 + 90 * np.stack(waves)
    render = photo + generator.normal(0, noise, photo.shape)
    return tuple(
        torch.from_numpy(np.clip(np.rint(image), 0, 255).astype(np.uint8))
        for image in (render, photo)
    )


def reference(render: torch.Tensor, photo: torch.Tensor) -> float:
    """MS-SSIM as in the paper, channel by channel, with the whole window in float64."""
    at = np.arange(11) - 5.0
    row = np.exp(-(at**2) / (2 * 1.5**2))
    window = np.outer(row, row) / row.sum() ** 2
    results = []
    for x, y in zip(render.numpy() / 255, photo.numpy() / 255, strict=True):
        result = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            mx, my, xx, yy, xy = (
                convolve2d(image, window, mode="valid") for image in (x, y, x * x, y * y, x * y)
            )
            structure = (2 * (xy - mx * my) + 0.03**2) / (xx - mx**2 + yy - my**2 + 0.03**2)
            light = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2)
            mean = (structure * light if scale == 4 else structure).mean()
            result *= max(mean, 0) ** weight
            h, w = (side // 2 * 2 for side in x.shape)
            x, y = (
                image[:h, :w].reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3)) for image in (x, y)
            )
        results.append(result)
    return float(np.mean(results))


@pytest.mark.parametrize(
    ("height", "width", "noise"), [(176, 176, 5), (181, 203, 40), (179, 352, 1)]
)
def test_ms_ssim_is_that_of_the_reference(height: int, width: int, noise: float) -> None:
    pair = images(height, width, noise)
    assert ms_ssim(*pair) == pytest.approx(reference(*pair), abs=1e-6)


def test_ms_ssim_of_equal_and_of_opposite_images() -> None:
    render, photo = images(176, 180, 20)
    assert ms_ssim(photo, photo) == pytest.approx(1)
    assert ms_ssim(255 - photo, photo) == 0
    assert 0 < ms_ssim(render, photo) < 1
    black = torch.zeros_like(photo)
    assert ms_ssim(black, black) == pytest.approx(1)


def test_images_that_cannot_be_measured() -> None:
    small = images(LEAST_SIDE - 1, 300, 5)
    with pytest.raises(InputError, match="at least 176 pixels on each side, got 300x175"):
        ms_ssim(*small)
    measure = extra_measures()["MS-SSIM"]
    assert measure is not None and measure(*small) is None
    with pytest.raises(InputError, match="expected the same size"):
        ms_ssim(small[0], images(LEAST_SIDE, 300, 5)[1])
    with pytest.raises(InputError, match="must be uint8"):
        ms_ssim(small[0].float(), small[1])


def test_flip_gets_the_photo_first_and_values_up_to_1(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("flip_evaluator")
    seen = []

    def evaluate(truth: np.ndarray, render: np.ndarray, kind: str, applyMagma: bool) -> tuple:
        seen.append((truth, render, kind, applyMagma))
        return None, np.float32(0.25), {}

    package.evaluate = evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flip_evaluator", package)
    measure = flip_measure()
    assert measure is not None
    render, photo = images(20, 24, 30)
    assert measure(render, photo) == 0.25
    ((truth, shown, kind, magma),) = seen
    assert (kind, magma, truth.shape, truth.dtype) == ("LDR", False, (20, 24, 3), np.float32)
    assert np.array_equal(truth, photo.permute(1, 2, 0).numpy() / np.float32(255))
    assert np.array_equal(shown, render.permute(1, 2, 0).numpy() / np.float32(255))


def test_flip_is_none_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    assert flip_measure() is None


def test_flip_of_the_package() -> None:
    pytest.importorskip("flip_evaluator", reason="flip-evaluator is not installed")
    measure = flip_measure()
    assert measure is not None
    render, photo = images(40, 60, 30)
    assert measure(photo, photo) == pytest.approx(0, abs=1e-6)
    assert 0 < measure(images(40, 60, 3)[0], photo) < measure(render, photo) < 1


def test_a_view_is_scored_with_ms_ssim_where_it_is_limited() -> None:
    image, truth = images(180, 200, 20)
    drawn = DrawnView("a.png", image / 255, truth)
    plain, whole = drawn.score(), drawn.all_scores()
    assert plain.ms_ssim is None
    assert (whole.psnr, whole.ssim) == (plain.psnr, plain.ssim)
    assert whole.ms_ssim == ms_ssim(image, truth)
    assert mean_quality([whole, whole]).ms_ssim == whole.ms_ssim
    assert mean_quality([whole, plain]).ms_ssim is None
