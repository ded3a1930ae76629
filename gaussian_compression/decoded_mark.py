# SPDX-License-Identifier: Apache-2.0
"""decoded_from.json: marks an iteration that was decoded from a compressed file.

Such an iteration is no start for another compression, and is removed when a later run replaces the
file. The mark holds the PLY's digest: a PLY that training or a user writes later under the same
name does not count as decoded. No PyTorch.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from utils.errors import InputError
from utils.files import write_json
from utils.json_values import from_json, read_json

MARK = "decoded_from.json"
PLY_NAME = "point_cloud.ply"


@dataclass(frozen=True)
class DecodedMark:
    """Where a decoded iteration comes from."""

    file: str
    """The path of the compressed file, relative to the model folder."""
    start_iteration: int
    file_sha256: str
    ply_sha256: str
    exports: dict[str, str] = field(default_factory=dict)
    """SHA-256 of other files in the folder of the compressed file, by their paths in it."""

    def __post_init__(self) -> None:
        if not all(map(_is_inside, dict(self.exports))):
            raise ValueError("the path of an exported file leads out of its folder")


def _is_inside(name: str) -> bool:
    """Whether `name` is a path that leads into a folder, written in the one usual way."""
    path = PurePosixPath(name)
    usual = str(path) == name and bool(path.parts)
    return usual and not path.is_absolute() and ".." not in path.parts


def write_mark(
    folder: Path,
    file: str,
    start_iteration: int,
    data: bytes | Path,
    exports: Mapping[str, bytes],
    ply_sha256: str | None = None,
) -> None:
    """Marks the PLY in `folder` as what the compressed `data`, or the file there, decodes to.

    `ply_sha256` is the PLY's digest, where it is known.
    """
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in exports.items()}
    sha256 = file_sha256(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
    ply_sha256 = ply_sha256 or file_sha256(folder / PLY_NAME)
    write_json(
        folder / MARK, asdict(DecodedMark(file, start_iteration, sha256, ply_sha256, digests))
    )


def read_mark(folder: Path) -> DecodedMark | None:
    """The mark of `folder`, if its digest is that of the PLY there."""
    try:
        mark = from_json(DecodedMark, read_json(folder / MARK))
        return mark if file_sha256(folder / PLY_NAME) == mark.ply_sha256 else None
    except (FileNotFoundError, NotADirectoryError, ValueError, InputError):
        return None


def is_decoded(folder: Path) -> bool:
    """Whether the PLY in `folder` was decoded; marks of older versions, without digests, count."""
    try:
        content = (folder / MARK).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return b"ply_sha256" not in content or read_mark(folder) is not None


def is_own(folder: Path) -> bool:
    """Whether a compression wrote everything in `folder`, so that it may be replaced."""
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    return names == {PLY_NAME, MARK} and read_mark(folder) is not None


def file_sha256(path: Path) -> str:
    """The digest of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
