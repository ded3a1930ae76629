# SPDX-License-Identifier: Apache-2.0
"""The server of the SIBR network viewer, inside a training loop that it must never hold up.

One TCP client at a time. It sends the length of a message (u32, little-endian) and JSON that
describes a view; the answer is the view's pixels, RGB of 8 bits from the top without a header, then
the length of a text and the text, the path of the data set. There is no authentication: the server
listens on the loopback interface unless another address is asked for. What a client sends is
checked; a client that sends something else, or nothing for too long, is disconnected.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from scene.cameras import MiniCam

logger = logging.getLogger(__name__)

MOST_MESSAGE_BYTES = 1 << 16
"""Of one message; the viewer's have about 1,000."""
MOST_PIXELS = 1 << 25
MOST_SIDE = 1 << 14
STALL_SECONDS = 10.0
"""A client is disconnected after so long without a byte, if one is expected of it."""
_READ_BYTES = 1 << 16
_LENGTH = struct.Struct("<I")
_PAUSE_SECONDS = 0.05  # between looks for Ctrl-C, while a viewer has paused the training


class ViewerError(Exception):
    """Why a client is disconnected."""


@dataclass(frozen=True)
class ViewRequest:
    """One message of a viewer."""

    camera: MiniCam | None
    """None: no image is wanted."""
    train: bool
    """Whether training may go on."""
    keep_alive: bool
    """Whether the program has to stay after the last iteration."""
    convert_SHs_python: bool
    compute_cov3D_python: bool
    scaling_modifier: float


def parse_request(text: bytes) -> ViewRequest:
    """The request in a message. `ViewerError` if something in it cannot be used."""
    try:
        values = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ViewerError(f"a message is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ViewerError(f"a message is not a JSON object but {type(values).__name__}")
    return ViewRequest(
        camera=_camera(values),
        train=_number(values, "train") != 0,
        keep_alive=_number(values, "keep_alive") != 0,
        convert_SHs_python=_number(values, "shs_python") != 0,
        compute_cov3D_python=_number(values, "rot_scale_python") != 0,
        scaling_modifier=_number(values, "scaling_modifier", 0.0, 100.0),
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _number(
    values: Mapping[str, Any], name: str, least: float = -math.inf, most: float = math.inf
) -> float:
    value = values.get(name)
    if not isinstance(value, (int, float)) or not least <= value <= most or abs(value) > 1e30:
        raise ViewerError(f"{name} {value!r} in a message cannot be used")
    return float(value)


def _camera(values: Mapping[str, Any]) -> MiniCam | None:
    width, height = (int(_number(values, f"resolution_{axis}", 0, MOST_SIDE)) for axis in "xy")
    if not width or not height:
        return None
    if width * height > MOST_PIXELS:
        raise ViewerError(f"{width}x{height} pixels are more than {MOST_PIXELS:,}")
    view, projection = (_matrix(values, name) for name in ("view", "view_projection"))
    # OpenGL's cameras look along -z with y upwards, COLMAP's along z with y downwards.
    view[:, 1:3] *= -1
    projection[:, 1] *= -1
    if abs(float(torch.linalg.det(view.double()))) < 1e-12:
        raise ViewerError("the view_matrix in a message cannot be inverted")
    fov_y, fov_x = (_number(values, f"fov_{axis}", 1e-4, math.pi - 1e-4) for axis in "yx")
    near, far = _number(values, "z_near"), _number(values, "z_far")
    return MiniCam(width, height, fov_y, fov_x, near, far, view, projection)


def _matrix(values: Mapping[str, Any], name: str) -> Tensor:
    """(4, 4) for row vectors: column-major as OpenGL has it in memory, read row by row."""
    found = values.get(f"{name}_matrix")
    if not isinstance(found, list) or len(found) != 16:
        raise ViewerError(f"{name}_matrix in a message is not a list of 16 numbers")
    numbers = [_number({name: value}, name) for value in found]
    return torch.tensor(numbers, dtype=torch.float32).view(4, 4)


class Client:
    """A connected viewer: what it has sent and was not used, and what is to be sent. Never waits.

    All methods raise `ViewerError` if the client is gone, silent or sends too much.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._received = bytearray()
        self._unsent = memoryview(b"")
        self._last_byte = time.monotonic()

    def message(self) -> bytes | None:
        """The next message, if it is there as a whole and the last answer has been sent."""
        if not self.flush():
            return None
        if (found := self._whole_message()) is None:
            self._receive()
            found = self._whole_message()
        if found is None and self._received:
            self.check_time()
        return found

    def answer(self, content: bytes) -> None:
        """Send `content`, now or in later calls of `flush`."""
        self._unsent = memoryview(bytes(self._unsent) + content)
        self._last_byte = time.monotonic()
        self.flush()

    def flush(self) -> bool:
        """Send what can be sent; whether that was all."""
        while self._unsent:
            try:
                sent = self._connection.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                self.check_time()
                return False
            except OSError as error:
                raise ViewerError(f"the connection is lost ({error})") from error
            self._unsent = self._unsent[sent:]
            self._last_byte = time.monotonic()
        return True

    def check_time(self) -> None:
        """Raise if the last byte was sent or received too long ago."""
        if time.monotonic() - self._last_byte > STALL_SECONDS:
            raise ViewerError(f"it has been silent for {STALL_SECONDS:g} seconds")

    def wait(self, seconds: float) -> None:
        """Wait until something can be received, or sent if something is left to send."""
        sending = [self._connection] if self._unsent else []
        select.select([] if sending else [self._connection], sending, [], seconds)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _receive(self) -> None:
        try:
            content = self._connection.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise ViewerError(f"the connection is lost ({error})") from error
        if not content:
            raise ViewerError("it has disconnected")
        self._received += content
        self._last_byte = time.monotonic()

    def _whole_message(self) -> bytes | None:
        if len(self._received) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._received)
        if not 0 < length <= MOST_MESSAGE_BYTES:
            raise ViewerError(
                f"it announces a message of {length:,} bytes, at most {MOST_MESSAGE_BYTES:,} are "
                "accepted"
            )
        end = _LENGTH.size + length
        if len(self._received) < end:
            return None
        message = bytes(self._received[_LENGTH.size : end])
        del self._received[:end]
        return message


def answer_of(image: bytes | None, source_path: str) -> bytes:
    """What is sent for one message: the pixels, if there are any, and the data set's path."""
    path = source_path.encode("utf-8", errors="surrogateescape")
    return (image or b"") + _LENGTH.pack(len(path)) + path


def listening_socket(ip: str, port: int) -> socket.socket | None:
    """A socket that accepts without waiting; None, with a warning, where that is impossible."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    try:
        listener = socket.create_server((ip, port), family=family, backlog=1)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        logger.warning(
            "no viewer can connect, because %s port %d is not available (%s): give another --port, "
            "or --disable_viewer", ip, port, reason,
        )  # fmt: skip
        return None
    listener.setblocking(False)
    address, port = listener.getsockname()[:2]
    if not _is_loopback(address):
        logger.warning(
            "anyone who reaches %s port %d can watch and pause this training: the viewer's "
            "protocol has no authentication", address, port,
        )  # fmt: skip
    return listener


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def accepted(listener: socket.socket) -> Client | None:
    """The client that waits for a connection, if there is one."""
    try:
        connection, _ = listener.accept()
    except OSError:  # none waits, or it is gone already
        return None
    return Client(connection)


Draw = Callable[[ViewRequest], bytes]
"""The pixels of a view, 3 bytes each, row by row from the top."""


class TrainingViewer:
    """Serves a viewer between the iterations of a training."""

    def __init__(self, listener: socket.socket, source_path: str) -> None:
        self._listener, self._source_path = listener, source_path
        self._client: Client | None = None
        self._train, self._keep_alive = True, False
        self._next_image = 0.0

    def serve(self, draw: Draw, is_last: bool, stop: Callable[[], bool] = lambda: False) -> None:
        """Answer the viewer if it has sent something.

        Returns at once, unless the viewer has paused the training, or asks to stay after the last
        iteration: then when it allows to go on, is disconnected, or `stop` is true.
        """
        while True:
            if self._client is None:
                self._client = accepted(self._listener)
            if self._client is None:
                return
            try:
                busy = self._may_go_on(is_last) and time.monotonic() < self._next_image
                answered = not busy and self._answer(self._client, draw)
                if self._may_go_on(is_last) or stop():
                    return
                if not answered:
                    self._client.check_time()
                    self._client.wait(_PAUSE_SECONDS)
            except ViewerError as fault:
                logger.info("The viewer is disconnected: %s", fault)
                self._disconnect()
            except Exception:  # whatever a view that someone else chose makes of the renderer
                logger.warning("the viewer is disconnected: its view failed", exc_info=True)
                self._disconnect()

    def close(self) -> None:
        """Disconnect the viewer, and accept no other."""
        self._disconnect()
        self._listener.close()

    def _may_go_on(self, is_last: bool) -> bool:
        return self._train and not (is_last and self._keep_alive)

    def _answer(self, client: Client, draw: Draw) -> bool:
        """Whether a message was there, and is answered."""
        message = client.message()
        if message is None:
            return False
        request = parse_request(message)
        began = time.monotonic()
        image = None if request.camera is None else draw(request)
        client.answer(answer_of(image, self._source_path))
        self._train, self._keep_alive = request.train, request.keep_alive
        # Views take at most half of the time of a training that goes on.
        self._next_image = 2 * time.monotonic() - began
        return True

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client = None
        self._train, self._keep_alive = True, False
