#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# mypy on everything. The kernel packages install alone, each from its own folder, so each is
# checked as its own project.
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/mypy ./*.py tools/*.py arguments gaussian_compression gaussian_renderer lpipsPyTorch \
    scene splat_formats still_life utils tests benchmarks
for folder in submodules/*/; do
    (cd "$folder" && ../../.venv/bin/mypy --config-file ../../pyproject.toml .)
done
