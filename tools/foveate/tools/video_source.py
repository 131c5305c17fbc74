"""Where pictures come from: a video file, pictures on disk, or a camera, read with OpenCV."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import ConfigError

__all__ = [
    "Camera",
    "Image",
    "PictureFiles",
    "VideoFile",
    "VideoSource",
    "encoded",
    "open_source",
    "open_video",
    "paced",
]

Image = NDArray[np.uint8]
"""Shapes: (H, W, 3) uint8 BGR."""

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
"""What the service reads as it is."""
_USUAL_FPS = 25.0
_T = TypeVar("_T")


class VideoSource(Protocol):
    """Pictures in order; each iteration starts anew."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def fps(self) -> float | None:
        """Frames per second at which the pictures were or are taken; None for pictures without a rhythm."""

    @property
    def count(self) -> int | None:
        """How many pictures there are; None if nobody knows."""

    @property
    def keeps_time(self) -> bool:
        """Whether reading waits for the next picture by itself, as a camera does."""

    def __iter__(self) -> Iterator[Image | bytes]:
        """Pixels, or the bytes of a picture that is encoded already."""


@dataclass(frozen=True, slots=True)
class VideoFile:
    """The frames of a video."""

    name: str
    path: Path
    fps: float | None
    count: int | None
    keeps_time: bool = False

    def __iter__(self) -> Iterator[Image]:
        yield from _read(cv2.VideoCapture(str(self.path)), f"the video {self.path}")


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera of this machine."""

    index: int
    fps: float | None
    count: int | None = None
    keeps_time: bool = True

    @property
    def name(self) -> str:
        return f"camera {self.index}"

    def __iter__(self) -> Iterator[Image]:
        yield from _read(cv2.VideoCapture(self.index), self.name)


@dataclass(frozen=True, slots=True)
class PictureFiles:
    """Pictures on disk, as they are."""

    name: str
    paths: tuple[Path, ...]
    fps: float | None = None
    keeps_time: bool = False

    @property
    def count(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[bytes]:
        for path in self.paths:
            try:
                yield path.read_bytes()
            except OSError as error:
                raise ConfigError(f"cannot read the picture {path}: {error.strerror}") from error


def open_source(text: str) -> VideoSource:
    """The source that a person named: a video, a picture, a folder of pictures, or a camera's index.

    Raises: ConfigError if there is no such thing, or OpenCV cannot read it.
    """
    path = Path(text)
    if text.isdecimal() and not path.exists():
        return _open_camera(int(text))
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise ConfigError(
            f"no source {text!r}: expected a video file, a picture, a folder of pictures, or a camera's index"
        )
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return PictureFiles(path.name, (path,))
    return open_video(path, path.name)


def open_video(path: Path, name: str) -> VideoFile:
    """A video file under a name for people. Raises: ConfigError if OpenCV cannot read it."""
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise ConfigError(f"{path} is no video that OpenCV can read")
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        return VideoFile(name, path, _fps(capture), count if count > 0 else None)
    finally:
        capture.release()


def paced(pictures: Iterable[_T], fps: float, stop: threading.Event) -> Iterator[_T]:
    """The same pictures at a camera's rhythm, until `stop` is set. Late ones come at once; none is left out."""
    started = time.monotonic()
    for number, picture in enumerate(pictures):
        wait_s = started + number / fps - time.monotonic()
        if stop.wait(max(0.0, wait_s)):
            return
        yield picture


def encoded(picture: Image | bytes, quality: int) -> bytes:
    """The picture as it travels: JPEG of that quality (1..100), unless it is encoded already."""
    if isinstance(picture, bytes):
        return picture
    done, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ConfigError(f"OpenCV could not encode a picture of shape {picture.shape} as JPEG")
    return jpeg.tobytes()


def _open_camera(index: int) -> Camera:
    capture = cv2.VideoCapture(index)
    try:
        if not capture.isOpened():
            raise ConfigError(f"no camera {index}: see which /dev/video* there are, and who may read them")
        return Camera(index, _fps(capture))
    finally:
        capture.release()


def _open_folder(folder: Path) -> PictureFiles:
    paths = tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES))
    if not paths:
        raise ConfigError(f"no pictures in {folder}: expected {', '.join(sorted(PICTURE_SUFFIXES))} files")
    return PictureFiles(folder.name, paths)


def _fps(capture: cv2.VideoCapture) -> float:
    """What the container or driver says, where that is a frame rate at all; some say 0 or 90000."""
    fps = float(capture.get(cv2.CAP_PROP_FPS))
    return fps if 0.5 <= fps <= 1000.0 else _USUAL_FPS


def _read(capture: cv2.VideoCapture, name: str) -> Iterator[Image]:
    try:
        if not capture.isOpened():
            raise ConfigError(f"cannot open {name}")
        while True:
            there, image = capture.read()
            if not there:
                return
            yield image  # type: ignore[misc]  # VideoCapture converts to 8 bits of BGR unless told otherwise
    finally:
        capture.release()
