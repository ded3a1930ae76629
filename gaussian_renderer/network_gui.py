# SPDX-License-Identifier: Apache-2.0
"""The viewer's server as module-level functions, for training scripts of forks of Inria's code.

`init` once; in each iteration `try_connect` while `conn` is None, and while it is not None
`receive` and `send`. If one of these raises, the script sets `conn` to None. This project's
train.py uses `gaussian_renderer.viewer_socket` itself, which does not wait.
"""

from __future__ import annotations

import json
import socket
from typing import Any

from gaussian_renderer.viewer_socket import (
    STALL_SECONDS,
    Client,
    ViewerError,
    accepted,
    answer_of,
    listening_socket,
    parse_request,
)
from scene.cameras import MiniCam

host = "127.0.0.1"
port = 6009
listener: socket.socket | None = None
conn: Client | None = None
_latest: Client | None = None  # `conn`, until the next one: scripts set `conn` to None themselves

Received = tuple[MiniCam | None, bool | None, bool | None, bool | None, bool | None, float | None]


def init(wish_host: str, wish_port: int) -> None:
    """Listen. Where that is impossible (the port is in use) there is a warning, and no viewer."""
    global host, port, listener
    if listener is not None:
        listener.close()
    host, port = wish_host, wish_port
    listener = listening_socket(wish_host, wish_port)


def try_connect() -> None:
    """Set `conn` if a viewer waits for a connection. Does not wait."""
    global conn, _latest
    if listener is None:
        return
    if _latest is not None and conn is not _latest:
        _latest.close()
        _latest = None
    found = accepted(listener)
    if found is not None:
        conn = _latest = found


def read() -> dict[str, Any]:
    """The next message, waited for. `ViewerError` if none comes or it is damaged."""
    text = _message()
    parse_request(text)
    return json.loads(text)


def receive() -> Received:
    """The next message as (camera, train, shs_python, rot_scale_python, keep_alive, scaling).

    All six are None if no image is wanted. `ViewerError` if no message comes or it is damaged.
    """
    request = parse_request(_message())
    if request.camera is None:
        return None, None, None, None, None, None
    return (
        request.camera,
        request.train,
        request.convert_SHs_python,
        request.compute_cov3D_python,
        request.keep_alive,
        request.scaling_modifier,
    )


def send(message_bytes: bytes | memoryview | None, verify: str) -> None:
    """Send the pixels, if any, and the data set's path `verify`. `ViewerError` if it stalls."""
    client = _connected()
    client.answer(answer_of(None if message_bytes is None else bytes(message_bytes), verify))
    while not client.flush():
        client.wait(STALL_SECONDS)


def _message() -> bytes:
    client = _connected()
    while (message := client.message()) is None:
        client.check_time()
        client.wait(STALL_SECONDS)
    return message


def _connected() -> Client:
    if conn is None:
        raise ViewerError("no viewer is connected")
    return conn
