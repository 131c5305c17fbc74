"""Who is connected: limits, names, taking a stream up again, and the count over all that ever was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.engines.errors import Overloaded, StreamTaken
from foveate.service import registry as registry_module
from foveate.service.frame import Answer, Frame, Verdict
from foveate.service.registry import StreamRegistry
from foveate.service.stream import CameraStream
from support.frames import camera_stream, stream_options

SECOND = 1_000_000_000


class Clock:
    """Stands in for the registry's `time`."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(registry_module, "time", clock)
    return clock


def nothing() -> None:
    """A connection without an end of its own."""


def opened(registry: StreamRegistry, name: str = "door", disconnect: Callable[[], None] = nothing) -> CameraStream:
    stream = CameraStream(name, stream_options(), 32, registry.new_token())
    registry.open(stream, disconnect)
    return stream


def answer_frames(stream: CameraStream, count: int) -> None:
    for sequence in range(stream.ledger.received, stream.ledger.received + count):
        stream.settle(stream.receive(Frame(sequence, 0, 1, b"")), Answer(Verdict.OK))


def resumed(registry: StreamRegistry, token: str) -> CameraStream | None:
    earlier = registry.resumable(token)
    if earlier is None:
        return None
    stream = earlier.successor(stream_options(), 32)
    registry.open(stream, nothing)
    return stream


def test_a_full_server_takes_one_again_when_one_has_left() -> None:
    registry = StreamRegistry(max_streams=2, resume_s=10)
    first = opened(registry, "first")
    opened(registry, "second")
    with pytest.raises(Overloaded, match="2 streams are open"):
        opened(registry, "third")
    registry.park(first)
    opened(registry, "third")
    assert sorted(stream.stream_id for stream in registry) == ["second", "third"]
    assert len(registry) == 2


def test_a_name_that_is_open_is_taken() -> None:
    registry = StreamRegistry(8, 10)
    opened(registry)
    with pytest.raises(StreamTaken, match="'door' is open already"):
        opened(registry)


def test_names_and_tokens_that_are_made_up_differ() -> None:
    registry = StreamRegistry(8, 10)
    assert len({registry.new_id() for _ in range(100)}) == 100
    assert len({registry.new_token() for _ in range(100)}) == 100


def test_a_broken_stream_is_taken_up_again_within_its_time(clock: Clock) -> None:
    registry = StreamRegistry(8, resume_s=30)
    stream = opened(registry)
    answer_frames(stream, 3)
    registry.park(stream)
    assert len(registry) == 0
    clock.now_ns = 30 * SECOND - 1
    again = resumed(registry, stream.resume_token)
    assert again is not None
    assert again.stream_id == "door"
    answer_frames(again, 2)
    assert registry.ledger().ok == 5


def test_a_broken_stream_is_forgotten_after_its_time_but_not_its_counts(clock: Clock) -> None:
    registry = StreamRegistry(8, resume_s=30)
    stream = opened(registry)
    answer_frames(stream, 3)
    registry.park(stream)
    clock.now_ns = 30 * SECOND + 1
    assert registry.resumable(stream.resume_token) is None
    assert registry.ledger().received == 3
    opened(registry)


@pytest.mark.parametrize("token", ["", "unknown", "mit Ümlaut", "door"])
def test_a_token_that_nobody_has_takes_nothing_up(token: str) -> None:
    registry = StreamRegistry(8, 30)
    registry.park(opened(registry, "gate"))
    opened(registry)
    assert registry.resumable(token) is None
    assert len(registry) == 1


def test_resuming_can_be_switched_off() -> None:
    registry, gone = StreamRegistry(8, resume_s=0), list[str]()
    stream = opened(registry, disconnect=lambda: gone.append("door"))
    assert registry.resumable(stream.resume_token) is None
    assert gone == []
    answer_frames(stream, 1)
    registry.park(stream)
    assert registry.resumable(stream.resume_token) is None
    assert registry.ledger().ok == 1


def test_a_connection_that_only_looks_alive_is_ended_and_cannot_touch_its_successor() -> None:
    registry, gone = StreamRegistry(8, 30), list[str]()
    stream = opened(registry, disconnect=lambda: gone.append("door"))
    other = opened(registry, "other", lambda: gone.append("other"))
    answer_frames(stream, 2)
    again = resumed(registry, stream.resume_token)
    assert again is not None
    assert gone == ["door"]
    registry.park(stream)  # the old connection comes to its own end
    assert {each.stream_id: each for each in registry} == {"door": again, "other": other}
    answer_frames(again, 1)
    assert registry.ledger().ok == 3


def test_a_stream_that_finds_no_room_stays_parked_and_counted() -> None:
    registry = StreamRegistry(max_streams=1, resume_s=30)
    stream = opened(registry)
    answer_frames(stream, 4)
    registry.park(stream)
    guest = opened(registry, "guest")
    with pytest.raises(Overloaded):
        resumed(registry, stream.resume_token)
    assert registry.ledger().ok == 4
    registry.park(guest)
    assert resumed(registry, stream.resume_token) is not None
    assert registry.ledger().ok == 4


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["open", "park", "resume", "frames", "wait", "single"]),
            st.sampled_from("abc"),
            st.integers(1, 20),
        ),
        max_size=60,
    ),
    st.sampled_from([0.0, 10.0]),
)
def test_the_total_never_loses_a_frame(steps: list[tuple[str, str, int]], resume_s: float) -> None:
    clock, known, received = Clock(), dict[str, CameraStream](), 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry_module, "time", clock)
        registry = StreamRegistry(2, resume_s)
        for step, name, amount in steps:
            if step == "open":
                try:
                    known[name] = opened(registry, name)
                except (Overloaded, StreamTaken):
                    continue
            elif step == "park" and name in known:
                registry.park(known[name])
            elif step == "resume":
                try:
                    known[name] = resumed(registry, known[name].resume_token) or known[name]
                except (Overloaded, KeyError):
                    continue
            elif step == "frames" and known.get(name) in list(registry):
                answer_frames(known[name], amount)
                received += amount
            elif step == "single":
                single = camera_stream("")
                answer_frames(single, 1)
                registry.count(single.ledger)
                received += 1
            elif step == "wait":
                clock.now_ns += amount * SECOND
            total = registry.ledger()
            assert total.received == received
            assert total.ok + total.rejected == received, "beyond its window a stream's frames are rejected"
