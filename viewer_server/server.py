# SPDX-License-Identifier: Apache-2.0
"""The HTTP server of the viewer, on the loopback interface. No PyTorch.

Only the paths in one table are answered, so that no request names a file. A page of another host
reaches nothing: the Host header must name the loopback interface (DNS rebinding), and a conversion
must come from the served page itself.
"""

import errno
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from splat_formats.f3dgs_file import is_f3dgs
from splat_formats.files import read_splats
from splat_formats.ply import write_ply_scene
from splat_formats.web_page import WEB_FOLDER, web_files
from utils.cli import os_error_text
from utils.errors import InputError
from viewer_server.served_scenes import ServedModel, ServedScene

ADDRESS = "127.0.0.1"
_HOSTS = ("127.0.0.1", "localhost", "::1")
_PAGE = "/viewer/index.html"
_MOST_UPLOAD_BYTES = 1 << 31
_COPY_BYTES = 1 << 18
_HEAD_BYTES = 16
_BINARY = "application/octet-stream"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Resource:
    """What a path is answered with."""

    open: Callable[[], Path]
    """The file to send. Raises InputError."""
    content_type: str


class PageServer(ThreadingHTTPServer):
    """Serves the page and these scenes; `port` 0: any free one. InputError if it is taken."""

    daemon_threads = True

    def __init__(self, scenes: Sequence[ServedScene], port: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fast3dgs_view_")
        self.converted = Converted(Path(self._folder.name))
        self.resources = _resources(scenes, self.converted)
        self._scenes = scenes
        try:
            super().__init__((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            self._folder.cleanup()
            if isinstance(error, OSError) and error.errno != errno.EADDRINUSE:
                raise
            problem = "is taken" if isinstance(error, OSError) else "is no port"
            raise InputError(f"port {port} {problem}: give another one with --port") from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def session(self) -> bytes:
        """The list of scenes as JSON. OSError for a model that was removed."""
        return json.dumps(_session(self._scenes), allow_nan=False).encode("utf-8")

    def server_close(self) -> None:
        """Closes the socket and removes the converted files."""
        super().server_close()
        self._folder.cleanup()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes its connection is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Converted:
    """Models as plain PLYs in a temporary folder, each converted when it is first needed or new."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._files: dict[tuple[Path, int, int], Path] = {}

    def of(self, path: Path) -> Path:
        """The file itself if it is a .f3dgs file, else its model as PLY. Raises InputError."""
        if path.is_file():
            with path.open("rb") as file:
                if is_f3dgs(file.read(_HEAD_BYTES)):
                    return path
        state = path.stat()
        version = (path, state.st_mtime_ns, state.st_size)
        with self._lock:
            if version not in self._files:
                target = self._folder / f"{len(self._files)}.ply"
                write_ply_scene(target, read_splats(path))
                self._files[version] = target
            return self._files[version]

    def upload(self, source: BufferedIOBase, length: int, name: str) -> Path:
        """A file of `length` bytes that a user gave the page, as PLY. The caller removes it."""
        with self._lock, tempfile.TemporaryDirectory(dir=self._folder) as folder:
            given = Path(folder) / f"model{''.join(Path(name).suffixes[-2:])}"
            with given.open("wb") as file:
                copy_bytes(source, file, length)
            try:
                scene = read_splats(given)
            except InputError as error:
                raise InputError(str(error).replace(str(given), name)) from error
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".ply", delete=False) as ply:
                target = Path(ply.name)
            write_ply_scene(target, scene)
            return target


def copy_bytes(source: BufferedIOBase, target: BinaryIO, length: int) -> None:
    """Copies exactly `length` bytes. Raises ConnectionError if fewer come."""
    left = length
    while left:
        data = source.read(min(left, _COPY_BYTES))
        if not data:
            raise ConnectionError(f"the upload ended {left} bytes too early")
        target.write(data)
        left -= len(data)


def _resources(scenes: Sequence[ServedScene], converted: Converted) -> dict[str, Resource]:
    """All paths of files that are answered."""
    found = {
        f"/{path.relative_to(WEB_FOLDER).as_posix()}": Resource(
            partial(_as_it_is, path), _TYPES[path.suffix]
        )
        for path in web_files()
    }
    for s, scene in enumerate(scenes):
        for m, model in enumerate(scene.models):
            found[f"/{_model_url(s, m)}"] = Resource(partial(converted.of, model.path), _BINARY)
        for c, path in (scene.photographs or {}).items():
            if path.suffix.lower() in _TYPES:
                kind = _TYPES[path.suffix.lower()]
                found[f"/{_photograph_url(s, c)}"] = Resource(partial(_as_it_is, path), kind)
    return found


def _as_it_is(path: Path) -> Path:
    return path


def _model_url(scene: int, model: int) -> str:
    return f"models/{scene}/{model}"


def _photograph_url(scene: int, camera: int) -> str:
    return f"photographs/{scene}/{camera}"


def _session(scenes: Sequence[ServedScene]) -> dict[str, Any]:
    """What web/viewer/session.js reads."""
    entries = []
    for s, scene in enumerate(scenes):
        photographs = {
            c for c, path in (scene.photographs or {}).items() if path.suffix.lower() in _TYPES
        }
        background = None if scene.white_background is None else [int(scene.white_background)] * 3
        cameras = [
            {**camera, "photograph": _photograph_url(s, c) if c in photographs else None}
            for c, camera in enumerate(scene.cameras)
        ]
        models = [_model_entry(model, _model_url(s, m)) for m, model in enumerate(scene.models)]
        entries.append(
            {"name": scene.name, "background": background, "models": models, "cameras": cameras}
        )
    return {"scenes": entries, "convert": "convert"}


def _model_entry(model: ServedModel, url: str) -> Mapping[str, Any]:
    files = [model.path] if model.path.is_file() else list(model.path.iterdir())
    size = sum(path.stat().st_size for path in files if path.is_file())
    return {"name": model.name, "url": url, "bytes": size, "antialiasing": model.antialiasing}


def _reason(error: InputError | OSError) -> str:
    return os_error_text(error) if isinstance(error, OSError) else str(error)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    server_version = "Fast-3DGS"
    sys_version = ""
    timeout = 60

    def do_GET(self) -> None:
        """Answers with a file, the session, or the page."""
        if not self._is_local():
            return
        path = urlsplit(self.path).path
        if path == "/":
            self._redirect(_PAGE)
        elif path == "/session.json":
            self._send_session()
        elif path in self.server.resources:
            self._send_resource(self.server.resources[path])
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing under this address")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        """Converts a file to PLY."""
        if not self._is_local():
            return
        if urlsplit(self.path).path != "/convert":
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only /convert takes a file")
        elif self.headers.get("Origin") != f"http://{self.headers.get('Host')}":
            self._refuse(HTTPStatus.FORBIDDEN, "only the viewer's own page may send files")
        elif not (length := self.headers.get("Content-Length", "")).isdecimal():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "the length of the file is missing")
        elif int(length) > _MOST_UPLOAD_BYTES:
            self._refuse(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the file has {int(length):,} bytes; at most {_MOST_UPLOAD_BYTES:,} are converted",
            )
        else:
            self._convert(int(length))

    def _convert(self, length: int) -> None:
        name = Path(unquote(self.headers.get("X-File-Name", "file"))).name.replace("\0", "")
        try:
            ply = self.server.converted.upload(self.rfile, length, name or "file")
        except (InputError, OSError) as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, _reason(error))
            return
        try:
            self._send_file(ply, _BINARY)
        finally:
            ply.unlink()

    def _is_local(self) -> bool:
        """Whether the Host header names this machine; if not, the request is refused."""
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            host = None
        if host not in _HOSTS:
            self._refuse(HTTPStatus.FORBIDDEN, "only requests to localhost are answered")
            return False
        return True

    def _send_session(self) -> None:
        try:
            content = self.server.session()
        except OSError as error:
            self._refuse(HTTPStatus.NOT_FOUND, _reason(error))
            return
        self._send_head(HTTPStatus.OK, "application/json", len(content))
        self._send(content)

    def _send_resource(self, resource: Resource) -> None:
        try:
            path = resource.open()
        except (InputError, OSError) as error:
            print(f"error: {_reason(error)}", file=sys.stderr)
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, _reason(error))
            return
        self._send_file(path, resource.content_type)

    def _send_file(self, path: Path, content_type: str) -> None:
        try:
            file = path.open("rb")
        except OSError as error:
            self._refuse(HTTPStatus.NOT_FOUND, f"{path.name}: {error.strerror}")
            return
        with file:
            length = file.seek(0, 2)
            file.seek(0)
            self._send_head(HTTPStatus.OK, content_type, length)
            if self.command != "HEAD":
                shutil.copyfileobj(file, self.wfile, _COPY_BYTES)

    def _redirect(self, path: str) -> None:
        self._send_head(HTTPStatus.FOUND, "text/plain", 0, Location=path)

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Sends the message as text, and closes the connection: a body may be unread."""
        self.close_connection = True
        text = message.encode("utf-8", "replace")
        self._send_head(status, "text/plain; charset=utf-8", len(text), Connection="close")
        self._send(text)

    def _send_head(self, status: HTTPStatus, kind: str, length: int, **more: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(length), **_HEADERS, **more}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, content: bytes) -> None:
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""
