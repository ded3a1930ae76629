# SPDX-License-Identifier: Apache-2.0
"""The rasteriser on raw parameters, without autograd: the path for training loops.

The activations (sigmoid, exponential, normalisation) and their derivatives are part of the kernel,
so that one pass over the memory is enough, and the gradients go to tensors that the caller reuses
in every iteration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from . import native
from ._C import Gradients, Parameters, gradients_of, scene_of
from .adam import AdamState, RawAdam, adam_step, check_step, update_visible
from .native import address, checked, row_count
from .settings import GaussianRasterizationSettings

if TYPE_CHECKING:
    from .cuda_render import CudaFrame


class RawGaussians(NamedTuple):
    """The six tensors of a model as they are stored, or their gradients. float32, on one device."""

    xyz: torch.Tensor  # (N, 3), world
    features_dc: torch.Tensor  # (N, 1, 3)
    features_rest: torch.Tensor  # (N, K, 3), K = (d + 1)^2 - 1
    opacity: torch.Tensor  # (N, 1), logit
    scaling: torch.Tensor  # (N, 3), natural logarithm
    rotation: torch.Tensor  # (N, 4), wxyz, of any length

    def empty_like(self) -> RawGaussians:
        """Six tensors of the same shapes, not initialised: a place for gradients."""
        return RawGaussians(*(torch.empty_like(t, requires_grad=False) for t in self))


class View(NamedTuple):
    """One view, with the numbers of its camera packed."""

    numbers: torch.Tensor
    """As `pack` gives them, on the CPU. The last three are the background, and may be changed."""
    width: int
    height: int
    sh_degree: int
    antialiasing: bool


def pack(settings: GaussianRasterizationSettings) -> torch.Tensor:
    """The numbers of a view in one float32 tensor, for `View`.

    ValueError where out of range, and for settings that a `View` does not have: kernel_size and
    subpixel_offset.
    """
    if settings.kernel_size is not None or settings.subpixel_offset is not None:
        raise ValueError("kernel_size and subpixel_offset cannot be packed: give the settings.")
    return native.packed_numbers(native.camera_of(settings))


class Frame:
    """A rendered view.

    image (3, H, W); radii int32 (N,), pixels, 0 where not in view; inverse_depth (1, H, W) or None.
    """

    def __init__(
        self,
        image: torch.Tensor,
        radii: torch.Tensor,
        inverse_depth: torch.Tensor | None,
        context: tuple[native.Frame, Parameters] | CudaFrame | None,
        seconds: dict[str, tuple[float, float]],
    ) -> None:
        self.image = image
        self.radii = radii
        self.inverse_depth = inverse_depth
        self._context = context
        self._seconds = seconds

    def stage_seconds(self) -> dict[str, tuple[float, float]]:
        """(wall, CPU) time of each stage that has run; none on a CUDA device."""
        context = self._context
        return context[0].stage_seconds() if isinstance(context, tuple) else self._seconds

    def counts(self) -> dict[str, int]:
        """Sizes of this view, for benchmarks; no entries unless rendered for training."""
        context = self._context
        return context[0].counts() if isinstance(context, tuple) else {}

    def backward(
        self,
        d_image: torch.Tensor,
        gradients: RawGaussians,
        d_inverse_depth: torch.Tensor | None = None,
        screen: torch.Tensor | None = None,
    ) -> None:
        """Overwrite `gradients` with dL/d(raw parameters), from those of image and inverse depth.

        `screen` (N, 2), if given, gets dL/d(centre) in normalised device coordinates. All rows are
        written; Gaussians not in view get zeros. The parameters must be those that were rendered.
        Raises RuntimeError if the view was not rendered for training.
        """
        d_image, d_inverse_depth = self._checked_derivatives(d_image, d_inverse_depth)
        places = self._checked_places(gradients, screen)
        if len(self.radii) == 0:
            return
        if isinstance(self._context, tuple):
            frame, parameters = self._context
            scene = scene_of(parameters, raw=True)
            frame.backward(scene, d_image, d_inverse_depth, gradients_of(places))
        else:
            assert self._context is not None
            self._context.backward(d_image, d_inverse_depth, places)

    def update(
        self,
        d_image: torch.Tensor,
        gaussians: RawGaussians,
        adam: RawAdam,
        d_inverse_depth: torch.Tensor | None = None,
        screen: torch.Tensor | None = None,
    ) -> None:
        """A step of Adam on `gaussians`, those that were rendered, and its moments, in place.

        The result is that of `backward` and of `adam_step` or `update_visible`; on a CUDA device
        one kernel does both, so that the gradients are not stored. `screen` as in `backward`.
        ValueError if they are not the tensors that were rendered.
        """
        d_image, d_inverse_depth = self._checked_derivatives(d_image, d_inverse_depth)
        self._check_update(gaussians, adam, screen)
        if len(self.radii) == 0:
            return
        if not isinstance(self._context, tuple):
            assert self._context is not None
            self._context.update(d_image, d_inverse_depth, adam, screen)
            return
        gradients = gaussians.empty_like()
        self.backward(d_image, gradients, d_inverse_depth, screen)
        states = [
            AdamState(*tensors)
            for tensors in zip(gaussians, gradients, *adam[:3], strict=True)
            if tensors[0].numel()
        ]
        if adam.step is None:
            update_visible(states, self.radii > 0, adam.betas, adam.eps)
        else:
            adam_step(states, adam.step, adam.betas, adam.eps)

    def _checked_derivatives(
        self, d_image: torch.Tensor, d_inverse_depth: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Those of the image and of the inverse depth, as kernels take them."""
        if self._context is None:
            raise RuntimeError("backward needs a view rendered with training=True.")
        device = self.image.device
        if d_inverse_depth is not None:
            if self.inverse_depth is None:
                raise RuntimeError("this view was rendered without inverse depth.")
            shape = tuple(self.inverse_depth.shape)
            d_inverse_depth = checked("d_inverse_depth", d_inverse_depth, shape, device=device)
        return checked("d_image", d_image, tuple(self.image.shape), device=device), d_inverse_depth

    def _check_update(
        self, gaussians: RawGaussians, adam: RawAdam, screen: torch.Tensor | None
    ) -> None:
        rendered = self._parameters
        colours = rendered.dc, rendered.rest
        shapes = rendered.opacities, rendered.scales, rendered.rotations
        mine = (rendered.means, *colours, *shapes)
        for name, given, expected in zip(RawGaussians._fields, gaussians, mine, strict=True):
            if expected is not None and given.data_ptr() != expected.data_ptr():
                raise ValueError(f"gaussians.{name} is not the tensor that was rendered.")
        if adam.step is not None:
            check_step(adam.step)
        for moments in adam[:2]:
            self._checked_places(RawGaussians(*moments), screen)

    def _checked_places(self, gradients: RawGaussians, screen: torch.Tensor | None) -> Gradients:
        """Where the derivatives go."""
        target = _checked(gradients, written=True)
        n, device = len(self.radii), self.image.device
        if target.means.shape[0] != n:
            raise ValueError(f"gradients are for {target.means.shape[0]} Gaussians, not for {n}.")
        if target.rest is not None:
            shape = (n, self._rest_coefficients, 3)
            checked("gradients.features_rest", target.rest, shape, device=device)
        if screen is not None:
            screen = checked("screen", screen, (n, 2), written=True, device=device)
        return Gradients(*target, screen=screen)

    @property
    def _parameters(self) -> Parameters:
        """What was rendered."""
        assert self._context is not None
        context = self._context
        return context[1] if isinstance(context, tuple) else context.parameters

    @property
    def _rest_coefficients(self) -> int:
        rest = self._parameters.rest
        return 0 if rest is None else rest.shape[1]


def render(
    gaussians: RawGaussians,
    settings: GaussianRasterizationSettings | View,
    *,
    training: bool,
    inverse_depth: bool = False,
    clamp: bool = False,
) -> Frame:
    """The view of a model. Only a frame made with `training` has a backward pass.

    `clamp` limits the image to [0, 1]; the gradient of pixels outside that range is then 0.
    """
    parameters = _checked(gaussians)
    if isinstance(settings, View):
        size = (settings.width, settings.height)
        camera = native.camera_of_view(
            settings.numbers, size, settings.sh_degree, settings.antialiasing
        )
    else:
        camera = native.camera_of(settings)
    held = 1 + gaussians.features_rest.shape[1]
    if held < (camera.sh_degree + 1) ** 2:
        raise ValueError(f"{held} coefficients are too few for degree {camera.sh_degree}.")
    n, device = parameters.means.shape[0], parameters.means.device
    native.check_offsets(camera, device)
    if n != 0 and native.on_cuda(parameters.means):
        return _render_on_cuda(parameters, camera, inverse_depth, training, clamp)
    make = torch.zeros if n == 0 else torch.empty
    image = make(3, camera.height, camera.width, device=device)
    depth = make(1, camera.height, camera.width, device=device) if inverse_depth else None
    # Not zeros: PyTorch's own threads would do that, and then busy-wait beside the kernels.
    radii = torch.empty(n, dtype=torch.int32, device=device)
    frame = native.Frame()
    if n != 0:
        outputs = native.Outputs(address(image), address(depth), address(radii))
        scene = scene_of(parameters, raw=True)
        frame.render(camera, scene, outputs, keep=training, clamp=clamp)
    context = (frame, parameters) if training else None
    return Frame(image, radii, depth, context, frame.stage_seconds())


def _render_on_cuda(
    parameters: Parameters,
    camera: native.Camera,
    inverse_depth: bool,
    training: bool,
    clamp: bool,
) -> Frame:
    from . import cuda_render

    kernels = cuda_render.kernels_on(parameters.means.device)
    options = {"raw": True, "inverse_depth": inverse_depth, "keep": training, "clamp": clamp}
    frame = cuda_render.CudaFrame(kernels, camera, parameters, **options)
    context = frame if training else None
    return Frame(frame.image, frame.radii, frame.inverse_depth, context, {})


def release_buffers() -> None:
    """Return the memory that is reused from view to view to the system.

    The next view allocates new memory; views that still exist keep theirs.
    """
    native.Frame.release_idle()


def _checked(gaussians: RawGaussians, *, written: bool = False) -> Parameters:
    n = row_count("xyz", gaussians.xyz)
    device = native.kernel_device(gaussians.xyz)
    shapes = {
        "xyz": (n, 3),
        "features_dc": (n, 1, 3),
        "features_rest": (n, None, 3),
        "opacity": (n, 1),
        "scaling": (n, 3),
        "rotation": (n, 4),
    }
    g = RawGaussians(
        **{
            name: checked(name, getattr(gaussians, name), shape, written=written, device=device)
            for name, shape in shapes.items()
        }
    )
    rest = g.features_rest if g.features_rest.shape[1] else None
    return Parameters(g.xyz, g.opacity, g.scaling, g.rotation, None, None, g.features_dc, rest)
