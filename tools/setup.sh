# SPDX-License-Identifier: Apache-2.0
# Installs what this project needs into .venv; demo.sh and test.sh source it, from the root.
#
#   PYTHON     the Python to start from (default: python3, or another of 3.11 or newer on the PATH)
#   WITH_DEV=1 installs what the tests need, too
#   WITH_OTHERS=1 installs programs by others that some tests compare with, and Chromium
#
# Each part leaves a stamp with the hash of its inputs, so that a second run is quick.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed and was not found (set PYTHON=/path/to/python to choose one)."
}

check_compiler() {
    local candidate
    for candidate in ${CXX:-c++ g++ clang++}; do
        if command -v "$candidate" >/dev/null; then return; fi
    done
    fail "a C++ compiler is needed and was not found: install one (Debian and Ubuntu:" \
        "apt install g++; macOS: xcode-select --install) or name it in CXX."
}

make_environment() {
    if .venv/bin/python -c 'import pip' 2>/dev/null; then return; fi
    local python
    python=$(find_python)
    echo "Making .venv with $python"
    "$python" -m venv .venv || fail "$python could not make a virtual environment" \
        "(Debian and Ubuntu: apt install python3-venv; then remove .venv and run this again)."
}

# fingerprint PATH...: one hash of the source files below these paths
fingerprint() {
    .venv/bin/python - "$@" <<'PYTHON'
import hashlib, pathlib, sys

total = hashlib.sha256()
for argument in sys.argv[1:]:
    path = pathlib.Path(argument)
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    for file in files:
        built = {"build", "dist", "__pycache__"} & set(file.parts) or "egg-info" in str(file)
        # An editable install puts the libraries, and copies of files of common, beside the code.
        copied = file.name in {"_native.py", "_cuda.py"} and file.parent.name != "common"
        built = built or copied or file.parent.name == "cuda"
        if file.is_file() and not built and file.suffix not in {".so", ".tmp"}:
            total.update(f"{file} {file.stat().st_size} ".encode() + file.read_bytes())
print(total.hexdigest())
PYTHON
}

# part NAME INPUTS... -- COMMAND...: run the command unless its inputs are unchanged
part() {
    local name=$1 stamp=.venv/stamp-$1 inputs=()
    shift
    while [ "$1" != -- ]; do
        inputs+=("$1")
        shift
    done
    shift
    local now
    now=$(fingerprint "${inputs[@]}")
    if [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then return; fi
    echo "Installing $name"
    "$@" || fail "installing $name failed; pip's output is above."
    printf '%s\n' "$now" >"$stamp"
}

pip_install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint tools/constraints.txt "$@"
}

# requirements SECTION: the list from pyproject.toml, one to a line
requirements() {
    .venv/bin/python - "$1" <<'PYTHON'
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
lists = {"run": project["dependencies"], **project["optional-dependencies"]}
print("\n".join(lists[sys.argv[1]]))
PYTHON
}

install_requirements() {
    requirements "$1" >".venv/requirements-$1.txt"
    pip_install --requirement ".venv/requirements-$1.txt"
}

install_libraries() {
    # PyTorch first and alone: the constraint sets its version before another package requires one.
    pip_install torch
    install_requirements run
    pip_install 'setuptools>=70.1' wheel
}

install_kernels() {
    check_compiler
    rm -rf submodules/*/build  # setuptools would install files of an earlier version, too
    local project projects=()
    for project in submodules/*/pyproject.toml; do projects+=("./${project%/pyproject.toml}"); done
    pip_install --no-build-isolation --no-deps --force-reinstall "${projects[@]}"
}

# Programs by others that the tests compare with, and a browser. A test that needs a missing one is
# skipped, with the reason; so a failure here is only reported.
install_others() {
    if ! .venv/bin/python -c 'import flip_evaluator, gsply, playwright, pycolmap, ray, yaml' 2>/dev/null; then
        install_requirements others || echo "Not installed: flip-evaluator, gsply, playwright, pycolmap, pyyaml, ray" >&2
    fi
    if [ ! -x .venv/others/node_modules/.bin/splat-transform ]; then
        npm install --silent --no-audit --no-fund --prefix .venv/others \
            @playcanvas/splat-transform@2.7.1 || echo "Not installed: splat-transform" >&2
    fi
    if [ ! -d .venv/others/node_modules/gltf-validator ]; then
        npm install --silent --no-audit --no-fund --prefix .venv/others \
            gltf-validator@2.0.0-dev.3.10 || echo "Not installed: gltf-validator" >&2
    fi
    if ! command -v chromium >/dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium; } \
            >/dev/null || echo "Not installed: chromium" >&2
    fi
}

make_environment
if [ ! -f .venv/stamp-kernels ]; then check_compiler; fi  # before the long downloads
part libraries pyproject.toml tools/constraints.txt -- install_libraries
part kernels submodules tools/setup.sh -- install_kernels
if [ "${WITH_DEV:-0}" = 1 ]; then
    part tools pyproject.toml tools/constraints.txt -- install_requirements dev
fi
if [ "${WITH_OTHERS:-0}" = 1 ]; then install_others; fi
