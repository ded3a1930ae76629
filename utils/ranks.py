# SPDX-License-Identifier: Apache-2.0
"""Several processes that compute together, as torchrun starts them: the ranks of a job.

Rank 0 runs the program: it alone reads, decides, prints and writes. The others wait for functions
to call, with arguments that rank 0 sends (`everywhere`), so that they need no files. Without
torchrun there is one rank, and `everywhere` is a call.

Messages are pickles, as in torch.distributed's own object collectives: the ranks trust each other.
"""

import atexit
import io
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed

from utils.errors import InputError
from utils.launched_ranks import rank_and_count

_P = ParamSpec("_P")
_R = TypeVar("_R")
_T = TypeVar("_T")

_PATIENCE = timedelta(days=30)
"""Rank 0 may read or encode for long, while the others wait. A rank that ends is noticed at once.
"""
_IGNORED = ("SIGINT", "SIGTERM", "SIGHUP")


class _Job:
    """The ranks of this job, and the objects that all of them hold."""

    def __init__(self) -> None:
        self.rank, self.count = 0, 1
        self.kept: list[Any] = []
        self.numbers: dict[int, int] = {}
        """id() of a kept object -> its place in `kept`."""

    def keep(self, objects: Sequence[Any]) -> None:
        for one in objects:
            self.numbers[id(one)] = len(self.kept)
            self.kept.append(one)


_job = _Job()


def count() -> int:
    """The number of ranks."""
    return _job.count


def is_writer() -> bool:
    """Whether this is rank 0, which alone reads, decides, prints and writes."""
    return _job.rank == 0


def is_mine(index: int) -> bool:
    """Whether this rank has to do the item with this index."""
    return index % _job.count == _job.rank


def my_share(items: Sequence[_T]) -> list[_T]:
    """The items that this rank has to do."""
    return list(items[_job.rank :: _job.count])


def in_order(shares: Sequence[Sequence[_T]]) -> list[_T]:
    """The results for all items, of the results for the shares of all ranks."""
    length = sum(map(len, shares))
    return [shares[index % len(shares)][index // len(shares)] for index in range(length)]


class Here:
    """A callback that does nothing when it is called on another rank."""

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> None:
        """Calls it."""
        self._call(*arguments)

    def __reduce__(self) -> tuple:
        return Here, (_nothing,)


def _nothing(*arguments: object) -> None:
    pass


def keep(objects: Sequence[Any]) -> None:
    """Sends these objects, such as cameras, to all ranks, so that `everywhere` only names them."""
    new = [one for one in objects if id(one) not in _job.numbers]
    if _job.count > 1 and new:
        everywhere(_keep_sent, new)
        _job.keep(new)


def _keep_sent(objects: list[Any]) -> None:
    if not is_writer():
        _job.keep(objects)


def everywhere(function: Callable[_P, _R], *args: _P.args, **named: _P.kwargs) -> list[_R]:
    """What the function returns on each rank, in their order. Called on rank 0.

    Function and arguments must be picklable if there are several ranks. InputError if one of them
    has ended.
    """
    if _job.count == 1:
        return [function(*args, **named)]
    _broadcast((function, args, named))
    own = function(*args, **named)
    return [own, *(_receive(rank) for rank in range(1, _job.count))]


def all_sum(totals: Sequence[Tensor], others: Iterable[Sequence[Tensor]]) -> None:
    """Adds the tensors of the other ranks to those of rank 0, in the order of the ranks."""
    for parts in others:
        for total, part in zip(totals, parts, strict=True):
            total.add_(part)


def check_device(device: torch.device) -> None:
    """InputError if several ranks cannot use this device."""
    if _job.count > 1 and device.type != "cpu":
        raise InputError(
            f"torchrun: several processes work together on CPUs only, but the device is {device}: "
            "start one process, or give --rasterizer cpu"
        )


def shared(main: Callable[[], None]) -> Callable[[], None]:
    """`main`, run by rank 0 of torchrun's processes, with the help of all others."""

    def run() -> None:
        rank, number = rank_and_count()
        if number == 1:
            main()
            return
        try:
            distributed.init_process_group("gloo", timeout=_PATIENCE)
        except (RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise InputError(f"process {rank} of {number} finds no others: {reason}") from error
        _job.rank, _job.count = distributed.get_rank(), distributed.get_world_size()
        if not is_writer():
            _serve()
        try:
            main()
            _broadcast(None)
        except _PeerEndedError:
            atexit.register(_end_at_once)  # before what was registered earlier
            raise
        distributed.destroy_process_group()

    return run


class _PeerEndedError(InputError):
    """The connection to another process is broken."""


def _end_at_once() -> NoReturn:
    """Without an orderly end, which the threads of a broken connection could abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _serve() -> NoReturn:
    """Calls what rank 0 sends, until it sends None. Ends the process."""
    # Rank 0 decides what a signal means: training still needs the others, to end its iteration.
    for name in _IGNORED:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        while (message := _broadcast()) is not None:
            function, args, named = message
            _send(function(*args, **named))
    except InputError as error:
        print(f"rank {_job.rank}: {error}", file=sys.stderr)
        _end_at_once()
    distributed.destroy_process_group()
    sys.exit()


# Messages: the number of buffers, their lengths, and the buffers, the first of which is the pickle.
# Tensors and arrays are buffers of their own, which are not copied.


class _Pickler(pickle.Pickler):
    """Names kept objects, and sends tensors as arrays."""

    def persistent_id(self, obj: Any) -> int | None:
        """The number of a kept object."""
        return _job.numbers.get(id(obj))

    def reducer_override(self, obj: Any) -> Any:
        """Tensors, with the gradients that they have dropped."""
        if not isinstance(obj, Tensor):
            return NotImplemented
        return torch.from_numpy, (obj.detach().cpu().contiguous().numpy(),)


class _Unpickler(pickle.Unpickler):
    """Finds kept objects."""

    def persistent_load(self, pid: Any) -> Any:
        """The kept object of this number."""
        return _job.kept[pid]


def _packed(message: Any) -> list[Tensor]:
    buffers: list[pickle.PickleBuffer] = []
    text = io.BytesIO()
    _Pickler(text, protocol=5, buffer_callback=buffers.append).dump(message)
    arrays = [text.getbuffer(), *(buffer.raw() for buffer in buffers)]
    return [torch.from_numpy(_writable(np.frombuffer(array, np.uint8))) for array in arrays]


def _writable(array: np.ndarray) -> np.ndarray:
    """PyTorch warns of arrays that it could change."""
    return array if array.flags.writeable else array.copy()


def _unpacked(buffers: Sequence[Tensor]) -> Any:
    first, *others = (buffer.numpy() for buffer in buffers)
    return _Unpickler(io.BytesIO(first.tobytes()), buffers=others).load()


def _broadcast(message: Any = None) -> Any:
    """Sends the message to all ranks from rank 0; returns it on the others."""
    parts = _packed(message) if is_writer() else []
    return _transfer(parts, lambda tensor: distributed.broadcast(tensor, 0), is_writer())


def _send(message: Any) -> None:
    _transfer(_packed(message), lambda tensor: distributed.send(tensor, 0), True)


def _receive(rank: int) -> Any:
    return _transfer([], lambda tensor: distributed.recv(tensor, rank), False)


def _transfer(parts: list[Tensor], move: Callable[[Tensor], Any], is_sender: bool) -> Any:
    """Moves all parts of a message; returns the message where it is received."""
    try:
        number = torch.tensor([len(parts)])
        move(number)
        lengths = torch.tensor([len(part) for part in parts]) if is_sender else (
            torch.empty(int(number), dtype=torch.int64)
        )  # fmt: skip
        move(lengths)
        if not is_sender:
            parts = [torch.empty(length, dtype=torch.uint8) for length in lengths.tolist()]
        for part in parts:
            if len(part):
                move(part)
    except RuntimeError as error:  # what torch.distributed raises for a closed connection
        other = "another process of the job" if is_writer() else "rank 0"
        reason = str(error).partition("\n")[0]
        raise _PeerEndedError(
            f"{other} has ended, so that this one cannot go on ({reason})"
        ) from error
    return None if is_sender else _unpacked(parts)
