"""Checkpoints in the folder where torch keeps its downloads, so that one that is there is not fetched again."""

from __future__ import annotations

import os
import re
import secrets
import urllib.request
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from foveate.engines.errors import ChecksumMismatch, ModelError
from foveate.models.downloads import open_source
from foveate.models.sources import HttpsSource
from foveate.models.store import Progress, sha256_of_file

__all__ = ["checkpoint_file"]

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.")


def checkpoint_file(
    url: str,
    folder: Path,
    *,
    opener: urllib.request.OpenerDirector | None = None,
    on_progress: Progress | None = None,
) -> Path:
    """The checkpoint of an address, downloaded if the folder does not have it.

    Raises: ChecksumMismatch if its sha256 does not begin as its name says, ModelError if it cannot be had.
    """
    path = folder / PurePosixPath(urlsplit(url).path).name
    digits = _hash_in_name(path.name)
    if not path.is_file():
        try:
            _download(url, path, digits, opener, on_progress)
        except ChecksumMismatch:
            raise
        except ModelError as error:
            raise ModelError(f"{error}; a copy from elsewhere goes into {folder} as {path.name}") from error
    _check(path, path, digits)
    return path


def _hash_in_name(name: str) -> str:
    """torch's way to name a checkpoint: the sha256 of its content, or the first digits of it, before the suffix."""
    found = _HASH_IN_NAME.search(name)
    if found is None:
        raise ModelError(f"{name} carries no hash in its name, so it could not be checked")
    return found[1]


def _download(
    url: str,
    target: Path,
    digits: str,
    opener: urllib.request.OpenerDirector | None,
    on_progress: Progress | None,
) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_source(HttpsSource(url), opener=opener) as download, partial.open("xb") as file:
            written = 0
            for chunk in download.chunks:
                file.write(chunk)
                written += len(chunk)
                if on_progress:
                    on_progress(written, download.total_bytes)
        _check(partial, target, digits)
        partial.replace(target)
    except OSError as error:
        raise ModelError(f"cannot keep {target.name} in {target.parent} ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def _check(path: Path, target: Path, digits: str) -> None:
    found = sha256_of_file(path)
    if not found.startswith(digits):
        raise ChecksumMismatch(
            f"{target}: expected a sha256 that begins with {digits}, got {found}: not the weights that were meant; "
            "delete the file, if it is there, and fetch it again"
        )
