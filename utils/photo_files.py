# SPDX-License-Identifier: Apache-2.0
"""Finds the file of each photograph of a data set.

Names in camera files often differ from those on disk: another ending or case, Windows separators,
the absolute path on another machine.
"""

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from utils.errors import InputError

logger = logging.getLogger(__name__)

_ENDINGS = frozenset(
    f".{ending}"
    for ending in "jpg jpeg jpe jfif png tif tiff bmp webp ppm pgm jp2 tga gif".split()  # noqa: SIM905
)
_NAMES_SHOWN = 10


def find_photos(folder: Path, names: Sequence[str], ending: str = "") -> dict[str, Path]:
    """The file of each of `names` that `folder` holds; names without a file are left out.

    The first choice is the exact name, then the name with `ending`, then the only file that differs
    in case or ending. A file is used for one name only. Raises `InputError` where several files
    match.
    """
    found: dict[str, Path] = {}
    for name in names:
        for path in (folder / name, folder / (name + ending)):
            if name not in found and path.is_file():
                found[name] = path
    missing = [name for name in names if name not in found]
    if not missing:
        return found
    files = _Listing(folder, set(found.values()))
    matches = {name: match for name in missing if (match := files.match(name)) is not None}
    uses = Counter(matches.values())
    guessed = {name: match for name, match in matches.items() if uses[match] == 1}
    if guessed:
        name, path = next(iter(guessed.items()))
        logger.info(
            "%d photographs are found under another name (%s: %s)", len(guessed), name, path.name
        )
    return found | guessed


def photo_names(folder: Path) -> list[str]:
    """Names of all image files below `folder`, relative to it with `/`, sorted."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in _ENDINGS)
    return sorted(path.relative_to(folder).as_posix() for path in files if path.is_file())


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


class _Listing:
    """The unused image files of a folder, by name without case, with and without ending."""

    def __init__(self, folder: Path, taken: set[Path]) -> None:
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            is_image = path.suffix == "" or path.suffix.lower() in _ENDINGS
            if is_image and path not in taken and path.is_file():
                key = _key(path.relative_to(folder).as_posix())
                self._by_name[key].append(path)
                self._by_stem[name_key(key)].append(path)

    def match(self, name: str) -> Path | None:
        for spelling in _spellings(name):
            key = _key(spelling)
            for paths in (self._by_name.get(key, []), self._by_stem.get(name_key(key), [])):
                if len(paths) > 1:
                    raise InputError(
                        f"image {name} is missing, and several files match its name: "
                        f"{', '.join(map(str, paths))}"
                    )
                if paths:
                    return paths[0]
        return None


def _spellings(name: str) -> Iterator[str]:
    """The name as a path inside the folder; for a path out of it, all its trailing parts too."""
    path = PurePosixPath(name.replace("\\", "/"))
    yield str(path)
    if path.is_absolute() or re.match("[A-Za-z]:", name) or ".." in path.parts:
        for start in range(1, len(path.parts)):
            yield "/".join(path.parts[start:])


def name_key(name: str) -> str:
    """An image's name without case, Unicode form, and the ending of its format."""
    key = _key(name)
    stem, dot, ending = key.rpartition(".")
    # Only the endings of image files: other dots belong to the name.
    return stem if dot + ending in _ENDINGS else key


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def require_photos(
    source: Path, folder: Path, names: Sequence[str], found: dict[str, Path], skip_missing: bool
) -> None:
    """Raises `InputError` for missing photographs; with `skip_missing`, only if all are missing."""
    missing = sorted(name for name in names if name not in found)
    if not missing:
        return
    problem = (
        f"{len(missing)} of {len(names)} photographs are missing in {folder}: {listed(missing)}"
    )
    if not found:
        raise InputError(f"{problem}{_advice(source, folder)}")
    if not skip_missing:
        raise InputError(f"{problem}; to continue without them, give --skip_missing")
    logger.warning("%s; the others are used", problem)


def _advice(source: Path, folder: Path) -> str:
    """A hint for a data set without any of its photographs."""
    if (source / "input").is_dir():
        return (
            f". {source / 'input'} holds photographs that are not undistorted: convert.py -s "
            f"{source} makes the folders images and sparse of them"
        )
    others = sorted(path.name for path in source.glob("images*") if path.is_dir())
    others = [name for name in others if name != folder.name]
    return f"; choose another folder with -i, such as {others[0]}" if others else ""
