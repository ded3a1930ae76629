# SPDX-License-Identifier: Apache-2.0
"""The rasteriser without autograd, under the names that the CUDA package gives its extension.

The argument lists are this package's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from . import adam, native
from .native import address, checked, row_count
from .settings import GaussianRasterizationSettings

if TYPE_CHECKING:
    from .cuda_render import CudaFrame


class Parameters(NamedTuple):
    """The Gaussians. Either colors or dc (with rest); either covariances or scales and rotations.

    means (N, 3), opacities (N, 1), scales (N, 3), rotations (N, 4) wxyz of length one, covariances
    (N, 6), colors (N, 3), dc (N, 1, 3), rest (N, K, 3), or all coefficients (N, 1 + K, 3) in `rest`
    with `dc` None.
    """

    means: torch.Tensor
    opacities: torch.Tensor
    scales: torch.Tensor | None
    rotations: torch.Tensor | None
    covariances: torch.Tensor | None
    colors: torch.Tensor | None
    dc: torch.Tensor | None
    rest: torch.Tensor | None


class Rendered(NamedTuple):
    """A view: color (3, H, W), radii int32 (N,) in pixels, inverse_depth (1, H, W), its frame."""

    color: torch.Tensor
    radii: torch.Tensor
    inverse_depth: torch.Tensor
    frame: native.Frame | CudaFrame


class Importance(NamedTuple):
    """How much each Gaussian contributes to a view; all (N,), and 0 where it does not.

    A Gaussian's weight in a pixel is alpha times the transmittance before it, times that of the
    pixel if pixels have weights.
    """

    counts: torch.Tensor
    """int32: pixels that it changes."""
    weights: torch.Tensor
    """float32: the sum of its weights over these pixels."""
    largest: torch.Tensor
    """float32: the largest of these weights."""


class Gradients(NamedTuple):
    """Derivatives, as `Parameters`, and screen (N, 3) in normalised device coordinates."""

    means: torch.Tensor
    opacities: torch.Tensor
    scales: torch.Tensor | None
    rotations: torch.Tensor | None
    covariances: torch.Tensor | None
    colors: torch.Tensor | None
    dc: torch.Tensor | None
    rest: torch.Tensor | None
    screen: torch.Tensor | None


def check_parameters(parameters: Parameters, sh_degree: int) -> Parameters:
    """The parameters, contiguous; ValueError names the first tensor that does not fit."""
    _check_choices(parameters)
    n = row_count("means3D", parameters.means)
    device = native.kernel_device(parameters.means)
    opacities = parameters.opacities
    if isinstance(opacities, torch.Tensor) and opacities.dim() == 1:
        opacities = opacities[:, None]

    def optional(name: str, tensor: torch.Tensor | None, *shape: int | None) -> torch.Tensor | None:
        return None if tensor is None else checked(name, tensor, (n, *shape), device=device)

    result = Parameters(
        means=checked("means3D", parameters.means, (n, 3), device=device),
        opacities=checked("opacities", opacities, (n, 1), device=device),
        scales=optional("scales", parameters.scales, 3),
        rotations=optional("rotations", parameters.rotations, 4),
        covariances=optional("cov3D_precomp", parameters.covariances, 6),
        colors=optional("colors_precomp", parameters.colors, 3),
        dc=optional("dc", parameters.dc, 1, 3),
        rest=optional("shs", parameters.rest, None, 3),
    )
    if result.colors is None:
        held = sum(0 if part is None else part.shape[1] for part in (result.dc, result.rest))
        needed = (sh_degree + 1) ** 2
        if held < needed:
            raise ValueError(
                f"shs must hold {needed} coefficients for sh_degree {sh_degree}, not {held}."
            )
    return result


def _check_choices(p: Parameters) -> None:
    """ValueError unless there is one source of colours and one of shapes, each complete."""
    if (p.colors is None) == (p.dc is None and p.rest is None):
        raise ValueError("either shs (or dc) or colors_precomp must be given, not both or neither.")
    pair = [p.scales is not None, p.rotations is not None]
    if any(pair) != all(pair) or all(pair) == (p.covariances is not None):
        raise ValueError(
            "either scales and rotations or cov3D_precomp must be given, not both or neither."
        )


def scene_of(p: Parameters, *, raw: bool = False) -> native.Scene:
    """The library's structure of checked parameters; it points into their memory."""
    dc, rest, dc_stride, rest_stride = _harmonics(p.dc, p.rest)
    return native.Scene(
        count=p.means.shape[0],
        means=address(p.means),
        opacities=address(p.opacities),
        scales=address(p.scales),
        rotations=address(p.rotations),
        covariances=address(p.covariances),
        colors=address(p.colors),
        dc=dc,
        rest=rest,
        dc_stride=dc_stride,
        rest_stride=rest_stride,
        raw=raw,
    )


def gradients_of(g: Gradients) -> native.SceneGradients:
    """The library's structure of the tensors to which the derivatives are written."""
    dc, rest, dc_stride, rest_stride = _harmonics(g.dc, g.rest)
    rest_width = 0 if g.rest is None else 3 * (g.rest.shape[1] - (g.dc is None))
    return native.SceneGradients(
        means=address(g.means),
        opacities=address(g.opacities),
        scales=address(g.scales),
        rotations=address(g.rotations),
        covariances=address(g.covariances),
        colors=address(g.colors),
        dc=dc,
        rest=rest,
        dc_stride=dc_stride,
        rest_stride=rest_stride,
        rest_width=rest_width,
        screen_width=0 if g.screen is None else g.screen.shape[1],
        screen=address(g.screen),
    )


def _harmonics(
    dc: torch.Tensor | None, rest: torch.Tensor | None
) -> tuple[int | None, int | None, int, int]:
    """(address of dc, of rest, and how many floats apart their rows are)."""
    if rest is None:
        return address(dc), None, 3, 0
    stride = 3 * rest.shape[1]
    if dc is not None:
        return address(dc), address(rest), 3, stride
    return rest.data_ptr(), rest.data_ptr() + 3 * rest.element_size(), stride, stride


def rasterize_gaussians(
    parameters: Parameters, settings: GaussianRasterizationSettings, keep: bool = True
) -> Rendered:
    """The view of checked parameters; `keep`: with the data that the backward pass needs."""
    camera = native.camera_of(settings)
    n, device = parameters.means.shape[0], parameters.means.device
    native.check_offsets(camera, device)
    if n != 0 and native.on_cuda(parameters.means):
        return _rasterize_on_cuda(parameters, camera, keep)
    # Without Gaussians the original's image is black, whatever the background.
    make = torch.zeros if n == 0 else torch.empty
    color = make(3, camera.height, camera.width, device=device)
    inverse_depth = make(1, camera.height, camera.width, device=device)
    # Not zeros: PyTorch's own threads would do that, and then busy-wait beside the kernels.
    radii = torch.empty(n, dtype=torch.int32, device=device)
    frame = native.Frame()
    if n != 0:
        outputs = native.Outputs(address(color), address(inverse_depth), address(radii))
        frame.render(camera, scene_of(parameters), outputs, keep=keep, clamp=False)
    return Rendered(color, radii, inverse_depth, frame)


def _rasterize_on_cuda(parameters: Parameters, camera: native.Camera, keep: bool) -> Rendered:
    from . import cuda_render

    kernels = cuda_render.kernels_on(parameters.means.device)
    options = {"raw": False, "inverse_depth": True, "keep": keep, "clamp": False}
    frame = cuda_render.CudaFrame(kernels, camera, parameters, **options)
    assert frame.inverse_depth is not None
    return Rendered(frame.image, frame.radii, frame.inverse_depth, frame)


def rasterize_gaussians_backward(
    parameters: Parameters,
    frame: native.Frame | CudaFrame,
    grad_color: torch.Tensor,
    grad_inverse_depth: torch.Tensor | None,
) -> Gradients:
    """Derivatives for all parameters that `rasterize_gaussians` was given to make `frame`."""
    empty = [None if tensor is None else torch.empty_like(tensor) for tensor in parameters]
    gradients = Gradients._make([*empty, torch.empty_like(parameters.means)])
    if parameters.means.shape[0] == 0:
        return gradients
    if isinstance(frame, native.Frame):
        places = gradients_of(gradients)
        frame.backward(scene_of(parameters), grad_color, grad_inverse_depth, places)
    else:
        frame.backward(grad_color, grad_inverse_depth, gradients)
    return gradients


def importance(rendered: Rendered, pixel_weights: torch.Tensor | None) -> Importance:
    """What each Gaussian contributes to a view that was rendered with `keep`.

    `pixel_weights` (H, W), float32, on the device of the Gaussians, or None for 1 everywhere.
    """
    radii = rendered.radii
    n, device = len(radii), radii.device
    if pixel_weights is not None:
        shape = tuple(rendered.color.shape[1:])
        pixel_weights = checked("pixel_weights", pixel_weights, shape, device=device)
    found = Importance(
        torch.zeros(n, dtype=torch.int32, device=device),
        torch.zeros(n, device=device),
        torch.zeros(n, device=device),
    )
    if n == 0:
        return found
    if isinstance(rendered.frame, native.Frame):
        rendered.frame.importance(native.Importance(*map(address, found), address(pixel_weights)))
    else:
        rendered.frame.importance(*found, pixel_weights)
    return found


def mark_visible(
    positions: torch.Tensor, viewmatrix: torch.Tensor, projmatrix: torch.Tensor
) -> torch.Tensor:
    """Bool (N,): whether each point lies beyond the near plane."""
    zero = torch.zeros(3)
    settings = GaussianRasterizationSettings(
        1, 1, 1.0, 1.0, zero, 1.0, viewmatrix, projmatrix, 0, zero, False, False
    )
    camera = native.camera_of(settings)
    if native.on_cuda(positions):
        from . import cuda_render

        device = positions.device
        positions = checked("positions", positions, (None, 3), device=device)
        return cuda_render.mark_visible(cuda_render.kernels_on(device), camera, positions)
    return native.mark_visible(camera, positions)


adamUpdate = adam.update_visible


def fusedssim(C1: float, C2: float, img1: torch.Tensor, img2: torch.Tensor) -> torch.Tensor:
    """SSIM of every pixel of images (N, C, H, W). Needs the package fused_ssim."""
    from fused_ssim import ssim_map

    return ssim_map.fusedssim(C1, C2, img1, img2, train=False)[0]


def fusedssim_backward(
    C1: float, C2: float, img1: torch.Tensor, img2: torch.Tensor, dL_dmap: torch.Tensor
) -> torch.Tensor:
    """The derivative for `img1`, from that for the map of `fusedssim`."""
    from fused_ssim import ssim_map

    derivatives = ssim_map.fusedssim(C1, C2, img1, img2)[1:]
    return ssim_map.fusedssim_backward(C1, C2, img1, img2, dL_dmap, *derivatives)
