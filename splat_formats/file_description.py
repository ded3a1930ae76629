# SPDX-License-Identifier: Apache-2.0
"""The metadata section of a .f3dgs file (docs/format.md, "Metadata"). NumPy only."""

import math
from collections.abc import Mapping
from typing import Any

from splat_codec.errors import CorruptFile
from splat_formats.scene import NO_ORIGIN, Origin, SplatMetadata
from splat_formats.splats import Splats

GENERATOR = "Fast-3DGS"
_KEPT = ("up", "white_background")  # copied from the file that a scene was read from


def describe(start: Splats, settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The metadata of a file made from `start` with these settings."""
    return describe_source(start.count, start.sh_degree, settings, **more)


def describe_source(
    count: int, sh_degree: int, settings: dict[str, Any], **more: Any
) -> dict[str, Any]:
    """The metadata of a file made from so many Gaussians of this SH degree."""
    source = {"gaussians": count, "sh_degree": sh_degree}
    return {"generator": GENERATOR, "source": source, "settings": settings, **more}


def to_entries(metadata: SplatMetadata) -> dict[str, Any]:
    """The entries for a file of a scene with this metadata."""
    entries = {name: metadata.description[name] for name in _KEPT if name in metadata.description}
    if metadata.antialiasing:
        entries["antialiasing"] = True
    if metadata.origin != NO_ORIGIN:
        entries["origin"] = list(metadata.origin)
    return entries


def from_entries(entries: Mapping[str, Any]) -> SplatMetadata:
    """What the metadata section of a file holds. Raises CorruptFile."""
    return SplatMetadata(
        antialiasing=entries.get("antialiasing") is True,
        origin=_origin(entries.get("origin", NO_ORIGIN)),
        description=dict(entries),
    )


def _origin(value: Any) -> Origin:
    is_vector = isinstance(value, (list, tuple)) and len(value) == 3
    if not is_vector or not all(_is_finite_number(x) for x in value):
        raise CorruptFile("meta", f"origin: three finite numbers are expected, got {value!r:.80}")
    return float(value[0]), float(value[1]), float(value[2])


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer beyond the largest float
        return False
