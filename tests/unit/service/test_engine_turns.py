"""The engine's calendar: order, room, and when the engine is predicted to be free."""

from __future__ import annotations

import threading
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.service.turns import Turns
from support.frames import MS


def calendar() -> Turns:
    """A calendar of which this test holds the lock, as its callers do."""
    lock = threading.Lock()
    lock.acquire()
    return Turns(lock)


def planned(turns: Turns, latency_ns: int, ends_ns: int, lane: str = "", at_once: int = 1) -> int:
    """A batch that is planned, and not decoded yet."""
    return turns.take(latency_ns, ends_ns, lane, at_once)


def decoded(turns: Turns, latency_ns: int, ends_ns: int, lane: str = "", at_once: int = 1) -> int:
    """A batch that is planned, and decoded already."""
    turn = planned(turns, latency_ns, ends_ns, lane, at_once)
    turns.ready(turn)
    return turn


def test_a_batch_that_is_decoded_overtakes_one_that_is_not() -> None:
    turns = calendar()
    slow, quick = planned(turns, 10, 10), decoded(turns, 10, 20)
    assert not turns.is_up(slow)
    assert turns.is_up(quick)
    turns.ready(slow)
    assert turns.is_up(slow), "among those that are decoded the order of planning holds"
    assert not turns.is_up(quick)


def test_a_run_overruns_when_it_is_overdue_and_another_is_planned() -> None:
    turns = calendar()
    first = decoded(turns, 10, 10)
    turns.begin(first, 10, 0)
    assert not turns.overrun(50), "nothing is planned behind it: the next can be"
    decoded(turns, 5, 15)
    assert not turns.overrun(9)
    assert turns.overrun(11)
    assert [turns.overdue_ns(now_ns) for now_ns in (9, 10, 25)] == [0, 0, 15]
    turns.end()
    assert not turns.overrun(12)
    assert turns.overdue_ns(25) == 0


def test_batches_run_in_the_order_in_which_they_were_planned() -> None:
    turns = calendar()
    first, second = decoded(turns, 10, 10), decoded(turns, 10, 20)
    assert turns.is_up(first)
    assert not turns.is_up(second)
    turns.begin(first, 10, 0)
    assert not turns.is_up(second), "there is no room before the first has ended"
    turns.end()
    assert turns.is_up(second)


def test_a_turn_that_is_passed_on_lets_the_next_one_in_and_frees_its_time() -> None:
    turns = calendar()
    first, second = decoded(turns, 10 * MS, 10 * MS), decoded(turns, 7 * MS, 17 * MS)
    turns.pass_on(first)
    assert turns.is_up(second)
    assert turns.free_ns(0) == 7 * MS
    turns.pass_on(second)
    assert turns.free_ns(0) == 0


def test_as_many_run_at_once_as_the_engine_takes() -> None:
    turns = calendar()
    first, second, third = (decoded(turns, 10, 10 * end, at_once=2) for end in (1, 2, 3))
    turns.begin(first, 10, 0)
    assert turns.is_up(second)
    turns.begin(second, 10, 1)
    assert not turns.is_up(third)
    turns.end()
    assert turns.is_up(third)


def test_batches_of_two_lanes_never_run_side_by_side() -> None:
    turns = calendar()
    first, second = decoded(turns, 10, 10, "a", 2), decoded(turns, 20, 30, "b", 2)
    third, fourth = decoded(turns, 20, 50, "b", 2), decoded(turns, 10, 60, "a", 2)
    turns.begin(first, 10, 0)
    assert not turns.is_up(second), "there would be room for another batch of the same lane alone"
    assert turns.free_ns(0) == 60, "what one lane runs and plans, the other waits for"
    turns.end()
    turns.begin(second, 20, 10)
    assert turns.is_up(third)
    turns.begin(third, 20, 10)
    turns.end()
    assert not turns.is_up(fourth)
    turns.end()
    assert turns.is_up(fourth)


def test_an_idle_engine_is_free_now() -> None:
    turns = calendar()
    assert [turns.free_ns(now_ns) for now_ns in (0, 5, 99)] == [0, 5, 99]


def test_free_time_follows_what_is_planned_what_runs_and_what_overruns() -> None:
    turns = calendar()
    first = planned(turns, 10 * MS, 14 * MS)
    assert turns.free_ns(0) == 14 * MS, "it is decoded for 4 ms first"
    second = planned(turns, 20 * MS, 34 * MS)
    assert turns.free_ns(0) == 34 * MS
    turns.ready(first)
    turns.begin(first, 10 * MS, 2 * MS)
    assert turns.free_ns(2 * MS) == 34 * MS
    turns.ready(second)
    assert turns.free_ns(2 * MS) == 32 * MS, "it began earlier than planned, and the next is decoded"
    assert turns.free_ns(30 * MS) == 50 * MS, "it overruns: what is planned comes after now"
    turns.end()
    assert turns.free_ns(40 * MS) == 60 * MS
    turns.begin(second, 15 * MS, 41 * MS)
    assert turns.free_ns(41 * MS) == 56 * MS, "fewer frames run than were planned"
    turns.end()
    assert turns.free_ns(50 * MS) == 50 * MS


def test_a_batch_that_is_decoded_for_long_does_not_keep_the_engine_for_itself() -> None:
    turns = calendar()
    planned(turns, 10 * MS, 600 * MS)
    assert turns.free_ns(0) == 0, "there is room for others before it"
    assert turns.free_ns(585 * MS) == 600 * MS, "now it is near"
    assert turns.free_ns(598 * MS) == 608 * MS, "it is a little late"
    assert turns.free_ns(601 * MS) == 601 * MS, "nobody knows when it will come"


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["take", "begin", "end", "pass_on"]), st.integers(1, 50)), max_size=80),
)
def test_any_sequence_keeps_order_room_and_time(max_in_flight: int, steps: list[tuple[str, int]]) -> None:
    turns = calendar()
    now_ns, running, waiting = 0, 0, deque[tuple[int, int]]()
    for step, amount in steps:
        now_ns += amount
        up = bool(waiting) and turns.is_up(waiting[0][0])
        if step == "take":
            starts_ns = turns.free_ns(now_ns)
            waiting.append((decoded(turns, amount, starts_ns + amount, at_once=max_in_flight), amount))
        elif step == "begin" and up:
            turns.begin(*waiting.popleft(), now_ns)
            running += 1
        elif step == "pass_on" and waiting:
            turns.pass_on(waiting.popleft()[0])
        elif step == "end" and running:
            turns.end()
            running -= 1
        assert bool(waiting and turns.is_up(waiting[0][0])) == bool(waiting and running < max_in_flight)
        assert not any(turns.is_up(turn) for turn, _ in list(waiting)[1:])
        assert turns.free_ns(now_ns) >= now_ns + sum(latency_ns for _, latency_ns in waiting)
        if not running and not waiting:
            assert turns.free_ns(now_ns + 1000) == now_ns + 1000


@pytest.mark.parametrize("change", ["begin", "pass_on", "end"])
def test_a_waiting_thread_is_woken_when_its_turn_comes_up(change: str) -> None:
    lock = threading.Lock()
    turns, at_once = Turns(lock), 1 if change == "end" else 2
    with lock:
        first, second = decoded(turns, 1, 1, at_once=at_once), decoded(turns, 1, 2, at_once=at_once)
        if change == "end":
            turns.begin(first, 1, 0)
    locked, begun = threading.Event(), threading.Event()

    def run_second() -> None:
        with lock:
            locked.set()
            while not turns.is_up(second):
                turns.wait(None)
            begun.set()

    thread = threading.Thread(target=run_second, daemon=True)
    thread.start()
    assert locked.wait(10)
    with lock:  # the thread has let go of it: it waits
        assert not begun.is_set()
        if change == "end":
            turns.end()
        elif change == "pass_on":
            turns.pass_on(first)
        else:
            turns.begin(first, 1, 0)
    assert begun.wait(10)
    thread.join()
