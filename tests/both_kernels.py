# SPDX-License-Identifier: Apache-2.0
"""The codec with either of its kernels: NumPy and compiled code."""

from collections.abc import Iterator
from contextlib import contextmanager

from splat_codec import kernels
from splat_codec.errors import CorruptFile
from splat_codec.grid_splats import GridSplats, same_integers
from splat_codec.model_file import decode
from splat_codec.symbols import QuantizedSplats

BOTH = [kernels.PLAIN, kernels.compiled()]


@contextmanager
def using(chosen: kernels.Kernels) -> Iterator[None]:
    """A context in which the codec uses these kernels."""
    before = kernels.best
    kernels.best = chosen
    try:
        yield
    finally:
        kernels.best = before


def decoded_alike(data: bytes) -> GridSplats | QuantizedSplats | None:
    """The model in a file, None where it is corrupt. AssertionError where the kernels differ."""
    plain, compiled = (_outcome(data, used) for used in BOTH)
    if isinstance(plain, GridSplats):
        assert isinstance(compiled, GridSplats)
        assert same_integers(plain, compiled)
    elif isinstance(plain, str):
        assert plain == compiled
        return None
    return plain


def _outcome(data: bytes, used: kernels.Kernels) -> GridSplats | QuantizedSplats | str:
    """The model, or the message of CorruptFile."""
    with using(used):
        try:
            return decode(data).splats
        except CorruptFile as error:
            return str(error)
