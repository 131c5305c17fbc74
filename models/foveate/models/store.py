"""Where model files live on this machine: fetched files and prepared graphs.

::

    blobs/<sha256>          model files as they were fetched or imported
    pins/<key>.json         which blob stands for a source whose manifest names no sha256
    prepared/<key>.onnx     graphs that engines are made from, each with
    prepared/<key>.json     its sidecar, written last: without it the graph does not count
    locks/<key>.lock        held while a graph is prepared

Every file is written beside its place, flushed to the disk and renamed: a reader sees all of it or none, and
two processes may use one store at once. Reading needs no write access.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import platformdirs

from foveate.engines.errors import ChecksumMismatch, ModelError

__all__ = ["MAX_MODEL_BYTES", "ModelStore", "Progress", "sha256_of_file"]

MAX_MODEL_BYTES = 4 << 30
"""Largest model file that is taken in."""

Progress = Callable[[int, int | None], None]
"""Called with the bytes that have come and the bytes expected, None where the source does not say."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class ModelStore:
    """A folder of model files, each found by what it holds. Making one touches no disk."""

    def __init__(self, root: Path | None = None) -> None:
        """`root` defaults to ``models`` in the user's cache folder for foveate."""
        self.root = root or platformdirs.user_cache_path("foveate") / "models"

    def blob_path(self, sha256: str) -> Path:
        """Where the model file of that hash lies, whether or not it is there."""
        if not _SHA256.fullmatch(sha256):
            raise ModelError(f"a model file is named by its sha256, 64 lower-case hex digits, not {sha256!r}")
        return self.root / "blobs" / sha256

    def has_blob(self, sha256: str) -> bool:
        """Whether a model file of that name is there; `check_blob` looks inside."""
        return self.blob_path(sha256).is_file()

    def add_blob(
        self,
        chunks: Iterable[bytes],
        *,
        origin: str,
        expected_sha256: str = "",
        total_bytes: int | None = None,
        on_progress: Progress | None = None,
    ) -> str:
        """Take a model file in and return its sha256.

        `origin` names it in errors; an empty `expected_sha256` accepts any.
        Raises: ChecksumMismatch; ModelError if it is empty, cut short or over the limit; nothing is kept.
        """
        with self._writing(self.root / "blobs" / "incoming") as partial:
            with partial.open("xb") as file:
                sha256 = _write_hashed(file, chunks, origin, total_bytes, on_progress)
            if expected_sha256 and sha256 != expected_sha256:
                raise ChecksumMismatch(
                    f"{origin}: expected sha256 {expected_sha256}, got {sha256}: not the same file; if the "
                    "publisher has replaced it, check the new one and change the hash"
                )
            _put_in_place(partial, self.blob_path(sha256))
        return sha256

    def check_blob(self, sha256: str) -> bool:
        """Whether the model file of that hash is there and whole; a damaged one is removed."""
        path = self.blob_path(sha256)
        if not path.is_file():
            return False
        if sha256_of_file(path) == sha256:
            return True
        with self._disk_errors():
            path.unlink(missing_ok=True)
        return False

    def pinned(self, key: str) -> str | None:
        """The sha256 that `pin` keeps under a key."""
        record = _read_json(self._path("pins", key, ".json"))
        sha256 = record.get("sha256") if record else None
        return sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None

    def pin(self, key: str, sha256: str) -> None:
        """Keep which model file stands for a source that names none."""
        self._write_json(self._path("pins", key, ".json"), {"sha256": sha256})

    def prepared(self, key: str) -> Path | None:
        """The prepared graph of a key, or None. Cheap: its size is compared, not its content."""
        path = self._path("prepared", key, ".onnx")
        sidecar = _read_json(path.with_suffix(".json"))
        try:
            whole = sidecar is not None and sidecar.get("bytes") == path.stat().st_size
        except OSError:
            return None
        return path if whole else None

    def prepared_facts(self, key: str) -> dict[str, Any]:
        """What `add_prepared` was told about a graph; empty if there is none."""
        return _read_json(self._path("prepared", key, ".json")) or {}

    def add_prepared(self, key: str, graph: bytes, facts: Mapping[str, Any]) -> Path:
        """Keep a prepared graph and, beside it, facts about how it was made; returns its path."""
        path = self._path("prepared", key, ".onnx")
        sidecar = {**facts, "bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
        self._write(path, graph)
        self._write_json(path.with_suffix(".json"), sidecar)
        return path

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold a key alone, across processes and threads; waits until it is free."""
        path = self._path("locks", key, ".lock")
        with self._disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("ab")
        with file:  # closing it, or the end of the process, lets the lock go
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _write(self, target: Path, content: bytes) -> None:
        with self._writing(target) as partial:
            partial.write_bytes(content)
            _put_in_place(partial, target)

    def _write_json(self, target: Path, value: Mapping[str, Any]) -> None:
        self._write(target, json.dumps(dict(value), indent=2, sort_keys=True).encode() + b"\n")

    @contextmanager
    def _writing(self, target: Path) -> Iterator[Path]:
        """A name beside the target that no other writer uses and no listing shows; gone at the end."""
        partial = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
        with self._disk_errors():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield partial
            finally:
                partial.unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ModelError(
                f"cannot write to the model store {self.root} ({error.strerror or error}): "
                "make room or make it writable, or name another folder"
            ) from error

    def _path(self, folder: str, key: str, suffix: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ModelError(f"a store key is 1 to 200 letters, digits, '.', '_' and '-', not {key!r}")
        return self.root / folder / f"{key}{suffix}"


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file's content. Raises: ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"cannot read the model file {path}: {error.strerror}") from error


def _write_hashed(
    file: IO[bytes],
    chunks: Iterable[bytes],
    origin: str,
    total_bytes: int | None,
    on_progress: Progress | None,
) -> str:
    digest = hashlib.sha256()
    written = 0
    for chunk in chunks:
        written += len(chunk)
        if written > MAX_MODEL_BYTES:
            raise ModelError(f"{origin} is larger than {MAX_MODEL_BYTES} bytes, the limit for a model file")
        digest.update(chunk)
        file.write(chunk)
        if on_progress:
            on_progress(written, total_bytes)
    if written == 0 or (total_bytes is not None and written != total_bytes):
        raise ModelError(f"{origin} ended after {written} of {total_bytes or 'some'} bytes: fetch it again")
    return digest.hexdigest()


def _put_in_place(partial: Path, target: Path) -> None:
    """Give a written file its name, so that a crash leaves all of it or none."""
    _flush(partial)
    partial.replace(target)
    _flush(target.parent)  # the new name is the folder's content


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
