# SPDX-License-Identifier: Apache-2.0
"""Writes depth_params.json for train.py -d: the scale of each map of inverse depth.

    python utils/make_depth_scale.py --base_dir SCENE --depths_dir MAPS

SCENE holds a COLMAP reconstruction, beside which the file is written; MAPS has a grey PNG of each
image, such as Depth Anything gives.
"""

import sys
from argparse import ArgumentParser
from pathlib import Path

if __name__ == "__main__":  # modules of the project are imported, not those beside this file
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from scene.depth_scale import write_depth_scales
from utils import cli


def main() -> None:
    """Reads the command line and writes the file."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--base_dir", type=Path, required=True, help="folder of the data set")
    add("--depths_dir", type=Path, required=True, help="folder of the maps")
    add("--model_type", default="bin", help="without effect: text and binary files are read")
    args = parser.parse_args()
    cli.show_messages()
    print(f"wrote {write_depth_scales(args.base_dir, args.depths_dir)}")


if __name__ == "__main__":
    cli.run(main)
