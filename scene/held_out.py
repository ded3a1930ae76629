# SPDX-License-Identifier: Apache-2.0
"""Which images of a data set without a split of its own are kept for testing."""

import logging
from collections.abc import Sequence
from pathlib import Path

from utils.errors import InputError
from utils.photo_files import name_key

logger = logging.getLogger(__name__)

LLFF_HOLD = 8  # every 8th image by name is a test image, as in the LLFF and Mip-NeRF 360 papers
LIST_NAME = "test.txt"


def held_out_names(names: Sequence[str], folder: Path, hold: int = LLFF_HOLD) -> list[str]:
    """The names listed in `folder`/test.txt, one a line; without that file every `hold`-th by name.

    With `hold` 0 that file is required.
    """
    path = folder / LIST_NAME
    if path.is_file():
        return _listed_names(path, names)
    if not hold:
        raise InputError(f"{path}: expected the names of the test images, not found")
    logger.info("------------LLFF HOLD-------------")
    return sorted(names)[::hold]


def _listed_names(path: Path, names: Sequence[str]) -> list[str]:
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    wanted = [line.strip() for line in text.splitlines() if line.strip()]
    # Lists are also written without endings, or in another case.
    known = {name_key(name): name for name in names} | {name: name for name in names}
    matches = {name: known.get(name) or known.get(name_key(name)) for name in wanted}
    listed = list(dict.fromkeys(match for match in matches.values() if match is not None))
    unknown = [name for name, match in matches.items() if match is None]
    if not listed:
        raise InputError(f"{path}: none of the {len(wanted)} names matches an image")
    logger.info("Test images: the %d that %s lists", len(listed), path)
    if unknown:
        logger.warning(
            "%s: %d names match no image: %s", path, len(unknown), ", ".join(unknown[:10])
        )
    return listed
