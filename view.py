# SPDX-License-Identifier: Apache-2.0
"""Show models in the browser: `python view.py MODEL_OR_FILE...`.

Serves a page on this machine's loopback interface and prints its address. A model folder shows the
original and the compressed model with the training cameras and their photographs; files, of any
format that can be read, are compared with each other.
"""

import os
import sys
import webbrowser
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from utils import cli
from utils.interruption import Terminated
from viewer_server.served_scenes import DatasetChoice, scenes_to_serve
from viewer_server.server import PageServer

DEFAULT_PORT = 8008


def main() -> None:
    """Serves until Ctrl-C."""
    args = build_parser().parse_args()
    cli.show_messages()
    scenes = scenes_to_serve(args.models, DatasetChoice(args.source_path, args.images))
    with PageServer(scenes, args.port) as server:
        try:
            _serve(server, [scene.name for scene in scenes], not args.no_browser)
        except Terminated:
            raise
        except KeyboardInterrupt:
            print("\nended")


def _serve(server: PageServer, names: Sequence[str], open_browser: bool) -> None:
    print(f"{server.url} shows {', '.join(names)}. Ctrl-C ends it.", flush=True)
    if open_browser and _has_screen():
        webbrowser.open(server.url)
    server.serve_forever()


def build_parser() -> ArgumentParser:
    """The command line."""
    parser = ArgumentParser(allow_abbrev=False, description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="MODEL_OR_FILE", help="model folders or model files"
    )
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="port of the page; 0: any free one"
    )
    parser.add_argument("--no_browser", action="store_true", help="only print the address")
    parser.add_argument(
        "--source_path", "-s", type=Path, help="folder of the data set with the photographs"
    )
    parser.add_argument("--images", "-i", help="folder of the photographs in it")
    return parser


def _has_screen() -> bool:
    """Whether a browser window can be opened here: not over SSH, not without a desktop."""
    if os.environ.get("SSH_CONNECTION"):
        return False
    has_desktop = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return has_desktop or sys.platform in ("darwin", "win32")


if __name__ == "__main__":
    cli.run(main)
