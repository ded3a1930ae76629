# SPDX-License-Identifier: Apache-2.0
"""Mean SSIM of images and its gradient, on the CPU in one sweep over the image.

`fused_ssim` has the interface of the CUDA package of this name. `fused_l1_ssim` is the loss of 3D
Gaussian Splatting (Kerbl et al. 2023, eq. 7), and `l1_ssim_value_and_gradient` the same without
autograd. SSIM is that of Wang et al. 2004: an 11x11 Gaussian window of sigma 1.5, C1 = 0.01^2,
C2 = 0.03^2, values in [0, 1], zeros around the image.

Results do not depend on the number of threads, which is `torch.get_num_threads()`. Tensors on a
CUDA device are taken, too, by the kernels of ssim.cu; no GPU has run these yet.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ._native import load_library
from .ssim_map import FusedSSIMMap

__all__ = [
    "FusedSSIMMap",
    "allowed_padding",
    "fused_l1_ssim",
    "fused_ssim",
    "instruction_set",
    "l1_ssim_value_and_gradient",
    "supported_devices",
]

supported_devices = ("cpu",)
allowed_padding = ("same", "valid")

WINDOW = 11
_MARGINS = {"same": 0, "valid": WINDOW // 2}

_library, instruction_set = load_library()
_l1_ssim = _library.l1_ssim
_l1_ssim.restype = ctypes.c_int
_l1_ssim.argtypes = [
    *(ctypes.c_void_p,) * 3,  # image, target, target in bytes
    *(ctypes.c_int64, ctypes.c_int32, ctypes.c_int32, ctypes.c_int32),  # planes ... margin
    *(ctypes.c_double, ctypes.c_double),  # weights of the two means in the gradient
    *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32),  # gradient, means, threads
]


def fused_ssim(img1: Tensor, img2: Tensor, padding: str = "same", train: bool = True) -> Tensor:
    """Mean SSIM of two batches of images, as a 0-dimensional tensor.

    Both are float32 (N, C, H, W). With padding "same" every pixel counts, and zeros surround the
    image; with "valid" only those whose window lies inside. The gradient flows to `img1` only, and
    with `train=False` nowhere.
    """
    _check_image(img1, "img1", dimensions=4)
    _check_target(img2, "img2", img1, dtypes=(torch.float32,))
    if padding not in allowed_padding:
        raise ValueError(f"padding must be one of {allowed_padding}, not {padding!r}.")
    if padding == "valid" and min(img1.shape[2:]) < WINDOW:
        raise ValueError(
            f"padding 'valid' needs images of at least {WINDOW}x{WINDOW} pixels, "
            f"but img1 has shape {tuple(img1.shape)}."
        )
    with_gradient = train and img1.requires_grad and torch.is_grad_enabled()
    combination = _Combination(l1=0.0, ssim=1.0, constant=0.0, margin=_MARGINS[padding])
    value: Tensor = _WeightedMeans.apply(img1, img2.detach(), combination, with_gradient)
    return value if with_gradient else value.detach()


def fused_l1_ssim(image: Tensor, target: Tensor, lambda_dssim: float = 0.2) -> Tensor:
    """(1 - lambda) mean|image - target| + lambda (1 - SSIM), as a 0-dimensional tensor.

    `image` is float32 (3, H, W), `target` of the same shape in float32, or uint8 meaning value/255.
    The gradient flows to `image` only.
    """
    _check_image(image, "image", dimensions=3)
    _check_target(target, "target", image, dtypes=(torch.float32, torch.uint8))
    with_gradient = image.requires_grad and torch.is_grad_enabled()
    loss = _loss(lambda_dssim)
    value: Tensor = _WeightedMeans.apply(image, target.detach(), loss, with_gradient)
    return value


def l1_ssim_value_and_gradient(
    image: Tensor, target: Tensor, lambda_dssim: float = 0.2, out: Tensor | None = None
) -> tuple[float | Tensor, float | Tensor, Tensor]:
    """mean|image - target|, SSIM, and the gradient of `fused_l1_ssim`, without autograd.

    On a CUDA device the two means are float64 tensors (), so that nothing waits for them.

    `image` and `target` as in `fused_l1_ssim`. The gradient is written into `out` if that is given:
    a contiguous float32 tensor of the image's shape that shares no memory with the arguments.
    """
    _check_image(image, "image", dimensions=3)
    _check_target(target, "target", image, dtypes=(torch.float32, torch.uint8))
    if out is None:
        out = torch.empty_like(image, memory_format=torch.contiguous_format, requires_grad=False)
    else:
        _check_out(out, image, target)
    l1, ssim = _run(image.detach(), target.detach(), _loss(lambda_dssim), out)
    return l1, ssim, out


class _Combination(NamedTuple):
    """The value `l1 * mean|image - target| + ssim * mean SSIM + constant`."""

    l1: float
    ssim: float
    constant: float
    margin: int  # pixels at each border whose SSIM does not count


def _loss(lambda_dssim: float) -> _Combination:
    return _Combination(l1=1.0 - lambda_dssim, ssim=-lambda_dssim, constant=lambda_dssim, margin=0)


class _WeightedMeans(torch.autograd.Function):
    """The value of a combination, as a 0-dimensional tensor."""

    @staticmethod
    def forward(
        ctx: Any, image: Tensor, target: Tensor, combination: _Combination, with_gradient: bool
    ) -> Tensor:
        gradient = None
        if with_gradient:
            gradient = torch.empty_like(image, memory_format=torch.contiguous_format)
            ctx.save_for_backward(gradient)
        l1, ssim = _run(image, target, combination, gradient)
        value = combination.l1 * l1 + combination.ssim * ssim + combination.constant
        return torch.as_tensor(value, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # The loss is usually the last step: its factor is 1, and no image-sized product is needed.
        # On another device, reading the factor would cost more than the product.
        keep = scale.device.type == "cpu" and scale.item() == 1.0
        scaled = gradient if keep else gradient * scale
        return scaled, None, None, None


def _run(
    image: Tensor, target: Tensor, combination: _Combination, gradient: Tensor | None
) -> tuple[float | Tensor, float | Tensor]:
    """Mean absolute difference and mean SSIM; fills `gradient` with that of the combination."""
    image, target = image.contiguous(), target.contiguous()
    if on_cuda(image):
        from . import cuda_ssim

        weights = combination.l1, combination.ssim
        kernels = cuda_ssim.kernels_on(image.device)
        l1, ssim = cuda_ssim.l1_ssim(
            kernels, image, target, weights, combination.margin, gradient
        ).unbind()
        return l1, ssim
    in_bytes = target.dtype == torch.uint8
    height, width = image.shape[-2:]
    means = (ctypes.c_double * 2)()
    status = _l1_ssim(
        image.data_ptr(),
        None if in_bytes else target.data_ptr(),
        target.data_ptr() if in_bytes else None,
        image.numel() // (height * width),
        height,
        width,
        combination.margin,
        combination.l1,
        combination.ssim,
        None if gradient is None else gradient.data_ptr(),
        means,
        torch.get_num_threads(),
    )
    if status != 0:
        raise MemoryError("not enough memory to compare the images.")
    return means[0], means[1]


def on_cuda(tensor: Tensor) -> bool:
    """Whether the kernels for CUDA devices are those for this tensor."""
    return tensor.device.type == "cuda"


def _check_image(image: Tensor, name: str, dimensions: int) -> None:
    if image.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} must be on the CPU, not on {image.device}.")
    if image.dtype != torch.float32:
        raise TypeError(f"{name} must be float32, not {image.dtype}.")
    if image.ndim != dimensions or image.numel() == 0:
        expected = ("(3, H, W)", "(N, C, H, W)")[dimensions - 3]
        raise ValueError(
            f"{name} must have the shape {expected} and not be empty, "
            f"but its shape is {tuple(image.shape)}."
        )


def _check_target(
    target: Tensor, name: str, image: Tensor, dtypes: tuple[torch.dtype, ...]
) -> None:
    if target.device != image.device:
        place = "the CPU" if image.device.type == "cpu" else image.device
        raise ValueError(f"{name} is on {target.device}, but the image it belongs to on {place}.")
    if target.dtype not in dtypes:
        names = " or ".join(str(dtype) for dtype in dtypes)
        raise TypeError(f"{name} must be {names}, not {target.dtype}.")
    if target.shape != image.shape:
        raise ValueError(
            f"{name} must have the shape of the image, {tuple(image.shape)}, "
            f"but its shape is {tuple(target.shape)}."
        )


def _check_out(out: Tensor, image: Tensor, target: Tensor) -> None:
    if out.shape != image.shape or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(
            f"out must be a contiguous float32 tensor of shape {tuple(image.shape)}, "
            f"not {out.dtype} of shape {tuple(out.shape)}."
        )
    if out.device != image.device or out.requires_grad:
        place = "the CPU" if image.device.type == "cpu" else image.device
        raise ValueError(f"out must be on {place} and need no gradient.")
    for name, read in (("image", image), ("target", target)):
        # A pixel's neighbours are read after its gradient is written. (Tensors that are not
        # contiguous are copied first.)
        if read.is_contiguous() and _overlap(out, read):
            raise ValueError(f"out must not share memory with {name}.")


def _overlap(a: Tensor, b: Tensor) -> bool:
    """Whether two contiguous tensors have bytes in common."""
    a_begin, b_begin = a.data_ptr(), b.data_ptr()
    return a_begin < b_begin + b.nbytes and b_begin < a_begin + a.nbytes
