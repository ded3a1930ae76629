#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lint, types and tests; arguments go to pytest (./test.sh -k codec). Two processes run the tests, each
# file's in one of them; -n 0 runs all in this process.
set -euo pipefail
cd "$(dirname "$0")"
WITH_DEV=1
. tools/setup.sh

export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # PyTorch's idle threads leave the cores to others

.venv/bin/ruff check .
.venv/bin/ruff format --check .
tools/check_types.sh
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
