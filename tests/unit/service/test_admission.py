"""What is let in: budgets that can be kept, frames within the limits, and a fair share of advised frame rates."""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import BudgetTooSmall, Overloaded
from foveate.service import decode
from foveate.service.admission import (
    admit_frame,
    admit_stream,
    advised_rates,
    fitting_rate,
    frame_s,
    guaranteed_load,
    load,
    stream_window,
)
from foveate.service.config import Limits
from foveate.service.frame import Answer, Delivery, Frame, Grant, PixelFormat, SharedMemoryRef, Verdict
from foveate.service.job import Job
from support.frames import MS, camera_stream, device_stream, encoded, latency_model, nv12, plain, stream_options

LIMITS = Limits(max_frame_bytes=100_000, max_pixels=1_000_000)


def admitted(data: bytes | SharedMemoryRef, limits: Limits = LIMITS, **options: Any) -> tuple[Job, Answer | None]:
    job = Job(camera_stream(**options), Frame(1, 0, 1 << 62, data))
    return job, admit_frame(job, limits, shared_memory=True)


def refusal(data: bytes | SharedMemoryRef, limits: Limits = LIMITS, **options: Any) -> Answer:
    _, answer = admitted(data, limits, **options)
    assert answer is not None
    return answer


@pytest.mark.parametrize("kind", [PixelFormat.JPEG, PixelFormat.PNG, PixelFormat.WEBP])
@pytest.mark.parametrize("opened_for", ["itself", "auto"])
def test_a_picture_is_let_in_with_its_format_and_size_noted(kind: PixelFormat, opened_for: str) -> None:
    expected = kind if opened_for == "itself" else PixelFormat.AUTO
    job, answer = admitted(encoded(plain((1, 2, 3), 50, 40), kind), format=expected)
    assert answer is None
    assert (job.format, job.width, job.height) == (kind, 50, 40)


def test_a_picture_of_another_format_than_the_streams_is_bad() -> None:
    answer = refusal(encoded(plain((1, 2, 3)), PixelFormat.PNG), format=PixelFormat.JPEG)
    assert answer.verdict is Verdict.BAD_FRAME
    assert answer.message == "the stream was opened for JPEG, this frame is PNG"


@pytest.mark.parametrize("data", [b"", b"GIF89a..........", b"\xff\xd8\xff\xc0", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_picture_are_bad(data: bytes) -> None:
    answer = refusal(data)
    assert answer.verdict is Verdict.BAD_FRAME
    assert answer.message
    assert (answer.frame_width, answer.frame_height) == (0, 0)


def test_the_limit_of_bytes_is_the_last_that_is_taken() -> None:
    data = encoded(plain((1, 2, 3)), PixelFormat.PNG)
    padded = data + bytes(2000 - len(data))
    assert admitted(padded, Limits(max_frame_bytes=2000))[1] is None
    answer = refusal(padded + b"\0", Limits(max_frame_bytes=2000))
    assert answer.verdict is Verdict.REJECTED
    assert "has 2001 bytes, at most 2000 are taken" in answer.message


def test_the_limit_of_pixels_is_the_last_that_is_taken() -> None:
    data = encoded(plain((1, 2, 3), 100, 50), PixelFormat.PNG)
    assert admitted(data, Limits(max_pixels=5000))[1] is None
    answer = refusal(data, Limits(max_pixels=4999))
    assert answer.verdict is Verdict.REJECTED
    assert "100x50 pixels, at most 4999" in answer.message


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def test_a_header_that_declares_a_giant_is_refused_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoder(*_: object) -> None:
        raise AssertionError("a decoder was called")

    monkeypatch.setattr(decode, "decode_into", no_decoder)
    monkeypatch.setattr(cv2, "imdecode", no_decoder)
    answer = refusal(png_header(30_000, 30_000))
    assert answer.verdict is Verdict.REJECTED
    assert (answer.frame_width, answer.frame_height) == (30_000, 30_000)
    assert refusal(png_header(2**32 - 1, 2**32 - 1)).verdict is Verdict.REJECTED


RAW = {
    PixelFormat.RAW_RGB: plain((1, 2, 3), 48, 32).tobytes(),
    PixelFormat.RAW_BGR: plain((3, 2, 1), 48, 32).tobytes(),
    PixelFormat.RAW_NV12: nv12(plain((1, 2, 3), 48, 32)),
}


@pytest.mark.parametrize("kind", RAW)
def test_raw_frames_have_exactly_their_length(kind: PixelFormat) -> None:
    fields: dict[str, Any] = {"format": kind, "width": 48, "height": 32}
    job, answer = admitted(RAW[kind], **fields)
    assert answer is None
    assert (job.format, job.width, job.height) == (kind, 48, 32)
    for wrong in (RAW[kind][:-1], RAW[kind] + b"\0", b""):
        answer = refusal(wrong, **fields)
        assert answer.verdict is Verdict.BAD_FRAME
        assert f"has {len(RAW[kind])} bytes, this one has {len(wrong)}" in answer.message


def test_shared_memory_carries_raw_frames_only() -> None:
    fields: dict[str, Any] = {"format": PixelFormat.RAW_RGB, "width": 48, "height": 32}
    assert admitted(SharedMemoryRef("foveate-a", 0, 48 * 32 * 3), **fields)[1] is None
    assert refusal(SharedMemoryRef("foveate-a", 0, 48 * 32 * 3 - 1), **fields).verdict is Verdict.BAD_FRAME
    assert "shared memory carries raw frames only" in refusal(SharedMemoryRef("foveate-a", 0, 500)).message
    assert refusal(SharedMemoryRef("foveate-a", 0, 100_001)).verdict is Verdict.REJECTED


def test_shared_memory_can_be_switched_off() -> None:
    job = Job(
        camera_stream(format=PixelFormat.RAW_RGB, width=48, height=32),
        Frame(1, 0, 1 << 62, SharedMemoryRef("foveate-a", 0, 48 * 32 * 3)),
    )
    answer = admit_frame(job, LIMITS, shared_memory=False)
    assert answer is not None
    assert answer.verdict is Verdict.REJECTED
    assert "switched off" in answer.message


def test_a_budget_that_no_frame_could_keep_is_refused_with_the_smallest_that_can() -> None:
    latency = latency_model(lambda batch: 10 * MS)
    assert admit_stream(stream_options(budget_ms=20.5), latency, 4, 0.0) is Grant.BEST_EFFORT
    with pytest.raises(BudgetTooSmall) as caught:
        admit_stream(stream_options(budget_ms=20.4), latency, 4, 0.0)
    assert "a budget of 20.4 ms" in str(caught.value)
    assert "the smallest possible is 20.5 ms" in str(caught.value)


def test_frame_rates_are_granted_up_to_their_share_of_the_engine() -> None:
    latency = latency_model(lambda batch: 10 * MS)  # 4 frames in 10 ms: 400 a second, of which 85 % are granted
    assert admit_stream(stream_options(fps=40.0), latency, 4, 0.75) is Grant.GUARANTEED
    assert admit_stream(stream_options(fps=41.0), latency, 4, 0.75) is Grant.BEST_EFFORT
    assert admit_stream(stream_options(fps=86.0), latency, 1, 0.0) is Grant.BEST_EFFORT
    assert admit_stream(stream_options(fps=0.0), latency, 4, 0.0) is Grant.BEST_EFFORT, "it does not say what it sends"


def test_a_frame_costs_its_part_of_the_largest_batch_that_its_budget_leaves_time_for() -> None:
    latency = latency_model(lambda batch: (8 + batch) * MS)  # 1: 9 ms, 2: 10 ms, 4: 12 ms, 8: 16 ms
    shares = [load(stream_options(budget_ms, fps=10.0), latency, 8) for budget_ms in (100, 30, 25, 20.5, 1)]
    assert shares == pytest.approx([10 * ms / 1e3 for ms in (16 / 8, 14 / 6, 12 / 4, 10 / 2, 9)])
    assert load(stream_options(fps=0.0), latency, 8) == 1.0


def test_what_is_spoken_for_are_guarantees_of_the_class_and_all_of_higher_ones() -> None:
    streams = []
    for index, (priority, grant) in enumerate(itertools.product((0, 1, 2), Grant)):
        streams.append(device_stream(f"{index}", fps=10.0 + index, priority=priority))
        streams[-1].grant = grant
    rates = [stream.options.fps for stream in streams]
    assert [grant.name for grant in Grant] == ["GUARANTEED", "BEST_EFFORT"]
    assert guaranteed_load(streams, 1, lambda stream: stream.options.fps) == sum(rates[:3])
    assert guaranteed_load(streams, 0, lambda stream: stream.options.fps) == rates[0]


def test_a_guaranteed_streams_rate_is_known_to_the_scheduler() -> None:
    stream = device_stream(fps=12.5)
    assert stream.share.guaranteed_fps == 0.0
    stream.grant = Grant.GUARANTEED
    assert stream.share.guaranteed_fps == 12.5
    stream.grant = Grant.BEST_EFFORT
    assert stream.share.guaranteed_fps == 0.0


@pytest.mark.parametrize(
    ("fps", "fits_fps", "admitted"), [(30, 1.0, True), (30, 0.9, False), (0.2, 0.2, True), (0, 0.9, False)]
)
def test_a_stream_for_which_next_to_nothing_is_left_is_sent_elsewhere(
    fps: float, fits_fps: float, admitted: bool
) -> None:
    latency = latency_model(lambda batch: 10 * MS)
    if admitted:
        assert admit_stream(stream_options(fps=fps), latency, 4, 5.0, fits_fps) is Grant.BEST_EFFORT
        return
    with pytest.raises(Overloaded, match="frames per second to one more of priority 0: open it later or elsewhere"):
        admit_stream(stream_options(fps=fps), latency, 4, 5.0, fits_fps)


def test_the_rate_that_fits_one_more_stream_is_its_fair_share() -> None:
    latency = latency_model(lambda batch: 10 * MS)  # 400 frames a second
    peers = [device_stream(f"{index}", fps=100.0) for index in range(7)]
    options = stream_options(fps=100.0)
    cost_s = frame_s(latency, 4)
    beside = dict.fromkeys(peers, cost_s)
    assert fitting_rate(options, cost_s, beside, peers[0].opened_ns) == pytest.approx(400 / 8)
    for peer in peers:
        peer.grant = Grant.GUARANTEED
    assert fitting_rate(options, cost_s, beside, peers[0].opened_ns) == pytest.approx(0.0, abs=1e-9)


def test_streams_of_engines_that_share_a_device_share_its_time() -> None:
    slow, quick = [device_stream(f"slow {index}") for index in range(2)], device_stream("quick", weight=2.0)
    costs_s = {slow[0]: 0.010, slow[1]: 0.010, quick: 0.001}
    rates = advised_rates(costs_s)
    assert rates == {"slow 0": pytest.approx(25.0), "slow 1": pytest.approx(25.0), "quick": pytest.approx(500.0)}
    assert fitting_rate(stream_options(), 0.020, costs_s, 0) == pytest.approx(10.0)
    modest = {slow[0]: 0.010, device_stream("modest", fps=100.0): 0.001}
    assert advised_rates(modest) == {"slow 0": pytest.approx(90.0), "modest": pytest.approx(100.0)}


def test_a_stream_of_crops_is_left_what_it_sends_and_little_more() -> None:
    frames, crops = device_stream("frames"), device_stream("crops", crops_of="street")
    for _ in range(20):
        crops.arrivals.count(crops.opened_ns + 500 * MS)
    now_ns = crops.opened_ns + 1000 * MS
    rates = advised_rates({frames: 0.005, crops: 0.010}, now_ns)
    assert rates["crops"] == pytest.approx(1.25 * 20 + 1)
    assert rates["frames"] == pytest.approx((1 - 0.26) / 0.005)


rates_wanted = st.one_of(st.just(0.0), st.floats(0.1, 1000.0))


@given(
    st.lists(st.tuples(rates_wanted, st.floats(0.001, 1000.0)), min_size=1, max_size=30),
    st.integers(1, 8),
    st.floats(0.5, 50.0),
)
def test_advised_rates_are_max_min_fair(wanted: list[tuple[float, float]], cap: int, latency_ms: float) -> None:
    latency = latency_model(lambda batch: latency_ms * MS)
    streams = [device_stream(f"{index}", fps=fps, weight=weight) for index, (fps, weight) in enumerate(wanted)]
    rates = advised_rates(dict.fromkeys(streams, frame_s(latency, cap)))
    capacity = cap / (latency.latency_ns(cap) / 1e9)
    assert set(rates) == {stream.stream_id for stream in streams}
    assert sum(rates.values()) <= capacity * (1 + 1e-9)
    per_weight = []
    for index, (fps, weight) in enumerate(wanted):
        rate = rates[f"{index}"]
        assert rate >= 0
        assert not fps or rate <= fps * (1 + 1e-9)
        if not fps or rate < fps * (1 - 1e-9):
            per_weight.append(rate / weight)
    if per_weight:  # whoever wants more gets as much for its weight as any other, and nothing is left over
        assert min(per_weight) == pytest.approx(max(per_weight), rel=1e-3)
        assert sum(rates.values()) == pytest.approx(capacity, rel=1e-6)
        assert max(rates[f"{i}"] / weight for i, (_, weight) in enumerate(wanted)) <= max(per_weight) * (1 + 1e-3)


def test_nobody_open_nobody_advised() -> None:
    assert advised_rates({}) == {}


def test_the_window_leaves_room_beside_a_queue() -> None:
    latest = stream_window(stream_options())
    assert stream_window(stream_options(delivery=Delivery.QUEUE, queue_depth=100)) > 100
    assert latest >= 8
    assert np.isfinite(latest)
