# SPDX-License-Identifier: Apache-2.0
"""The compiled library in Python: structures, frames, and checks of arguments.

The modules of this package check all arguments; the C++ side relies on that.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import ClassVar

import torch

from ._native import load_library
from .settings import LOW_PASS, GaussianRasterizationSettings

library, instruction_set = load_library()

CPU = torch.device("cpu")
LARGEST_IMAGE_SIDE = 1 << 16  # pixels; tiles are counted in 16 bits
MOST_GAUSSIANS = 1 << 31
MOST_ENTRIES = 1 << 31
_LEAST_CENTRE = 1e-6  # smaller values come from the rounding of float32 matrices

STAGES = ("project", "sort", "blend", "blend backward", "project backward")

_address = ctypes.c_void_p
_Matrix = ctypes.Array[ctypes.c_float]


class Camera(ctypes.Structure):
    """Mirror of `formulas::Camera`."""

    offsets: torch.Tensor | None = None
    """(H, W, 2), pixels: where pixels are sampled, from their centres; None: there."""

    _fields_ = [
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("tan_x", ctypes.c_float),
        ("tan_y", ctypes.c_float),
        ("centre_x", ctypes.c_float),
        ("centre_y", ctypes.c_float),
        ("view", ctypes.c_float * 16),
        ("projection", ctypes.c_float * 16),
        ("position", ctypes.c_float * 3),
        ("background", ctypes.c_float * 3),
        ("scale_modifier", ctypes.c_float),
        ("sh_degree", ctypes.c_int32),
        ("antialiasing", ctypes.c_int32),
        ("low_pass", ctypes.c_float),
        ("margin", ctypes.c_float),
    ]


VIEW_NUMBERS = (Camera.scale_modifier.offset - Camera.tan_x.offset) // 4  # floats of a packed view


class Scene(ctypes.Structure):
    """Mirror of `rasterizer::Scene`."""

    _fields_ = [
        ("count", ctypes.c_int64),
        ("means", _address),
        ("opacities", _address),
        ("scales", _address),
        ("rotations", _address),
        ("covariances", _address),
        ("colors", _address),
        ("dc", _address),
        ("rest", _address),
        ("dc_stride", ctypes.c_int64),
        ("rest_stride", ctypes.c_int64),
        ("raw", ctypes.c_int32),
    ]


class SceneGradients(ctypes.Structure):
    """Mirror of `rasterizer::SceneGradients`."""

    _fields_ = [
        ("means", _address),
        ("opacities", _address),
        ("scales", _address),
        ("rotations", _address),
        ("covariances", _address),
        ("colors", _address),
        ("dc", _address),
        ("rest", _address),
        ("dc_stride", ctypes.c_int64),
        ("rest_stride", ctypes.c_int64),
        ("rest_width", ctypes.c_int32),
        ("screen_width", ctypes.c_int32),
        ("screen", _address),
    ]


class Outputs(ctypes.Structure):
    """Mirror of `rasterizer::Outputs`."""

    _fields_ = [("image", _address), ("inverse_depth", _address), ("radii", _address)]


class Importance(ctypes.Structure):
    """Mirror of `rasterizer::Importance`."""

    _fields_ = [
        ("counts", _address),
        ("weights", _address),
        ("largest", _address),
        ("pixel_weights", _address),
    ]


class AdamGroup(ctypes.Structure):
    """Mirror of `rasterizer::AdamGroup`."""

    _fields_ = [
        ("parameter", _address),
        ("gradient", _address),
        ("mean", _address),
        ("variance", _address),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("step_size", ctypes.c_float),
        ("variance_correction", ctypes.c_float),
    ]


class AdamConstants(ctypes.Structure):
    """Mirror of `rasterizer::AdamConstants`."""

    _fields_ = [
        ("beta_mean", ctypes.c_double),
        ("beta_variance", ctypes.c_double),
        ("epsilon", ctypes.c_double),
    ]


library.frame_create.restype = ctypes.c_void_p
library.frame_create.argtypes = []
library.frame_destroy.restype = None
library.frame_destroy.argtypes = [ctypes.c_void_p]
library.frame_render.argtypes = [
    ctypes.c_void_p,
    ctypes.POINTER(Camera),
    ctypes.POINTER(Scene),
    ctypes.c_void_p,
    ctypes.POINTER(Outputs),
    *(ctypes.c_int32,) * 3,
]
library.frame_backward.argtypes = [
    ctypes.c_void_p,
    ctypes.POINTER(Scene),
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.POINTER(SceneGradients),
    ctypes.c_int32,
]
library.frame_importance.argtypes = [
    ctypes.c_void_p,
    ctypes.POINTER(Importance),
    ctypes.c_int32,
]
library.frame_counts.restype = None
library.frame_counts.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int64)]
library.frame_seconds.restype = None
library.frame_seconds.argtypes = [ctypes.c_void_p, *(ctypes.POINTER(ctypes.c_double),) * 2]
library.mark_visible.restype = None
library.mark_visible.argtypes = [
    ctypes.POINTER(Camera),
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
]
library.adam_update.argtypes = [
    ctypes.POINTER(AdamGroup),
    ctypes.c_int32,
    ctypes.POINTER(AdamConstants),
    ctypes.c_void_p,
    ctypes.c_int32,
]

_FAILURES = {
    1: "the rasteriser ran out of memory",
    2: (
        "the Gaussians cover more than 2^31 image tiles in this view: their scales, or the scale "
        "modifier, are far too large for it"
    ),
    3: "the rasteriser failed with an unexpected C++ exception",
}


def check_status(status: int) -> None:
    """Raise MemoryError or RuntimeError if the library reports a failure."""
    if status == 1:
        raise MemoryError(_FAILURES[1])
    if status != 0:
        raise RuntimeError(_FAILURES[status])


def on_cuda(tensor: torch.Tensor) -> bool:
    """Whether the kernels for CUDA devices are those for this tensor."""
    return isinstance(tensor, torch.Tensor) and tensor.device.type == "cuda"


def kernel_device(tensor: torch.Tensor) -> torch.device:
    """The device that all tensors of a call must be on, if this one is the first."""
    return tensor.device if on_cuda(tensor) else CPU


def name_of(device: torch.device) -> str:
    """How messages name a device."""
    return "the CPU" if device == CPU else str(device)


def check_entries(entries: int) -> None:
    """Raise RuntimeError if a view has more tile entries than can be numbered."""
    if entries > MOST_ENTRIES:
        check_status(2)


def checked(
    name: str,
    tensor: torch.Tensor,
    shape: Sequence[int | None],
    *,
    written: bool = False,
    device: torch.device = CPU,
) -> torch.Tensor:
    """The tensor, contiguous.

    Raises ValueError unless it is a float32 tensor of the shape (None: any length), on the device,
    and, if it is to be written, contiguous already.
    """
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, not {type(tensor).__name__}.")
    if tensor.device != device:
        raise ValueError(f"{name} must be on {name_of(device)}, not on {tensor.device}.")
    if tensor.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, not {tensor.layout}.")
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} must be float32, not {tensor.dtype}.")
    same = len(shape) == tensor.dim() and all(
        want is None or want == have for want, have in zip(shape, tensor.shape, strict=True)
    )
    if not same:
        expected = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"{name} must have the shape ({expected}), not {tuple(tensor.shape)}.")
    if written and not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous, as it is written to.")
    return tensor.detach().contiguous()


def row_count(name: str, tensor: torch.Tensor) -> int:
    """The length of the tensor's first dimension; ValueError if it has none."""
    if not isinstance(tensor, torch.Tensor) or tensor.dim() == 0:
        found = "a scalar" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise ValueError(f"{name} must be a tensor with one row per Gaussian, not {found}.")
    return tensor.shape[0]


def address(tensor: torch.Tensor | None) -> int | None:
    """The address of the tensor's data; None, a null pointer, for None."""
    return None if tensor is None else tensor.data_ptr()


def camera_of(settings: GaussianRasterizationSettings) -> Camera:
    """The view that the settings describe; ValueError if they are out of range."""
    _check_ranges(settings.image_width, settings.image_height, settings.sh_degree)
    view = _floats("viewmatrix", settings.viewmatrix, 16)
    projection = _floats("projmatrix", settings.projmatrix, 16)
    offsets, margin = _offsets(settings)
    camera = Camera(
        width=int(settings.image_width),
        height=int(settings.image_height),
        tan_x=float(settings.tanfovx),
        tan_y=float(settings.tanfovy),
        centre_x=image_centre(view, projection, 0),
        centre_y=image_centre(view, projection, 1),
        view=view,
        projection=projection,
        position=_floats("campos", settings.campos, 3),
        background=_floats("bg", settings.bg, 3),
        scale_modifier=float(settings.scale_modifier),
        sh_degree=int(settings.sh_degree),
        antialiasing=int(settings.compensates()),
        low_pass=_low_pass(settings),
        margin=margin,
    )
    camera.offsets = offsets
    return camera


def _low_pass(settings: GaussianRasterizationSettings) -> float:
    size = settings.kernel_size
    if size is None:
        return LOW_PASS
    if not 0.0 <= float(size) < math.inf:
        raise ValueError(f"kernel_size must be a finite number from 0 on, not {size}.")
    return float(size)


def _offsets(settings: GaussianRasterizationSettings) -> tuple[torch.Tensor | None, float]:
    """A copy of the pixels' offsets, and the largest of their components; None if all are 0."""
    given = settings.subpixel_offset
    if given is None:
        return None, 0.0
    shape = (int(settings.image_height), int(settings.image_width), 2)
    device = kernel_device(given)
    margin = float(checked("subpixel_offset", given, shape, device=device).abs().max())
    if not margin < math.inf:
        raise ValueError("subpixel_offset must be finite, but has an infinite value or NaN.")
    return (
        (given.detach().clone(memory_format=torch.contiguous_format), margin)
        if margin
        else (None, 0.0)
    )


def check_offsets(camera: Camera, device: torch.device) -> None:
    """ValueError if the pixels' offsets are not on the device of the Gaussians."""
    if camera.offsets is not None:
        checked("subpixel_offset", camera.offsets, (None, None, 2), device=device)


def _check_ranges(width: int, height: int, sh_degree: int) -> None:
    for name, side in (("image_width", width), ("image_height", height)):
        if not 0 < int(side) <= LARGEST_IMAGE_SIDE:
            raise ValueError(f"{name} must be between 1 and {LARGEST_IMAGE_SIDE}, not {side}.")
    if not 0 <= int(sh_degree) <= 3:
        raise ValueError(f"sh_degree must be between 0 and 3, not {sh_degree}.")


def camera_of_view(
    numbers: torch.Tensor, size: tuple[int, int], sh_degree: int, antialiasing: bool
) -> Camera:
    """The same from packed `numbers` (see `raw.View`) and (width, height)."""
    width, height = size
    _check_ranges(width, height, sh_degree)
    camera = Camera(width=width, height=height, scale_modifier=1.0, sh_degree=sh_degree)
    camera.antialiasing = int(antialiasing)
    camera.low_pass = LOW_PASS
    source = checked("numbers", numbers, (VIEW_NUMBERS,), written=True)
    start = ctypes.addressof(camera) + Camera.tan_x.offset
    ctypes.memmove(start, source.data_ptr(), 4 * VIEW_NUMBERS)
    return camera


def packed_numbers(camera: Camera) -> torch.Tensor:
    """The numbers from which `camera_of_view` makes the same view; background last."""
    numbers = torch.empty(VIEW_NUMBERS)
    start = ctypes.addressof(camera) + Camera.tan_x.offset
    ctypes.memmove(numbers.data_ptr(), start, 4 * VIEW_NUMBERS)
    return numbers


def image_centre(view: _Matrix, projection: _Matrix, axis: int) -> float:
    """Camera-space x (`axis` 0) or y (1), over depth, of the image's centre.

    0 unless the principal point is off the centre. The settings have no field for it; it follows
    from the matrices (row-major, for row vectors): clip x is a sum of camera-space x and depth.
    """
    clip, sideways, forward = (
        [matrix[row * 4 + column] for row in range(3)]
        for matrix, column in ((projection, axis), (view, axis), (view, 2))
    )
    focal, shift = (
        sum(a * b for a, b in zip(clip, direction, strict=True)) / sum(a * a for a in direction)
        if any(direction)
        else 0.0
        for direction in (sideways, forward)
    )
    centre = -shift / focal if focal else 0.0
    return centre if abs(centre) > _LEAST_CENTRE else 0.0


def _floats(name: str, tensor: torch.Tensor, count: int) -> ctypes.Array[ctypes.c_float]:
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{name} must be a tensor, not {type(tensor).__name__}.")
    if tensor.numel() != count:
        raise ValueError(f"{name} must hold {count} numbers, not {tensor.numel()}.")
    return (ctypes.c_float * count)(*tensor.detach().flatten().tolist())


class Frame:
    """One rendered view and what its backward pass needs, in buffers that return to a pool.

    Buffers are large, and new memory is slow: when a frame is deleted, the next one reuses its
    buffers.
    """

    # No lock guards the pool: the garbage collector may call __del__ at any moment, also while this
    # thread holds a lock, or in a child process that was forked while another thread held it.
    # append and pop of a list are atomic.
    _idle: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self._handle: int | None = self._idle_handle() or library.frame_create()
        self._offsets: torch.Tensor | None = None
        self._count: int | None = None
        """Gaussians of the view that was rendered, None before that."""
        self._kept = False
        if not self._handle:
            raise MemoryError(_FAILURES[1])

    def __del__(self) -> None:
        handle, self._handle = getattr(self, "_handle", None), None
        if handle:
            self._idle.append(handle)

    @classmethod
    def _idle_handle(cls) -> int | None:
        try:
            return cls._idle.pop()
        except IndexError:
            return None

    @classmethod
    def release_idle(cls) -> None:
        """Return the memory of all unused buffers to the system."""
        while (handle := cls._idle_handle()) is not None:
            library.frame_destroy(handle)

    def render(
        self, camera: Camera, scene: Scene, outputs: Outputs, *, keep: bool, clamp: bool
    ) -> None:
        """Draw the scene; `keep` what `backward` needs, `clamp` the image to [0, 1]."""
        if scene.count >= MOST_GAUSSIANS:
            raise ValueError(f"at most 2^31 Gaussians can be drawn, not {scene.count}.")
        self._count = None  # until the buffers hold the whole view
        handle, threads = self._live_handle(), torch.get_num_threads()
        self._offsets = camera.offsets  # the library holds its address
        check_status(
            library.frame_render(
                handle, camera, scene, address(self._offsets), outputs, keep, clamp, threads
            )
        )
        self._count, self._kept = scene.count, keep

    def backward(
        self,
        scene: Scene,
        d_image: torch.Tensor,
        d_inverse_depth: torch.Tensor | None,
        gradients: SceneGradients,
    ) -> None:
        """Write the derivatives of the loss, for the scene that was rendered.

        Raises RuntimeError unless `render` was called with `keep`, for as many Gaussians.
        """
        handle = self._live_handle()
        if self._count is None or not self._kept:
            raise RuntimeError("backward needs a view that was rendered with keep=True.")
        if scene.count != self._count:
            raise RuntimeError(
                f"backward needs the {self._count} Gaussians that were rendered, not {scene.count}."
            )
        check_status(
            library.frame_backward(
                handle,
                scene,
                address(d_image),
                address(d_inverse_depth),
                gradients,
                torch.get_num_threads(),
            )
        )

    def importance(self, places: Importance) -> None:
        """Write what each Gaussian contributes, of a view that was rendered with `keep`."""
        if self._count is None or not self._kept:
            raise RuntimeError("importance needs a view that was rendered with keep=True.")
        handle, threads = self._live_handle(), torch.get_num_threads()
        check_status(library.frame_importance(handle, places, threads))

    def counts(self) -> dict[str, int]:
        """Sizes of this view: Gaussians drawn, tile entries, pixels in the blocks blended.

        All are 0 where nothing was rendered.
        """
        numbers = (ctypes.c_int64 * 3)()
        if self._count is not None:
            library.frame_counts(self._live_handle(), numbers)
        return dict(zip(("drawn", "tile_entries", "blended_pixels"), numbers, strict=True))

    def stage_seconds(self) -> dict[str, tuple[float, float]]:
        """(wall, CPU) time of each stage of this view that has run."""
        wall, cpu = ((ctypes.c_double * len(STAGES))() for _ in range(2))
        if self._count is not None:
            library.frame_seconds(self._live_handle(), wall, cpu)
        times = zip(STAGES, wall, cpu, strict=True)
        return {stage: (wall, cpu) for stage, wall, cpu in times if wall > 0}

    def _live_handle(self) -> int:
        if not self._handle:
            raise RuntimeError("the buffers of this view were given back already.")
        return self._handle


def mark_visible(camera: Camera, means: torch.Tensor) -> torch.Tensor:
    """Bool (N,): whether each point of `means` (N, 3) lies beyond the near plane."""
    means = checked("positions", means, (None, 3))
    visible = torch.empty(means.shape[0], dtype=torch.bool)
    library.mark_visible(camera, address(means), means.shape[0], address(visible))
    return visible
