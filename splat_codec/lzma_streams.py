# SPDX-License-Identifier: Apache-2.0
"""Symbol arrays as LZMA streams, one .xz stream an attribute.

The layout of the bytes and LZMA's three context parameters depend on the symbols' width. Sizes
against the library's defaults, for a model of 115,016 Gaussians at the end of training: 8-bit
symbols -2 % row by row with lc=4; 16-bit -5 % (rotation -9 %) and 32-bit -6 % channel by channel,
with the byte's position in its number as the context (lp, pb).
"""

import lzma

import numpy as np

from splat_codec.errors import CorruptFile
from splat_codec.quantizers import SymbolArray

_CONTEXTS = {
    1: {"lc": 4, "lp": 0, "pb": 0},
    2: {"lc": 0, "lp": 1, "pb": 1},
    4: {"lc": 0, "lp": 2, "pb": 2},
}
_XZ_HEADER = 12  # bytes of an .xz stream before its first block, and after its index
_MAX_DICTIONARY = 2**26
_DECODER_MEMORY = 2**26 + 2**21  # the largest dictionary, and the decoder's own tables


def compress_symbols(symbols: SymbolArray) -> bytes:
    """The .xz stream of symbols (N, C): row by row if they are bytes, else channel by channel."""
    laid_out = symbols if symbols.itemsize == 1 else symbols.T
    data = np.ascontiguousarray(laid_out).tobytes()
    dictionary = min(_MAX_DICTIONARY, 1 << max(12, (len(data) - 1).bit_length() if data else 0))
    chain = {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "dict_size": dictionary,
        **_CONTEXTS[symbols.itemsize],
    }
    return lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=[chain])


def decompress_symbols(
    stream: bytes, count: int, channels: int, dtype: np.dtype[np.unsignedinteger], section: str
) -> SymbolArray:
    """Symbols (count, channels) of `dtype`; CorruptFile unless the stream holds exactly these."""
    expected = count * channels * dtype.itemsize
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DECODER_MEMORY)
    try:
        data = decoder.decompress(stream, max_length=expected + 1)
    except lzma.LZMAError as error:
        raise CorruptFile(section, f"LZMA: {error}") from error
    if len(data) != expected or not decoder.eof or decoder.unused_data:
        raise CorruptFile(section, f"holds {len(data)} or more bytes, {expected} expected")
    if decoder.check != lzma.CHECK_NONE or not _is_plain(stream):
        raise CorruptFile(section, "LZMA: one block of LZMA2 alone, without a check, is expected")
    flat = np.frombuffer(data, dtype=dtype)
    if dtype.itemsize == 1:
        return flat.reshape(count, channels)
    return np.ascontiguousarray(flat.reshape(channels, count).T)


def _is_plain(stream: bytes) -> bool:
    """Whether a valid .xz stream has at most one block, with a single filter.

    The last filter of a block is always LZMA2 (The .xz File Format 1.2.1, section 5.3.1).
    """
    index = len(stream) - _XZ_HEADER - 4 * (int.from_bytes(stream[-8:-4], "little") + 1)
    blocks, block_flags = stream[index + 1], stream[_XZ_HEADER + 1]
    return blocks == 0 or (blocks == 1 and not block_flags & 3)
