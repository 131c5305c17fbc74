"""Files that appear whole or not at all, and locks that two processes share."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["hold_lock", "partial_name", "write_file", "write_folder"]


def write_file(target: Path, content: bytes) -> None:
    """Put a file in place of what was there: a reader sees all of the old one or all of the new one.

    Raises: OSError; nothing half-written stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(target)
    try:
        partial.write_bytes(content)
        _flush(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    _flush(target.parent)  # the new name is the folder's content


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder of files in place at once; a folder that was there is replaced.

    A reader that comes while one folder takes the other's place finds none, for a moment.
    Raises: OSError; nothing half-written stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, replaced = partial_name(target), partial_name(target)
    try:
        partial.mkdir()
        for name, content in files.items():
            (partial / name).write_bytes(content)
            _flush(partial / name)
        _flush(partial)
        if target.exists():
            target.rename(replaced)
        partial.rename(target)
    finally:
        for left in (partial, replaced):
            shutil.rmtree(left, ignore_errors=True)
    _flush(target.parent)


def partial_name(target: Path) -> Path:
    """A hidden name beside the target that nobody else uses."""
    return target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")


@contextmanager
def hold_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock alone across processes and threads; says whether it is held, which without `wait` it may not be.

    Raises: OSError if the lock's file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:  # closing it, or the end of the process, lets the lock go
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
