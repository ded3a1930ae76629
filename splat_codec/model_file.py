# SPDX-License-Identifier: Apache-2.0
"""The .f3dgs file: a model's integers and free-form metadata, in either version of the format.

Version 1: Morton order, an LZMA stream for each attribute (sections `model`, one per attribute).
Version 2: adaptive grids, layers, context-modelled entropy coding (grid_file.py). Both may hold
`meta` (JSON text). Normative text: docs/format.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from splat_codec.container import (
    Container,
    SectionReader,
    pack_container,
    take_section,
    unpack_container,
)
from splat_codec.container import bytes_per_section as bytes_per_section
from splat_codec.errors import CorruptFile
from splat_codec.grid_file import (
    MAX_LAYERS,
    pack_grid_splats,
    unpack_grid_splats,
)
from splat_codec.grid_splats import GridSplats, same_integers
from splat_codec.lzma_streams import compress_symbols, decompress_symbols
from splat_codec.order import morton_order
from splat_codec.quantizers import (
    EvenGrids,
    Quantizer,
    pack_quantizer,
    unpack_quantizer,
)
from splat_codec.symbols import (
    QuantizedAttribute,
    QuantizedSplats,
    attribute_channels,
    check_count,
    same_symbols,
)

MAX_SH_DEGREE = 3
MAX_METADATA_BYTES = 2**20
MAX_METADATA_DEPTH = 100
_FREE_DIGITS = 640  # of an integer: Python converts so many, whatever its settings are

SECTION_NAMES = {
    "xyz": "xyz",
    "opacity": "opacity",
    "scaling": "scaling",
    "rotation": "rotation",
    "features_dc": "shdc",
    "features_rest": "shrest",
}


@dataclass(frozen=True)
class ModelFile:
    """What a file holds: the model in integers and free-form metadata (JSON values only).

    The model's kind is the file's version: `QuantizedSplats` 1, `GridSplats` 2.
    """

    splats: QuantizedSplats | GridSplats
    metadata: Mapping[str, Any] = field(default_factory=dict)


def in_file_order(splats: QuantizedSplats) -> QuantizedSplats:
    """The model with its rows sorted as a version-1 file stores them (along the Morton curve)."""
    return splats.reordered(morton_order(splats.attributes["xyz"].values()))


def encode(model: ModelFile) -> bytes:
    """The file's bytes; they depend on the symbols, the quantisers and the metadata only.

    `model.splats` has to be in file order: of version 1 as `in_file_order` gives it, of version 2
    each layer along the Morton curve. The bytes are decoded again and compared symbol by symbol
    before they are returned: RuntimeError if they differ.
    """
    splats = model.splats
    if isinstance(splats, GridSplats):
        version, sections = 2, pack_grid_splats(splats)
    else:
        version, sections = 1, _pack_quantized_splats(splats)
    if model.metadata:
        sections["meta"] = pack_metadata(model.metadata)
    data = pack_container(Container(version, sections))
    if not _same(decode(data).splats, splats):
        raise RuntimeError("the encoder's bytes decode to other symbols: please report this")
    return data


def decode(data: bytes, layers: int = MAX_LAYERS) -> ModelFile:
    """The model in a file's bytes. Raises CorruptFile with the section's name.

    With `layers` (at least 1), only the first `layers` importance layers of a version-2 file; the
    bytes after these layers may then be missing.
    """
    if layers < 1:
        raise ValueError(f"layers: at least 1 expected, got {layers}")
    container = unpack_container(data, may_be_cut=layers < MAX_LAYERS)
    sections = dict(container.sections)
    splats: QuantizedSplats | GridSplats
    if container.version == 1:
        splats = _unpack_quantized_splats(sections, len(data))
    elif container.version == 2:
        splats = unpack_grid_splats(sections, len(data), layers, container.missing)
    else:
        raise CorruptFile("header", f"version {container.version}, 1 or 2 is expected")
    metadata = unpack_metadata(sections.pop("meta", b"{}"))
    if sections:
        raise CorruptFile(next(iter(sections)), "unknown section")
    return ModelFile(splats, metadata)


def _same(a: QuantizedSplats | GridSplats, b: QuantizedSplats | GridSplats) -> bool:
    if isinstance(a, GridSplats) and isinstance(b, GridSplats):
        return same_integers(a, b)
    if isinstance(a, QuantizedSplats) and isinstance(b, QuantizedSplats):
        return same_symbols(a, b)
    return False


def _pack_quantized_splats(splats: QuantizedSplats) -> dict[str, bytes]:
    sections = {"model": _pack_model_section(splats)}
    for name, attribute in splats.attributes.items():
        sections[SECTION_NAMES[name]] = compress_symbols(attribute.symbols)
    return sections


def _unpack_quantized_splats(sections: dict[str, bytes], file_bytes: int) -> QuantizedSplats:
    count, sh_degree, quantizers = _unpack_model_section(take_section(sections, "model"))
    check_count(count, file_bytes)
    attributes = {
        name: _unpack_attribute(sections, name, (count, channels), quantizers[name])
        for name, channels in attribute_channels(sh_degree).items()
    }
    return QuantizedSplats(sh_degree, attributes)


def _pack_model_section(splats: QuantizedSplats) -> bytes:
    head = splats.count.to_bytes(4, "little") + bytes([splats.sh_degree])
    return head + b"".join(pack_quantizer(a.quantizer) for a in splats.attributes.values())


def _unpack_model_section(data: bytes) -> tuple[int, int, dict[str, Quantizer]]:
    reader = SectionReader("model", data)
    count, sh_degree = int.from_bytes(reader.take(4), "little"), reader.take(1)[0]
    if sh_degree > MAX_SH_DEGREE:
        raise CorruptFile("model", f"SH degree {sh_degree}, at most {MAX_SH_DEGREE} allowed")
    quantizers = {
        name: unpack_quantizer(reader.take, channels, "model")
        for name, channels in attribute_channels(sh_degree).items()
    }
    reader.finish()
    return count, sh_degree, quantizers


def _unpack_attribute(
    sections: dict[str, bytes], name: str, shape: tuple[int, int], quantizer: Quantizer
) -> QuantizedAttribute:
    section = SECTION_NAMES[name]
    stream = take_section(sections, section)
    symbols = decompress_symbols(stream, *shape, quantizer.dtype, section)
    if isinstance(quantizer, EvenGrids) and symbols.size and symbols.max() >= quantizer.levels:
        raise CorruptFile(section, f"a symbol beyond the {quantizer.levels} levels of its grid")
    if not quantizer.all_finite(symbols):
        raise CorruptFile(section, "a number that is not finite")
    return QuantizedAttribute(symbols, quantizer)


def pack_metadata(metadata: Mapping[str, Any]) -> bytes:
    """The section `meta`."""
    return json.dumps(metadata, sort_keys=True).encode()


def unpack_metadata(data: bytes) -> dict[str, Any]:
    """The metadata in the section `meta`. Raises CorruptFile."""
    if len(data) > MAX_METADATA_BYTES:
        raise CorruptFile("meta", f"{len(data)} bytes, at most {MAX_METADATA_BYTES} allowed")
    try:
        metadata = json.loads(data.decode(), parse_int=_number, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CorruptFile("meta", f"not JSON: {error}") from error
    if not isinstance(metadata, dict):
        raise CorruptFile("meta", f"a JSON object expected, got a {type(metadata).__name__}")
    if _is_nested_beyond(metadata, MAX_METADATA_DEPTH):
        raise CorruptFile("meta", f"nested more than {MAX_METADATA_DEPTH} levels deep")
    return metadata


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _FREE_DIGITS else float(digits)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _is_nested_beyond(value: Any, levels: int) -> bool:
    """Whether a JSON value has objects or arrays more than `levels` levels deep."""
    inner = [value]
    for _ in range(levels):
        members = chain.from_iterable(x.values() if isinstance(x, dict) else x for x in inner)
        inner = [x for x in members if isinstance(x, (dict, list))]
    return bool(inner)
