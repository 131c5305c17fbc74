"""Which streams have series: bounded whatever comes, and stable for as long as Prometheus may look."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from foveate.service.metrics_series import StreamSeries


class Streams:
    """A series register whose streams a test opens and closes."""

    def __init__(self, most: int) -> None:
        self.open: set[str] = set()
        self.freed: list[int] = []
        self.now_s = 0.0
        self.series = StreamSeries(most, self.open.__contains__, self.freed.append)

    def opens(self, stream: str, pipeline: str = "faces", *, named: bool = True) -> int:
        number = self.series.number(stream, pipeline, self.now_s, named=named)
        self.open.add(stream)
        return number

    def shown(self) -> set[tuple[str, str]]:
        return set(self.series.current(self.now_s))


def test_a_stream_keeps_its_series_over_reconnects() -> None:
    streams = Streams(2)
    first = streams.opens("dock")
    streams.open.clear()
    streams.now_s = 300
    assert streams.shown() == {("dock", "faces")}, "its last counts are still to be seen"
    assert streams.opens("dock") == first
    streams.now_s = 100_000
    assert streams.shown() == {("dock", "faces")}
    assert not streams.freed


def test_a_stream_is_connected_where_it_was_opened_last() -> None:
    streams = Streams(4)
    streams.opens("dock")
    streams.opens("gate")
    assert streams.series.connected() == {("dock", "faces"), ("gate", "faces")}
    streams.opens("dock", "objects")
    streams.open.discard("gate")
    assert streams.series.connected() == {("dock", "objects")}
    streams.now_s = 300
    assert ("dock", "faces") in streams.shown()
    streams.now_s = 700
    assert streams.shown() == {("dock", "objects")}, "a stream that goes from pipeline to pipeline has one series"


def test_a_stream_that_is_gone_for_long_is_shown_no_more() -> None:
    streams = Streams(2)
    number = streams.opens("dock")
    streams.now_s = 5000
    assert streams.shown(), "it was open all the time"
    streams.open.clear()
    streams.now_s = 5500
    assert streams.shown()
    streams.now_s = 5700
    assert not streams.shown()
    assert streams.freed == [number]


def test_one_too_many_has_none_until_another_goes() -> None:
    streams = Streams(1)
    assert streams.opens("dock") == 1
    assert streams.opens("gate") == 0
    assert streams.shown() == {("dock", "faces")}
    streams.open.discard("dock")
    streams.now_s = 10_000
    assert streams.opens("yard") == 1
    assert streams.shown() == {("yard", "faces")}


def test_only_named_streams_get_one_and_a_resumed_one_keeps_it() -> None:
    streams = Streams(4)
    assert streams.opens("stream-1f3a", named=False) == 0
    dock = streams.opens("dock")
    assert streams.opens("dock", named=False) == dock, "taken up again by its token alone"
    assert streams.opens("dock", "objects") not in (0, dock), "the same name on another pipeline is another series"


def test_none_at_all() -> None:
    streams = Streams(0)
    assert streams.opens("dock") == 0
    assert not streams.shown()


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["open", "close", "wait", "look"]), st.integers(0, 9)), max_size=60),
)
def test_numbers_are_never_shared(most: int, steps: list[tuple[str, int]]) -> None:
    streams = Streams(most)
    for step, which in steps:
        if step == "open":
            streams.opens(f"camera-{which}")
        elif step == "close":
            streams.open.discard(f"camera-{which}")
        elif step == "wait":
            streams.now_s += 200 * which
        numbers = list(streams.series.current(streams.now_s).values())
        assert len(numbers) == len(set(numbers)) <= most
        assert all(1 <= number <= most for number in numbers)
