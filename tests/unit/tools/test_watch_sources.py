"""Reading videos, pictures and cameras: rhythm, bytes, video that is passed through, and time limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.client import PixelFormat
from foveate.tools.watch import lateness
from foveate.tools.watch import source as source_module
from foveate.tools.watch.address import Redaction
from foveate.tools.watch.settings import CameraSettings
from foveate.tools.watch.shot import Picture, Unit
from foveate.tools.watch.source import Source, open_source
from foveate.tools.watch.trouble import CameraTrouble
from support.ports import free_port
from support.rtsp_cameras import mjpeg_over_http, silent_server

av = pytest.importorskip("av")

GREYS = (20, 60, 100, 140, 180, 220)
SECRET = "s3cretPassw0rd"


def jpeg(grey: int, width: int = 64, height: int = 48) -> bytes:
    done, data = cv2.imencode(".jpg", np.full((height, width, 3), grey, np.uint8))
    assert done
    return data.tobytes()


def video(path: Path, codec: str, fps: int = 50, **options: str) -> Path:
    """Two rounds of `GREYS`, a key frame at the head of each."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps, options={"g": str(len(GREYS)), "bf": "0", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, grey in enumerate(GREYS * 2):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), grey, np.uint8), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey_of(pixels: NDArray[Any]) -> int:
    return min(GREYS, key=lambda grey: abs(grey - float(pixels.mean())))


@contextmanager
def opened(url: str | Path, *, sent_as_is: bool = True, **fields: Any) -> Iterator[Source]:
    settings = CameraSettings.model_validate({"url": str(url), **fields})
    redact = Redaction([str(url)])
    with open_source(settings, sent_as_is=sent_as_is, redact=redact, stop=threading.Event()) as source:
        yield source


def pictures(source: Source) -> list[Picture]:
    found = []
    for item in source:
        assert isinstance(item, Picture)
        found.append(item)
    return found


@pytest.mark.parametrize(("codec", "name"), [("libx264", "a.mp4"), ("libx264", "a.mkv"), ("mpeg4", "a.avi")])
def test_a_video_gives_all_its_pictures_at_its_own_rate(tmp_path: Path, codec: str, name: str) -> None:
    path = video(tmp_path / name, codec)
    began = time.monotonic()
    with opened(path) as source:
        assert source.fps == 50
        found = pictures(source)
    assert [grey_of(shot.content.to_ndarray(format="gray")) for shot in found] == list(GREYS * 2)  # type: ignore[union-attr]
    assert found[-1].captured_at - began >= (len(found) - 1) / 50 - 0.005, "no faster than it was taken"


def test_video_with_reordered_frames_is_shown_in_order(tmp_path: Path) -> None:
    with opened(video(tmp_path / "b.mp4", "libx264", bf="2", preset="medium", fps=200)) as source:
        found = pictures(source)
    assert [grey_of(shot.content.to_ndarray(format="gray")) for shot in found] == list(GREYS * 2)  # type: ignore[union-attr]


def test_stopping_ends_the_wait_for_the_next_picture(tmp_path: Path) -> None:
    settings = CameraSettings.model_validate({"url": str(video(tmp_path / "slow.mp4", "libx264", fps=1))})
    stop = threading.Event()
    with open_source(settings, sent_as_is=True, redact=Redaction(), stop=stop) as source:
        items = iter(source)
        assert isinstance(next(items), Picture)
        stop.set()
        assert list(items) == []


@pytest.mark.parametrize(
    ("codec", "name", "kind"),
    [
        ("libx264", "a.mp4", PixelFormat.H264),
        ("libx264", "a.ts", PixelFormat.H264),
        ("libx265", "a.mp4", PixelFormat.H265),
        ("libx265", "a.ts", PixelFormat.H265),
    ],
)
def test_video_that_is_passed_through_can_be_decoded_from_any_key_frame(
    tmp_path: Path, codec: str, name: str, kind: PixelFormat
) -> None:
    quiet = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    with opened(video(tmp_path / name, codec, 50, **quiet), passthrough=True) as source:
        units = [item for item in source if item is not None]
    assert len(units) == 2 * len(GREYS)
    assert all(isinstance(unit, Unit) and unit.format is kind for unit in units)
    assert all(unit.data.startswith((b"\0\0\0\1", b"\0\0\1")) for unit in units if isinstance(unit, Unit)), "Annex B"
    keys = [number for number, unit in enumerate(units) if unit.is_key]
    assert keys == [0, len(GREYS)]
    for key in keys:
        decoder: Any = av.CodecContext.create("h264" if kind is PixelFormat.H264 else "hevc", "r")
        packets = [av.Packet(unit.data) for unit in units[key:] if isinstance(unit, Unit)]
        frames = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
        assert [grey_of(frame.to_ndarray(format="gray")) for frame in frames] == list((GREYS * 2)[key:])


def test_video_that_cannot_be_passed_through_says_why(tmp_path: Path) -> None:
    reordered = video(tmp_path / "b.mp4", "libx264", bf="2", preset="medium", fps=200)
    with opened(reordered, passthrough=True) as source, pytest.raises(CameraTrouble, match="B frames"):
        list(source)
    with (
        pytest.raises(CameraTrouble, match=r"sends mpeg4, and only H\.264 and H\.265"),
        opened(video(tmp_path / "a.avi", "mpeg4"), passthrough=True),
    ):
        pass


def test_a_folder_gives_its_pictures_in_order_and_leaves_out_what_is_none(tmp_path: Path) -> None:
    for number, grey in enumerate(GREYS):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(grey))
    (tmp_path / "notes.txt").touch()
    with opened(tmp_path, fps=500) as source:
        assert [shot.content for shot in pictures(source)] == [jpeg(grey) for grey in GREYS]
    (tmp_path / "3.jpg").write_bytes(b"\xff\xd8 nothing")
    with opened(tmp_path, sent_as_is=False, fps=500) as source:
        found = list(source)
    assert [item is None for item in found] == [number == 3 for number in range(len(GREYS))]


def test_a_single_picture_that_comes_again_and_again_lasts_its_time(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(20))
    began = time.monotonic()
    for _ in range(3):
        with opened(tmp_path / "a.jpg", loop=True, fps=50) as source:
            assert len(pictures(source)) == 1
    assert time.monotonic() - began >= 3 / 50


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_timestamps_that_jump_change_the_rhythm_of_nothing(jump_s: float) -> None:
    stop = threading.Event()
    pace = source_module._Pace(stop)
    began = time.monotonic()
    assert all(pace.wait(stamp_s, 50.0) for stamp_s in (7200.0, 7200.0 + jump_s, 7200.1 + jump_s))
    assert time.monotonic() - began >= 0.1


def test_what_holds_no_pictures_says_so(tmp_path: Path) -> None:
    with opened(tmp_path) as source, pytest.raises(CameraTrouble, match="no pictures in") as caught:
        list(source)
    assert caught.value.is_final
    rubbish = tmp_path / "rubbish.mp4"
    rubbish.write_bytes(bytes(range(256)) * 100)
    with pytest.raises(CameraTrouble, match="cannot open") as caught, opened(rubbish):
        pass
    assert caught.value.is_final


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left out, however far this machine falls behind."""
    monkeypatch.setattr(lateness, "_HOPELESS_AFTER_S", 3600.0)


@pytest.mark.usefixtures("patient")
def test_jpegs_by_http_come_as_they_are() -> None:
    sent = [jpeg(grey) for grey in GREYS]
    with mjpeg_over_http(sent, fps=100) as url, opened(url, timeout_s=30.0) as source:
        items = iter(source)
        found = [next(items) for _ in range(8)]
        kinds = {type(shot.content) for shot in found if isinstance(shot, Picture)}
    assert kinds == {bytes}
    first = sent.index(found[0].content)  # type: ignore[union-attr, arg-type]
    assert [shot.content for shot in found if isinstance(shot, Picture)] == [
        sent[(first + number) % len(sent)] for number in range(8)
    ]


@pytest.mark.usefixtures("patient")
def test_jpegs_by_http_are_decoded_where_they_are_cut_or_damaged() -> None:
    sent = [jpeg(20), b"\xff\xd8 nothing \xff\xd9", jpeg(220)]
    with mjpeg_over_http(sent, fps=100) as url, opened(url, sent_as_is=False, timeout_s=30.0) as source:
        items = iter(source)
        found = [next(items) for _ in range(9)]
    greys = [grey_of(shot.content.to_ndarray(format="gray")) for shot in found if isinstance(shot, Picture)]  # type: ignore[union-attr]
    assert set(greys) == {20, 220}


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_accepts_and_says_nothing_is_given_up(scheme: str) -> None:
    said = r"no answer from .*127.0.0.1:\d+/… within 0.3 s"
    with silent_server() as port:
        url = f"{scheme}://admin:{SECRET}@127.0.0.1:{port}/camera"
        with pytest.raises(CameraTrouble, match=said) as caught, opened(url, timeout_s=0.3):
            pass
    assert caught.value.is_frozen
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_nobody_there_is_said_without_the_password() -> None:
    with (
        pytest.raises(CameraTrouble, match="Connection refused") as caught,
        opened(f"rtsp://a:{SECRET}@127.0.0.1:{free_port()}/"),
    ):
        pass
    assert SECRET not in str(caught.value)
    assert not caught.value.is_final


def test_a_device_that_is_not_there_is_said() -> None:
    with pytest.raises(CameraTrouble, match="cannot open /dev/video63"), opened("/dev/video63"):
        pass
