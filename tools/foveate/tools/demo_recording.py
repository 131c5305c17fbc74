"""A streaming session on disk, so that its length costs no memory: each frame with what became of it."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Self

from foveate.client import Result, Verdict
from foveate.tools.report import FramePoint
from foveate.tools.written_output import writing

__all__ = ["Recording", "spent_ms"]

_POINTS = 20_000
"""A page draws so many latest frames one by one."""


class Recording:
    """A sink that can be read again afterwards. Its file has no name, and goes when it is closed."""

    def __init__(self, folder: Path) -> None:
        """Recorded in `folder`. Raises: ConfigError if that cannot be written."""
        self._folder = folder
        with writing(folder):
            self._file = TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `close`
        self.points: deque[FramePoint] = deque(maxlen=_POINTS)
        """The latest frames."""
        self.last_ok: Result | None = None

    def add(self, result: Result, data: bytes) -> None:
        """Keep a frame. Raises: ConfigError if there is no room on the disk."""
        with writing(self._folder):
            pickle.dump((result, data), self._file)
        self.points.append(FramePoint(result.sequence, result.verdict, spent_ms(result)))
        if result.verdict is Verdict.OK:
            self.last_ok = result

    def __iter__(self) -> Iterator[tuple[Result, bytes]]:
        """All frames from the first on; nothing may be added afterwards."""
        with writing(self._folder):  # what is still in the file's buffer
            self._file.seek(0)
        while True:
            try:
                yield pickle.load(self._file)
            except EOFError:
                return

    def close(self) -> None:
        """Give the room on the disk back. Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def spent_ms(result: Result) -> float:
    """Captured until answered."""
    return result.age_ms + result.times.total_ms
