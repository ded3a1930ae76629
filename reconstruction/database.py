# SPDX-License-Identifier: Apache-2.0
"""What COLMAP's database holds of the photographs. Tables: COLMAP's documentation,
https://colmap.github.io/database.html."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from utils.errors import InputError


@dataclass(frozen=True)
class DatabaseContent:
    """Which photographs were processed."""

    keypoints: Mapping[str, int]
    """Number of keypoints by name of the photograph."""
    camera_models: frozenset[int]
    """COLMAP's numbers of the cameras' models."""


def read_database(path: Path) -> DatabaseContent:
    """Keypoints and camera models. Raises InputError if the file is no database of COLMAP.

    Also moves what a killed process left in SQLite's log into the file, so that the file alone is
    complete and can be renamed.
    """
    query = "SELECT name, COALESCE(rows, 0) FROM images LEFT JOIN keypoints USING (image_id)"
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            keypoints = dict(database.execute(query).fetchall())
            models = frozenset(row[0] for row in database.execute("SELECT model FROM cameras"))
    except sqlite3.Error as error:
        raise InputError(f"{path}: expected a database of COLMAP, got: {error}") from error
    return DatabaseContent(keypoints, models)
