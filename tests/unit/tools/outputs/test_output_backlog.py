"""The queue's book: whatever happens, what was put in is sent, dropped, failed or waiting."""

from __future__ import annotations

import threading
from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from foveate.tools.outputs.backlog import Backlog
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.output import OutputCounts
from support.camera_results import camera_result
from support.waiting import until

CAPACITY = 5


class BacklogAgainstItsModel(RuleBasedStateMachine):
    """The model is a list and five numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(CAPACITY)
        self.queued: deque[int] = deque()
        self.in_flight = self.filtered = self.sent = self.dropped = self.failed = self.given = 0
        self.closed = self.abandoned = False

    @rule(count=st.integers(1, CAPACITY + 2))
    def put(self, count: int) -> None:
        for _ in range(count):
            self.given += 1
            self.backlog.put(camera_result(self.given))
            if self.closed:
                self.dropped += 1
                continue
            self.queued.append(self.given)
            if len(self.queued) > CAPACITY:
                self.queued.popleft()
                self.dropped += 1

    @rule()
    def leave_out(self) -> None:
        self.given += 1
        self.filtered += 1
        self.backlog.leave_out()

    @precondition(lambda self: self.queued or self.closed)
    @rule(most=st.integers(1, 7))
    def take(self, most: int) -> None:
        taken = [result.result.sequence for result in self.backlog.take(most)]
        assert taken == [self.queued.popleft() for _ in range(min(most, len(self.queued)))], "the oldest, in order"
        self.in_flight += len(taken)

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        sent = data.draw(st.integers(0, self.in_flight))
        failed = data.draw(st.integers(0, self.in_flight - sent))
        self.backlog.settle(sent=sent, failed=failed)
        self.in_flight -= sent + failed
        self.sent += sent
        self.failed += failed

    @precondition(lambda self: self.given > 20)  # else most runs would end before they began
    @rule()
    def close(self) -> None:
        self.backlog.close()
        self.closed = True

    @precondition(lambda self: self.given > 20)
    @rule()
    def abandon_and_hear_of_the_rest_too_late(self) -> None:
        self.backlog.abandon()
        self.backlog.settle(sent=self.in_flight)
        self.closed = self.abandoned = True
        self.dropped += len(self.queued)
        self.failed += self.in_flight
        self.queued.clear()
        self.in_flight = 0

    @invariant()
    def the_book_is_right(self) -> None:
        waiting = len(self.queued) + self.in_flight
        assert self.backlog.counts == OutputCounts(self.filtered, waiting, self.sent, self.dropped, self.failed)
        assert self.backlog.counts.given == self.given


TestBacklog = BacklogAgainstItsModel.TestCase
TestBacklog.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_the_book_is_right_at_any_moment_while_threads_use_it() -> None:
    backlog, puts, stop = Backlog(16), [0, 0], threading.Event()

    def produce(which: int) -> None:
        for sequence in range(2000):
            puts[which] += 1
            backlog.put(camera_result(sequence))

    def consume() -> None:
        while taken := backlog.take(7):
            backlog.settle(sent=len(taken) // 2, failed=len(taken) - len(taken) // 2)

    def watch() -> None:
        while not stop.is_set():
            before = sum(puts) - 2  # one of each producer may be on its way
            counts = backlog.counts
            assert before <= counts.given <= sum(puts)
            assert counts.waiting <= 16 + 7
        watched.set()

    watched = threading.Event()
    producers = [threading.Thread(target=produce, args=(which,)) for which in range(2)]
    others = [threading.Thread(target=consume), threading.Thread(target=watch)]
    for thread in (*producers, *others):
        thread.start()
    for producer in producers:
        producer.join()
    backlog.close()
    others[0].join()
    stop.set()
    others[1].join()
    assert watched.is_set(), "the watcher's own assertions held"
    counts = backlog.counts
    assert counts.waiting == 0
    assert counts.sent + counts.dropped + counts.failed == 4000


def test_a_batch_waits_for_others_only_until_it_is_full() -> None:
    backlog, taken = Backlog(100), list[list[CameraResult]]()
    taker = threading.Thread(target=lambda: taken.append(backlog.take(3, linger_s=3600.0)))
    taker.start()
    for sequence in range(3):
        assert not taken
        backlog.put(camera_result(sequence))
    taker.join(20.0)
    assert [len(batch) for batch in taken] == [3]


def test_a_batch_larger_than_the_queue_does_not_wait_for_what_cannot_come() -> None:
    backlog, taken = Backlog(2), list[list[CameraResult]]()
    taker = threading.Thread(target=lambda: taken.append(backlog.take(50, linger_s=3600.0)))
    taker.start()
    for sequence in range(2):
        backlog.put(camera_result(sequence))
    until(lambda: taken, "the full queue was taken")
    taker.join()


def test_closing_ends_the_wait() -> None:
    backlog, taken = Backlog(2), list[list[CameraResult]]()
    taker = threading.Thread(target=lambda: taken.append(backlog.take(1)))
    taker.start()
    backlog.close()
    taker.join(20.0)
    assert taken == [[]]
