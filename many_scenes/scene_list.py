# SPDX-License-Identifier: Apache-2.0
"""The list of scenes: a YAML, JSON or TOML file, parsed and never executed.

Its entry `scenes` is a list. Entries of a scene: `model` (required), `source`, `name`, `train`,
`train_options`, `compress_options`. The entry `defaults`, if there is one, has the values for
scenes that lack them. Options are one text, as in a shell, or a list.
"""

import json
import os
import reprlib
import shlex
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.optional_modules import load_required

_TOP = ("scenes", "defaults")
_SHARED = ("train", "train_options", "compress_options")
_OWN = ("name", "source", "model")


@dataclass(frozen=True)
class ListedScene:
    """One scene of the list. Paths are absolute."""

    name: str
    """Unique in the list; names a folder."""
    model: str
    """Model folder."""
    source: str = ""
    """Data set; empty: compress.py takes it from the model folder's cfg_args."""
    train: bool = False
    """Whether the model is to be trained first."""
    train_options: tuple[str, ...] = ()
    compress_options: tuple[str, ...] = ()


def read_scene_list(path: Path) -> tuple[ListedScene, ...]:
    """The scenes of a list. InputError, with the place, for everything that is not understood."""
    parse = _parser(path)
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a list of scenes, got {error}") from error
    return _Reader(path).scenes(content)


def _parser(path: Path) -> Callable[[str], Any]:
    ending = path.suffix.lower()
    if ending == ".json":
        return json.loads
    if ending == ".toml":
        return tomllib.loads
    if ending in (".yaml", ".yml"):
        return _parse_yaml
    raise InputError(f"{path}: expected a file .yaml, .yml, .json or .toml")


def _parse_yaml(text: str) -> Any:
    install = "pip install PyYAML, or write the list as .json or .toml"
    yaml: Any = load_required("yaml", "a list of scenes in YAML", install)
    try:
        return yaml.safe_load(text)
    # The others are what PyYAML raises for tags that do not fit: !!bool foo, !!int ''.
    except (yaml.YAMLError, AttributeError, LookupError) as error:
        raise ValueError(" ".join(str(error).split())) from error


class _Reader:
    """Checks the parsed content of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def scenes(self, content: Any) -> tuple[ListedScene, ...]:
        top = self._entries(content, _TOP, "the file")
        defaults = self._entries(top.get("defaults", {}), _SHARED, "defaults")
        entries = top.get("scenes")
        if not isinstance(entries, list) or not entries:
            raise self._fault("scenes", "a list with at least one scene", entries)
        found = tuple(
            self._scene(entry, defaults, f"scenes[{index}]") for index, entry in enumerate(entries)
        )
        self._check_unique("name", (scene.name.casefold() for scene in found))
        self._check_unique("model", (scene.model for scene in found))
        return found

    def _scene(self, entry: Any, defaults: Mapping[str, Any], place: str) -> ListedScene:
        given = {**defaults, **self._entries(entry, (*_OWN, *_SHARED), place)}
        model = self._folder(given.get("model"), f"{place}.model")
        source = given.get("source")
        scene = ListedScene(
            self._name(given.get("name", Path(model).name), f"{place}.name"),
            model,
            "" if source is None else self._folder(source, f"{place}.source"),
            self._switch(given.get("train", False), f"{place}.train"),
            self._options(given.get("train_options", []), f"{place}.train_options"),
            self._options(given.get("compress_options", []), f"{place}.compress_options"),
        )
        if scene.train and not scene.source:
            raise self._fault(f"{place}.source", "the data set to train on", source)
        return scene

    def _entries(self, value: Any, known: tuple[str, ...], place: str) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._fault(place, f"entries out of {', '.join(known)}", value)
        for name in value:
            if name not in known:
                raise self._fault(place, f"entries out of {', '.join(known)}", name)
        return value

    def _folder(self, value: Any, place: str) -> str:
        if not isinstance(value, str) or not value or "\0" in value or not _is_text(value):
            raise self._fault(place, "the path of a folder", value)
        # Symbolic links are kept, as train.py keeps them.
        return os.path.abspath(self._path.absolute().parent / value)  # noqa: PTH100

    def _name(self, value: Any, place: str) -> str:
        unfit = not isinstance(value, str) or not value or value.startswith(".")
        if unfit or set(value) & _UNFIT or not _is_text(value):
            raise self._fault(place, "a name that can be that of a folder", value)
        return value

    def _switch(self, value: Any, place: str) -> bool:
        if not isinstance(value, bool):
            raise self._fault(place, "true or false", value)
        return value

    def _options(self, value: Any, place: str) -> tuple[str, ...]:
        if isinstance(value, str):
            try:
                return self._options(shlex.split(value), place)
            except ValueError as error:
                raise self._fault(place, f"options as in a shell ({error})", value) from error
        if not isinstance(value, list):
            raise self._fault(place, "options in a text or in a list", value)
        for word in value:
            if isinstance(word, bool) or not isinstance(word, str | int | float):
                raise self._fault(place, "texts and numbers", word)
            if isinstance(word, str) and ("\0" in word or not _is_text(word)):
                raise self._fault(place, "options that a program can be given", word)
        try:
            return tuple(map(str, value))
        except ValueError as error:
            raise self._fault(place, "numbers", "too many digits") from error

    def _check_unique(self, what: str, values: Iterator[str]) -> None:
        seen: set[str] = set()
        for value in values:
            if value in seen:
                raise InputError(f"{self._path}: two scenes have the {what} {value}")
            seen.add(value)

    def _fault(self, place: str, expected: str, value: Any) -> InputError:
        try:  # reprlib, because aliases of YAML may stand for billions of entries
            text = "nothing" if value is None else reprlib.repr(value)
        except ValueError:
            text = "a number of too many digits"
        text = text if len(text) <= 60 else f"{text[:60]}..."
        return InputError(f"{self._path}: {place}: expected {expected}, got {text}")


def _is_text(value: str) -> bool:
    """Whether files can be named so: not with half of a pair of UTF-16, which JSON can hold."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_UNFIT = set('/\\:*?"<>|') | set(map(chr, range(32)))
"""Characters that some file system does not allow in names."""
