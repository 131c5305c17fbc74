"""Annotated videos of a camera, one file after the other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from foveate.tools.drawing import Annotator, picture_from_bytes
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.destination import Unavailable, Undeliverable
from foveate.tools.outputs.naming import name_part
from foveate.tools.outputs.retention import delete_oldest
from foveate.tools.outputs.segment import Segment
from foveate.tools.video_source import Image

__all__ = ["CameraVideo"]

_LONGEST_GAP_S = 60.0
"""A camera that was away for longer goes on in a new file: nobody wants to watch the last picture for an hour."""
_CLOCK_SLIP_S = 1.0
"""A clock that was set back by more than this begins a new file."""


class CameraVideo:
    """Draws and encodes one camera's frames; after a failure it begins a new file, as soon as that can be done."""

    def __init__(self, folder: Path, camera: str, segment_s: float, quality: int, keep_bytes: int = 0) -> None:
        """`segment_s`: how long a file gets, 0 for as long as it may. `keep_bytes`: of finished files, 0 for all."""
        self._folder = folder / name_part(camera)
        self._segment_s = segment_s
        self._quality = quality
        self._keep_bytes = keep_bytes
        self._annotator = Annotator()
        self._segment: Segment | None = None
        self._last_at = 0.0

    def deliver(self, results: Sequence[CameraResult]) -> None:
        for result in results:  # one at a time: see how it is opened
            self._write(_drawn(self._annotator, result), result.captured_at_unix_s)

    def close(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.close()

    def _write(self, image: Image, captured_at: float) -> None:
        try:
            if self._segment is not None and not self._continues(self._segment, image, captured_at):
                self.close()
            if self._segment is None:
                self._segment = self._opened(image, captured_at)
            self._segment.write(image, captured_at)
        except OSError as error:
            self._give_up_segment()
            raise Unavailable(f"cannot write a video in {self._folder}: {error.strerror}") from None
        self._last_at = captured_at

    def _continues(self, segment: Segment, image: Image, captured_at: float) -> bool:
        full = 0.0 < self._segment_s <= segment.age_s(captured_at)
        return segment.fits(image) and not full and -_CLOCK_SLIP_S <= captured_at - self._last_at <= _LONGEST_GAP_S

    def _opened(self, image: Image, captured_at: float) -> Segment:
        self._folder.mkdir(parents=True, exist_ok=True)
        if self._keep_bytes:
            delete_oldest(self._folder, self._keep_bytes)
        moment = datetime.fromtimestamp(captured_at, UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
        for number in count(1):
            path = self._folder / (f"{moment}.mp4" if number == 1 else f"{moment}-{number}.mp4")
            if not path.exists():
                break
        return Segment(path, image, captured_at, self._quality)

    def _give_up_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.abandon()


def _drawn(annotator: Annotator, result: CameraResult) -> Image:
    if result.picture is None:
        raise Undeliverable(
            f"frames of {result.camera} come without pictures: video needs a camera that is decoded here"
        )
    image = picture_from_bytes(result.picture)
    if image is None:
        raise Undeliverable(f"a frame of {result.camera} is no picture that can be read")
    return annotator.draw(image, result.result_in_picture)
