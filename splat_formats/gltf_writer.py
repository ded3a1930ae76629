# SPDX-License-Identifier: Apache-2.0
"""Writes binary glTF 2.0 files (.glb) with the extension KHR_gaussian_splatting, in floats."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from splat_formats.axes import unit_quaternions
from splat_formats.byte_codes import alpha_bytes, colours, rounded_bytes
from splat_formats.file_description import GENERATOR
from splat_formats.gltf import COLOUR_SPACE, EXTENSION, KERNEL, POINTS, PREFIX, coefficient_names
from splat_formats.gltf_accessors import FLOAT, UNSIGNED_BYTE
from splat_formats.gltf_container import BINARY_CHUNK, CHUNK_HEADER, HEADER, JSON_CHUNK, MAGIC
from splat_formats.gltf_container import VERSION as GLB_VERSION
from splat_formats.prepared import clipped_notices
from splat_formats.repairs import showable
from splat_formats.scene import NO_ORIGIN, SplatScene, Written
from splat_formats.splats import Splats
from splat_formats.turns import HALF_TURN_Z, turned
from utils.errors import InputError
from utils.files import atomic_path

_MOST_BYTES = (1 << 32) - 1  # of the file
_VERTEX_DATA = 34962  # ARRAY_BUFFER: what a buffer view is for
# Natural logarithms of the sizes that float32 holds with all its digits.
_LEAST_SCALE, _MOST_SCALE = -87.0, 88.0
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


@dataclass(frozen=True, eq=False)
class _Attribute:
    """A column of the primitive."""

    name: str
    values: npt.NDArray
    """(N, components) floats, or bytes that stand for 0 to 1"""

    def accessor(self, view: int) -> dict[str, Any]:
        """Its entry in the JSON text."""
        is_float = self.values.dtype.kind == "f"
        entry: dict[str, Any] = {
            "bufferView": view,
            "componentType": FLOAT if is_float else UNSIGNED_BYTE,
            "count": len(self.values),
            "type": _TYPES[self.values.shape[1]],
        }
        if not is_float:
            entry["normalized"] = True
        if self.name == "POSITION":
            entry["min"] = self.values.min(axis=0).tolist()
            entry["max"] = self.values.max(axis=0).tolist()
        return entry


def write_glb(path: Path, scene: SplatScene) -> Written:
    """Writes the scene, whole or not at all. Its origin becomes the place of the node."""
    shown = showable(scene.splats)
    splats = turned(shown.splats, HALF_TURN_Z)
    attributes = _attributes(splats) if splats.count else []
    text = _text(scene, attributes)
    total = HEADER.size + CHUNK_HEADER.size + len(text)
    if attributes:
        total += CHUNK_HEADER.size + sum(attribute.values.nbytes for attribute in attributes)
    if total > _MOST_BYTES:
        raise InputError(f"{path}: {total:,} bytes, a .glb file has at most {_MOST_BYTES:,}")
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        _write(file, text, attributes, total)
    outside = (splats.scaling < _LEAST_SCALE) | (splats.scaling > _MOST_SCALE)
    clipped = {"sizes beyond those of float32": int(outside.any(axis=1).sum())}
    lost = ["the format has no tag for antialiasing"] if scene.metadata.antialiasing else []
    return Written((*shown.notices, *clipped_notices(clipped), *lost), shown.rows)


def _attributes(splats: Splats) -> list[_Attribute]:
    rgb = rounded_bytes(colours(splats.features_dc) * 255)
    alpha = 1 / (1 + np.exp(-splats.opacity.astype(np.float64)))
    sizes = np.exp(np.clip(splats.scaling, _LEAST_SCALE, _MOST_SCALE))
    columns: dict[str, npt.NDArray] = {
        "POSITION": splats.xyz,
        # For programs that show points only.
        "COLOR_0": np.concatenate([rgb, alpha_bytes(splats.opacity)[:, None]], axis=1),
        f"{PREFIX}ROTATION": np.roll(unit_quaternions(splats.rotation), -1, axis=1),
        f"{PREFIX}SCALE": sizes,
        f"{PREFIX}OPACITY": alpha.astype(np.float32),
    }
    harmonics = np.concatenate([splats.features_dc, splats.features_rest], axis=1)
    for column, name in enumerate(coefficient_names(splats.sh_degree)):
        columns[f"{PREFIX}{name}"] = harmonics[:, column]
    return [_Attribute(name, values) for name, values in columns.items()]


def _text(scene: SplatScene, attributes: list[_Attribute]) -> bytes:
    """The JSON text, padded with spaces to a multiple of 4 bytes."""
    sizes = [attribute.values.nbytes for attribute in attributes]
    starts = np.cumsum([0, *sizes])[:-1].tolist()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": GENERATOR},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
    }
    if attributes:
        document |= {
            "scenes": [{"nodes": [0]}],
            "nodes": [_node(scene)],
            "meshes": [{"primitives": [_primitive(attributes)]}],
            "buffers": [{"byteLength": sum(sizes)}],
            "bufferViews": [
                {"buffer": 0, "byteOffset": start, "byteLength": size, "target": _VERTEX_DATA}
                for start, size in zip(starts, sizes, strict=True)
            ],
            "accessors": [attribute.accessor(i) for i, attribute in enumerate(attributes)],
        }
    else:  # an accessor has one element at least
        document["scenes"] = [{}]
    text = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
    return text + b" " * (-len(text) % 4)


def _node(scene: SplatScene) -> dict[str, Any]:
    origin = scene.metadata.origin
    if origin == NO_ORIGIN:
        return {"mesh": 0}
    return {"mesh": 0, "translation": (HALF_TURN_Z @ np.array(origin)).tolist()}


def _primitive(attributes: list[_Attribute]) -> dict[str, Any]:
    return {
        "attributes": {attribute.name: i for i, attribute in enumerate(attributes)},
        "mode": POINTS,
        "extensions": {EXTENSION: {"kernel": KERNEL, "colorSpace": COLOUR_SPACE}},
    }


def _write(file: BinaryIO, text: bytes, attributes: list[_Attribute], total: int) -> None:
    file.write(HEADER.pack(MAGIC, GLB_VERSION, total))
    file.write(CHUNK_HEADER.pack(len(text), JSON_CHUNK) + text)
    if attributes:
        file.write(CHUNK_HEADER.pack(sum(a.values.nbytes for a in attributes), BINARY_CHUNK))
    for attribute in attributes:
        file.write(np.ascontiguousarray(attribute.values).data)
