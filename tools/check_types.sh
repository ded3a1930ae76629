#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# mypy on everything but the tests. The kernel packages install alone, each from its own folder, so
# each is checked as its own project.
set -euo pipefail
cd "$(dirname "$0")/.."

folders=()
for folder in */; do
    case $folder in
        build/ | demo/ | dist/ | output/ | submodules/ | tests/ | *.egg-info/) continue ;;
    esac
    if find "$folder" -name '*.py' | grep -q .; then folders+=("$folder"); fi
done
.venv/bin/mypy ./*.py "${folders[@]}"
for folder in submodules/*/; do
    (cd "$folder" && ../../.venv/bin/mypy --config-file ../../pyproject.toml --exclude '^build/' .)
done
