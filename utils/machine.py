# SPDX-License-Identifier: Apache-2.0
"""What this machine is. Standard library only."""

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The processor's model where the operating system states it, else its architecture."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
