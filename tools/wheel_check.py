# SPDX-License-Identifier: Apache-2.0
"""Loads the compiled library of an installed kernel package, without PyTorch.

    python tools/wheel_check.py submodules/simple-knn

cibuildwheel runs this with each wheel that it built.
"""

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    """Prints the instruction set whose library was loaded."""
    package = Path(sys.argv[1]).name.replace("-", "_")
    spec = find_spec(package)  # does not import the package, which needs PyTorch
    if spec is None or spec.origin is None:
        sys.exit(f"error: {package} is not installed")
    loader = Path(spec.origin).with_name("_native.py")
    spec = spec_from_file_location(f"{package}._native", loader)
    if spec is None or spec.loader is None:
        sys.exit(f"error: {loader} was not found")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    _, instruction_set = module.load_library()
    print(f"{package}: the library for {instruction_set} was loaded")


if __name__ == "__main__":
    main()
