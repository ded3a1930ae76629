# SPDX-License-Identifier: Apache-2.0
"""Runs a script that is written for CUDA on the CPU.

    python -m diff_gaussian_rasterization.on_cpu SCRIPT [ARGUMENT ...]

`.cuda()`, `device="cuda"` and most of `torch.cuda` mean the CPU then, for this script only
(`cuda_as_cpu`). All else is as with `python SCRIPT`: arguments, imports from the script's folder,
exit status. Processes that the script starts itself are not affected.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .cuda_as_cpu import map_cuda_to_cpu

_USAGE = "usage: python -m diff_gaussian_rasterization.on_cpu SCRIPT [ARGUMENT ...]"
_CANNOT_START = 2


def main(arguments: Sequence[str]) -> int:
    """Run the script that `arguments` begin with; the status 2 if it cannot be started."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else _CANNOT_START
    script = Path(arguments[0])
    if not script.exists():
        print(f"error: there is no script {script}; {_USAGE}", file=sys.stderr)
        return _CANNOT_START
    if torch.cuda.is_available():
        print(
            f"note: this machine has a GPU, {torch.cuda.get_device_name()}, but {script} runs on "
            f"the CPU; `python {script}` would use the GPU, with packages made for it",
            file=sys.stderr,
        )
    map_cuda_to_cpu()
    sys.argv = list(arguments)
    _look_for_modules_beside(script)
    runpy.run_path(str(script), run_name="__main__")
    return 0


def _look_for_modules_beside(script: Path) -> None:
    """Replace the working directory, which `python -m` puts first, as `python SCRIPT` would."""
    if getattr(sys.flags, "safe_path", False):
        return
    del sys.path[0]
    if script.is_file() and script.suffix not in (".zip", ".pyz"):
        sys.path.insert(0, str(script.resolve().parent))
    # `run_path` itself adds a folder, or an archive, that holds a __main__.py.


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
