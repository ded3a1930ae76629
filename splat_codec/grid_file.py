# SPDX-License-Identifier: Apache-2.0
"""Sections of a version-2 file from a model's integers, and back.

`model` (counts, grids), `tables` (bins, contexts, histograms), and for each layer k `rans<k>` (the
entropy-coded tokens), `bits<k>` (plain bits) and, where there are any, `far<k>` (centres outside
the cells) and `exact<k>` (other numbers outside the grids). Normative text: docs/format.md.
"""

import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from splat_codec.container import SectionReader, take_section
from splat_codec.errors import CorruptFile
from splat_codec.exact_values import (
    NONE,
    ExactValues,
    pack_exact_values,
    unpack_exact_values,
)
from splat_codec.grid_record import pack_grids, unpack_grids
from splat_codec.grid_splats import GridSplats
from splat_codec.grids import Grids
from splat_codec.histograms import (
    Tables,
    design_tables,
    inflate,
    pack_tables,
    unpack_tables,
)
from splat_codec.layer_model import (
    BINNED,
    EDGES,
    LayerColumns,
    LayerShape,
    code_columns,
    code_sh,
    layer_columns,
    put_rows,
    step_major,
    used_groups,
)
from splat_codec.owners import OwnerCoder, owner_numbers
from splat_codec.planes import ContextBases, Families, PlaneReader, PlaneWriter
from splat_codec.rans import (
    ENOUGH_LANES,
    MAX_LANES,
    MAX_ROWS_PER_LANE,
    DecodeTable,
    lanes_for,
)
from splat_codec.symbols import check_count

MAX_LAYERS = 16
_MODEL_LIMIT = 1 << 16
_TABLES_LIMIT = 1 << 18
_IS_SHARED = b"\1"
"""The end of `model` where Gaussians share SH. Readers without it refuse the file."""

Edges = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Layer:
    """The numbers of one layer in the section `model`."""

    count: int
    far: int
    lanes: int


@dataclass(frozen=True)
class Recording:
    """All layers as planes under contexts, not yet coded."""

    edges: Edges
    families: Families
    writers: list[PlaneWriter]


def record_layers(splats: GridSplats) -> Recording:
    """The planes of `splats`, which has to be in layer order."""
    edges, families, writers = _design_edges(splats), Families(), []
    owners = None
    if len(splats.shared):
        owners = OwnerCoder(owner_numbers(splats.shared, used_groups(splats.sh) > 0))
    for rows in splats.split():
        lanes = lanes_for(rows.count)
        writer = PlaneWriter(lanes, families)
        shape = LayerShape(splats.grids, edges, rows.count, lanes)
        columns = code_columns(writer, shape, layer_columns(rows, lanes))
        has_sh = code_sh(writer, shape, columns.precision, rows.sh, writes=True)
        if owners is not None:
            owners.code(writer, step_major(rows.count, lanes), has_sh)
        writers.append(writer)
    return Recording(edges, families, writers)


def pack_grid_splats(splats: GridSplats) -> dict[str, bytes]:
    """The file's sections, in order; `splats` has to be in layer order."""
    layers, recording = splats.split(), record_layers(splats)
    tables = design_tables(recording.families.counts())
    stored_tables = _pack_edges(recording.edges) + pack_tables(tables)
    sections = {
        "model": zlib.compress(_pack_model(splats, layers), 9),
        "tables": zlib.compress(stored_tables, 9),
    }
    for number, (rows, writer) in enumerate(zip(layers, recording.writers, strict=True)):
        sections[f"rans{number}"] = writer.rans_bytes(tables)
        sections[f"bits{number}"] = writer.bit_bytes()
        if len(rows.far_rows):
            far = rows.far_rows.astype("<u4").tobytes() + rows.far_xyz.astype("<f4").tobytes()
            sections[f"far{number}"] = far
        if len(rows.exact):
            sections[f"exact{number}"] = pack_exact_values(rows.exact)
    return sections


def unpack_grid_splats(
    sections: dict[str, bytes], file_bytes: int, layers: int, missing: frozenset[str] = frozenset()
) -> GridSplats:
    """The model in a file's sections, which are taken out of `sections`; at most `layers` layers.

    Sections of later layers may be absent: `missing` names those that the file's table lists and
    `sections` lacks.
    """
    grids, parts, is_shared = _unpack_model(take_section(sections, "model"), file_bytes)
    edges, tables = _unpack_tables(take_section(sections, "tables"))
    read = parts[:layers]
    ends = np.cumsum([0, *(part.count for part in read)]).tolist()
    columns = _grown({}, grids, 0)
    static = ContextBases(tables, "tables"), DecodeTable.of(tables.frequencies)
    far_rows, far_xyz, exact = [], [], NONE
    owners = OwnerCoder()
    for number, part in enumerate(read):
        streams = take_section(sections, f"rans{number}"), take_section(sections, f"bits{number}")
        reader = PlaneReader(streams, part.lanes, static, number)
        shape = LayerShape(grids, edges, part.count, part.lanes)
        found = code_columns(reader, shape, None)
        # Only now, when the octree has shown that the header states the right count.
        columns = _grown(columns, grids, ends[number + 1])
        rows = {name: column[ends[number] :] for name, column in columns.items()}
        _finish_layer(reader, shape, found, rows, owners if is_shared else None)
        far = take_section(sections, f"far{number}") if part.far else b""
        indices, xyz = _unpack_far(far, part, f"far{number}")
        far_rows.append(indices + np.int32(ends[number]))
        far_xyz.append(xyz)
        found_exact = _take_exact(sections, missing, grids, part, number)
        exact = exact.joined(found_exact.from_row(ends[number]))
    if len(parts) <= layers:
        static[0].finish()
    for number in range(len(read), len(parts)):
        for name in ("rans", "bits", "far", "exact"):
            sections.pop(f"{name}{number}", None)
    return GridSplats(
        grids=grids,
        layer_ends=tuple(ends[1:]),
        far_rows=np.concatenate(far_rows),
        far_xyz=np.concatenate(far_xyz),
        exact=exact,
        shared=owners.shared(),
        **columns,
    )


def _finish_layer(
    reader: PlaneReader,
    shape: LayerShape,
    found: LayerColumns,
    rows: Mapping[str, np.ndarray],
    owners: OwnerCoder | None,
) -> None:
    """Fills a layer's rows; one thread puts the columns into place, another decodes the SH."""
    with ThreadPoolExecutor(1) as pool:
        placed = pool.submit(put_rows, found, shape, rows)
        has_sh = code_sh(reader, shape, found.precision, rows["sh"], writes=False)
        if owners is not None:
            owners.code(reader, step_major(shape.count, shape.lanes), has_sh)
        placed.result()
    reader.finish()


def _grown(columns: Mapping[str, np.ndarray], grids: Grids, count: int) -> dict[str, np.ndarray]:
    """The arrays of GridSplats with `count` rows: first those of `columns`; new SH are 0.

    Layers are decoded directly into these arrays. Most rows are in the last layer, so that little
    is copied.
    """
    widths = {"xyz": (3,), "opacity": (), "scale": (3,), "precision": (), "rotation": (3,),
              "dc": (3,)}  # fmt: skip
    grown = {name: np.empty((count, *width), np.int32) for name, width in widths.items()}
    grown["sh"] = np.zeros((count, grids.sh_channels), np.int16)
    for name, column in columns.items():
        grown[name][: len(column)] = column
    return grown


def _pack_model(splats: GridSplats, layers: list[GridSplats]) -> bytes:
    counts = b"".join(
        struct.pack("<IIB", rows.count, len(rows.far_rows), lanes_for(rows.count).bit_length() - 1)
        for rows in layers
    )
    head = struct.pack("<B", len(layers)) + counts + pack_grids(splats.grids)
    return head + (_IS_SHARED if len(splats.shared) else b"")


def _unpack_model(data: bytes, file_bytes: int) -> tuple[Grids, list[_Layer], bool]:
    """The grids, the layers, and whether Gaussians share SH."""
    reader = SectionReader("model", inflate(data, _MODEL_LIMIT, "model"))
    counts = [struct.unpack("<IIB", reader.take(9)) for _ in range(reader.take(1)[0])]
    layers = [_Layer(count, far, 1 << log_lanes) for count, far, log_lanes in counts]
    _check_layers(layers, file_bytes)
    grids = unpack_grids(reader.take, "model")
    is_shared = reader.has_more()
    if is_shared and (reader.take(1) != _IS_SHARED or not grids.sh_channels):
        raise CorruptFile("model", "bytes after the grids that do not announce shared SH")
    reader.finish()
    return grids, layers, is_shared


def _check_layers(layers: list[_Layer], file_bytes: int) -> None:
    if not 1 <= len(layers) <= MAX_LAYERS:
        raise CorruptFile("model", f"{len(layers)} layers, 1 to {MAX_LAYERS} allowed")
    check_count(sum(layer.count for layer in layers), file_bytes)
    for layer in layers:
        if layer.far > layer.count:
            text = f"{layer.far} centres outside the cells, but only {layer.count} Gaussians"
            raise CorruptFile("model", text)
        least = min(ENOUGH_LANES, -(-layer.count // MAX_ROWS_PER_LANE))
        if not least <= layer.lanes <= MAX_LANES:
            allowed = f"{least} to {MAX_LANES} allowed"
            raise CorruptFile("model", f"{layer.lanes} lanes for {layer.count} rows, {allowed}")


def _pack_edges(edges: Edges) -> bytes:
    return b"".join(struct.pack(f"<{EDGES}H", *edges[name]) for name in BINNED)


def _unpack_tables(data: bytes) -> tuple[Edges, Tables]:
    content = inflate(data, _TABLES_LIMIT, "tables")
    size = 2 * EDGES * len(BINNED)
    if len(content) < size:
        raise CorruptFile("tables", f"cut short: {len(content)} bytes")
    rows = np.frombuffer(content[:size], "<u2").reshape(len(BINNED), EDGES)
    if (np.diff(rows.astype(np.int32), axis=1) < 0).any():
        raise CorruptFile("tables", "edges of bins out of order")
    edges = {name: tuple(row.tolist()) for name, row in zip(BINNED, rows, strict=True)}
    return edges, unpack_tables(content[size:], "tables")


def _unpack_far(data: bytes, part: _Layer, section: str) -> tuple[np.ndarray, np.ndarray]:
    if len(data) != 16 * part.far:
        raise CorruptFile(section, f"{len(data)} bytes, {16 * part.far} expected")
    rows = np.frombuffer(data, "<u4", part.far).astype(np.int64)
    xyz = np.frombuffer(data, "<f4", offset=4 * part.far).astype(np.float32).reshape(-1, 3)
    if len(rows) and (rows[-1] >= part.count or (np.diff(rows) <= 0).any()):
        raise CorruptFile(section, "rows out of range or out of order")
    if not np.isfinite(xyz).all():
        raise CorruptFile(section, "a centre is not finite")
    return rows.astype(np.int32), xyz


def _take_exact(
    sections: dict[str, bytes],
    missing: frozenset[str],
    grids: Grids,
    part: _Layer,
    number: int,
) -> ExactValues:
    name = f"exact{number}"
    if name in missing:
        raise CorruptFile(name, "missing")
    if name not in sections:
        return NONE
    return unpack_exact_values(sections.pop(name), part.count, grids.sh_channels, name)


def _design_edges(splats: GridSplats) -> Edges:
    """Edges at the values' octiles, so that bins occur equally often."""
    shift = splats.grids.dc_shift.apply(splats.precision)
    steps = splats.scale.T
    columns = {
        "opacity": splats.opacity,
        "scale0": steps[0],
        "scale1": steps[0] - steps[1],
        "scale2": steps[1] - steps[2],
        **{f"dc{channel}": splats.dc[:, channel] << shift for channel in range(3)},
        "groups": used_groups(splats.sh),
    }
    return {name: _octiles(columns[name]) for name in BINNED}


def _octiles(values: np.ndarray) -> tuple[int, ...]:
    if not len(values):
        return (1,) * EDGES
    ranks = [len(values) * (edge + 1) // (EDGES + 1) for edge in range(EDGES)]
    edges = np.sort(values)[ranks]  # NumPy's sort uses vectors, its partition of several does not
    return tuple(np.clip(edges, 1, 2**16 - 1).tolist())
