# SPDX-License-Identifier: Apache-2.0
"""Messages that many calls have reason to log, logged once. Standard library only."""

import logging
import threading

_lock = threading.Lock()
_logged: set[str] = set()


def log_once(logger: logging.Logger, text: str, level: int = logging.INFO) -> None:
    """Logs `text`, unless it has been logged before, by any thread."""
    with _lock:
        is_new = text not in _logged
        _logged.add(text)
    if is_new:
        logger.log(level, "%s", text)
