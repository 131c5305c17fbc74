"""Results as lines of JSON, in a file or on standard output."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from foveate.engines.errors import ConfigError
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.destination import Unavailable, Undeliverable
from foveate.tools.outputs.record import json_bytes, record_from_camera_result
from foveate.tools.written_output import STANDARD_OUTPUT

__all__ = ["JsonLines"]

_STDOUT = 1


class JsonLines:
    """Appends whole lines: what could be written of a batch only in part is taken back, and written again later."""

    def __init__(self, path: Path) -> None:
        """Raises: ConfigError if the file cannot be written."""
        self._path = path
        self._descriptor = -1
        self._behind = False
        """Whether the last line in the file lacks its end."""
        try:
            self._open()
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from error

    def deliver(self, results: Sequence[CameraResult]) -> None:
        lines = b"".join(json_bytes(record_from_camera_result(result)) + b"\n" for result in results)
        try:
            self._follow()
            self._write(lines)
        except BrokenPipeError:
            raise Undeliverable("nobody reads the output any more") from None
        except OSError as error:
            raise Unavailable(f"cannot write {self._shown()}: {error.strerror}") from None

    def close(self) -> None:
        if self._descriptor not in (-1, _STDOUT):
            os.close(self._descriptor)
        self._descriptor = -1

    def _open(self) -> None:
        if self._path == STANDARD_OUTPUT:
            self._descriptor = _STDOUT
            return
        # Appending, so that a file which is copied and emptied under us goes on from its beginning.
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._behind = _lacks_its_end(self._descriptor)

    def _follow(self) -> None:
        """Begin a new file if ours was moved away or deleted, as those do who rotate logs."""
        if self._descriptor == _STDOUT:
            return
        if self._descriptor != -1:
            try:
                same = os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
            except FileNotFoundError:
                same = False
            if same:
                return
            self.close()
        self._open()

    def _write(self, lines: bytes) -> None:
        rest = memoryview(b"\n" + lines if self._behind else lines)
        written = 0
        try:
            while written < len(rest):
                written += os.write(self._descriptor, rest[written:])
        except OSError:
            self._take_back(written)
            raise
        self._behind = False

    def _take_back(self, written: int) -> None:
        """Where it cannot be taken back, the next line begins with the end of the half one."""
        if not written:
            return
        try:
            os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_END) - written)
            os.lseek(self._descriptor, 0, os.SEEK_END)  # standard output need not be appending
        except OSError:
            self._behind = True

    def _shown(self) -> str:
        return "standard output" if self._path == STANDARD_OUTPUT else str(self._path)


def _lacks_its_end(descriptor: int) -> bool:
    """Whether the file's last line lacks its end: whoever wrote it was killed on the way."""
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        return size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    except OSError:
        return False  # a pipe or a device
