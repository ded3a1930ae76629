# SPDX-License-Identifier: Apache-2.0
"""Reads Gaussians in glTF 2.0 files: the extension KHR_gaussian_splatting of Khronos.

Sources: the extension's text (KhronosGroup/glTF, extensions/2.0/Khronos) and the specification of
glTF 2.0. +Y is up in glTF: a half turn about Z leads to the axes of a PLY and back, as
splat-transform 2.7.1 does it.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from splat_formats.gltf_accessors import Accessors
from splat_formats.gltf_container import CHECKED, MAGIC, read_document
from splat_formats.gltf_nodes import Placement, placed_meshes
from splat_formats.json_values import Object
from splat_formats.outliers import MOST_OPACITY
from splat_formats.positions import place
from splat_formats.repairs import gaussians
from splat_formats.scene import SplatMetadata, SplatScene
from splat_formats.splats import MAX_SH_DEGREE, FloatArray, Splats, joined
from splat_formats.turns import HALF_TURN_Z, turned
from utils.errors import InputError

EXTENSION = "KHR_gaussian_splatting"
PREFIX = f"{EXTENSION}:"
KERNEL, COLOUR_SPACE = "ellipse", "srgb_rec709_display"
POINTS = 0
"""The mode of a primitive."""

_MOST_INDEX = (1 << 32) - 1
_KNOWN_REQUIRED = (EXTENSION, "KHR_mesh_quantization")
# Meshes can be shown several times. More Gaussians than this, and than bytes, cannot be meant.
_PLAUSIBLE_COUNT = 1 << 20
_MOST_PRIMITIVES = 1 << 14


@dataclass(frozen=True, eq=False)
class _Primitive:
    """Gaussians as one primitive of a mesh holds them, in the coordinates of its node."""

    place: Placement
    xyz: FloatArray
    rotation: FloatArray
    """(N, 4) w, x, y, z"""
    scale: FloatArray
    """(N, 3) sizes, or their logarithms"""
    alpha: FloatArray
    """(N, 1) 0 to 1"""
    harmonics: FloatArray
    """(N, K + 1, 3)"""


def is_gltf(head: bytes) -> bool:
    """Whether a file that begins with `head` is a binary glTF file, or the text of one."""
    return head.startswith(MAGIC) or (head.lstrip().startswith(b"{") and b'"asset"' in head)


def is_gltf_path(path: Path) -> bool:
    """Whether the name of the file is that of a glTF text."""
    return path.suffix.lower() == ".gltf" and path.is_file()


def read_gltf(path: Path) -> SplatScene:
    """All Gaussians of the file's scene. Raises CorruptFile, or InputError if it holds none."""
    document = read_document(path)
    _check_required(document.json)
    notices: dict[str, None] = {}
    found = _primitives(Accessors(document), notices)
    if not found:
        if CHECKED.objects(document.json, "meshes") or not _is_declared(document.json):
            raise InputError(f"{path}: this glTF file holds no Gaussians ({EXTENSION})")
        return SplatScene(_empty())
    has_logarithms = any((part.scale < 0).any() for part in found)
    if has_logarithms:
        notices["a draft of the format: negative sizes, which are read as logarithms"] = None
    with np.errstate(all="ignore"):  # numbers that are not finite stay so
        splats, xyz = _merged([_placed(part, has_logarithms, notices) for part in found])
    placed = place(xyz, splats.scaling)
    if placed.notice:
        notices[placed.notice] = None
    metadata = SplatMetadata(origin=placed.origin, notices=tuple(notices))
    return SplatScene(replace(splats, xyz=placed.xyz), metadata)


def _check_required(document: Object) -> None:
    unknown = set(CHECKED.names(document, "extensionsRequired")) - set(_KNOWN_REQUIRED)
    if unknown:
        raise CHECKED.error(f"the file requires extensions that are not supported: "
                            f"{', '.join(sorted(unknown))[:200]}")  # fmt: skip


def _is_declared(document: Object) -> bool:
    return EXTENSION in CHECKED.names(document, "extensionsUsed")


def _primitives(accessors: Accessors, notices: dict[str, None]) -> list[_Primitive]:
    """The Gaussians of every mesh in the scene."""
    document = accessors.document
    meshes = CHECKED.objects(document.json, "meshes")
    limit = max(_PLAUSIBLE_COUNT, document.binary_bytes)
    total, chosen = 0, []
    for index, placement in placed_meshes(document.json):
        if index >= len(meshes):
            raise CHECKED.error(f"mesh {index} is named, there are {len(meshes)}")
        for primitive in CHECKED.objects(meshes[index], "primitives"):
            extension = _extension(primitive)
            if extension is None:
                notices["points or triangles without Gaussians are left out"] = None
                continue
            _check_kind(primitive, extension, notices)
            attributes = CHECKED.member(primitive, "attributes")
            chosen.append((attributes, placement))
            total += accessors.count(_index(attributes, "POSITION"))
            if total > limit or len(chosen) > _MOST_PRIMITIVES:
                raise CHECKED.error(
                    f"more than {limit:,} Gaussians or {_MOST_PRIMITIVES:,} primitives are shown"
                )
    return [_primitive(attributes, accessors, placement) for attributes, placement in chosen]


def _extension(primitive: Object) -> Object | None:
    extensions = primitive.get("extensions", {})
    if not isinstance(extensions, dict) or EXTENSION not in extensions:
        return None
    return CHECKED.member(extensions, EXTENSION)


def _check_kind(primitive: Object, extension: Object, notices: dict[str, None]) -> None:
    mode = primitive.get("mode")
    if mode != POINTS or isinstance(mode, bool):
        raise CHECKED.wrong("mode", f"{POINTS} (points)", mode)
    further = extension.get("extensions")
    if further:
        raise CHECKED.wrong("extensions", f"no further extension of {EXTENSION}", further)
    kernel = CHECKED.text(extension, "kernel")
    if kernel not in (None, KERNEL):
        raise CHECKED.wrong("kernel", KERNEL, kernel)
    colours = CHECKED.text(extension, "colorSpace")
    if colours not in (None, COLOUR_SPACE):
        notices[f"the colour space {colours!r:.60} is read as {COLOUR_SPACE}"] = None


def _primitive(attributes: Object, accessors: Accessors, placement: Placement) -> _Primitive:
    count = accessors.count(_index(attributes, "POSITION"))

    def values(name: str, components: int) -> FloatArray:
        index = _index(attributes, name)
        if accessors.count(index) != count:
            raise CHECKED.wrong(f"{name}: count", f"{count:,}", accessors.count(index))
        return accessors.values(index, components)

    names = [f"{PREFIX}{name}" for name in coefficient_names(_degree(attributes))]
    harmonics = np.empty((count, len(names), 3), np.float32)
    for column, name in enumerate(names):
        harmonics[:, column] = values(name, 3)
    return _Primitive(
        place=placement,
        xyz=values("POSITION", 3),
        rotation=np.roll(values(f"{PREFIX}ROTATION", 4), 1, axis=1),
        scale=values(f"{PREFIX}SCALE", 3),
        alpha=values(f"{PREFIX}OPACITY", 1),
        harmonics=harmonics,
    )


def _index(attributes: Object, name: str) -> int:
    if name not in attributes:
        raise CHECKED.error(f"no attribute {name}")
    return CHECKED.whole(attributes, name, _MOST_INDEX)


def coefficient_names(degree: int) -> list[str]:
    """The attributes of spherical harmonics up to this degree, without the prefix."""
    return [f"SH_DEGREE_{band}_COEF_{n}" for band in range(degree + 1) for n in range(2 * band + 1)]


def _degree(attributes: Object) -> int:
    """The greatest degree of which an attribute is there."""
    degrees = [
        band
        for band in range(MAX_SH_DEGREE + 1)
        if any(name.startswith(f"{PREFIX}SH_DEGREE_{band}_") for name in attributes)
    ]
    return max(degrees, default=0)


def _placed(
    part: _Primitive, has_logarithms: bool, notices: dict[str, None]
) -> tuple[Splats, npt.NDArray[np.float64]]:
    """The Gaussians with the axes of a PLY, but not moved yet; and their positions in float64."""
    rotation = HALF_TURN_Z @ part.place.rotation
    xyz = part.xyz.astype(np.float64) @ (part.place.scale * rotation).T
    scaling = part.scale if has_logarithms else np.log(part.scale)
    wrong = ((part.alpha < 0) | (part.alpha > 1)).sum()
    if wrong:
        notices[f"clipped: opacities outside of 0 to 1 of {gaussians(wrong)}"] = None
    splats = Splats(
        xyz=part.xyz,
        features_dc=part.harmonics[:, :1].copy(),
        features_rest=part.harmonics[:, 1:].copy(),
        opacity=_logits(part.alpha),
        scaling=scaling + np.float32(np.log(part.place.scale)),
        rotation=part.rotation,
    )
    return turned(splats, rotation), xyz + HALF_TURN_Z @ part.place.translation


def _logits(alpha: FloatArray) -> FloatArray:
    """Logits, which are finite for 0 and 1 too."""
    exact = np.clip(alpha.astype(np.float64), 0, 1)
    return np.clip(np.log(exact / (1 - exact)), -MOST_OPACITY, MOST_OPACITY).astype(np.float32)


def _merged(
    parts: list[tuple[Splats, npt.NDArray[np.float64]]],
) -> tuple[Splats, npt.NDArray[np.float64]]:
    """All Gaussians; higher spherical harmonics that some of them lack are 0."""
    return joined([splats for splats, _ in parts]), np.concatenate([xyz for _, xyz in parts])


def _empty() -> Splats:
    widths = {"xyz": (3,), "features_dc": (1, 3), "features_rest": (0, 3),
              "opacity": (1,), "scaling": (3,), "rotation": (4,)}  # fmt: skip
    return Splats(**{name: np.zeros((0, *shape), np.float32) for name, shape in widths.items()})
