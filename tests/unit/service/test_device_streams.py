"""A device sees the streams of all its ingests: what is promised to one is not promised to another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest

from foveate.engines.errors import BudgetTooSmall, ConfigError
from foveate.service.boundary import FrameTicket
from foveate.service.device import Device
from foveate.service.device_time import DeviceTime
from foveate.service.frame import Grant, StreamOptions, Verdict
from support.clocks import let_time_pass_by_readings
from support.frames import MS, latency_model, stream_options
from support.lanes import SilentIngest, fake_lane, level_latency


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a stream that is admitted on a slow machine has sent nothing for a second, and is idle, when it is rated."""
    let_time_pass_by_readings(monkeypatch)


@pytest.fixture
def device() -> Iterator[Device]:
    latency = latency_model(lambda batch: 10 * MS)  # 400 frames a second, of which 340 can be promised
    made = Device([fake_lane("colour", latency)])
    yield made
    made.close()


def test_promises_count_over_all_ingests_and_are_free_again_with_the_ingest(device: Device) -> None:
    one, other = device.session(SilentIngest()), device.session(SilentIngest())
    wanted = stream_options(budget_ms=200, fps=200.0)
    assert one.admit_now(1, wanted).grant is Grant.GUARANTEED
    assert other.admit_now(1, wanted).grant is Grant.BEST_EFFORT, "the same number is another stream"
    one.close()
    other.leave(1)
    assert other.admit_now(2, wanted).grant is Grant.GUARANTEED


def test_a_stream_that_was_admitted_before_keeps_its_promise_and_is_counted(device: Device) -> None:
    session = device.session(SilentIngest())
    wanted = stream_options(budget_ms=200, fps=200.0)
    session.enter(1, wanted, Grant.GUARANTEED)
    session.enter(2, wanted)  # a single picture is promised nothing
    assert session.admit_now(3, wanted).grant is Grant.BEST_EFFORT


def test_rates_are_told_per_stream_of_the_ingest(device: Device) -> None:
    one, other = device.session(SilentIngest()), device.session(SilentIngest())
    one.admit_now(5, stream_options(budget_ms=200, fps=100.0))
    other.admit_now(5, stream_options(budget_ms=200))
    assert set(one.rates()) == {5}
    assert one.advised_fps(5) == pytest.approx(100.0)
    assert other.advised_fps(5) == pytest.approx(300.0)
    assert other.advised_fps(6) == 0.0


@pytest.mark.parametrize("shared", [True, False])
def test_lanes_of_one_device_share_its_time_and_others_do_not(shared: bool) -> None:
    def wanted(pipeline: str, fps: float = 0.0) -> StreamOptions:
        return StreamOptions(pipeline, 1000 * MS, fps=fps)

    times = [DeviceTime()] * 2 if shared else [DeviceTime(), DeviceTime()]
    device = Device(map(fake_lane, ("slow", "quick"), map(level_latency, (40, 4)), times))
    try:
        session = device.session(SilentIngest())
        session.admit_now(1, wanted("slow"))
        assert session.advised_fps(1) == pytest.approx(100.0)
        session.admit_now(2, wanted("quick"))
        assert session.advised_fps(1) == pytest.approx(50.0 if shared else 100.0)
        assert session.advised_fps(2) == pytest.approx(500.0 if shared else 1000.0)
        assert session.admit_now(3, wanted("slow", fps=50.0)).grant is Grant.GUARANTEED
        asks = session.admit_now(4, wanted("quick", fps=400.0)).grant
        assert asks is (Grant.BEST_EFFORT if shared else Grant.GUARANTEED), "half of the device is promised already"
    finally:
        device.close()


def test_what_cannot_be_served_is_refused(device: Device) -> None:
    session = device.session(SilentIngest())
    with pytest.raises(BudgetTooSmall):
        asyncio.run(session.admit(1, stream_options(budget_ms=5)))
    with pytest.raises(ConfigError, match="expected one of colour"):
        device.lane("colours")
    assert session.rates() == {}


def test_a_late_frame_comes_back_to_its_own_ingest(device: Device) -> None:
    ingests = [SilentIngest(), SilentIngest()]
    sessions = [device.session(ingest) for ingest in ingests]
    for session in sessions:
        session.enter(1, stream_options())
    sessions[1].submit(FrameTicket(frame=7, stream=1, deadline_ns=0, prepare_ns=0))
    assert [(each.frame, each.verdict) for each in ingests[1].refused] == [(7, Verdict.INFEASIBLE)]
    assert ingests[0].refused == []


def test_a_frame_of_a_stream_that_could_not_enter_comes_back(device: Device) -> None:
    ingest = SilentIngest()
    session = device.session(ingest)
    with pytest.raises(ConfigError):
        session.enter(1, replace(stream_options(), pipeline="faces"))
    session.submit(FrameTicket(7, 1, 1 << 62, 0))
    ((frame, verdict, why, _),) = ingest.refused
    assert (frame, verdict) == (7, Verdict.FAILED)
    assert "does not serve the stream's pipeline" in why
    assert (session.serves("colour"), session.serves("faces")) == (True, False)
