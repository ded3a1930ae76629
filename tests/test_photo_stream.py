# SPDX-License-Identifier: Apache-2.0
"""Photographs copied while a view is drawn, with CUDA streams that record what they are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from cuda_paths import cuda_path
from reference.random_splats import random_raw
from reference.random_views import camera
from torch import Tensor

from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.cuda_backend import CudaBackend
from gaussian_renderer.kernel_backend import installed_kernels
from gaussian_renderer.photo_stream import PhotoStream

DEVICE = torch.device("cuda", 0)


class FakeStreams:
    """Streams of a device whose memory is the CPU's, and all that happens to them, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.happened: list[str] = []
        self.current = "main"
        original = Tensor.to

        def to(tensor: Tensor, target, *args, non_blocking: bool = False, **kwargs) -> Tensor:
            if target != DEVICE:
                return original(tensor, target, *args, **kwargs)
            assert non_blocking
            self.happened.append(f"copy on {self.current}")
            return tensor.clone()

        def pin(tensor: Tensor) -> Tensor:
            self.happened.append("pin")
            return tensor.clone()

        def record(tensor: Tensor, stream: FakeStream) -> None:
            self.happened.append(f"kept for {stream.name}")

        monkeypatch.setattr(Tensor, "to", to)
        monkeypatch.setattr(Tensor, "pin_memory", pin)
        monkeypatch.setattr(Tensor, "record_stream", record)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: FakeStream("side", self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: FakeStream("main", self))
        monkeypatch.setattr(torch.cuda, "stream", self.entered)

    @contextmanager
    def entered(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before


class FakeStream:
    def __init__(self, name: str, streams: FakeStreams) -> None:
        self.name, self._streams = name, streams

    def wait_stream(self, other: FakeStream) -> None:
        self._streams.happened.append(f"{self.name} waits for {other.name}")


def test_a_photograph_is_copied_aside_and_waited_for_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams, photo = FakeStreams(monkeypatch), torch.arange(12, dtype=torch.uint8)
    finish = PhotoStream().start(photo, DEVICE)
    assert streams.happened == ["pin", "copy on side"]
    assert torch.equal(finish(), photo)
    assert streams.happened[2:] == ["main waits for side", "kept for main"]
    assert finish().dtype == torch.uint8


def test_a_photograph_on_the_device_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    streams, photo = FakeStreams(monkeypatch), torch.zeros(3, dtype=torch.uint8)
    assert PhotoStream().start(photo, photo.device)() is photo
    assert not streams.happened


def test_the_cuda_backend_starts_the_copy_before_it_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels, order, view, raw = installed_kernels(), [], camera(20, 17), random_raw(20, 0)
    assert kernels is not None
    render = kernels.raw.render

    def start(stream: PhotoStream, photo: Tensor, device: torch.device):
        assert photo.dtype == torch.uint8
        order.append("start")
        return lambda: order.append("finish") or photo

    def drawn(*args, **kwargs):
        order.append("draw")
        return render(*args, **kwargs)

    monkeypatch.setattr(PhotoStream, "start", start)
    monkeypatch.setattr(kernels.raw, "render", drawn)
    with cuda_path():
        backend = CudaBackend(RenderOptions(), kernels)
        backend.differentiate(view, raw, raw.map(torch.empty_like), torch.zeros(3), 0, 0.2)
    assert order == ["start", "draw", "finish"]
