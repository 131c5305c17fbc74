"""Where video is decoded: as the settings say, or on the device where that is faster and its engines gain by it."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from foveate.engines.contract import HeldPicture
from foveate.engines.errors import DeviceError, EngineUnavailable
from foveate.engines.video_decoding import StreamDecoder, VideoFormat
from foveate.service import video_choice
from foveate.service.device_video import DeviceVideo
from foveate.service.frame import PixelFormat
from foveate.service.job import DecodedPicture
from foveate.service.video_choice import device_video
from foveate.service.video_decoder import VideoDecoder
from support.cpu_video import CpuVideoDecoders


class Clock:
    """Goes by what is done, by all threads together."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        return self.now_ns

    def spend(self, nanoseconds: int) -> None:
        with self._lock:
            self.now_ns += nanoseconds


class TimedDecoders(CpuVideoDecoders):
    def __init__(self, clock: Clock, takes_ns: int) -> None:
        super().__init__()
        self.clock, self.takes_ns = clock, takes_ns

    def open_stream(self, declared: VideoFormat) -> StreamDecoder:
        stream, clock, takes_ns = super().open_stream(declared), self.clock, self.takes_ns

        class Timed:
            def decode(self, data: bytes, *, anew: bool) -> HeldPicture | None:
                clock.spend(takes_ns)
                return stream.decode(data, anew=anew)

            def close(self) -> None:
                stream.close()

        return Timed()


class Place:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, cpu_ns: int = 100, device_ns: int = 50) -> None:
        self.clock = clock = Clock()
        self.decoders = TimedDecoders(clock, device_ns)
        self.opened = 0

        class TimedDecoder(VideoDecoder):
            def decode(self, data: bytes, *, follows: bool = True) -> DecodedPicture:
                clock.spend(cpu_ns)
                return super().decode(data, follows=follows)

        monkeypatch.setattr(video_choice, "VideoDecoder", TimedDecoder)

    def choice(self, wish: Any, *, takes: bool = True) -> DeviceVideo:
        return device_video(wish, takes, 1, self._open, self.clock)

    def _open(self) -> CpuVideoDecoders:
        self.opened += 1
        return self.decoders


@pytest.mark.parametrize(("device_ns", "on_device"), [(99, True), (100, False), (1000, False)])
def test_auto_takes_the_faster(monkeypatch: pytest.MonkeyPatch, device_ns: int, on_device: bool) -> None:
    place = Place(monkeypatch, cpu_ns=100, device_ns=device_ns)
    video = place.choice("auto")
    refusal = video.refusal(PixelFormat.H264)
    assert (refusal == "") is on_device
    assert on_device or "ms on the device" in refusal
    assert place.decoders.closed is not on_device
    video.close()


def test_gpu_is_not_measured_and_cpu_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch, device_ns=1000)
    assert place.choice("gpu", takes=False).refusal(PixelFormat.H265) == ""
    assert place.decoders.decoded == 0
    assert place.choice("cpu").refusal(PixelFormat.H264) == 'video_decode is "cpu"'
    assert "none of its engines" in place.choice("auto", takes=False).refusal(PixelFormat.H264)
    assert place.opened == 1


def test_what_cannot_be_tried_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch)
    place.decoders.fault = DeviceError("an illegal address")
    assert "an illegal address" in place.choice("auto").refusal(PixelFormat.H264)
    assert place.decoders.closed


@pytest.mark.parametrize("wish", ["auto", "gpu"])
def test_without_a_gpu_it_is_said_why(monkeypatch: pytest.MonkeyPatch, wish: Any) -> None:
    def nothing() -> CpuVideoDecoders:
        raise EngineUnavailable("there is no driver")

    assert device_video(wish, True, 1, nothing).refusal(PixelFormat.H264) == "there is no driver"


def test_without_an_encoder_the_cpu_is_kept_and_without_pyav_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch)
    monkeypatch.setattr(video_choice, "_sample_units", lambda: None)
    assert "no encoder" in place.choice("auto").refusal(PixelFormat.H264)
    monkeypatch.setattr(video_choice, "has_ffmpeg", lambda: False)
    assert place.choice("auto").refusal(PixelFormat.H264) == ""


def test_what_opening_a_decoder_takes_is_not_a_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(monkeypatch, cpu_ns=100, device_ns=50)
    open_stream = place.decoders.open_stream

    def slow(declared: VideoFormat) -> StreamDecoder:
        place.clock.spend(10_000)
        return open_stream(declared)

    monkeypatch.setattr(place.decoders, "open_stream", slow)
    video = place.choice("auto")
    assert video.refusal(PixelFormat.H264) == ""
    assert not place.decoders.streams
    video.close()


def test_a_trial_that_goes_wrong_does_not_end_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(monkeypatch)

    def fail() -> None:
        raise ValueError("FFmpeg's own")

    monkeypatch.setattr(video_choice, "_sample_units", fail)
    assert "could not be tried: ValueError" in place.choice("auto").refusal(PixelFormat.H264)
    assert place.decoders.closed
    assert "FFmpeg's own" in caplog.text
