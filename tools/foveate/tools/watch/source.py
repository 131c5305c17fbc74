"""Reading cameras, videos and pictures: one connection of one camera, in whatever thread iterates over it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from foveate.client import PixelFormat
from foveate.engines.errors import EngineUnavailable
from foveate.tools.video_source import PICTURE_SUFFIXES
from foveate.tools.watch.address import Kind, Redaction
from foveate.tools.watch.jpeg import decoded, is_whole_jpeg
from foveate.tools.watch.lateness import Lateness
from foveate.tools.watch.settings import CameraSettings
from foveate.tools.watch.shot import Picture, Unit
from foveate.tools.watch.trouble import CameraTrouble

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["Source", "open_source", "require_av"]

_PASSED_ON = {
    "h264": (PixelFormat.H264, "h264_mp4toannexb,dump_extra=freq=keyframe"),
    "hevc": (PixelFormat.H265, "hevc_mp4toannexb,dump_extra=freq=keyframe"),
}
"""What makes Annex B of it, with the parameter sets before each key frame, however the container keeps them."""
_PICTURES_FPS = 1.0
_REORDERED_S = 1.0
"""A timestamp that goes back by less is that of a frame that is shown before the one that was sent before it."""
_LIKELY_FPS = (0.5, 240.0)
"""Outside of it a declared frame rate is a container's or camera's idea of nothing, such as 90000."""


class Source(Protocol):
    """One connection of a camera."""

    fps: float | None
    """Pictures per second as the camera declares them, which need not be true; None if it does not."""

    def __iter__(self) -> Iterator[Picture | Unit | None]:
        """What comes, as it comes; None for what could not be decoded. It ends with a file, never with a camera.

        Raises: CameraTrouble if it cannot go on.
        """


@contextmanager
def open_source(
    settings: CameraSettings, *, sent_as_is: bool, redact: Redaction, stop: threading.Event
) -> Iterator[Source]:
    """Connect; `sent_as_is` says that compressed pictures need not be decoded. Setting `stop` ends the waiting between
    two pictures of a file.

    Raises: CameraTrouble if it cannot be connected.
    """
    address = settings.address
    is_picture = address.kind is Kind.FILE and Path(address.target).suffix.lower() in PICTURE_SUFFIXES
    pace = _Pace(stop)
    if address.kind is Kind.FOLDER or is_picture:
        yield _Pictures(settings, sent_as_is, pace)
    else:
        with _opened(settings, redact) as container:
            stream = _video_of(container, address.shown)
            # What a camera says of its length means nothing; a video by HTTP has one, and would come at once.
            is_video_file = bool(container.duration) and not address.target.lower().startswith("rtsp")
            paced_by = pace if address.kind is Kind.FILE or is_video_file else None
            if settings.passthrough:
                yield _Units(container, stream, settings, redact, paced_by)
            else:
                yield _Frames(container, stream, settings, redact, paced_by, sent_as_is)
    if settings.loop:
        pace.wait_out()


def require_av() -> None:
    """Raises: EngineUnavailable naming the extra, if PyAV is not there."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise EngineUnavailable(
            "cameras are read with PyAV, which is not installed: pip install 'foveate[camera]'"
        ) from error


@contextmanager
def _opened(settings: CameraSettings, redact: Redaction) -> Iterator[InputContainer]:
    import av

    address = settings.address
    is_device = address.kind is Kind.DEVICE
    began = time.monotonic()
    try:
        container = av.open(
            address.target,
            format="v4l2" if is_device else None,
            options=_options(settings),
            timeout=(settings.timeout_s, settings.timeout_s),
            metadata_errors="replace",
        )
    except (av.FFmpegError, OSError, ValueError) as error:
        raise _open_trouble(error, time.monotonic() - began, settings, redact) from None
    try:
        yield container
    finally:
        container.close()


def _options(settings: CameraSettings) -> dict[str, str]:
    """FFmpeg's, for cameras: little is read before the first picture, and that little is kept.

    `fflags=nobuffer` would throw it away, and with it the key frame that a camera begins with: the next one may be
    seconds off.
    """
    address = settings.address
    if address.kind is Kind.FILE:
        return {}
    if address.kind is Kind.DEVICE:
        return {"framerate": f"{settings.fps:g}"} if settings.fps else {}
    options = {"fpsprobesize": "0", "analyzeduration": "300000", "probesize": "500000"}
    if address.target.lower().startswith("rtsp"):
        options["rtsp_transport"] = settings.transport
        options["max_delay"] = "100000"  # microseconds that a packet of UDP may be late behind its successor
    return options


def _open_trouble(error: Exception, took_s: float, settings: CameraSettings, redact: Redaction) -> CameraTrouble:
    where = settings.address.shown
    if took_s >= settings.timeout_s:  # FFmpeg tells its own interruption apart in some protocols only
        return CameraTrouble(f"no answer from {where} within {settings.timeout_s:g} s", is_frozen=True)
    return CameraTrouble(f"cannot open {where}: {_said(error, redact)}", is_final=settings.address.kind.has_end)


def _said(error: Exception, redact: Redaction) -> str:
    """What an error says, without the URL that FFmpeg puts behind it."""
    return redact(getattr(error, "strerror", None) or type(error).__name__)


def _video_of(container: InputContainer, where: str) -> VideoStream:
    if not container.streams.video:
        raise CameraTrouble(f"{where} sends no video")
    stream = container.streams.video[0]
    # What PyAV knows no decoder for has no codec, whatever its types say.
    if getattr(stream, "codec_context", None) is None:
        raise CameraTrouble(f"{where} sends video in a codec that FFmpeg does not know")
    return stream


class _Pace:
    """Makes a file last as long as its pictures say."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._start: tuple[float, float] | None = None
        self._number = 0
        self._over_at = 0.0

    def wait(self, stamp_s: float | None, fps: float) -> bool:
        """Until the next picture is due; False if it was stopped."""
        stamp_s = self._number / fps if stamp_s is None else stamp_s
        self._number += 1
        now = time.monotonic()
        if self._start is None:
            self._start = now, stamp_s
        due = self._start[0] + stamp_s - self._start[1]
        if abs(due - now) > 60:  # its timestamps jump
            self._start = now, stamp_s
            due = now
        self._over_at = due + 1.0 / fps
        return not self._stop.wait(max(0.0, due - now))

    def wait_out(self) -> None:
        """Until the last picture has been there for its time; without it a single one would come again at once."""
        self._stop.wait(max(0.0, self._over_at - time.monotonic()))


class _Packets:
    """The packets of a video, with the time at which each was captured."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        settings: CameraSettings,
        redact: Redaction,
        pace: _Pace | None,
    ) -> None:
        self._container = container
        self._stream = stream
        self._settings = settings
        self._redact = redact
        self._pace = pace
        self.lateness = Lateness(time.monotonic())
        rate = float(stream.average_rate or 0.0)
        self.fps = rate if _LIKELY_FPS[0] <= rate <= _LIKELY_FPS[1] else None

    def _packets(self) -> Iterator[tuple[av.Packet[VideoStream], float]]:
        """Raises: CameraTrouble if there are no more of them; a file simply ends."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            asked_at = time.monotonic()
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                if time.monotonic() - asked_at >= self._settings.timeout_s:
                    raise CameraTrouble(f"no picture for {self._settings.timeout_s:g} s", is_frozen=True) from None
                what = _said(error, self._redact)
                raise CameraTrouble(f"reading failed: {what}", is_final=self._settings.address.kind.has_end) from None
            read_at = time.monotonic()
            if packet.size == 0 and self._pace is None:
                if read_at - asked_at >= self._settings.timeout_s:
                    raise CameraTrouble(f"no picture for {self._settings.timeout_s:g} s", is_frozen=True)
                return
            yield packet, self.lateness.captured_at(asked_at, read_at, _stamp_s(packet))

    def _wait(self, stamp_s: float | None) -> bool:
        return self._pace is None or self._pace.wait(stamp_s, self.fps or 25.0)


def _stamp_s(packet: av.Packet[VideoStream]) -> float | None:
    return None if packet.pts is None else float(packet.pts * packet.time_base)


class _Frames(_Packets):
    """Pictures of a video, decoded where that is needed."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        settings: CameraSettings,
        redact: Redaction,
        pace: _Pace | None,
        sent_as_is: bool,
    ) -> None:
        from av.codec.context import Flags

        super().__init__(container, stream, settings, redact, pace)
        codec = stream.codec_context
        self._keeps_jpegs = sent_as_is and codec.name == "mjpeg"
        codec.thread_count = 1  # more would each hold a picture back
        if pace is None:
            codec.flags |= Flags.low_delay

    def __iter__(self) -> Iterator[Picture | Unit | None]:
        catching_up = False
        for packet, captured_at in self._packets():
            if self._pace is None:
                catching_up = self.lateness.must_leave_out(time.monotonic(), packet.is_keyframe)
            if catching_up:
                yield None
                continue
            if self._keeps_jpegs and packet.size and is_whole_jpeg(data := bytes(packet)):
                if not self._wait(_stamp_s(packet)):
                    return
                yield Picture(data, captured_at if self._pace is None else time.monotonic())
                continue
            for frame in self._decoded(packet):
                if frame is None:
                    yield None
                elif self._pace is None:
                    yield Picture(frame, captured_at)
                elif self._wait(frame.time):
                    yield Picture(frame, time.monotonic())
                else:
                    return

    def _decoded(self, packet: av.Packet[VideoStream]) -> Sequence[av.VideoFrame | None]:
        """None for what is damaged; the next one may be whole."""
        import av

        try:
            frames = packet.decode()
        except (av.FFmpegError, OSError, ValueError):
            return (None,)
        if not frames and self._pace is None:
            return (None,)  # a file's decoder may hold pictures back to put them in order, a camera's does not
        return [None if frame.is_corrupt else frame for frame in frames]


class _Units(_Packets):
    """The access units of a video as they are."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        settings: CameraSettings,
        redact: Redaction,
        pace: _Pace | None,
    ) -> None:
        from av.bitstream import BitStreamFilterContext

        super().__init__(container, stream, settings, redact, pace)
        codec = stream.codec_context.name
        if codec not in _PASSED_ON:
            raise CameraTrouble(
                f"{settings.address.shown} sends {codec}, and only H.264 and H.265 can be passed through: leave out "
                "passthrough",
                is_final=settings.address.kind.has_end,
            )
        self._format, filters = _PASSED_ON[codec]
        self._filter = BitStreamFilterContext(filters, stream)

    def __iter__(self) -> Iterator[Picture | Unit | None]:
        latest = float("-inf")
        for packet, captured_at in self._packets():
            if packet.size == 0:
                return
            stamp_s = _stamp_s(packet)
            if not self._wait(stamp_s):
                return
            if stamp_s is not None and 0 < latest - stamp_s < _REORDERED_S:
                raise CameraTrouble(
                    "its video has B frames, which are sent in another order than they are shown: switch them off in "
                    "the camera, or leave out passthrough",
                    is_final=self._settings.address.kind.has_end,
                )
            latest = latest if stamp_s is None else stamp_s
            yield from self._units(packet, captured_at if self._pace is None else time.monotonic())

    def _units(self, packet: av.Packet[VideoStream], captured_at: float) -> Iterator[Unit | None]:
        import av

        try:
            filtered = self._filter.filter(packet)
        except (av.FFmpegError, OSError, ValueError):
            yield None
            return
        for unit in filtered:
            yield Unit(bytes(unit), self._format, unit.is_keyframe, captured_at)


class _Pictures:
    """Pictures on disk, at so many per second."""

    def __init__(self, settings: CameraSettings, sent_as_is: bool, pace: _Pace) -> None:
        self.fps: float | None = settings.fps or _PICTURES_FPS
        self._path = Path(settings.address.target)
        self._sent_as_is = sent_as_is
        self._pace = pace

    def __iter__(self) -> Iterator[Picture | Unit | None]:
        for path in self._paths():
            try:
                data = path.read_bytes()
                content = data if self._sent_as_is else decoded(data)
            except (OSError, ValueError):
                yield None
                continue
            if not self._pace.wait(None, self.fps or _PICTURES_FPS):
                return
            yield Picture(content, time.monotonic())

    def _paths(self) -> list[Path]:
        if self._path.is_file():
            return [self._path]
        try:
            paths = sorted(path for path in self._path.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
        except OSError as error:
            raise CameraTrouble(f"cannot read {self._path}: {error.strerror}") from None
        if not paths:
            expected = ", ".join(sorted(PICTURE_SUFFIXES))
            raise CameraTrouble(f"no pictures in {self._path}: expected {expected} files", is_final=True)
        return paths
