# SPDX-License-Identifier: Apache-2.0
"""Other programs, run to their end."""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import IO


def run_program(
    words: Sequence[str],
    output: IO[bytes] | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Runs a program, and returns its status: negative for the number of a signal.

    What it prints goes to `output` (None: this program's own). Ctrl-C and SIGTERM are passed on,
    and the program is waited for, because train.py then saves a checkpoint. A second signal ends
    both.
    """
    errors = None if output is None else subprocess.STDOUT
    # A session of its own: otherwise a terminal's Ctrl-C would reach the program twice.
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, env=environment,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            return process.wait()
        except KeyboardInterrupt as interrupt:
            process.send_signal(getattr(interrupt, "signal_number", signal.SIGINT))
            try:
                process.wait()
            finally:
                process.kill()
            raise
