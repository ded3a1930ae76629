# SPDX-License-Identifier: Apache-2.0
"""How much main memory this process may still take. Standard library only."""

from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_UNLIMITED = 1 << 60
# For both versions of control groups: names of the limit, of what is used, and of the cached files
# in memory.stat, which the system gives up first.
_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = ("memory.max", "memory.current", "inactive_file")


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes: the least of what the machine and each control group of this process have left.

    None where the operating system does not tell it in /proc. `root` replaces / in tests.
    """
    lines = _lines(root / "proc/meminfo")
    amounts = {words[0].rstrip(":"): words[1] for line in lines if len(words := line.split()) > 1}
    if "MemAvailable" not in amounts:
        return None
    return min([int(amounts["MemAvailable"]) * 1024, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> Iterator[int]:
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, place = (*line.split(":", 2), "", "")[:3]
        if controllers == "":
            base, names = mount, _VERSION_2
        elif "memory" in controllers.split(","):
            base, names = mount / "memory", _VERSION_1
        else:
            continue
        # A container often sees its own group as the root, whatever the path says.
        folder = base / place.strip().lstrip("/")
        while folder != base.parent:
            left = _left_in(folder, *names)
            if left is not None:
                yield left
            folder = folder.parent


def _left_in(folder: Path, limit_name: str, used_name: str, cached_name: str) -> int | None:
    """What a group's limit leaves; None if it has no limit, or does not exist."""
    limit, used = (_number(folder / name) for name in (limit_name, used_name))
    if limit is None or used is None or limit >= _UNLIMITED:
        return None
    cached = 0
    for line in _lines(folder / "memory.stat"):
        name, _, value = line.partition(" ")
        if name == cached_name:
            cached = int(value)
    return max(0, limit - used + cached)


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
