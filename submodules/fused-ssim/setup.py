# SPDX-License-Identifier: Apache-2.0
"""Builds this package with the code that the packages share: ../common, or a copy in an sdist."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = [folder / "common" / "build_kernels.py" for folder in (HERE, HERE.parent)]
script = next((script for script in SCRIPTS if script.is_file()), None)
if script is None:
    sys.exit(
        f"error: {SCRIPTS[-1]} was not found. Install this package from the folder submodules/ of "
        "the project with pip 21.3 or newer (older ones build in a copy), or from its sdist."
    )
runpy.run_path(str(script))
