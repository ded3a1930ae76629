# SPDX-License-Identifier: Apache-2.0
"""The network viewer's server, against a client that speaks SIBR's protocol, and damaged ones."""

import json
import logging
import math
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from reference.random_splats import random_raw
from reference.random_views import camera

import train
from gaussian_renderer import network_gui, render, viewer_socket
from gaussian_renderer.backend import RenderOptions
from gaussian_renderer.viewer_socket import (
    TrainingViewer,
    ViewerError,
    ViewRequest,
    listening_socket,
    parse_request,
)
from scene.cameras import MiniCam
from scene.gaussian_model import GaussianModel
from utils.errors import InputError
from utils.image_utils import to_u8

LOOPBACK = "127.0.0.1"
PATH = "/data/a b ä"
WIDTH, HEIGHT = 45, 37


def message(**changes: object) -> dict:
    """What the viewer sends for the camera of the reference views."""
    view = camera()
    # From COLMAP's axes to those of OpenGL: y and z change their signs.
    seen = view.world_view_transform.clone()
    seen[:, 1:3] *= -1
    projected = view.full_proj_transform.clone()
    projected[:, 1] *= -1
    return {
        "train": 1, "shs_python": 0, "rot_scale_python": 0, "keep_alive": 0,
        "scaling_modifier": 1.0, "resolution_x": WIDTH, "resolution_y": HEIGHT,
        "fov_y": view.FoVy, "fov_x": view.FoVx, "z_near": 0.01, "z_far": 100.0,
        "view_matrix": seen.flatten().tolist(),
        "view_projection_matrix": projected.flatten().tolist(),
        **changes,
    }  # fmt: skip


class SibrClient:
    """The client's side of the protocol."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection((LOOPBACK, port), timeout=20)

    def send(self, content: dict | bytes) -> None:
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.socket.sendall(struct.pack("<I", len(text)) + text)

    def receive(self, pixels: int = WIDTH * HEIGHT) -> tuple[bytes, str]:
        image = self._exactly(3 * pixels)
        (length,) = struct.unpack("<I", self._exactly(4))
        return image, self._exactly(length).decode()

    def is_disconnected(self) -> bool:
        try:
            return not self.socket.recv(1)
        except ConnectionError:
            return True

    def _exactly(self, count: int) -> bytes:
        content = b""
        while len(content) < count:
            part = self.socket.recv(count - len(content))
            assert part, "disconnected"
            content += part
        return content


@pytest.fixture
def viewer() -> Iterator[TrainingViewer]:
    listener = listening_socket(LOOPBACK, 0)
    assert listener is not None
    viewer = TrainingViewer(listener, PATH)
    yield viewer
    viewer.close()


@pytest.fixture
def client(viewer: TrainingViewer) -> Iterator[SibrClient]:
    client = SibrClient(viewer._listener.getsockname()[1])
    yield client
    client.socket.close()


def grey(request: ViewRequest) -> bytes:
    assert request.camera is not None
    return bytes([128]) * (3 * request.camera.image_width * request.camera.image_height)


def served(viewer: TrainingViewer, is_last: bool = False) -> None:
    """Several iterations: what the client sends may take a moment."""
    for _ in range(5):
        viewer.serve(grey, is_last)
        time.sleep(0.002)


def test_a_view_is_drawn_as_from_a_camera_of_the_data_set() -> None:
    model, black = GaussianModel.from_raw(random_raw(100, 1)), torch.zeros(3)
    request = parse_request(json.dumps(message()).encode())
    found = render(request.camera, model, RenderOptions(), black)["render"]
    expected = render(camera(), model, RenderOptions(), black)["render"]
    assert expected.max() > 0.2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_pixels_and_path_are_sent(viewer: TrainingViewer, client: SibrClient) -> None:
    client.send(message(resolution_x=4, resolution_y=3))
    served(viewer)
    assert client.receive(12) == (bytes([128]) * 36, PATH)
    client.send(message(resolution_x=0))
    served(viewer)
    assert client.receive(0) == (b"", PATH)
    other = SibrClient(viewer._listener.getsockname()[1])  # one client at a time
    client.socket.close()
    served(viewer)
    other.send(message(resolution_x=1, resolution_y=1))
    served(viewer)
    assert other.receive(1)[1] == PATH
    other.socket.close()


def test_messages_may_arrive_in_pieces_and_without_hurry(
    viewer: TrainingViewer, client: SibrClient
) -> None:
    text = json.dumps(message(resolution_x=4, resolution_y=3)).encode()
    whole = struct.pack("<I", len(text)) + text
    for start in range(0, len(whole), 300):
        client.socket.sendall(whole[start : start + 300])
        began = time.monotonic()
        viewer.serve(grey, is_last=False)
        assert time.monotonic() - began < 5
    served(viewer)
    assert client.receive(12)[1] == PATH


@pytest.mark.parametrize("is_last", [False, True])
def test_a_viewer_can_pause_the_training_and_keep_the_program(
    viewer: TrainingViewer, client: SibrClient, is_last: bool
) -> None:
    held = {"keep_alive": 1} if is_last else {"train": 0}
    client.send(message(resolution_x=1, resolution_y=1, **held))

    def release() -> None:
        client.receive(1)
        time.sleep(0.15)
        client.send(message(resolution_x=1, resolution_y=1))

    thread = threading.Thread(target=release)
    thread.start()
    began = time.monotonic()
    while thread.is_alive():
        viewer.serve(grey, is_last)
    thread.join()
    assert time.monotonic() - began > 0.15
    assert viewer._may_go_on(is_last=False) or not is_last


def test_interrupts_end_a_pause(viewer: TrainingViewer, client: SibrClient) -> None:
    client.send(message(resolution_x=1, resolution_y=1, train=0))
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(viewer._train)
        return len(asked) > 50

    while not asked or viewer._train:
        viewer.serve(grey, False, stop)
    assert asked.count(False) > 0


def test_silent_and_slow_clients_are_disconnected(
    viewer: TrainingViewer, client: SibrClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer_socket, "STALL_SECONDS", 0.05)
    served(viewer)
    time.sleep(0.1)
    served(viewer)
    assert viewer._client is not None  # nothing is expected of it
    client.socket.sendall(b"\x10\x00")
    served(viewer)
    time.sleep(0.1)
    served(viewer)
    assert viewer._client is None and client.is_disconnected()
    # It does not read what it has asked for.
    slow = SibrClient(viewer._listener.getsockname()[1])
    slow.send(message(resolution_x=4000, resolution_y=4000, train=0))
    began = time.monotonic()
    while viewer._client is None or viewer._client._unsent or not viewer._train:
        viewer.serve(grey, is_last=False)
        if viewer._client is None and time.monotonic() > began + 0.3:
            break
        assert time.monotonic() < began + 30
    assert viewer._client is None and viewer._may_go_on(is_last=True)
    slow.socket.close()


def damaged() -> dict[str, bytes | dict]:
    singular = [0.0] * 16
    return {
        "text": b"hello",
        "bytes": b"\xff\xfe\x00",
        "list": b"[1]",
        "nan": b'{"train": NaN}',
        "deep": b"[" * 60000,
        "missing": {},
        "huge": message(resolution_x=100_000),
        "many": message(resolution_x=16_000, resolution_y=16_000),
        "negative": message(resolution_x=-1),
        "word": message(fov_x="wide"),
        "flat": message(fov_x=math.pi),
        "large": message(z_far=1e300),
        "digits": b'{"train": ' + b"9" * 5000 + b"}",
        "short": message(view_matrix=[1.0] * 15),
        "mixed": message(view_matrix=[None] * 16),
        "singular": message(view_matrix=singular),
        "scale": message(scaling_modifier=-1),
    }


@pytest.mark.parametrize("name", damaged())
def test_damaged_messages_are_refused(name: str) -> None:
    content = damaged()[name]
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    with pytest.raises(ViewerError, match=r"message|pixels|not JSON"):
        parse_request(text)


def test_a_damaged_client_is_disconnected_and_the_next_one_served(
    viewer: TrainingViewer, client: SibrClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
    served(viewer)
    assert client.is_disconnected()
    assert "disconnected: it announces a message of 542,393,671 bytes" in caplog.text
    failing = SibrClient(viewer._listener.getsockname()[1])
    failing.send(message(train=0))

    def fail(request: ViewRequest) -> bytes:
        raise RuntimeError("no such view")

    while "its view failed" not in caplog.text:
        viewer.serve(fail, is_last=False)
    assert failing.is_disconnected() and viewer._may_go_on(is_last=False)
    failing.socket.close()
    good = SibrClient(viewer._listener.getsockname()[1])
    good.send(message(resolution_x=1, resolution_y=1))
    served(viewer)
    assert good.receive(1)[1] == PATH
    good.socket.close()


def test_a_port_in_use_is_a_warning(
    viewer: TrainingViewer, caplog: pytest.LogCaptureFixture
) -> None:
    port = viewer._listener.getsockname()[1]
    assert listening_socket(LOOPBACK, port) is None
    assert f"{LOOPBACK} port {port} is not available (Address already in use" in caplog.text
    assert listening_socket("no.such.host.invalid", 0) is None
    assert "no viewer can connect" in caplog.text.splitlines()[-1]
    assert "no authentication" not in caplog.text
    everywhere = listening_socket("0.0.0.0", 0)
    assert everywhere is not None
    everywhere.close()
    assert "anyone who reaches 0.0.0.0" in caplog.text


def test_scripts_of_forks_use_functions_of_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("conn", "_latest", "listener"):
        monkeypatch.setattr(network_gui, name, None)
    network_gui.try_connect()
    assert network_gui.conn is None
    network_gui.init(LOOPBACK, 0)
    assert network_gui.listener is not None
    port = network_gui.listener.getsockname()[1]
    client = SibrClient(port)
    while network_gui.conn is None:
        network_gui.try_connect()
    client.send(message(shs_python=1, scaling_modifier=0.5, train=0))
    view, do_training, shs, rotations, keep_alive, scale = network_gui.receive()
    assert isinstance(view, MiniCam) and (view.image_width, view.image_height) == (WIDTH, HEIGHT)
    assert (do_training, shs, rotations, keep_alive, scale) == (False, True, False, False, 0.5)
    network_gui.send(memoryview(bytes(3 * WIDTH * HEIGHT)), PATH)
    assert client.receive() == (bytes(3 * WIDTH * HEIGHT), PATH)
    client.send(message(resolution_y=0))
    assert network_gui.receive() == (None,) * 6
    network_gui.send(None, PATH)
    assert client.receive(0) == (b"", PATH)
    client.socket.close()
    with pytest.raises(ViewerError, match="disconnected"):
        network_gui.receive()
    network_gui.conn = None
    with pytest.raises(ViewerError, match="no viewer is connected"):
        network_gui.send(None, PATH)
    network_gui.try_connect()  # closes what the script has dropped
    network_gui.listener.close()


def trained(scene: Path, folder: Path, *words: object) -> bytes:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "stdout", sys.stdout)
        argv = ["-s", scene, "-m", folder, "--iterations", 25, "--test_iterations", -1, *words]
        patched.setattr(sys, "argv", ["train.py", *map(str, argv)])
        train.main()
    return (folder / "point_cloud/iteration_25/point_cloud.ply").read_bytes()


def test_watching_a_training_does_not_change_it(small_scene: Path, tmp_path: Path) -> None:
    free = listening_socket(LOOPBACK, 0)
    assert free is not None
    port = free.getsockname()[1]
    free.close()
    images: list[tuple[bytes, str]] = []

    def watch() -> None:
        for _ in range(4000):
            try:
                client = SibrClient(port)
                break
            except ConnectionRefusedError:
                time.sleep(0.005)
        for last in (False, False, True):
            # Held at the last iteration until the last view.
            client.send(message(train=1, keep_alive=int(not last), shs_python=1))
            images.append(client.receive())
        client.socket.close()

    thread = threading.Thread(target=watch)
    thread.start()
    words = ("--train_test_exp", "--random_background", "--densify_from_iter", 3)
    words += ("--densification_interval", 5)
    watched = trained(small_scene, tmp_path / "watched", "--port", port, *words)
    thread.join(20)
    assert watched == trained(small_scene, tmp_path / "alone", "--disable_viewer", *words)
    assert [path for _, path in images] == [str(small_scene)] * 3
    assert all(np.frombuffer(image, np.uint8).any() for image, _ in images)


def test_a_busy_port_does_not_end_a_training(small_scene: Path, tmp_path: Path, capsys) -> None:
    listener = listening_socket(LOOPBACK, 0)
    assert listener is not None
    port = listener.getsockname()[1]
    trained(small_scene, tmp_path / "model", "--port", port)
    listener.close()
    assert f"warning: no viewer can connect, because {LOOPBACK} port {port}" in (
        capsys.readouterr().err
    )
    with pytest.raises(InputError, match="--port 65536: expected a whole number from 0 to 65535"):
        trained(small_scene, tmp_path / "none", "--port", 65536)


def test_pixels_are_rounded_as_in_saved_images() -> None:
    image = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1)
    assert to_u8(image).permute(1, 2, 0).numpy().tobytes() == bytes([0, 64, 255])
