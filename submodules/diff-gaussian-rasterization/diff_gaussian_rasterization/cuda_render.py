# SPDX-License-Identifier: Apache-2.0
"""One view and its derivatives on a CUDA device; docs/gpu.md lists the kernels in their order."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import native
from ._C import Gradients, Parameters
from ._cuda import Arguments, KernelRunner, kernels_for, pointer
from .adam import RawAdam
from .cuda_adam import AdamFactors, corrected_factors, plain_factors
from .cuda_sort import sort_with_indices, sum_up

_TILE, _TILE_PIXELS, _BUCKET, _CHANNELS = 16, 256, 32, 4  # of cuda_frame.h
_SPLAT_FLOATS, _REACH_BYTES, _RECORD_FLOATS = 12, 48, 10  # sizes of its structures
_CONTRIBUTION_FLOATS = 3  # of importance.cu
_WARPS_BACKWARD = 4  # of a block of blend_backward


class ViewKernels(NamedTuple):
    """The source files whose kernels draw a view."""

    project: KernelRunner
    sort: KernelRunner
    tiles: KernelRunner
    blend: KernelRunner
    project_backward: KernelRunner
    importance: KernelRunner


def kernels_on(device: torch.device) -> ViewKernels:
    """The kernels of all these files."""
    return ViewKernels(*(kernels_for(name, device.index) for name in ViewKernels._fields))


_FRAME_BUFFERS = (
    *("radii", "splats", "reaches", "depths", "tile_counts", "first_slots"),
    *("order", "slots_before"),
    *("slot_tiles", "slot_gaussians", "records"),
    *("entry_tiles", "entry_slots", "tile_begin", "tile_used", "bucket_begin", "bucket_tiles"),
    *("checkpoints", "pixels", "image", "inverse_depth"),
)


class _Frame(Arguments):
    """Mirror of `cuda::Frame`."""

    _fields_ = (
        ("camera", native.Camera),
        ("columns", ctypes.c_int32),
        ("rows", ctypes.c_int32),
        ("clamped", ctypes.c_int32),
        ("kept", ctypes.c_int32),
        ("count", ctypes.c_int64),
        ("offsets", pointer),
        *((name, pointer) for name in _FRAME_BUFFERS),
    )


class _Scene(Arguments):
    """Mirror of `rasterizer::Scene`."""

    _fields_ = tuple(native.Scene._fields_)


class _SceneGradients(Arguments):
    """Mirror of `rasterizer::SceneGradients`."""

    _fields_ = tuple(native.SceneGradients._fields_)


class _ProjectArguments(Arguments):
    """Mirror of `ProjectArguments` in project.cu."""

    _fields_ = (("frame", _Frame), ("scene", _Scene))


class _VisibleArguments(Arguments):
    """Mirror of `VisibleArguments` in project.cu."""

    _fields_ = (
        ("camera", native.Camera),
        ("means", pointer),
        ("count", ctypes.c_int64),
        ("visible", pointer),
    )


class _TilesArguments(Arguments):
    """Mirror of `TilesArguments` in tiles.cu."""

    _fields_ = (("frame", _Frame), ("entries", ctypes.c_int64))


class _BlendArguments(Arguments):
    """Mirror of `BlendArguments` in blend.cu."""

    _fields_ = (("frame", _Frame),)


class _BlendBackwardArguments(Arguments):
    """Mirror of `BlendBackwardArguments` in blend.cu."""

    _fields_ = (
        ("frame", _Frame),
        ("d_image", pointer),
        ("d_inverse_depth", pointer),
        ("derivatives", pointer),
    )


class _ProjectBackwardArguments(Arguments):
    """Mirror of `ProjectBackwardArguments` in project_backward.cu."""

    _fields_ = (("frame", _Frame), ("scene", _Scene), ("gradients", _SceneGradients))


class _ImportanceArguments(Arguments):
    """Mirror of `ImportanceArguments` in importance.cu."""

    _fields_ = (
        ("frame", _Frame),
        ("pixel_weights", pointer),
        ("contributions", pointer),
        ("counts", pointer),
        ("weights", pointer),
        ("largest", pointer),
    )


class _Attribute(Arguments):
    """Mirror of `Attribute` in project_backward.cu."""

    _fields_ = (
        ("parameter", pointer),
        ("mean", pointer),
        ("variance", pointer),
        ("factors", AdamFactors),
    )


_ATTRIBUTES = ("means", "dc", "rest", "opacities", "scales", "rotations")  # as in RawGaussians


class _ProjectUpdateArguments(Arguments):
    """Mirror of `ProjectUpdateArguments` in project_backward.cu."""

    _fields_ = (
        ("frame", _Frame),
        ("scene", _Scene),
        *((name, _Attribute) for name in _ATTRIBUTES),
        ("screen", pointer),
        ("rest_width", ctypes.c_int32),
        ("in_view_only", ctypes.c_int32),
    )


class CudaFrame:
    """One rendered view: its outputs, and the buffers that the backward pass needs.

    image (3, H, W); radii int32 (N,), pixels, 0 where not in view; inverse_depth (1, H, W) or None.
    """

    def __init__(
        self,
        kernels: ViewKernels,
        camera: native.Camera,
        parameters: Parameters,
        *,
        raw: bool,
        inverse_depth: bool,
        keep: bool,
        clamp: bool,
    ) -> None:
        """Draws at least one Gaussian. `parameters` were checked and are on one device.

        `raw`: they are a model's as stored; `keep`: for a backward pass; `clamp` the image to
        [0, 1]. Waits once, for the number of tile entries, while the device sorts. RuntimeError
        above 2^31 entries.
        """
        self._kernels, self._camera = kernels, camera
        self.parameters, self._raw = parameters, raw
        self._kept, self._clamped = keep, clamp
        self._columns, self._rows = -(-camera.width // _TILE), -(-camera.height // _TILE)
        self._buffers: dict[str, Tensor | None] = dict.fromkeys(_FRAME_BUFFERS)
        size = camera.height, camera.width
        self.image = self._make("image", 3, *size)
        self.inverse_depth = self._make("inverse_depth", 1, *size) if inverse_depth else None
        self.radii = self._make("radii", self._count, dtype=torch.int32)
        self._project()
        self._entries = self._number_entries()
        self._sort_into_tiles()
        self._blend()
        if not keep:
            self._buffers.clear()

    @property
    def _count(self) -> int:
        return self.parameters.means.shape[0]

    @property
    def _tiles(self) -> int:
        return self._columns * self._rows

    @property
    def _most_buckets(self) -> int:
        """No tile has more than one that is not full."""
        return self._entries // _BUCKET + min(self._tiles, self._entries)

    def _make(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A new buffer of the frame, not initialised."""
        tensor = torch.empty(shape, dtype=dtype, device=self.parameters.means.device)
        self._buffers[name] = tensor
        return tensor

    def _frame(self) -> _Frame:
        return _Frame(
            camera=self._camera,
            columns=self._columns,
            rows=self._rows,
            clamped=self._clamped,
            kept=self._kept,
            count=self._count,
            offsets=self._camera.offsets,
            **self._buffers,
        )

    def _project(self) -> None:
        n = self._count
        self._make("splats", n, _SPLAT_FLOATS)
        self._make("reaches", n, _REACH_BYTES, dtype=torch.uint8)
        self._make("depths", n, dtype=torch.int32)
        self._make("tile_counts", n, dtype=torch.int32)
        arguments = _ProjectArguments(frame=self._frame(), scene=_scene(self.parameters, self._raw))
        self._kernels.project.launch_over("project_gaussians", n, arguments)

    def _number_entries(self) -> int:
        """Gives every entry its slot, in order of depth; returns their number.

        Their number is known before the sort and on its way to the host meanwhile: the device has
        the sort to do until the host knows what to launch next.
        """
        depths, counts = self._buffers["depths"], self._buffers["tile_counts"]
        assert depths is not None
        assert counts is not None
        number = read_later(counts.sum(dtype=torch.int64))
        self._buffers["order"] = sort_with_indices(self._kernels.sort, depths, 32)[1]
        slots_before = self._make("slots_before", self._count, dtype=torch.int32)
        arguments = _TilesArguments(frame=self._frame(), entries=0)
        self._kernels.tiles.launch_over("count_in_order", self._count, arguments)
        sum_up(self._kernels.sort, slots_before)
        entries = number()
        native.check_entries(entries)
        return entries

    def _sort_into_tiles(self) -> None:
        self._make("first_slots", self._count, dtype=torch.int32)
        slot_tiles = self._make("slot_tiles", self._entries, dtype=torch.int32)
        self._make("slot_gaussians", self._entries, dtype=torch.int32)
        launch = self._kernels.tiles.launch_over
        arguments = _TilesArguments(frame=self._frame(), entries=self._entries)
        launch("emit_entries", self._count, arguments)
        begin = self._make("tile_begin", self._tiles + 1, dtype=torch.int32)
        bucket_begin = self._make("bucket_begin", self._tiles + 1, dtype=torch.int32)
        if self._entries == 0:
            begin.zero_()
        else:
            bits = max(1, (self._tiles - 1).bit_length())
            by_tile = sort_with_indices(self._kernels.sort, slot_tiles, bits)
            self._buffers["entry_tiles"], self._buffers["entry_slots"] = by_tile
        arguments = _TilesArguments(frame=self._frame(), entries=self._entries)
        launch("find_tiles", self._entries, arguments)
        launch("count_buckets", self._tiles + 1, arguments)
        sum_up(self._kernels.sort, bucket_begin)
        for name in ("slot_tiles", "entry_tiles", "depths", "slots_before", "order", "reaches"):
            self._buffers[name] = None

    def _blend(self) -> None:
        if self._kept:
            tiles = self._tiles
            self._make("tile_used", tiles, dtype=torch.int32)
            self._make("bucket_tiles", self._most_buckets, dtype=torch.int32)
            self._make("checkpoints", self._most_buckets, 1 + _CHANNELS, _TILE_PIXELS)
            self._make("pixels", tiles, _CHANNELS, _TILE_PIXELS)
        self._kernels.blend.launch(
            "blend_forward", self._tiles, _BlendArguments(frame=self._frame())
        )

    def backward(
        self, d_image: Tensor, d_inverse_depth: Tensor | None, gradients: Gradients
    ) -> None:
        """Write the derivatives of the loss for the parameters, which must not have changed.

        Tensors were checked. RuntimeError unless the view was rendered with `keep`.
        """
        frame = self._differentiate_blending(d_image, d_inverse_depth)
        project = _ProjectBackwardArguments(
            frame=frame, scene=_scene(self.parameters, self._raw), gradients=_places(gradients)
        )
        self._kernels.project_backward.launch_over("project_backward", self._count, project)

    def update(
        self,
        d_image: Tensor,
        d_inverse_depth: Tensor | None,
        adam: RawAdam,
        screen: Tensor | None,
    ) -> None:
        """A step of Adam on the parameters, raw ones, by the derivatives that `backward` writes.

        `screen` gets those of the screen positions. Tensors were checked. RuntimeError unless the
        view was rendered with `keep`.
        """
        frame = self._differentiate_blending(d_image, d_inverse_depth)
        arguments = _ProjectUpdateArguments(
            frame=frame,
            scene=_scene(self.parameters, self._raw),
            screen=screen,
            rest_width=0 if self.parameters.rest is None else 3 * self.parameters.rest.shape[1],
            in_view_only=adam.step is None,
            **{
                name: _attribute(getattr(self.parameters, name), number, adam)
                for number, name in enumerate(_ATTRIBUTES)
            },
        )
        self._kernels.project_backward.launch_over("project_update", self._count, arguments)

    def _differentiate_blending(self, d_image: Tensor, d_inverse_depth: Tensor | None) -> _Frame:
        """Fills the records: the derivatives for what was blended."""
        if not self._kept:
            raise RuntimeError("backward needs a view that was rendered with keep=True.")
        derivatives = d_image.new_empty(self._tiles, _CHANNELS, _TILE_PIXELS)
        self._make("records", self._entries, _RECORD_FLOATS)
        frame = self._frame()
        blend = _BlendBackwardArguments(
            frame=frame, d_image=d_image, d_inverse_depth=d_inverse_depth, derivatives=derivatives
        )
        self._kernels.blend.launch("gather_derivatives", self._tiles, blend)
        blocks = -(-self._most_buckets // _WARPS_BACKWARD)
        self._kernels.blend.launch("blend_backward", blocks, blend)
        return frame

    def importance(
        self, counts: Tensor, weights: Tensor, largest: Tensor, pixel_weights: Tensor | None
    ) -> None:
        """Write what each Gaussian contributes; see _C.Importance. Tensors were checked.

        RuntimeError unless the view was rendered with `keep`.
        """
        if not self._kept:
            raise RuntimeError("importance needs a view that was rendered with keep=True.")
        contributions = weights.new_empty(self._entries, _CONTRIBUTION_FLOATS)
        arguments = _ImportanceArguments(
            frame=self._frame(),
            pixel_weights=pixel_weights,
            contributions=contributions,
            counts=counts,
            weights=weights,
            largest=largest,
        )
        blocks = -(-self._most_buckets // _WARPS_BACKWARD)
        self._kernels.importance.launch("measure_entries", blocks, arguments)
        self._kernels.importance.launch_over("sum_contributions", self._count, arguments)


def _attribute(parameter: Tensor | None, number: int, adam: RawAdam) -> _Attribute:
    """The tensor with this number, its moments, and the constants of its step."""
    constants = adam.learning_rates[number], adam.betas, adam.eps
    if adam.step is None:
        factors = plain_factors(*constants)
    else:
        rate, betas, eps = constants
        factors = corrected_factors(rate, adam.step, betas, eps)
    mean, variance = adam.exp_avg[number], adam.exp_avg_sq[number]
    return _Attribute(parameter=parameter, mean=mean, variance=variance, factors=factors)


def read_later(number: Tensor) -> Callable[[], int]:
    """A function that returns a tensor's one number, an integer, and waits for no later work.

    On a CUDA device the copy to the host is started here, on PyTorch's current stream.
    """
    if number.device.type != "cuda":
        return lambda: int(number)
    on_host = torch.empty_like(number, device="cpu", pin_memory=True)
    on_host.copy_(number, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(number.device))

    def read() -> int:
        copied.synchronize()
        return int(on_host)

    return read


def mark_visible(kernels: ViewKernels, camera: native.Camera, means: Tensor) -> Tensor:
    """See native.mark_visible."""
    visible = torch.empty(means.shape[0], dtype=torch.bool, device=means.device)
    arguments = _VisibleArguments(camera=camera, means=means, count=len(means), visible=visible)
    kernels.project.launch_over("mark_visible", len(means), arguments)
    return visible


def _scene(p: Parameters, raw: bool) -> _Scene:
    return _Scene(
        count=p.means.shape[0],
        means=p.means,
        opacities=p.opacities,
        scales=p.scales,
        rotations=p.rotations,
        covariances=p.covariances,
        colors=p.colors,
        raw=raw,
        **_harmonics(p.dc, p.rest),
    )


def _places(g: Gradients) -> _SceneGradients:
    return _SceneGradients(
        means=g.means,
        opacities=g.opacities,
        scales=g.scales,
        rotations=g.rotations,
        covariances=g.covariances,
        colors=g.colors,
        rest_width=0 if g.rest is None else 3 * (g.rest.shape[1] - (g.dc is None)),
        screen_width=0 if g.screen is None else g.screen.shape[1],
        screen=g.screen,
        **_harmonics(g.dc, g.rest),
    )


def _harmonics(dc: Tensor | None, rest: Tensor | None) -> dict[str, Any]:
    """The first coefficient and the others, and how many floats apart their rows are."""
    if rest is None:
        return {"dc": dc, "rest": None, "dc_stride": 3, "rest_stride": 0}
    stride = 3 * rest.shape[1]
    if dc is not None:
        return {"dc": dc, "rest": rest, "dc_stride": 3, "rest_stride": stride}
    others = rest.flatten()[3:]
    return {"dc": rest, "rest": others, "dc_stride": stride, "rest_stride": stride}
