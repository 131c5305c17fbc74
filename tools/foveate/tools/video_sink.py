"""Pictures to a video file, written with OpenCV."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from foveate.engines.errors import ConfigError
from foveate.tools.video_source import Image

__all__ = ["VideoWriter"]

_CODECS = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG"}


class VideoWriter:
    """A video file that takes its size from the first picture; others are fitted into it."""

    def __init__(self, path: Path, fps: float) -> None:
        """Raises: ConfigError if the file's kind is not known, or its folder is not there."""
        suffix = path.suffix.lower()
        if suffix not in _CODECS:
            raise ConfigError(f"cannot write {path}: expected one of {', '.join(_CODECS)}, got {suffix or 'no suffix'}")
        if not path.parent.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {path.parent}")
        self._path = path
        self._fps = fps
        self._codec = cv2.VideoWriter.fourcc(*_CODECS[suffix])
        self._writer: cv2.VideoWriter | None = None
        self._size_px = (0, 0)

    def write(self, image: Image) -> None:
        """Append a picture, not modified. Raises: ConfigError if the file cannot be written."""
        if self._writer is None:
            self._writer = self._open(image)
        self._writer.write(_fitted(image, self._size_px))

    def close(self) -> None:
        """Finish the file. Idempotent."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, image: Image) -> cv2.VideoWriter:
        height, width = image.shape[:2]
        self._size_px = (width - width % 2, height - height % 2)  # video codecs want even sides
        with _without_native_stderr():
            writer = cv2.VideoWriter(str(self._path), self._codec, self._fps, self._size_px)
        if not writer.isOpened():
            codec = _CODECS[self._path.suffix.lower()]
            raise ConfigError(
                f"cannot write {self._path}: no permission, or OpenCV has no {codec} encoder here; "
                f"try another of {', '.join(_CODECS)}"
            )
        return writer


def _fitted(image: Image, size_px: tuple[int, int]) -> Image:
    """The picture in that size, scaled with its aspect ratio kept, on black."""
    width, height = size_px
    if image.shape[0] - height in (0, 1) and image.shape[1] - width in (0, 1):
        return image[:height, :width]
    scale = min(width / image.shape[1], height / image.shape[0])
    inner = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    canvas = np.zeros((height, width, 3), np.uint8)
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    resized = cv2.resize(image, inner, interpolation=cv2.INTER_AREA)
    canvas[top : top + inner[1], left : left + inner[0]] = resized
    return canvas


@contextmanager
def _without_native_stderr() -> Iterator[None]:
    """FFmpeg prints a line for each .webm file that is in order, and its errors become ours; so it is not heard."""
    kept = os.dup(2)
    silence = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silence, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silence)
