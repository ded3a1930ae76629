# SPDX-License-Identifier: Apache-2.0
"""Fetches LPIPS's weight files into the cache of torch.hub, once, and only the published bytes."""

import hashlib
import http.client
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from utils.errors import InputError
from utils.files import atomic_path

MIRROR_VARIABLE = "LPIPS_MIRROR"
"""Environment variable: the address of a folder with the files, instead of the published ones."""
OFF_VARIABLE = "LPIPS_NO_DOWNLOAD"
"""Environment variable: if it is set and not 0, nothing is fetched."""

OPEN_SECONDS = 10
"""How long to wait for a server's answer, the look-up of its name included."""
STALL_SECONDS = 30
_CHUNK = 1 << 18
_log = logging.getLogger(__name__)


class DownloadError(InputError):
    """A file that could not be fetched; nothing is left of it."""


@dataclass(frozen=True)
class PublishedFile:
    """A weight file as its authors publish it."""

    address: str
    size: int
    """In bytes."""
    sha256: str


_TRUNKS = "https://download.pytorch.org/models/"
_LINEAR = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/weights/v0.1/"
)
# The trunks' digests begin with the digits in torchvision's names; those of the linear layers are
# the digests of the files in the wheel lpips 0.1.4 on PyPI.
FILES = {
    "vgg16-397923af.pth": PublishedFile(
        _TRUNKS + "vgg16-397923af.pth",
        553_433_881,
        "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    ),
    "alexnet-owt-7be5be79.pth": PublishedFile(
        _TRUNKS + "alexnet-owt-7be5be79.pth",
        244_408_911,
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    "vgg.pth": PublishedFile(
        _LINEAR + "vgg.pth",
        7_289,
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "alex.pth": PublishedFile(
        _LINEAR + "alex.pth",
        6_009,
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
}


def downloads_are_off() -> bool:
    """Whether the environment forbids to fetch files."""
    return os.environ.get(OFF_VARIABLE, "0") not in ("", "0")


def fetch(names: list[str], folder: Path) -> None:
    """Puts the files `names` of `FILES` into `folder`, the smallest first.

    DownloadError where the network, the server, the bytes or the folder do not allow it. Within a
    process, an address that failed is not tried again.
    """
    for name in sorted(names, key=lambda name: FILES[name].size):
        published = FILES[name]
        mirror = os.environ.get(MIRROR_VARIABLE)
        address = f"{mirror.rstrip('/')}/{name}" if mirror else published.address
        if address not in _failures:
            _failures[address] = _fetched(address, published, folder / name)
        if reason := _failures[address]:
            raise DownloadError(reason)
        del _failures[address]


_failures: dict[str, str] = {}
"""Address -> why it failed: a loop over images must not wait for each of them."""


def _fetched(address: str, published: PublishedFile, target: Path) -> str:
    """Fetches one file. The reason why that failed, "" if it did not."""
    try:
        with _opened(address) as answer:
            _log.info(
                f"Fetching {address} ({published.size / 1e6:.3g} MB) into {target.parent}, once"
            )
            with atomic_path(target) as temporary, temporary.open("wb") as file:
                _copy(answer, file, published, target.name)
        return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"{address}: the server answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"{address}: {error.reason}"
    except DownloadError as error:
        return f"{address}: {error}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{address} could not be copied to {target}: {error}"


def _copy(answer: BinaryIO, file: BinaryIO, published: PublishedFile, name: str) -> None:
    """DownloadError unless these are the published bytes."""
    digest, copied = hashlib.sha256(), 0
    # disable=None: no bar where stderr is not a terminal.
    with tqdm(desc=name, total=published.size, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := answer.read(_CHUNK):
            copied += len(chunk)
            if copied > published.size:
                raise DownloadError(f"expected {published.size:,} bytes, the server sends more")
            digest.update(chunk)
            file.write(chunk)
            bar.update(len(chunk))
    if copied < published.size:
        raise DownloadError(f"cut short: {copied:,} of {published.size:,} bytes came")
    if digest.hexdigest() != published.sha256:
        raise DownloadError(
            f"another file than the published one: its SHA-256 begins {digest.hexdigest()[:8]}, "
            f"expected {published.sha256[:8]}"
        )


def _opened(address: str) -> http.client.HTTPResponse:
    """The server's answer; URLError if none comes within OPEN_SECONDS."""
    if not address.startswith(("https://", "http://")):
        raise DownloadError("expected an address that begins with https:// or http://")
    request = urllib.request.Request(address, headers={"User-Agent": "fast-3dgs"})
    return _within(OPEN_SECONDS, lambda: urllib.request.urlopen(request, timeout=STALL_SECONDS))


def _within(
    seconds: float, call: Callable[[], http.client.HTTPResponse]
) -> http.client.HTTPResponse:
    """The result of `call`; URLError if it takes longer.

    The look-up of a server's name knows no timeout, so that it is left to a thread.
    """
    answers: list[http.client.HTTPResponse] = []
    errors: list[Exception] = []
    given_up = threading.Event()

    def attempt() -> None:
        try:
            answer = call()
        except Exception as error:
            errors.append(error)
            return
        answers.append(answer)
        if given_up.is_set():
            answer.close()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    given_up.set()
    if errors:
        raise errors[0]
    if not answers or answers[0].closed:
        raise urllib.error.URLError(f"no answer within {seconds:g} seconds")
    return answers[0]
