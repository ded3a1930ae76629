# SPDX-License-Identifier: Apache-2.0
"""SPZ files: an attribute's numbers as integers of 8 to 24 bits, in a packed stream each.

Its axes are x right, y up, z backward: models are turned by half a turn about x. Layout: README of
github.com/nianticlabs/spz; details were measured on files that splat-transform writes and reads.
"""

from pathlib import Path

import numpy as np

from splat_formats.byte_codes import (
    ROOT_HALF,
    Bytes,
    alpha_bytes,
    logits,
    outside,
    quaternions,
    rounded,
    rounded_bytes,
    three_smallest,
    unit_quaternions,
)
from splat_formats.prepared import clipped_notices, prepared
from splat_formats.scene import SplatMetadata, SplatScene, Written
from splat_formats.splats import MAX_SH_DEGREE, REST_COEFFICIENTS, FloatArray, Splats
from splat_formats.spz_container import (
    ANTIALIASED,
    MAX_FRACTIONAL_BITS,
    SpzContent,
    SpzHeader,
    is_spz,
    pack,
    unpack,
)
from splat_formats.turns import HALF_TURN_X, turned
from utils.errors import InputError
from utils.files import write_bytes

__all__ = ["is_spz", "read_spz", "write_spz"]

VERSIONS = (3, 4)
"""That can be written."""

_FRACTIONAL_BITS = 12
_LARGEST_POSITION = (1 << 23) - 1
_FEW = 1e-3  # the share of Gaussians far from all others whose positions may be clipped
_STEPS_OF_SIZE = 0.25  # a step of positions, in sizes of the median Gaussian
_COLOUR_SCALE = 0.15
_SCALE_STEPS = 16
_LEAST_SCALE = -10.0
_MOST_SCALE = 255 / _SCALE_STEPS + _LEAST_SCALE
_MOST_DC = 0.5 / _COLOUR_SCALE
_SH_BITS_1, _SH_BITS_REST = 5, 4  # what other writers use by default
_MAGNITUDE = 511
_XYZW = [1, 2, 3, 0]  # from w, x, y, z
_WXYZ = [3, 0, 1, 2]
_ROWS_AT_ONCE = 1 << 16


def read_spz(path: Path) -> SplatScene:
    """The scene in an SPZ file of version 1 to 4. Raises CorruptFile."""
    content = unpack(path.read_bytes())
    header = content.header
    position, alpha, colour, scale, rotation, harmonics = content.streams
    rest = REST_COEFFICIENTS[min(header.degree, MAX_SH_DEGREE)]
    read_rotations = _rotations_2 if header.version < 3 else _rotations_3
    splats = Splats(
        xyz=_half_floats(position) if header.version == 1 else _fixed(position, header),
        features_dc=_DC_VALUES[colour].reshape(-1, 1, 3),
        features_rest=_SH_VALUES[harmonics[:, : 3 * rest]].reshape(header.count, rest, 3),
        opacity=logits(alpha[:, 0]),
        scaling=_SCALE_VALUES[scale],
        rotation=read_rotations(rotation)[:, _WXYZ],
    )
    notices = []
    if header.degree > MAX_SH_DEGREE:
        notices.append(
            f"SH degree {header.degree}: bands above degree {MAX_SH_DEGREE} are left out"
        )
    if content.has_more:
        notices.append("not used: extensions of the SPZ file")
    metadata = SplatMetadata(bool(header.flags & ANTIALIASED), notices=tuple(notices))
    return SplatScene(turned(splats, HALF_TURN_X), metadata)


def write_spz(path: Path, scene: SplatScene, spz_version: int = 4) -> Written:
    """Writes the scene as version 4 or 3 in Morton order, whole or not at all.

    InputError if most Gaussians lie beyond all positions that the format can hold.
    """
    if spz_version not in VERSIONS:
        raise ValueError(f"version {spz_version}: SPZ can be written in versions {VERSIONS}")
    ready = prepared(scene)
    splats = turned(ready.splats, HALF_TURN_X)
    bits = _fractional_bits(splats, path)
    flags = ANTIALIASED if scene.metadata.antialiasing else 0
    header = SpzHeader(spz_version, splats.count, splats.sh_degree, bits, flags)
    streams = (
        _fixed_bytes(splats.xyz, bits),
        alpha_bytes(splats.opacity)[:, None],
        rounded_bytes(255 * (_COLOUR_SCALE * splats.features_dc[:, 0] + 0.5)),
        rounded_bytes(_SCALE_STEPS * (splats.scaling - _LEAST_SCALE)),
        _rotation_bytes(splats.rotation),
        _harmonics_bytes(splats.features_rest),
    )
    write_bytes(path, pack(SpzContent(header, streams)))
    return Written((*ready.notices, *_losses(splats, bits)), ready.rows)


def _losses(splats: Splats, bits: int) -> tuple[str, ...]:
    """A sentence for everything that is outside of the format's ranges."""
    reach = _LARGEST_POSITION / 2**bits
    clipped = {
        f"positions (beyond {reach:.6g})": outside(splats.xyz, -reach, reach),
        f"base colours (|f_dc| > {_MOST_DC:.3g})": outside(splats.features_dc, -_MOST_DC, _MOST_DC),
        f"log scales (outside {_LEAST_SCALE:g} to {_MOST_SCALE:.4g})": outside(
            splats.scaling, _LEAST_SCALE, _MOST_SCALE
        ),
        "higher SH coefficients (beyond 1)": outside(splats.features_rest, -1, 1),
    }
    return (*_coarse_positions(splats, bits), *clipped_notices(clipped))


def _coarse_positions(splats: Splats, bits: int) -> tuple[str, ...]:
    """A sentence where positions lie so far from 0 that their steps are wider than usual."""
    if bits >= _FRACTIONAL_BITS:
        return ()
    usual, step = 2.0**-_FRACTIONAL_BITS, 2.0**-bits
    part = step / _median_size(splats)
    visible = ", which images show: scale the model down or choose another format"
    return (
        f"positions in steps of {step:.3g} units instead of {usual:.3g}, because Gaussians lie "
        f"beyond {_LARGEST_POSITION * usual:,.0f} units from 0: {part:.2g} times the size of the "
        f"median Gaussian{visible if part > _STEPS_OF_SIZE else ''}",
    )


def _fractional_bits(splats: Splats, path: Path) -> int:
    """The number of bits after the point of positions: 12, but fewer where a large model needs
    them before the point, and more where the Gaussians of a tiny model are smaller than the steps.
    Gaussians that no number of bits can reach do not count. InputError if they are the majority.
    """
    if not splats.count:
        return _FRACTIONAL_BITS
    reach = np.abs(splats.xyz).max(axis=1)
    beyond = reach > _LARGEST_POSITION
    if beyond.sum() > splats.count / 2:
        raise InputError(
            f"{path}: {beyond.sum():,} of {splats.count:,} Gaussians lie farther from 0 than SPZ "
            f"can hold: expected positions up to {_LARGEST_POSITION:,}"
        )
    reach = reach[~beyond]
    most = float(np.quantile(reach, 1 - _FEW, method="inverted_cdf"))
    size = _median_size(splats)
    bits = _FRACTIONAL_BITS
    while bits < MAX_FRACTIONAL_BITS and 2.0**-bits > _STEPS_OF_SIZE * size:
        bits += 1
    while bits and most * 2**bits > _LARGEST_POSITION:
        bits -= 1
    return bits


def _median_size(splats: Splats) -> float:
    """Of the second largest standard deviations of at least one Gaussian, world units."""
    second = np.sort(splats.scaling, axis=1)[:, 1].astype(np.float64)
    return max(float(np.exp(np.median(second))), float(np.finfo(np.float32).tiny))


def _half_floats(stream: Bytes) -> FloatArray:
    return np.ascontiguousarray(stream).view("<f2").astype(np.float32)


def _fixed(stream: Bytes, header: SpzHeader) -> FloatArray:
    """(N, 3) positions of signed integers of 24 bits."""
    parts = stream.reshape(header.count, 3, 3).astype(np.int32)
    # The highest byte, shifted to the top and back, has the right sign.
    whole = parts[..., 0] | parts[..., 1] << 8 | (parts[..., 2] << 24) >> 8
    return (whole * 2.0**-header.fractional_bits).astype(np.float32)


def _fixed_bytes(xyz: FloatArray, bits: int) -> Bytes:
    """(N, 9), the inverse of `_fixed`."""
    steps = np.rint(xyz.astype(np.float64) * 2**bits)
    whole = np.clip(steps, -_LARGEST_POSITION - 1, _LARGEST_POSITION).astype("<i4")
    return whole.view(np.uint8).reshape(-1, 3, 4)[..., :3].reshape(-1, 9)


def _rotations_2(stream: Bytes) -> FloatArray:
    """(N, 4) quaternions x, y, z, w, of which the first three are stored and w is positive."""
    xyz = stream / 127.5 - 1
    w = np.sqrt(np.maximum(0, 1 - np.square(xyz).sum(axis=1, keepdims=True)))
    return np.concatenate([xyz, w], axis=1).astype(np.float32)


def _rotations_3(stream: Bytes) -> FloatArray:
    """(N, 4) quaternions x, y, z, w: an index of 2 bits, and three signs and magnitudes."""
    words = np.ascontiguousarray(stream).view("<u4")[:, 0]
    fields = np.stack([(words >> shift) & 1023 for shift in (20, 10, 0)], axis=1)
    magnitudes = (fields & _MAGNITUDE) * (ROOT_HALF / _MAGNITUDE)
    return quaternions(words >> 30, np.where(fields > _MAGNITUDE, -magnitudes, magnitudes))


def _rotation_bytes(rotation: FloatArray) -> Bytes:
    """(N, 4), the inverse of `_rotations_3`, of quaternions w, x, y, z."""
    index, three = three_smallest(unit_quaternions(rotation)[:, _XYZW])
    magnitudes = rounded(np.abs(three) * (_MAGNITUDE / ROOT_HALF), _MAGNITUDE)
    fields = magnitudes | (three < 0).astype(np.uint32) << 9
    words = index << 30 | fields[:, 0] << 20 | fields[:, 1] << 10 | fields[:, 2]
    return words.astype("<u4").view(np.uint8).reshape(-1, 4)


def _harmonics_bytes(rest: FloatArray) -> Bytes:
    """(N, 3 K) bytes: steps of 1/128, of which every eighth (degree 1) or sixteenth is used."""
    flat = rest.reshape(len(rest), 3 * rest.shape[1])
    found = np.empty(flat.shape, np.uint8)
    of_degree_1 = np.arange(flat.shape[1]) < 3 * REST_COEFFICIENTS[1]
    step = np.where(of_degree_1, 1 << 8 - _SH_BITS_1, 1 << 8 - _SH_BITS_REST).astype(np.float32)
    for start in range(0, len(flat), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        levels = np.floor(flat[part] * 128 + np.float32(128.5))
        found[part] = np.clip(np.floor((levels + step / 2) / step) * step, 0, 255)
    return found


_DC_VALUES = ((np.arange(256) / 255 - 0.5) / _COLOUR_SCALE).astype(np.float32)
_SCALE_VALUES = (np.arange(256) / _SCALE_STEPS + _LEAST_SCALE).astype(np.float32)
_SH_VALUES = ((np.arange(256) - 128) / 128).astype(np.float32)
