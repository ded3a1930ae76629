# SPDX-License-Identifier: Apache-2.0
"""The fused SSIM package against the definition written plainly in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fused_ssim_cuda
import pytest
import torch
from diff_gaussian_rasterization import _C
from fused_ssim import FusedSSIMMap, fused_l1_ssim, fused_ssim, l1_ssim_value_and_gradient
from torch import Tensor
from torch.nn import functional

# Every shape exercises another border of the kernel: smaller than the window, not a multiple of a
# vector, one more than a tile's 512 columns or 160 rows, several planes.
SHAPES = [
    (1, 1, 1, 1),
    (1, 3, 1, 40),
    (2, 2, 7, 3),
    (1, 1, 10, 10),
    (1, 3, 11, 11),
    (2, 1, 12, 33),
    (1, 1, 37, 513),
    (1, 1, 161, 19),
    (1, 2, 323, 530),
]

# Relative L2. A gradient is a difference of terms that nearly cancel, scaled up where the image is
# flat: float32 leaves 2e-6 here (and 7e-6 in the twin).
GRADIENT_TOLERANCE = 5e-6


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def ssim_twin(x: Tensor, y: Tensor, padding: str = "same") -> Tensor:
    """Mean SSIM (Wang et al. 2004) by convolution with the window, for (N, C, H, W)."""
    channels = x.shape[1]
    line = torch.exp(-(torch.arange(-5, 6, dtype=x.dtype) ** 2) / (2 * 1.5**2))
    line = line / line.sum()
    window = torch.outer(line, line).expand(channels, 1, 11, 11)

    def blur(image: Tensor) -> Tensor:
        margin = 5 if padding == "same" else 0
        return functional.conv2d(image, window, padding=margin, groups=channels)

    mean_x, mean_y = blur(x), blur(y)
    variance_x = blur(x * x) - mean_x**2
    variance_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return (numerator / denominator).mean()


def loss_twin(image: Tensor, target: Tensor, weight: float) -> Tensor:
    """(1 - weight) L1 + weight (1 - SSIM) of (C, H, W)."""
    l1 = (image - target).abs().mean()
    return (1 - weight) * l1 + weight * (1 - ssim_twin(image[None], target[None]))


def image_pair(shape: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth image with some noise, and a noisy copy of it."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.linspace(0, 3, shape[-2])[:, None]
    columns = torch.linspace(0, 5, shape[-1])[None]
    smooth = 0.5 + 0.4 * torch.sin(rows + 2 * columns)
    x = smooth + 0.05 * torch.randn(shape, generator=generator)
    y = x + 0.1 * torch.randn(shape, generator=generator)
    return x.clamp(0, 1), y.clamp(0, 1)


def gradient_of(function: Callable[[Tensor], Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
    variable = image.clone().requires_grad_()
    value = function(variable)
    value.backward()
    assert variable.grad is not None
    return value.detach(), variable.grad


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("shape", "padding"),
    [
        *((shape, "same") for shape in SHAPES),
        *((shape, "valid") for shape in SHAPES if min(shape[2:]) >= 11),
    ],
)
def test_value_and_gradient_are_those_of_the_twin(
    shape: tuple[int, int, int, int], padding: str
) -> None:
    x, y = image_pair(shape)
    value, gradient = gradient_of(lambda image: fused_ssim(image, y, padding), x)
    twin, twin_gradient = gradient_of(
        lambda image: ssim_twin(image, y.double(), padding), x.double()
    )
    assert value.shape == ()
    assert relative_error(value, twin) < 1e-6
    assert relative_error(gradient, twin_gradient) < GRADIENT_TOLERANCE


@pytest.mark.parametrize("shape", SHAPES)
def test_value_without_gradient_is_that_of_the_twin(shape: tuple[int, int, int, int]) -> None:
    x, y = image_pair(shape)
    value = fused_ssim(x.requires_grad_(), y, train=False)
    assert not value.requires_grad
    assert relative_error(value, ssim_twin(x.detach().double(), y.double())) < 1e-6


@pytest.mark.parametrize("weight", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 9, 17), (3, 75, 531)])
def test_loss_is_that_of_the_twin(shape: tuple[int, int, int], weight: float) -> None:
    x, y = image_pair(shape)
    loss, gradient = gradient_of(lambda image: fused_l1_ssim(image, y, weight), x)
    twin, twin_gradient = gradient_of(
        lambda image: loss_twin(image, y.double(), weight), x.double()
    )
    assert float(loss) == pytest.approx(float(twin), rel=1e-6, abs=1e-6)
    assert relative_error(gradient, twin_gradient) < GRADIENT_TOLERANCE
    l1, ssim, direct = l1_ssim_value_and_gradient(x, y, weight)
    assert l1 == pytest.approx(float((x.double() - y.double()).abs().mean()), rel=1e-6)
    assert ssim == pytest.approx(float(ssim_twin(x[None].double(), y[None].double())), rel=1e-6)
    assert torch.equal(direct, gradient)


def test_nearly_constant_bright_image_keeps_its_digits() -> None:
    """The variance is a small difference of large numbers here, and C2 = 9e-4 is in its range."""
    generator = torch.Generator().manual_seed(1)
    x = 0.97 + 0.002 * torch.randn((1, 3, 64, 64), generator=generator)
    y = 0.97 + 0.002 * torch.randn((1, 3, 64, 64), generator=generator)
    value, gradient = gradient_of(lambda image: fused_ssim(image, y), x)
    twin, twin_gradient = gradient_of(lambda image: ssim_twin(image, y.double()), x.double())
    assert relative_error(value, twin) < 1e-6
    # The square of x + y is 3.8, so its rounding is 2e-7, a ten-thousandth of 2 C2.
    assert relative_error(gradient, twin_gradient) < 2e-4


def test_equal_images_have_ssim_one_and_no_gradient() -> None:
    x, _ = image_pair((3, 40, 50))
    l1, ssim, gradient = l1_ssim_value_and_gradient(x, x.clone())
    assert (l1, ssim) == (0.0, pytest.approx(1.0, abs=1e-7))
    assert float(gradient.abs().max()) < 1e-9


def test_bytes_are_values_over_255() -> None:
    x, y = image_pair((3, 60, 71))
    in_bytes = (y * 255).round().to(torch.uint8)
    from_bytes = l1_ssim_value_and_gradient(x, in_bytes)
    from_floats = l1_ssim_value_and_gradient(x, in_bytes.float() / 255)
    assert from_bytes[:2] == from_floats[:2]
    assert torch.equal(from_bytes[2], from_floats[2])
    assert torch.equal(fused_l1_ssim(x, in_bytes), fused_l1_ssim(x, in_bytes.float() / 255))


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_results_do_not_depend_on_the_number_of_threads(threads: int) -> None:
    x, y = image_pair((3, 400, 700))
    results = []
    for count in (1, threads):
        torch.set_num_threads(count)
        results.append((*l1_ssim_value_and_gradient(x, y), fused_ssim(x[None], y[None])))
    one, many = results
    assert one[:2] == many[:2]
    assert torch.equal(one[2], many[2])
    assert torch.equal(one[3], many[3])


def test_gradient_flows_to_the_first_image_only_and_is_scaled() -> None:
    x, y = image_pair((1, 3, 30, 20))
    first, second = x.clone().requires_grad_(), y.clone().requires_grad_()
    (3 * fused_ssim(first, second)).backward()
    _, gradient = gradient_of(lambda image: fused_ssim(image, y), x)
    assert second.grad is None
    assert first.grad is not None
    torch.testing.assert_close(first.grad, 3 * gradient)


def test_gradient_is_the_same_in_a_second_pass_over_the_graph() -> None:
    x, y = image_pair((3, 30, 20))
    image = x.clone().requires_grad_()
    loss = fused_l1_ssim(image, y)
    loss.backward(retain_graph=True)
    loss.backward()
    assert image.grad is not None
    assert torch.equal(image.grad, 2 * l1_ssim_value_and_gradient(x, y)[2])


def test_strided_images_are_read_in_their_order() -> None:
    x, y = image_pair((3, 30, 20))
    rows_last = x.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    expected = l1_ssim_value_and_gradient(x, y)
    found = l1_ssim_value_and_gradient(rows_last, y)
    assert found[:2] == expected[:2]
    assert torch.equal(found[2], expected[2])
    _, gradient = gradient_of(lambda image: fused_l1_ssim(image, y), rows_last)
    assert torch.equal(gradient, expected[2])


def test_gradient_is_written_into_out() -> None:
    x, y = image_pair((3, 30, 20))
    out = torch.full_like(x, float("nan"))
    *_, gradient = l1_ssim_value_and_gradient(x, y, out=out)
    assert gradient is out
    assert torch.equal(out, l1_ssim_value_and_gradient(x, y)[2])


def test_values_far_outside_of_the_unit_range_stay_finite() -> None:
    x, y = image_pair((3, 30, 20))
    *_, gradient = l1_ssim_value_and_gradient(1000 * x, 1000 * y)
    assert torch.isfinite(gradient).all()


IMAGE = torch.zeros(3, 12, 12)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: fused_ssim(IMAGE, IMAGE), ValueError, r"\(N, C, H, W\)"),
        (lambda: fused_ssim(IMAGE[None], IMAGE[None, :, 1:]), ValueError, r"\(1, 3, 12, 12\)"),
        (lambda: fused_ssim(IMAGE[None].double(), IMAGE[None]), TypeError, "float32"),
        (lambda: fused_ssim(IMAGE[None], IMAGE[None].byte()), TypeError, "uint8"),
        (lambda: fused_ssim(IMAGE[None], IMAGE[None], "full"), ValueError, "'full'"),
        (
            lambda: fused_ssim(IMAGE[None, :, 2:], IMAGE[None, :, 2:], "valid"),
            ValueError,
            "11x11",
        ),
        (lambda: fused_ssim(IMAGE[None, :, :0], IMAGE[None, :, :0]), ValueError, "empty"),
        (lambda: fused_l1_ssim(IMAGE[None], IMAGE[None]), ValueError, r"\(3, H, W\)"),
        (lambda: fused_l1_ssim(IMAGE, IMAGE.half()), TypeError, "float32 or torch.uint8"),
        (lambda: fused_l1_ssim(IMAGE.to("meta"), IMAGE), ValueError, "on the CPU, not on meta"),
        (lambda: fused_l1_ssim(IMAGE, IMAGE.to("meta")), ValueError, "meta"),
        (
            lambda: l1_ssim_value_and_gradient(IMAGE, IMAGE, out=IMAGE[:2].clone()),
            ValueError,
            r"out must be a contiguous float32 tensor of shape \(3, 12, 12\)",
        ),
        (
            lambda: l1_ssim_value_and_gradient(IMAGE, IMAGE, out=IMAGE.transpose(1, 2)),
            ValueError,
            "contiguous",
        ),
    ],
)
def test_unusable_arguments_are_named(
    call: Callable[[], object], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        call()


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_the_map_of_ssim_and_its_gradient(padding: str) -> None:
    x, y = image_pair((1, 2, 12, 13))
    x = x.double().requires_grad_()
    c1, c2 = 0.01**2, 0.03**2
    ssim = FusedSSIMMap.apply(c1, c2, x, y.double(), padding)
    assert ssim.shape == ((1, 2, 12, 13) if padding == "same" else (1, 2, 2, 3))
    torch.testing.assert_close(ssim.mean(), ssim_twin(x, y.double(), padding))
    weights = torch.linspace(-1, 1, ssim.numel(), dtype=torch.float64).reshape(ssim.shape)
    assert torch.autograd.gradcheck(
        lambda image: (FusedSSIMMap.apply(c1, c2, image, y.double(), padding) * weights).sum(), x
    )
    (found,) = torch.autograd.grad(ssim.mean(), x)
    (expected,) = torch.autograd.grad(ssim_twin(x, y.double(), padding), x)
    torch.testing.assert_close(found, expected)


def test_the_functions_of_the_compiled_packages() -> None:
    x, y = image_pair((1, 3, 12, 13))
    constants = 0.01**2, 0.03**2
    leaf = x.clone().requires_grad_()
    expected = FusedSSIMMap.apply(*constants, leaf, y)
    weights = torch.linspace(0, 1, x.numel()).reshape(x.shape)
    (gradient,) = torch.autograd.grad((expected * weights).sum(), leaf)
    ssim, *derivatives = fused_ssim_cuda.fusedssim(*constants, x, y, True)
    assert torch.equal(ssim, expected)
    found = fused_ssim_cuda.fusedssim_backward(*constants, x, y, weights, *derivatives)
    assert torch.equal(found, gradient)
    assert torch.equal(_C.fusedssim(*constants, x, y), expected)
    assert torch.equal(_C.fusedssim_backward(*constants, x, y, weights), gradient)


def test_the_map_checks_its_arguments() -> None:
    x, y = image_pair((1, 3, 12, 13))
    with pytest.raises(ValueError, match=r"one shape \(N, C, H, W\)"):
        FusedSSIMMap.apply(0.0001, 0.0009, x, y[..., :5])
    with pytest.raises(ValueError, match="padding must be one of"):
        FusedSSIMMap.apply(0.0001, 0.0009, x, y, "full")
    ssim = FusedSSIMMap.apply(0.0001, 0.0009, x.requires_grad_(), y, "same", False)
    with pytest.raises(RuntimeError, match="no gradient where train is False"):
        ssim.sum().backward()
