#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All steps on a sample scene that is made here: photographs, training, compression, measuring.
# It ends with a table, and the path of the report that a browser opens.
# Needs Python 3.11 or newer and a C++ compiler; installs into .venv and writes to demo/ only.
set -euo pipefail
cd "$(dirname "$0")"
. tools/setup.sh

python=.venv/bin/python
scene=demo/scene model=demo/model
trained=2500
started=$SECONDS
step() { printf '\n[%3d s] %s\n' $((SECONDS - started)) "$*"; }
# Prints a command as a user would type it, and runs it.
show_and_run() {
    printf '$ %s\n' "${*/#$python/python}"
    "$@"
}

mkdir -p demo
rm -rf "$model" demo/decoded.ply demo/side_by_side.png
if [ ! -d "$scene" ]; then
    step "Photographs of a sample scene"
    show_and_run $python sample_scene.py "$scene" --views 56
fi

step "Training a model"
show_and_run $python train.py -s "$scene" -m "$model" --eval --iterations $trained \
    --densify_until_iter 1500 --densify_grad_threshold 0.0004 \
    --position_lr_max_steps $trained --opacity_reset_interval 10000 \
    --test_iterations -1 --save_iterations $trained --disable_viewer

step "Compressing it (with a short schedule)"
show_and_run $python compress.py -s "$scene" -m "$model" \
    --warmup_iterations 200 --finetune_iterations 100 --final_iterations 300 \
    --max_rounds 6

step "Decoding the compressed file"
show_and_run $python decompress.py "$model/compressed/model.f3dgs" demo/decoded.ply

step "Rendering and measuring both on the views held out"
show_and_run $python render.py -m "$model" --iteration $trained --skip_train --quiet
show_and_run $python render.py -m "$model" --skip_train --quiet
show_and_run $python metrics.py -m "$model"

step "Done"
$python tools/demo_report.py "$model" demo/decoded.ply demo/side_by_side.png
