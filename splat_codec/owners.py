# SPDX-License-Identifier: Apache-2.0
"""The owners of shared SH in the file: a number for each Gaussian without SH of its own.

Normative text: docs/format.md, "Shared SH".
"""

import numpy as np
import numpy.typing as npt

from splat_codec.contexts import DIRECT_TOKENS, Values
from splat_codec.errors import CorruptFile
from splat_codec.planes import PlaneCoder
from splat_codec.shared_sh import SharedSh


class OwnerCoder:
    """Codes the owners layer by layer; a writer gives it the numbers (N,) of `owner_numbers`."""

    def __init__(self, numbers: Values | None = None) -> None:
        self._numbers = numbers
        self._layer, self._first = 0, 0
        self._owners: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._shared = [SharedSh.of([], [])]

    def code(
        self, coder: PlaneCoder, order: npt.NDArray[np.intp], has_sh: npt.NDArray[np.bool_]
    ) -> None:
        """The next layer: its Gaussians (n,) in step-major order, and which of them have SH."""
        own = np.sort(order[has_sh]) + self._first
        self._owners = np.concatenate([self._owners, own])
        rows = order[~has_sh] + self._first
        given = None if self._numbers is None else self._numbers[rows]
        numbers = _code_numbers(coder, self._layer, (len(rows), len(self._owners)), given)
        (with_owner,) = numbers.nonzero()
        owners = self._owners[numbers[with_owner] - 1]
        self._shared.append(SharedSh.of(rows[with_owner], owners))
        self._layer += 1
        self._first += len(order)

    def shared(self) -> SharedSh:
        """What all layers so far share."""
        rows, owners = ([getattr(s, n) for s in self._shared] for n in ("rows", "owners"))
        return SharedSh.of(np.concatenate(rows), np.concatenate(owners))


def owner_numbers(shared: SharedSh, has_sh: npt.NDArray[np.bool_]) -> Values:
    """(N,): 1 + the number of the row's owner among all rows that have SH (N,), else 0.

    ValueError if a row that shares SH has its own, or an owner has none.
    """
    if has_sh[shared.rows].any() or not has_sh[shared.owners].all():
        raise ValueError("shared SH: rows without SH and owners with SH expected")
    numbers = np.zeros(len(has_sh), np.int32)
    numbers[shared.rows] = has_sh.cumsum(dtype=np.int32)[shared.owners]
    return numbers


def low_bits(owners: int) -> int:
    """How many plain bits the number of one of `owners` has; what is above them is below 231."""
    return (max(owners - 1, 0) // (DIRECT_TOKENS - 1)).bit_length()


def _code_numbers(
    coder: PlaneCoder, layer: int, sizes: tuple[int, int], given: Values | None
) -> Values:
    """Numbers (n,) from 0 to the number of owners; `sizes`: n, and the number of owners.

    A number costs the logarithm of the number of owners, even where that is no power of two:
    the upper part is a token.
    """
    count, owners = sizes
    low = low_bits(owners)
    upper = lower = None
    if given is not None:
        upper = np.where(given > 0, 1 + (given - 1 >> low), 0)
        lower = np.maximum(given - 1, 0) & ((1 << low) - 1)
    found = coder.plane(f"owner{layer}", 1, np.zeros(count, np.int32), upper)
    _require_owners(found, 1 + (owners - 1 >> low))
    rest = coder.bits(np.where(found > 0, np.int32(low), np.int32(0)), lower)
    numbers = np.where(found > 0, 1 + (np.maximum(found - 1, 0) << low | rest), 0)
    _require_owners(numbers, owners)
    return numbers


def _require_owners(numbers: Values, owners: int) -> None:
    if numbers.max(initial=0) > owners:
        raise CorruptFile("sh", "the owner of shared SH does not exist")
