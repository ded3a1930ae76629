# SPDX-License-Identifier: Apache-2.0
"""Quantisers: how an attribute's float32 values become unsigned integers, and back.

A quantiser is a value (frozen, comparable) that the file stores. `dequantize` defines the decoded
model: it uses only IEEE float32 multiplication and addition, each rounded once, so that every
platform gets the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splat_codec.errors import CorruptFile

MAX_VALUE = 2.0**127
"""Bound of the values of a grid: finite in float32 after any rounding."""

FloatArray = npt.NDArray[np.float32]
SymbolArray = npt.NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class Float32:
    """Symbols are the bits of the float32 values themselves: nothing is lost."""

    dtype = np.dtype("<u4")

    def quantize(self, values: FloatArray) -> SymbolArray:
        """The bit patterns, uint32, of `values`' shape."""
        return np.ascontiguousarray(values, dtype="<f4").view(self.dtype)

    def dequantize(self, symbols: SymbolArray) -> FloatArray:
        """The float32 values, of `symbols`' shape."""
        return np.ascontiguousarray(symbols, dtype=self.dtype).view("<f4").astype(np.float32)

    def all_finite(self, symbols: SymbolArray) -> bool:
        """Whether every symbol stands for a finite number."""
        return bool(np.isfinite(self.dequantize(symbols)).all())


@dataclass(frozen=True)
class Float16:
    """Symbols are the bits of the nearest IEEE half-precision values (largest finite: 65504)."""

    dtype = np.dtype("<u2")

    def quantize(self, values: FloatArray) -> SymbolArray:
        """Bit patterns, uint16, of `values`' shape; values out of range become +-65504."""
        limit = np.float32(np.finfo(np.float16).max)
        half = np.clip(values, -limit, limit).astype("<f2")
        return half.view(self.dtype)

    def dequantize(self, symbols: SymbolArray) -> FloatArray:
        """The float32 values, of `symbols`' shape."""
        return np.ascontiguousarray(symbols, dtype=self.dtype).view("<f2").astype(np.float32)

    def all_finite(self, symbols: SymbolArray) -> bool:
        """Whether every symbol stands for a finite number."""
        return bool(np.isfinite(np.ascontiguousarray(symbols, dtype=self.dtype).view("<f2")).all())


@dataclass(frozen=True)
class EvenGrids:
    """A grid for each channel: value = minimum + step x symbol, with symbols 0 ... levels - 1.

    `minimum` and `step` hold one entry for all channels or one per channel (float32 values).
    """

    minimum: tuple[float, ...]
    step: tuple[float, ...]
    levels: int

    def __post_init__(self) -> None:
        numbers = np.array([*self.minimum, *self.step], dtype=np.float32)
        if len(self.minimum) != len(self.step) or not len(self.step):
            raise ValueError("EvenGrids: minimum and step need the same number (>= 1) of channels")
        if not np.isfinite(numbers).all() or min(self.step) <= 0:
            raise ValueError(f"EvenGrids: finite minimum and positive step expected, got {self}")
        if not 2 <= self.levels <= 2**24:
            raise ValueError(f"EvenGrids: 2 to 2^24 levels expected, got {self.levels}")
        ends = [abs(m) + s * self.levels for m, s in zip(self.minimum, self.step, strict=True)]
        if max(ends) > MAX_VALUE:
            raise ValueError(f"EvenGrids: values up to 2^127 expected, got {max(ends):.3g}")

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        """The narrowest unsigned type that holds every symbol."""
        bits = (self.levels - 1).bit_length()
        return np.dtype("<u1" if bits <= 8 else "<u2" if bits <= 16 else "<u4")

    def quantize(self, values: FloatArray) -> SymbolArray:
        """Nearest symbols (N, C), ties to even; values outside a grid get its first or last one."""
        position = (values - _float32(self.minimum)) / _float32(self.step)
        return np.clip(np.rint(position), 0, self.levels - 1).astype(self.dtype)

    def dequantize(self, symbols: SymbolArray) -> FloatArray:
        """Float32 values (N, C) of symbols (N, C)."""
        values = symbols.astype(np.float32)
        values *= _float32(self.step)
        values += _float32(self.minimum)
        return values

    def all_finite(self, symbols: SymbolArray) -> bool:
        """Always true: both ends of the grid are finite."""
        return True


def _float32(numbers: tuple[float, ...]) -> FloatArray:
    return np.array(numbers, dtype=np.float32)


Quantizer = Float32 | Float16 | EvenGrids


def affine_with_zero(low: float, high: float, levels: int) -> EvenGrids:
    """A one-channel grid over [low, high] stretched to contain 0, and on which 0 is exact.

    The usual affine scheme of quantisation-aware training (Jacob et al. 2018, sec. 2.1). Most SH
    coefficients are near zero: a grid without an exact 0 would tint every Gaussian.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    step = np.float32(max(high - low, 1e-6) / (levels - 1))
    zero_symbol = np.rint(np.float32(-low) / step)
    return EvenGrids(minimum=(float(-(zero_symbol * step)),), step=(float(step),), levels=levels)


def grid_over(low: FloatArray, high: FloatArray, bits: int) -> EvenGrids:
    """A grid of 2^bits levels per channel whose ends are `low` and `high`, both of shape (C,)."""
    step = (high.astype(np.float64) - low) / (2**bits - 1)
    step = np.maximum(step, 1e-9).astype(np.float32)
    return EvenGrids(tuple(low.astype(np.float32).tolist()), tuple(step.tolist()), 2**bits)


_KINDS: dict[type, int] = {Float32: 0, Float16: 1, EvenGrids: 2}


def pack_quantizer(quantizer: Quantizer) -> bytes:
    """The quantiser's record in the file (docs/format.md, "Quantiser record")."""
    head = bytes([_KINDS[type(quantizer)]])
    if not isinstance(quantizer, EvenGrids):
        return head
    pairs = np.array([quantizer.minimum, quantizer.step], dtype="<f4").T
    return head + quantizer.levels.to_bytes(4, "little") + bytes([len(pairs)]) + pairs.tobytes()


def unpack_quantizer(take: Callable[[int], bytes], channels: int, section: str) -> Quantizer:
    """The quantiser whose record `take(number of bytes)` yields; CorruptFile if it is not valid."""
    kind = take(1)[0]
    if kind == _KINDS[Float32]:
        return Float32()
    if kind == _KINDS[Float16]:
        return Float16()
    if kind != _KINDS[EvenGrids]:
        raise CorruptFile(section, f"unknown quantiser kind {kind}")
    levels = int.from_bytes(take(4), "little")
    entries = take(1)[0]
    if entries not in (1, channels):
        raise CorruptFile(section, f"{entries} quantiser entries for {channels} channels")
    pairs = np.frombuffer(take(8 * entries), dtype="<f4").reshape(entries, 2)
    try:
        return EvenGrids(tuple(map(float, pairs[:, 0])), tuple(map(float, pairs[:, 1])), levels)
    except ValueError as error:
        raise CorruptFile(section, str(error)) from error
