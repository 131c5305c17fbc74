"""One video file that is whole at any moment, so that nothing but its last second is lost with its writer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

from foveate.engines.errors import ConfigError
from foveate.tools.video_source import Image

try:
    import av
    from av.video.frame import PictureType
except ImportError as error:
    raise ConfigError("recording videos needs PyAV: install foveate[camera]") from error

__all__ = ["Segment"]

_CLOCK = Fraction(1, 90_000)
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
# No look-ahead: what was put in comes out, so a fragment is complete when its time is over. Key frames are asked for by
# time, as the frame rate is whatever the camera gives.
_ENCODING = {"preset": "veryfast", "tune": "zerolatency", "g": "1000", "forced-idr": "1"}
_FRAGMENT_S = 1.0
"""A fragment is written when it is complete, and begins with a key frame. Shorter ones lose less and cost more."""


class Segment:
    """H.264 in a fragmented MP4, each frame at the time of its capture, whatever the camera's rhythm.

    Plain MP4 has its table of contents at the end, and without it nothing plays; here each fragment has its own.
    """

    def __init__(self, path: Path, image: Image, captured_at_unix_s: float, quality: int) -> None:
        """The size is that of the first picture, which is still to be written. Raises: OSError."""
        self.path = path
        self.size_px = _even_size(image)
        self._began_at = self._key_at = captured_at_unix_s
        self._last_pts = -1
        # Written by us, as FFmpeg itself reports a full disk late or never.
        self._file = _WholeWrites(path)
        try:
            with _only_os_errors():
                self._container, self._stream = _encoder(self._file, self.size_px, quality)
        except BaseException:
            self._file.close()
            path.unlink()
            raise
        self._header_bytes = self._whole_bytes = self._file.size

    def fits(self, image: Image) -> bool:
        """Whether a picture has the size of this file."""
        return self.size_px == _even_size(image)

    def age_s(self, captured_at_unix_s: float) -> float:
        """How long after the first frame a frame was captured."""
        return captured_at_unix_s - self._began_at

    def write(self, image: Image, captured_at_unix_s: float) -> None:
        """Append a picture, BGR. Raises: OSError."""
        width, height = self.size_px
        frame = av.VideoFrame.from_ndarray(image[:height, :width], format="bgr24")
        frame.time_base = _CLOCK
        self._last_pts = max(self._last_pts + 1, round(self.age_s(captured_at_unix_s) / _CLOCK))
        frame.pts = self._last_pts
        if captured_at_unix_s - self._key_at >= _FRAGMENT_S:
            frame.pict_type = PictureType.I
            self._key_at = captured_at_unix_s
        with _only_os_errors():
            self._container.mux(self._stream.encode(frame))
        self._whole_bytes = self._file.size

    def close(self) -> None:
        """Write what the encoder still holds. Raises: OSError; the file is closed all the same."""
        try:
            with _only_os_errors():
                self._container.mux(self._stream.encode(None))
                self._container.close()
        except OSError:
            self.abandon()
            raise
        self._file.close()

    def abandon(self) -> None:
        """Close after a failure: what is whole stays, and a file without a picture is taken away."""
        with suppress(OSError), _only_os_errors():
            self._container.close()
        self._file.cut(self._whole_bytes)
        self._file.close()
        if self._whole_bytes <= self._header_bytes:
            self.path.unlink(missing_ok=True)


class _WholeWrites:
    """A file as PyAV wants one, which does not ask whether all of its bytes were written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self.size = 0

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.size += len(data)
        return len(data)

    def cut(self, size: int) -> None:
        with suppress(OSError):
            self._file.truncate(size)

    def close(self) -> None:
        self._file.close()


@contextmanager
def _only_os_errors() -> Iterator[None]:
    """Some errors of FFmpeg are the system's, others are its own."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error


def _encoder(
    file: _WholeWrites, size_px: tuple[int, int], quality: int
) -> tuple[av.container.OutputContainer, av.VideoStream]:
    """A video with its header written."""
    container = av.open(file, "w", format="mp4", options=_FRAGMENTED)
    stream = container.add_stream("libx264", rate=25, options={**_ENCODING, "crf": str(quality)})
    stream.width, stream.height = size_px
    stream.pix_fmt = "yuv420p"
    stream.time_base = stream.codec_context.time_base = _CLOCK
    stream.codec_context.thread_count = 1  # cameras run side by side already
    container.start_encoding()
    return container, stream


def _even_size(image: Image) -> tuple[int, int]:
    """As the encoder wants it, for it keeps one colour for every four pixels."""
    height, width = image.shape[:2]
    return width - width % 2, height - height % 2
