# SPDX-License-Identifier: Apache-2.0
import os
import signal
import sys
from pathlib import Path

import pytest

from sample_scene import SceneSettings, make_scene

os.environ["LPIPS_NO_DOWNLOAD"] = "1"  # half a gigabyte that no test needs; scripts inherit it

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # As shells start programs in the background; some tests are about Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:  # as nohup does
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def small_scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COLMAP dataset: ten photographs of 48x36 pixels, 300 points. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("data") / "still_life"
    make_scene(folder, SceneSettings(views=10, width=48, height=36, points=300, light_samples=2))
    return folder


@pytest.fixture
def command_line(monkeypatch: pytest.MonkeyPatch):
    """Sets the arguments that a script's `main` reads, and restores stdout afterwards."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)

    def give(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["script.py", *map(str, arguments)])

    return give
