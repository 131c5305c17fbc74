"""Bytes on the wire and the server's processor time per frame: H.264 and H.265 against JPEG. Prints JSON.

    python tests/bench/video_on_the_wire.py [VIDEO] [--sizes 1280x720,1920x1080] [--frames 300] [--rounds 3]

A real video is scaled to each size and encoded in three ways, at a quality that the peak signal-to-noise ratio tells:
JPEG; H.264 by x264 and H.265 by x265 as a camera sends them, with a key frame every two seconds and no B-frames. Each
goes over loopback gRPC to a service whose engine takes no time and wants 640x640 pixels, a few frames at a time as
fast as they are answered, all three in turn in each round. `cpu_ms` is the processor time that the service's process
took per frame, of the best round: receiving, decoding, scaling, answering. The ratios are of the same run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any

import av
import cv2
import numpy as np
import simplejpeg
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from foveate.client import Client, Delivery, PixelFormat, Result, Verdict
from foveate.client.settings import StreamSettings
from foveate.service.embedded import child_server
from foveate.tools.bench.fake_service import FakeSpec
from foveate.tools.demo_video import demo_video_path
from foveate.tools.provenance import provenance, spread

Pixels = NDArray[np.uint8]

_FPS = 25
_KEY_FRAME_S = 2
_SIDE_PX = 640
_UNANSWERED = 6
_TICKS = os.sysconf("SC_CLK_TCK")
_ENCODERS = {
    PixelFormat.H264: ("libx264", {"preset": "veryfast", "crf": "20", "bf": "0"}),
    PixelFormat.H265: ("libx265", {"preset": "fast", "crf": "22", "x265-params": "bframes=0:log-level=none"}),
}
_JPEG_QUALITY = 85


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A video as it goes over the wire."""

    kind: PixelFormat
    frames: Sequence[bytes]
    psnr_db: float

    @property
    def bytes_per_frame(self) -> float:
        return fmean(map(len, self.frames))


def main() -> None:
    """Measure, and print one JSON object."""
    asked = _arguments()
    video = asked.video or demo_video_path()
    reports = {}
    for text in asked.sizes.split(","):
        width, height = map(int, text.split("x"))
        pictures = list(_pictures(video, (width, height)))
        ways = [_as_jpeg(pictures), *(_as_video(pictures, kind) for kind in _ENCODERS)]
        reports[text] = _measure(ways, asked.frames, asked.rounds)
    name = asked.video.name if asked.video else "the demo's"
    print(json.dumps(provenance() | {"video": name, "codecs": av.library_versions, "sizes": reports}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path)
    parser.add_argument("--sizes", default="1280x720,1920x1080")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _pictures(video: Path, size: tuple[int, int]) -> Iterator[Pixels]:
    """As many as four seconds have, scaled to cover the size and cut to it. Shapes: (height, width, 3) uint8, RGB."""
    with av.open(video) as container:
        for frame in itertools.islice(container.decode(video=0), 4 * _FPS):
            picture = frame.to_ndarray(format="rgb24")
            scale = max(size[0] / picture.shape[1], size[1] / picture.shape[0])
            grown = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
            top, left = (grown.shape[0] - size[1]) // 2, (grown.shape[1] - size[0]) // 2
            yield np.ascontiguousarray(grown[top : top + size[1], left : left + size[0]]).astype(np.uint8)


def _as_jpeg(pictures: Sequence[Pixels]) -> _Encoded:
    frames = [simplejpeg.encode_jpeg(picture, _JPEG_QUALITY, "RGB", "420") for picture in pictures]
    decoded = (np.asarray(simplejpeg.decode_jpeg(frame, "RGB"), np.uint8) for frame in frames)
    return _Encoded(PixelFormat.JPEG, frames, _psnr_db(pictures, decoded))


def _as_video(pictures: Sequence[Pixels], kind: PixelFormat) -> _Encoded:
    encoder, options = _ENCODERS[kind]
    codec = av.CodecContext.create(encoder, "w")
    assert isinstance(codec, VideoCodecContext)
    codec.height, codec.width = pictures[0].shape[:2]
    codec.pix_fmt, codec.time_base, codec.framerate = "yuv420p", Fraction(1, _FPS), Fraction(_FPS)
    codec.gop_size, codec.max_b_frames, codec.options = _FPS * _KEY_FRAME_S, 0, options
    units: list[bytes] = []
    for index, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.pts, frame.time_base = index, codec.time_base
        units += [bytes(packet) for packet in codec.encode(frame)]
    units += [bytes(packet) for packet in codec.encode(None)]
    decoder = av.CodecContext.create({PixelFormat.H264: "h264", PixelFormat.H265: "hevc"}[kind], "r")
    assert isinstance(decoder, VideoCodecContext)
    packets = [*(av.Packet(unit) for unit in units), None]
    decoded = (each.to_ndarray(format="rgb24") for packet in packets for each in decoder.decode(packet))
    return _Encoded(kind, units, _psnr_db(pictures, decoded))


def _psnr_db(pictures: Sequence[Pixels], decoded: Iterator[NDArray[Any]]) -> float:
    return fmean(cv2.PSNR(picture, other) for picture, other in zip(pictures, decoded, strict=True))


def _measure(ways: Sequence[_Encoded], frames: int, rounds: int) -> dict[str, Any]:
    cpu_ms = {way.kind: list[float]() for way in ways}
    decode_ms = {way.kind: list[float]() for way in ways}
    for _ in range(rounds):
        for way in ways:
            with child_server("foveate.tools.bench.fake_service", FakeSpec(side_px=_SIDE_PX).to_json()) as server:
                _stream(server.address, way, len(way.frames))  # libraries are loaded, threads started
                before_s = _cpu_s(server.pid)
                results = _stream(server.address, way, frames)
                cpu_ms[way.kind].append((_cpu_s(server.pid) - before_s) / frames * 1e3)
                decode_ms[way.kind] += [result.times.decode_ms for result in results]
    jpeg = ways[0]
    return {
        way.kind: {
            "bytes": round(way.bytes_per_frame),
            "mbit_per_s": round(way.bytes_per_frame * 8 * _FPS / 1e6, 2),
            "psnr_db": round(way.psnr_db, 1),
            "cpu_ms": round(min(cpu_ms[way.kind]), 3),
            "cpu_ms_of_rounds": [round(value, 3) for value in cpu_ms[way.kind]],
            "decode_ms": spread(decode_ms[way.kind]),
            "to_jpeg": {
                "bytes": round(way.bytes_per_frame / jpeg.bytes_per_frame, 3),
                "cpu": round(min(cpu_ms[way.kind]) / min(cpu_ms[jpeg.kind]), 2),
            },
        }
        for way in ways
    }


def _stream(address: str, way: _Encoded, count: int) -> list[Result]:
    room, results = threading.Semaphore(_UNANSWERED), []

    def frames() -> Iterator[bytes]:
        for frame in itertools.islice(itertools.cycle(way.frames), count):
            room.acquire()
            yield frame

    settings: StreamSettings = {"format": way.kind, "budget_ms": 60_000, "delivery": Delivery.QUEUE}
    with Client(address) as client, client.stream(frames(), **settings) as stream:
        for result in stream:
            room.release()
            results.append(result)
    assert all(result.verdict is Verdict.OK for result in results), {result.message for result in results}
    return results


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


if __name__ == "__main__":
    main()
