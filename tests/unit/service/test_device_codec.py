"""A stream's units at its device: what goes there, what comes back, and what takes over where it has no decoder."""

from __future__ import annotations

import gc
import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines.errors import (
    BadFrame,
    DeviceLost,
    EngineUnavailable,
    NoRoomForPicture,
    Overloaded,
    UnsupportedFormat,
)
from foveate.engines.video_decoding import VideoFormat
from foveate.models.geometry import Rect
from foveate.service.boundary import PictureTicket, VideoUnit
from foveate.service.crops import Size
from foveate.service.device import Device
from foveate.service.device_codec import DeviceCodec, DevicePicture
from foveate.service.device_video import DeviceVideo, VideoSession
from foveate.service.frame_crops import FrameCrops
from foveate.service.job import DecodeCost
from support.cpu_video import CpuVideoDecoders
from support.frames import colour_model
from support.waiting import until

DECLARED = VideoFormat("h264", 64, 48, 2)
KEY = VideoUnit(b"key", DECLARED, True, True)
NEXT = VideoUnit(b"next", DECLARED, False, False)


class Port:
    """A device that decodes whatever it is given."""

    def __init__(self) -> None:
        self.units: list[VideoUnit] = []
        self.dropped: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.fault: Exception | None = None

    def decode_unit(self, stream: int, unit: VideoUnit) -> PictureTicket | None:
        assert stream == 7
        if self.fault:
            raise self.fault
        self.units.append(unit)
        return PictureTicket(len(self.units), 64, 48)

    def picture_pixels(self, picture: int, size: tuple[int, int]) -> NDArray[np.uint8]:
        self.sizes.append(size)
        return np.full((size[1], size[0], 3), 100 + picture, np.uint8)

    def drop_picture(self, picture: int) -> None:
        self.dropped.append(picture)


class OnCpu:
    def __init__(self) -> None:
        self.units: list[VideoUnit] = []
        self.picture: Any = object()

    def decode(self, unit: VideoUnit) -> Any:
        self.units.append(unit)
        return self.picture


@pytest.fixture
def port() -> Any:
    return Port()


def test_a_picture_stays_until_nobody_holds_it(port: Any) -> None:
    codec = DeviceCodec(port, 7, None)
    pictures = [codec.decode(unit) for unit in (KEY, NEXT)]
    assert port.dropped == []
    del pictures[0]
    assert port.dropped == [1]
    assert isinstance(pictures[0], DevicePicture)
    assert pictures[0].rgb().mean() == 102
    assert port.sizes == [(64, 48)]


def test_after_a_recovery_point_pictures_that_are_not_whole_are_not_given(port: Any) -> None:
    codec = DeviceCodec(port, 7, None)
    units = [KEY._replace(recovery=3), *[NEXT] * 4, KEY, KEY._replace(recovery=2, anew=False), NEXT]
    came = [codec.decode(unit) is not None for unit in units]
    assert came == [False, False, False, True, True, True, True, True]
    assert len(port.units) == len(units), "they are decoded all the same"


@pytest.mark.parametrize("why", [Overloaded("no decoder is left"), UnsupportedFormat("10 bits")])
def test_without_a_decoder_there_the_cpu_takes_over_at_a_key_frame(port: Any, why: Exception) -> None:
    on_cpu = OnCpu()
    codec, refused = DeviceCodec(port, 7, lambda: on_cpu), DeviceCodec(port, 7, None)
    port.fault = why
    assert codec.decode(KEY._replace(anew=False)) is on_cpu.picture
    port.fault = None
    assert codec.decode(NEXT) is on_cpu.picture, "from then on"
    assert [unit.anew for unit in on_cpu.units] == [True, False]
    port.fault = why
    with pytest.raises(type(why)):
        refused.decode(KEY)


@pytest.mark.parametrize("fault", [NoRoomForPicture("full"), BadFrame("corrupt")])
def test_other_faults_are_no_reason_to_leave_the_device(port: Any, fault: Exception) -> None:
    codec = DeviceCodec(port, 7, OnCpu)
    port.fault = fault
    with pytest.raises(type(fault)):
        codec.decode(KEY)
    port.fault = None
    assert isinstance(codec.decode(KEY), DevicePicture)


def test_crops_have_as_much_brought_down_as_they_need(port: Any) -> None:
    picture = DevicePicture(PictureTicket(9, 640, 480), port)
    job: Any = SimpleNamespace(frame=SimpleNamespace(data=b""), picture=picture)
    model = colour_model(32, 24)
    crops = FrameCrops(
        job, Size(640, 480), [(Rect(0, 0, 320, 240), model), (Rect(10, 10, 300, 200), model)], DecodeCost()
    )
    for index in range(2):
        row = np.zeros((24, 32, 3), np.uint8)
        crops.write(index, row)
        assert (row == 109).any()
    assert port.sizes == [(80, 60)]


def test_a_device_that_only_its_decoder_finds_to_be_lost_is_told_of_once() -> None:
    decoders, told = CpuVideoDecoders(), list[tuple[str, str]]()
    lanes: Any = [SimpleNamespace(pipeline="one"), SimpleNamespace(pipeline="two")]
    device = Device(lanes, DeviceVideo(decoders))
    session = VideoSession(device.video)
    device.when_lost(lambda pipeline, reason: told.append((pipeline, reason)))
    for _ in range(2):
        decoders.fault = DeviceLost("an illegal address")
        with pytest.raises(DeviceLost):
            session.decode(1, KEY)
    assert told == [("one", "an illegal address"), ("two", "an illegal address")]
    session.close()
    device.video.close()


def test_a_stream_that_leaves_amid_a_unit_has_its_decoder_closed_afterwards() -> None:
    decoders = CpuVideoDecoders()
    video = DeviceVideo(decoders)
    session = VideoSession(video)

    class Leaving(CpuVideoDecoders):
        def open_stream(self, declared: VideoFormat) -> Any:
            session.leave(1)
            return decoders.open_stream(declared)

    video._decoders = Leaving()
    with pytest.raises(BadFrame):
        session.decode(1, KEY)
    video._threads.shutdown()
    gc.collect()
    assert not decoders.streams
    assert not session.pictures


def test_a_stream_that_has_left_gets_no_decoder_any_more() -> None:
    decoders, locked = CpuVideoDecoders(), list[bool]()
    video = DeviceVideo(decoders)

    def serves(stream: int) -> bool:
        locked.append(session._lock.locked())
        return False

    session = VideoSession(video, serves)
    with pytest.raises(EngineUnavailable):
        session.decode(1, KEY)
    assert locked == [True], "else it could leave after it was asked for, and before it is known to be busy"
    assert not decoders.streams
    video.close()


def test_a_device_that_comes_back_without_decoders_leaves_its_streams_to_the_cpu(port: Any) -> None:
    video, on_cpu = DeviceVideo.none("the CPU is faster now"), OnCpu()
    session = VideoSession(video)
    port.decode_unit = session.decode
    assert DeviceCodec(port, 7, lambda: on_cpu).decode(KEY) is on_cpu.picture
    with pytest.raises(Overloaded, match="decodes no h264 any more: the CPU is faster now"):
        DeviceCodec(port, 7, None).decode(KEY)
    video.close()


def test_a_decoder_that_hangs_is_overdue() -> None:
    going_on = threading.Event()

    class Hanging(CpuVideoDecoders):
        def open_stream(self, declared: VideoFormat) -> Any:
            assert going_on.wait(60)
            raise Overloaded("after all")

    device = Device((), DeviceVideo(Hanging()))
    session = VideoSession(device.video)

    def decode() -> None:
        with pytest.raises(Overloaded):
            session.decode(1, KEY)

    assert device.overdue_ns == 0
    decoding = threading.Thread(target=decode)
    decoding.start()
    until(lambda: device.overdue_ns > 0)
    going_on.set()
    decoding.join()
    assert device.overdue_ns == 0
    device.close()


@pytest.mark.parametrize("why", [Overloaded("it did not begin"), UnsupportedFormat("10 bits after all")])
def test_a_decoder_that_is_of_no_use_is_not_kept(why: Exception) -> None:
    decoders = CpuVideoDecoders()
    video = DeviceVideo(decoders)
    session = VideoSession(video)
    decoders.fault = why
    with pytest.raises(type(why)):
        session.decode(1, KEY)
    assert not decoders.streams, "the stream may go on for hours on the CPU"
    decoders.fault = NoRoomForPicture("full")
    with pytest.raises(NoRoomForPicture):
        session.decode(1, KEY)
    assert len(decoders.streams) == 1
    session.close()
    video.close()
    assert decoders.closed
