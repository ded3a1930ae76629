# SPDX-License-Identifier: Apache-2.0
"""Photographs that are decoded when they are used, and as many kept as fit into a given memory.

The pixels are those of photographs that are all kept: what is in memory never changes a result.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from utils.photos import Size

AHEAD = 2
"""How many photographs are decoded before they are used."""

_MOST_BYTES_PER_PIXEL = 5  # three colours, opacity and mask


class Pixels(NamedTuple):
    """A decoded photograph: image (3, H, W) uint8; opacity (1, H, W) uint8, None if opaque.

    `mask` (1, H, W) uint8 is 1 where a pixel counts, and None where all do.
    """

    image: Tensor
    opacity: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device) -> "Pixels":
        """The same on a device."""
        return Pixels(
            self.image.to(device),
            None if self.opacity is None else self.opacity.to(device),
            None if self.mask is None else self.mask.to(device),
        )

    @property
    def bytes(self) -> int:
        """The memory of the tensors."""
        return sum(tensor.nbytes for tensor in self if tensor is not None)


class PhotoCache:
    """Decoded photographs of one run, at most `capacity` bytes: the least recently used leave.

    One photograph is kept even if it is larger. Threads decode those that are expected next, if
    they fit in beside the one in use and those expected before them; these leave last.
    Photographs used in the order in which they were added, or in equal steps of it, are expected
    without being announced.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._loaders: list[Callable[[], Pixels]] = []
        self._sizes: list[int] = []
        """Bytes of each photograph: the most possible, until it has been decoded."""
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Pixels] = OrderedDict()
        self._pending: dict[int, Future[Pixels]] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._expected: list[int] = []
        """The next ones, in order."""
        self._is_announced = False
        """Whether `expect` was told of them, or of the one in use."""
        self._used, self._step = -1, 0
        self.decoded = 0
        """How often a photograph was decoded."""

    def __getstate__(self) -> tuple:
        """What another process needs: it decodes its photographs itself."""
        return self._capacity, self._loaders, self._sizes

    def __setstate__(self, state: tuple) -> None:
        self.__init__(state[0])  # type: ignore[misc]
        _, self._loaders, self._sizes = state

    def add(self, load: Callable[[], Pixels], size: Size) -> "CachedPhoto":
        """A photograph of this width and height, which `load` decodes."""
        self._loaders.append(load)
        self._sizes.append(_MOST_BYTES_PER_PIXEL * size[0] * size[1])
        return CachedPhoto(self, len(self._loaders) - 1, size)

    def pixels(self, index: int) -> Pixels:
        """The photograph number `index`. Raises what its `load` raises."""
        with self._lock:
            self._use(index)
            found = self._kept.get(index)
            future = self._pending.get(index)
            if found is not None:
                self._kept.move_to_end(index)
        if found is None and future is not None:
            found = _result(future)
        if found is None:
            found = self._decode(index)
        with self._lock:
            self._decode_expected()
        return found

    def expect(self, indices: Sequence[int]) -> None:
        """These photographs are used next, in this order: decode them meanwhile.

        That is done as far as there is room. It replaces what was expected before.
        """
        with self._lock:
            self._expected, self._is_announced = list(dict.fromkeys(indices)), True
            self._decode_expected()

    # The methods below are called with the lock held, except `_decode`.

    def _use(self, index: int) -> None:
        """Photograph `index` is in use from now on, which changes what is expected."""
        step = index - self._used
        is_regular = step != 0 and step == self._step
        self._used, self._step = index, step or self._step
        if index in self._expected:
            del self._expected[: self._expected.index(index) + 1]
        elif step != 0:  # another order than expected
            self._expected, self._is_announced = [], False
        if is_regular and not self._is_announced:
            following = [index + step * (k + 1) for k in range(AHEAD)]
            self._expected = [k for k in following if 0 <= k < len(self._loaders)]

    def _decode_expected(self) -> None:
        """Let the threads decode the expected photographs, as far as there is room for them."""
        # The one in use has its memory even if it is expected again: without it, a photograph
        # that was decoded ahead would leave before it is used.
        taken_first = {*self._pending, self._used} - {-1}
        taken = sum(self._sizes[index] for index in taken_first)
        for index in self._expected:
            if index in taken_first:
                continue
            taken += self._sizes[index]
            if taken > self._capacity:
                return
            if index in self._kept:
                continue
            if self._threads is None:
                self._threads = ThreadPoolExecutor(AHEAD, "photographs")
            self._pending[index] = self._threads.submit(self._decode, index)

    def _decode(self, index: int) -> Pixels:
        try:
            found = self._loaders[index]()
        except BaseException:
            with self._lock:
                self._pending.pop(index, None)
            raise
        with self._lock:
            self._pending.pop(index, None)
            self.decoded += 1
            self._sizes[index] = found.bytes
            self._kept[index] = found
            self._kept.move_to_end(index)
            total = sum(pixels.bytes for pixels in self._kept.values())
            while total > self._capacity and len(self._kept) > 1:
                total -= self._kept.pop(self._least_needed()).bytes
        return found

    def _least_needed(self) -> int:
        """The photograph to remove: one that is not expected, else the last of these."""
        needed = [self._used, *self._expected]
        for index in self._kept:  # least recently used first
            if index not in needed:
                return index
        return max(self._kept, key=needed.index)


class CachedPhoto:
    """One photograph of a `PhotoCache`."""

    def __init__(self, cache: PhotoCache, index: int, size: Size) -> None:
        """`size`: width and height."""
        self._cache, self._index, self.size = cache, index, size

    def pixels(self) -> Pixels:
        """The photograph, decoded."""
        return self._cache.pixels(self._index)


def expect_photos(photos: Sequence[CachedPhoto]) -> None:
    """`PhotoCache.expect` for photographs of one cache."""
    if photos:
        photos[0]._cache.expect([photo._index for photo in photos])


def _result(future: "Future[Pixels]") -> Pixels | None:
    """None if decoding failed: it is then tried once more, where the error can be handled."""
    try:
        return future.result()
    except Exception:
        return None
