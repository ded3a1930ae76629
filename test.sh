#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lint, types and tests; arguments go to pytest (./test.sh -k codec).
set -euo pipefail
cd "$(dirname "$0")"
WITH_DEV=1
. tools/setup.sh

.venv/bin/ruff check .
.venv/bin/ruff format --check .
tools/check_types.sh
exec .venv/bin/python -m pytest "$@"
