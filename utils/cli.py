# SPDX-License-Identifier: Apache-2.0
"""What every script shares: one-line errors, exit codes, and library messages on the terminal."""

import errno
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from utils.errors import InputError
from utils.interruption import Terminated, ending_signals_raise

EXIT_FAILURE = 1
SIGNAL_STATUS = 128  # plus a signal's number: what a shell reports
EXIT_INTERRUPTED = SIGNAL_STATUS + 2  # Ctrl-C


def run(main: Callable[[], None]) -> None:
    """Calls `main`; a user-facing fault becomes one `error: ...` line and exit status 1.

    Only `InputError`, `OSError` (missing file, full disk) and the lack of memory are user-facing:
    any other exception is a bug of this program and keeps its traceback. Ctrl-C ends with status
    130, and SIGTERM, whose clean-up is the same, with 143.
    """
    try:
        with ending_signals_raise():
            main()
    except InputError as error:
        fail(str(error))
    except OSError as error:
        fail(os_error_text(error))
    except (MemoryError, RuntimeError) as error:
        if (text := memory_error_text(error)) is None:
            raise
        fail(text)
    except Terminated as signalled:
        print(f"ended by {signalled}", file=sys.stderr)
        sys.exit(SIGNAL_STATUS + signalled.signal_number)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


def command_line() -> tuple[str, ...]:
    """The name of the script, without its folder, or of its command; and its arguments as given."""
    # "fast3dgs compress" are two words.
    return (*Path(sys.argv[0]).name.split(), *sys.argv[1:])


class OptionGroup(Protocol):
    """The values of one group of options."""

    def fault(self) -> str | None:
        """What is wrong with the first value that is not allowed; None if all are."""
        ...


def check_ranges(*groups: OptionGroup) -> None:
    """Raise `InputError` for the first option with a value that is not allowed."""
    for group in groups:
        if fault := group.fault():
            raise InputError(fault)


def fail(message: str) -> None:
    """Prints `error: message` on stderr and ends the program with status 1."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_FAILURE)


def os_error_text(error: OSError) -> str:
    """What happened and where, without Python's error number."""
    if error.strerror is None:
        return str(error)
    text = "disk full" if error.errno == errno.ENOSPC else error.strerror
    return text if error.filename is None else f"{text}: {error.filename}"


def memory_error_text(error: Exception) -> str | None:
    """What could not be allocated, if this is the error of a failed allocation; else None.

    PyTorch's are RuntimeErrors with "can't allocate memory" on CPUs and "out of memory" on GPUs.
    """
    detail = str(error).partition("\n")[0].rpartition("DefaultCPUAllocator: ")[2].strip()
    failed = "can't allocate memory" in detail or "out of memory" in detail.lower()
    if not isinstance(error, MemoryError) and not failed:
        return None
    return (
        f"not enough memory{detail and f' ({detail})'}: smaller photographs (-r 2, 4, 8) need less"
    )


class _TerminalHandler(logging.Handler):
    """Sends notices to stdout, where scripts parse them, and warnings to stderr.

    `print` writes to the current stream, which `safe_state` may have replaced.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record."""
        if record.levelno < logging.WARNING:
            print(record.getMessage(), flush=True)
        else:
            print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)


def show_messages(quiet: bool = False) -> None:
    """Prints the library's notices (`Reading camera 97/97`, ...); with `quiet`, only errors.

    Scripts call it once.
    """
    root = logging.getLogger()
    handlers = [handler for handler in root.handlers if isinstance(handler, _TerminalHandler)]
    if not handlers:
        handlers.append(_TerminalHandler())
        root.addHandler(handlers[0])
    handlers[0].setLevel(logging.ERROR if quiet else logging.NOTSET)
    packages = ("arguments", "gaussian_compression", "gaussian_renderer", "reconstruction", "scene")
    for package in (*packages, "splat_formats", "splat_codec", "utils", "lpipsPyTorch"):
        logging.getLogger(package).setLevel(logging.INFO)
