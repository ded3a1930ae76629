# SPDX-License-Identifier: Apache-2.0
"""A version-1 model as integers: exactly what its file holds."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile
from splat_codec.quantizers import FloatArray, Quantizer, SymbolArray

MAX_COUNT = 2**27
"""Gaussians a file may hold: 30 GB as a PLY, far beyond any known model."""
# Any file may hold a million Gaussians, and 64 more for each of its bytes: far more than any model
# needs, and few enough that a small invalid file cannot fill the memory.
_FREE_COUNT = 1 << 20
_COUNT_PER_BYTE = 64


def check_count(count: int, file_bytes: int) -> None:
    """CorruptFile where a file of `file_bytes` may not hold `count` Gaussians."""
    most = min(MAX_COUNT, _FREE_COUNT + _COUNT_PER_BYTE * file_bytes)
    if count > most:
        raise CorruptFile("model", f"{count} Gaussians, at most {most} allowed in this file")


def attribute_channels(sh_degree: int) -> dict[str, int]:
    """Channels per Gaussian of each attribute, in the file's order, for SH degrees 0 to 3."""
    return {
        "xyz": 3,
        "opacity": 1,
        "scaling": 3,
        "rotation": 4,
        "features_dc": 3,
        "features_rest": 3 * ((sh_degree + 1) ** 2 - 1),
    }


@dataclass(frozen=True)
class QuantizedAttribute:
    """One attribute of all Gaussians: `symbols` (N, C) unsigned, and their quantiser."""

    symbols: SymbolArray
    quantizer: Quantizer

    def __post_init__(self) -> None:
        if self.symbols.ndim != 2 or self.symbols.dtype != self.quantizer.dtype:
            raise ValueError(
                f"symbols (N, C) of {self.quantizer.dtype} expected, "
                f"got {self.symbols.shape} of {self.symbols.dtype}"
            )

    def values(self) -> FloatArray:
        """The decoded float32 values (N, C)."""
        return self.quantizer.dequantize(self.symbols)


@dataclass(frozen=True)
class QuantizedSplats:
    """A whole model in integers. Channel layout of features_rest: coefficient-major, RGB inner."""

    sh_degree: int
    attributes: Mapping[str, QuantizedAttribute]

    def __post_init__(self) -> None:
        expected = attribute_channels(self.sh_degree)
        shapes = {name: attribute.symbols.shape for name, attribute in self.attributes.items()}
        if shapes != {name: (self.count, channels) for name, channels in expected.items()}:
            raise ValueError(f"SH degree {self.sh_degree} needs channels {expected}, got {shapes}")

    @property
    def count(self) -> int:
        """Number of Gaussians."""
        return len(self.attributes["xyz"].symbols)

    def reordered(self, order: npt.NDArray[np.intp]) -> "QuantizedSplats":
        """The same model with row i taken from row order[i]."""
        return QuantizedSplats(
            self.sh_degree,
            {
                name: QuantizedAttribute(attribute.symbols[order], attribute.quantizer)
                for name, attribute in self.attributes.items()
            },
        )

    def values(self) -> dict[str, FloatArray]:
        """The decoded float32 values (N, C) of every attribute."""
        return {name: attribute.values() for name, attribute in self.attributes.items()}


def same_symbols(a: QuantizedSplats, b: QuantizedSplats) -> bool:
    """Whether two models agree in every symbol and every quantiser."""
    return a.sh_degree == b.sh_degree and all(
        a.attributes[name].quantizer == b.attributes[name].quantizer
        and np.array_equal(a.attributes[name].symbols, b.attributes[name].symbols)
        for name in attribute_channels(a.sh_degree)
    )
