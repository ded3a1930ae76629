# SPDX-License-Identifier: Apache-2.0
"""The JSON text and the buffers of a glTF 2.0 file: binary (.glb), or text (.gltf).

Buffers of a .gltf are data: URIs, or files in its folder: nothing else is opened.
"""

import base64
import binascii
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from splat_codec.errors import CorruptFile
from splat_formats.json_values import Checked, Object

MAGIC = b"glTF"
VERSION = 2
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"
HEADER = struct.Struct("<4sII")
CHUNK_HEADER = struct.Struct("<I4s")
CHECKED = Checked("JSON")

_MOST_BYTES = (1 << 32) - 1  # of a buffer
_TEXT_LIMIT = 1 << 28  # bytes of JSON
_DATA = "data:"


@dataclass(frozen=True, eq=False)
class Document:
    """A file's JSON object and the bytes of its buffers."""

    json: Object
    buffers: Sequence[memoryview]

    @property
    def binary_bytes(self) -> int:
        """Of all buffers."""
        return sum(map(len, self.buffers))


def read_document(path: Path) -> Document:
    """The file at `path` and the buffers it names. Raises CorruptFile."""
    data = path.read_bytes()
    text, binary = _chunks(data) if data.startswith(MAGIC) else (data, None)
    if len(text) > _TEXT_LIMIT:
        raise CHECKED.error(f"{len(text):,} bytes, at most {_TEXT_LIMIT:,} are expected")
    document = CHECKED.parsed(bytes(text))
    version = CHECKED.text(CHECKED.member(document, "asset"), "version")
    if version is None or version.partition(".")[0] != str(VERSION):
        raise CHECKED.wrong("asset.version", "2.0", version)
    buffers = CHECKED.objects(document, "buffers")
    return Document(
        document,
        [_buffer(path, index, entry, binary) for index, entry in enumerate(buffers)],
    )


def _chunks(data: bytes) -> tuple[memoryview, memoryview | None]:
    """The JSON text and the binary chunk of a .glb file."""
    if len(data) < HEADER.size:
        raise CorruptFile("header", f"{HEADER.size} bytes are expected, got {len(data)}")
    _, version, length = HEADER.unpack_from(data)
    if version != VERSION:
        raise CorruptFile("header", f"version {VERSION} is expected, got {version}")
    if length > len(data):
        raise CorruptFile("header", f"{length:,} bytes are declared, the file has {len(data):,}")
    found: dict[bytes, memoryview] = {}
    place = HEADER.size
    while place < length:
        if place + CHUNK_HEADER.size > length:
            raise CorruptFile("chunks", f"the chunk at byte {place:,} is cut short")
        size, kind = CHUNK_HEADER.unpack_from(data, place)
        place += CHUNK_HEADER.size
        if size > length - place:
            raise CorruptFile(
                "chunks", f"{size:,} bytes are declared at byte {place:,}, {length - place:,} left"
            )
        if not found and kind != JSON_CHUNK:
            raise CorruptFile("chunks", f"the first one must be JSON, got {kind!r}")
        found.setdefault(kind, memoryview(data)[place : place + size])
        place += size
    if JSON_CHUNK not in found:
        raise CorruptFile("chunks", "a JSON chunk is expected, there is none")
    return found[JSON_CHUNK], found.get(BINARY_CHUNK)


def _buffer(path: Path, index: int, entry: Object, binary: memoryview | None) -> memoryview:
    """Exactly the declared bytes of a buffer."""
    length = CHECKED.whole(entry, "byteLength", _MOST_BYTES)
    uri = CHECKED.text(entry, "uri")
    if uri is None:
        if index or binary is None:
            raise CHECKED.error(f"buffer {index}: a URI is expected, there is none")
        content = binary
    elif uri.startswith(_DATA):
        content = _data_uri(uri, index)
    else:
        content = _file(path, uri, length)
    if len(content) < length:
        raise CHECKED.error(
            f"buffer {index}: {length:,} bytes are declared, there are {len(content):,}"
        )
    return content[:length]


def _data_uri(uri: str, index: int) -> memoryview:
    head, comma, text = uri.partition(",")
    if not comma or not head.endswith(";base64"):
        raise CHECKED.error(f"buffer {index}: a base64 data URI is expected, got {uri!r:.80}")
    try:
        return memoryview(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        raise CHECKED.error(f"buffer {index}: damaged base64: {error}") from error


def _file(path: Path, uri: str, length: int) -> memoryview:
    """The first `length` bytes of a file in the folder of the .gltf."""
    name = unquote(uri)
    parts = name.split("/")
    if any(sign in name for sign in "\\:\0?#") or any(part in ("", ".", "..") for part in parts):
        raise CHECKED.error(f"a URI of a file in the same folder is expected, got {uri!r:.80}")
    file = path.parent.joinpath(*parts)
    folder = path.parent.resolve()
    if not file.resolve().is_relative_to(folder) or not file.is_file():
        raise CHECKED.error(f"no file {name!r:.80} in {path.parent}")
    with file.open("rb") as content:
        return memoryview(content.read(length))
