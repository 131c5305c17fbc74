"""The client's book of a stream, without any I/O."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from foveate.client.frame import Payload
from foveate.client.frame_flow import FrameFlow
from foveate.client.result import Result, Verdict, unsent_result

STEPS = ["offer", "reject", "send", "answer", "stray", "lose", "read"]
PICTURE = Payload(b"picture", None, 0)


def settle(flow: FrameFlow, sequence: int) -> None:
    assert flow.answered(sequence) is not None
    flow.settle(unsent_result(sequence, Verdict.OK, ""))


def drain(flow: FrameFlow) -> list[Result]:
    results = []
    while (result := flow.next_result()) is not None:
        results.append(result)
    return results


def test_results_wait_for_their_turn() -> None:
    flow = FrameFlow(newest_wins=False)
    flow.window = 2
    for _ in range(2):
        flow.offer(PICTURE)
        flow.send(now=0.0)
    settle(flow, 2)
    assert not flow.has_result
    settle(flow, 1)
    assert [result.sequence for result in drain(flow)] == [1, 2]


def test_nothing_is_sent_before_the_server_has_named_a_window() -> None:
    flow = FrameFlow(newest_wins=False)
    flow.offer(PICTURE)
    assert not flow.can_send
    flow.window = 1
    assert flow.can_send


def test_the_age_grows_while_a_frame_waits() -> None:
    flow = FrameFlow(newest_wins=False)
    flow.offer(Payload(b"picture", 10.0, 0))
    assert flow.send(now=10.25).age_s == 0.25


def test_a_capture_time_in_the_future_is_no_negative_age() -> None:
    flow = FrameFlow(newest_wins=False)
    flow.offer(Payload(b"picture", 11.0, 0))
    assert flow.send(now=10.0).age_s == 0.0


@settings(deadline=None)
@given(st.lists(st.sampled_from(["offer", "offer key", "send", "answer", "read"]), max_size=200), st.integers(1, 4))
def test_of_a_live_video_only_key_frames_follow_what_was_left_out(steps: list[str], window: int) -> None:
    flow, keys, sent = FrameFlow(newest_wins=True, video=True), set[int](), list[int]()
    flow.window, offered = window, 0
    for step in steps * 3:
        if step.startswith("offer") and flow.has_room:
            offered += 1
            flow.offer(PICTURE, key=step == "offer key")
            keys |= {offered} if step == "offer key" else set()
        elif step == "send" and flow.can_send:
            sent.append(flow.send(now=0.0).sequence)
        elif step == "answer" and sent:
            if flow.answered(sent[-1]):
                flow.settle(unsent_result(sent[-1], Verdict.OK, ""))
        elif step == "read":
            flow.next_result()
    for before, unit in pairwise([0, *sent]):
        assert unit == before + 1 or unit in keys
    assert flow.dropped <= offered - len(sent)


def test_units_of_a_live_video_wait_and_a_key_frame_without_room_takes_their_place() -> None:
    flow = FrameFlow(newest_wins=True, video=True)
    for number in range(32):
        flow.offer(PICTURE, key=number == 0)
    assert flow.dropped == 0
    flow.offer(PICTURE, key=False)
    flow.window = 100
    assert flow.send(now=0.0).sequence == 1
    flow.offer(PICTURE, key=False)
    assert flow.dropped == 2, "there is room again, and nothing that it could build on"
    flow.offer(PICTURE, key=True)
    flow.offer(PICTURE, key=True)
    assert (flow.dropped, flow.send(now=0.0).sequence) == (2 + 32, 36)
    assert [result.sequence for result in drain(flow)] == []


def test_a_frame_that_cannot_be_sent_leaves_in_its_turn_and_replaces_none() -> None:
    flow = FrameFlow(newest_wins=True)
    flow.window = 1
    flow.offer(PICTURE)
    flow.reject("too large")
    assert not flow.has_result
    assert flow.send(now=0.0).sequence == 1
    settle(flow, 1)
    seen = [(result.sequence, result.verdict, result.message) for result in drain(flow)]
    assert seen == [(1, Verdict.OK, ""), (2, Verdict.REJECTED, "too large")]
    assert flow.dropped == 0


def test_losing_all_includes_the_frame_that_was_never_sent() -> None:
    flow = FrameFlow(newest_wins=False)
    flow.window = 1
    flow.offer(PICTURE)
    flow.send(now=0.0)
    flow.offer(PICTURE)
    flow.lose_sent("gone")
    assert [result.sequence for result in drain(flow)] == [1]
    flow.lose_all("gone for good")
    last = drain(flow)
    assert [(r.sequence, r.verdict, r.message) for r in last] == [(2, Verdict.LOST, "gone for good")]


@given(
    newest_wins=st.booleans(),
    window=st.integers(1, 4),
    steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9))),
)
def test_every_frame_leaves_once_and_in_order(newest_wins: bool, window: int, steps: list[tuple[str, int]]) -> None:
    flow = FrameFlow(newest_wins=newest_wins, max_unread=6)
    flow.window = window
    offered, unanswered, read, strays = 0, list[int](), list[Result](), 0
    for step, pick in steps:
        if step == "offer" and flow.has_room:
            flow.offer(PICTURE)
            offered += 1
        elif step == "reject" and flow.has_room:
            flow.reject("too large")
            offered += 1
        elif step == "send" and flow.can_send:
            unanswered.append(flow.send(now=0.0).sequence)
        elif step == "answer" and unanswered:
            settle(flow, unanswered.pop(pick % len(unanswered)))
        elif step == "stray":
            assert flow.answered(1000 + pick) is None
            strays += 1
        elif step == "lose":
            flow.lose_sent("gone")
            unanswered.clear()
        elif step == "read":
            read += drain(flow)
        assert len(unanswered) <= window
    flow.lose_all("the end")
    read += drain(flow)
    assert [result.sequence for result in read] == list(range(1, offered + 1))
    assert flow.unexpected == strays
    assert flow.dropped == sum(result.verdict is Verdict.DROPPED for result in read)
    if not newest_wins:
        assert flow.dropped == 0
