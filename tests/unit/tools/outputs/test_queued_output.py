"""An output's thread: order, retries, what closing delivers, and that `put` is never in the way."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from foveate.client import Reconnect
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.destination import Unavailable, Undeliverable
from foveate.tools.outputs.output import OutputCounts
from foveate.tools.outputs.per_camera_output import PerCameraOutput
from foveate.tools.outputs.queued_output import QueuedOutput, Queueing
from foveate.tools.outputs.selection import Selection, Wanted
from support.camera_results import camera_result
from support.waiting import until

AT_ONCE = Reconnect(max_reconnect_s=math.inf, first_delay_s=0.0, longest_delay_s=0.0)
NEVER = Reconnect(max_reconnect_s=0.0)


class Scripted:
    """Does as the test says at each delivery, and keeps what it accepted."""

    def __init__(self, act: Callable[[Sequence[CameraResult]], None] = lambda _: None) -> None:
        self.act = act
        self.attempts: list[Sequence[CameraResult]] = []
        self.accepted: list[int] = []
        self.pictures: list[bytes | None] = []
        self.closed = threading.Event()

    def deliver(self, results: Sequence[CameraResult]) -> None:
        self.attempts.append(results)
        self.act(results)
        self.accepted += [result.result.sequence for result in results]
        self.pictures += [result.picture for result in results]

    def close(self) -> None:
        self.closed.set()


@contextmanager
def opened(
    destination: Scripted, retries: Reconnect = AT_ONCE, capacity: int = 100, batch: int = 1, *, pictures: bool = False
) -> Iterator[QueuedOutput]:
    queueing = Queueing(capacity, retries, batch, pictures=pictures)
    output = QueuedOutput("probe", destination, Selection(Wanted()), queueing)
    try:
        yield output
    finally:
        output.close(0.0)


def test_everything_arrives_in_order_and_once() -> None:
    destination = Scripted()
    with opened(destination, batch=7) as output:
        for sequence in range(50):
            output.put(camera_result(sequence))
        output.close(20.0)
        assert destination.accepted == list(range(50))
        assert output.counts == OutputCounts(sent=50)
        assert destination.closed.is_set()


def test_what_failed_is_tried_again_before_what_came_later() -> None:
    failures = iter([Unavailable("gone"), Unavailable("gone", 0.0), None, Unavailable("gone"), None])

    def act(_results: Sequence[CameraResult]) -> None:
        if failure := next(failures, None):
            raise failure

    destination = Scripted(act)
    with opened(destination) as output:
        for sequence in range(4):
            output.put(camera_result(sequence))
        output.close(20.0)
        assert destination.accepted == [0, 1, 2, 3]
        assert [batch[0].result.sequence for batch in destination.attempts] == [0, 0, 0, 1, 1, 2, 3]
        assert destination.attempts[0] is destination.attempts[1], "the same batch, as some tell it by that"


def test_it_gives_up_when_told_to_and_goes_on_with_the_next() -> None:
    def act(results: Sequence[CameraResult]) -> None:
        if results[0].result.sequence == 0:
            raise Unavailable("gone")

    destination = Scripted(act)
    with opened(destination, NEVER) as output:
        output.put(camera_result(0))
        output.put(camera_result(1))
        output.close(20.0)
        assert destination.accepted == [1]
        assert output.counts == OutputCounts(sent=1, failed=1)


def test_what_can_never_be_delivered_is_not_tried_again() -> None:
    def act(results: Sequence[CameraResult]) -> None:
        if results[0].result.sequence == 0:
            raise Undeliverable("too large")

    destination = Scripted(act)
    with opened(destination) as output:
        output.put(camera_result(0))
        until(lambda: output.trouble == "too large")
        output.put(camera_result(1))
        until(lambda: not output.trouble)
        assert len(destination.attempts) == 2
        until(lambda: output.counts == OutputCounts(sent=1, failed=1))


def test_a_fault_of_ours_costs_its_results_and_not_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    secret = "hunter" + "2"  # a traceback quotes our sources, but not what is in our variables

    def act(results: Sequence[CameraResult]) -> None:
        if results[0].result.sequence == 0:
            raise KeyError(secret)

    with opened(Scripted(act)) as output:
        for sequence in (0, 0, 0, 1):
            output.put(camera_result(sequence))
        output.close(20.0)
        assert output.counts == OutputCounts(sent=1, failed=3)
    assert caplog.text.count("(KeyError)") == 1, "a fault at each frame is not a page for each"
    assert "test_queued_output.py" in caplog.text, "where it is"
    assert secret not in caplog.text, "but not its words"


def test_a_destination_that_hangs_stops_nobody_and_the_newest_wait() -> None:
    go_on, at_work = threading.Event(), threading.Event()

    def hang(_results: Sequence[CameraResult]) -> None:
        at_work.set()
        assert go_on.wait(30.0)

    destination = Scripted(hang)
    with opened(destination, capacity=3) as output:
        output.put(camera_result(0))
        assert at_work.wait(20.0)
        for sequence in range(1, 11):
            output.put(camera_result(sequence))  # would never end if it waited
        assert output.counts == OutputCounts(waiting=4, dropped=7)
        go_on.set()
        output.close(20.0)
        assert destination.accepted == [0, 8, 9, 10]
        assert output.counts == OutputCounts(sent=4, dropped=7)


def test_closing_has_a_bound_and_its_book_is_final() -> None:
    go_on, at_work = threading.Event(), threading.Event()

    def hang(_results: Sequence[CameraResult]) -> None:
        at_work.set()
        assert go_on.wait(30.0)

    destination = Scripted(hang)
    with opened(destination) as output:
        for sequence in range(5):
            output.put(camera_result(sequence))
        assert at_work.wait(20.0)
        output.close(0.01)
        expected = OutputCounts(failed=1, dropped=4)
        assert output.counts == expected
        output.put(camera_result(9))
        assert output.counts == expected + OutputCounts(dropped=1), "after the end: counted, and no error"
        go_on.set()
        assert destination.closed.wait(20.0), "the thread ends, and tidies up, when it can"
        assert output.counts == expected + OutputCounts(dropped=1), "too late to be counted otherwise"
        assert destination.accepted == [0]


def test_closing_wakes_a_delivery_that_waits_for_its_next_attempt() -> None:
    broken, waits = True, threading.Event()

    def act(_results: Sequence[CameraResult]) -> None:
        if broken:
            raise Unavailable("gone", 3600.0)

    class Closing(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waits.set()
            return super().wait(timeout)

    destination = Scripted(act)
    with opened(destination) as output:
        output._closing = Closing()
        output.put(camera_result(1))
        assert waits.wait(20.0)
        broken = False
        output.close(20.0)
        assert destination.accepted == [1]


def test_closing_ends_retries_without_end() -> None:
    def act(_results: Sequence[CameraResult]) -> None:
        raise Unavailable("gone")

    destination = Scripted(act)
    with opened(destination) as output:
        output.put(camera_result(1))
        output.put(camera_result(2))
        until(lambda: output.trouble)
        output.close(0.05)
        assert output.counts == OutputCounts(failed=1, dropped=1)
        assert destination.closed.wait(20.0)


def test_pictures_wait_only_where_they_are_wanted() -> None:
    for pictures, expected in ((True, b"jpeg"), (False, None)):
        destination = Scripted()
        with opened(destination, pictures=pictures) as output:
            output.put(camera_result(picture=b"jpeg"))
            output.close(20.0)
        assert destination.pictures == [expected]


def test_the_same_trouble_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    def act(results: Sequence[CameraResult]) -> None:
        if results[0].result.sequence % 2:
            raise Undeliverable("unreadable")

    with caplog.at_level(logging.DEBUG), opened(Scripted(act)) as output:
        for sequence in range(1, 101):
            output.put(camera_result(sequence))
        output.close(20.0)
    assert [record.getMessage() for record in caplog.records] == [
        "output probe: unreadable",
        "output probe delivers again; 0 dropped, 1 failed",
    ]


def test_cameras_with_threads_of_their_own_do_not_wait_for_each_other() -> None:
    go_on = threading.Event()
    destinations: dict[str, Scripted] = {}

    def output_for(camera: str) -> QueuedOutput:
        def act(_results: Sequence[CameraResult]) -> None:
            assert camera == "light" or go_on.wait(30.0)

        destinations[camera] = Scripted(act)
        return QueuedOutput(camera, destinations[camera], Selection(Wanted()), Queueing(10, AT_ONCE))

    output = PerCameraOutput("video", output_for)
    output.put(camera_result(1, "heavy"))
    output.put(camera_result(1, "light"))
    output.put(camera_result(2, "light"))
    until(lambda: destinations["light"].accepted == [1, 2])
    until(lambda: output.counts == OutputCounts(sent=2, waiting=1))
    go_on.set()
    output.close(20.0)
    assert output.counts == OutputCounts(sent=3)
    output.put(camera_result(3, "new"))
    output.put(camera_result(3, "light"))
    assert output.counts == OutputCounts(sent=3, dropped=2)
    assert set(destinations) == {"heavy", "light"}, "no thread is started after the end"
