"""A stream's books: every frame answered once, in capture order, and counted in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveate.service.frame import Answer, Frame, Verdict
from foveate.service.job import DecodeCost, Job
from foveate.service.ledger import Counts, Ledger
from foveate.service.stream import Books, CameraStream, DrainNotice, StreamRecord
from support.frames import MS, camera_stream, stream_options

verdicts = st.sampled_from(list(Verdict))


def frame(sequence: int, data: bytes = b"pixels", deadline_ns: int = 1 << 62) -> Frame:
    return Frame(sequence, received_ns=1, deadline_ns=deadline_ns, data=data)


def taken(stream: CameraStream) -> list[tuple[int, Verdict]]:
    """All answers that are ready, in the order in which the writer gets them."""
    answers = []
    while (answer := stream.next_answer()) is not None:
        answers.append((answer[0].sequence, answer[1].verdict))
    return answers


def counts(ledger: Ledger) -> dict[str, int]:
    return {name: count for name, count in asdict(ledger).items() if count}


@given(st.permutations(range(6)), st.lists(verdicts, min_size=6, max_size=6))
def test_answers_come_in_capture_order_whatever_the_order_of_settling(order: list[int], fates: list[Verdict]) -> None:
    stream = camera_stream()
    jobs = [stream.receive(frame(sequence)) for sequence in range(10, 16)]
    answered: list[tuple[int, Verdict]] = []
    for settled, index in enumerate(order, start=1):
        stream.settle(jobs[index], Answer(fates[index]))
        answered += taken(stream)
        first_open = min((i for i in range(6) if i not in order[:settled]), default=6)
        assert len(answered) == first_open, "no answer is held back, none overtakes"
    assert answered == [(10 + index, fate) for index, fate in enumerate(fates)]
    assert stream.unanswered == 0


steps = st.one_of(
    st.tuples(st.just("receive"), st.integers(0, 12)),
    st.tuples(st.just("settle"), st.tuples(st.integers(0, 30), verdicts)),
    st.tuples(st.just("take"), st.none()),
    st.tuples(st.just("abandon"), st.none()),
)


@given(st.lists(steps, max_size=80), st.integers(1, 6))
def test_received_is_always_the_sum_of_the_fates(actions: list[tuple[str, object]], window: int) -> None:
    stream = camera_stream(window=window)
    jobs: list[Job] = []
    delivered = 0
    for action, detail in actions:
        if action == "receive":
            assert isinstance(detail, int)
            jobs.append(stream.receive(frame(detail)))
        elif action == "settle" and jobs:
            assert isinstance(detail, tuple)
            stream.settle(jobs[detail[0] % len(jobs)], Answer(detail[1]))
        elif action == "take":
            delivered += len(taken(stream))
        elif action == "abandon":
            stream.abandon()
            assert stream.unanswered == 0
        ledger = stream.ledger
        answers = Counter(job.answer.verdict for job in jobs if job.answer is not None)
        assert ledger.received == len(jobs)
        assert {verdict: getattr(ledger, verdict.value) for verdict in answers} == answers
        assert ledger.cancelled == sum(job.cancelled for job in jobs)
        assert ledger.in_flight == sum(job.answer is None and not job.cancelled for job in jobs)
        assert ledger.received == ledger.settled + ledger.in_flight
        assert delivered + ledger.undelivered + stream.unanswered + ledger.cancelled == len(jobs)


def test_the_second_answer_to_a_frame_is_ignored() -> None:
    stream = camera_stream()
    job = stream.receive(frame(1))
    stream.settle(job, Answer(Verdict.EXPIRED))
    stream.settle(job, Answer(Verdict.OK))
    assert taken(stream) == [(1, Verdict.EXPIRED)]
    stream.settle(job, Answer(Verdict.OK))
    assert taken(stream) == []
    assert counts(stream.ledger) == {"received": 1, "expired": 1}


def test_an_answer_after_the_client_has_gone_is_ignored() -> None:
    stream = camera_stream()
    waiting, answered = stream.receive(frame(1)), stream.receive(frame(2))
    stream.settle(answered, Answer(Verdict.OK))
    assert stream.abandon() == [waiting]
    stream.settle(waiting, Answer(Verdict.OK))
    assert counts(stream.ledger) == {"received": 2, "ok": 1, "cancelled": 1, "undelivered": 1}
    assert stream.abandon() == []


@pytest.mark.parametrize(("second", "why"), [(7, "came twice"), (6, "goes backwards"), (0, "goes backwards")])
def test_a_sequence_that_does_not_grow_is_rejected_in_its_place(second: int, why: str) -> None:
    stream = camera_stream()
    first = stream.receive(frame(7))
    again = stream.receive(frame(second))
    assert again.answer is not None
    assert again.answer.verdict is Verdict.REJECTED
    assert why in again.answer.message
    assert "expected one above 7" in again.answer.message
    assert taken(stream) == [], "its answer waits for that of the frame before"
    stream.settle(first, Answer(Verdict.OK))
    assert taken(stream) == [(7, Verdict.OK), (second, Verdict.REJECTED)]
    assert stream.receive(frame(8)).answer is None


def test_one_frame_over_the_window_is_rejected_until_answers_are_taken() -> None:
    stream = camera_stream(window=2)
    jobs = [stream.receive(frame(sequence)) for sequence in range(2)]
    over = stream.receive(frame(2))
    assert over.answer is not None
    assert "its window is 2" in over.answer.message
    for job in jobs:
        stream.settle(job, Answer(Verdict.OK))
    assert stream.unanswered == 3, "answers that are ready still count until the writer takes them"
    taken(stream)
    assert stream.receive(frame(3)).answer is None


def test_pixels_are_let_go_of_with_the_answer() -> None:
    stream = camera_stream()
    stream.receive(frame(1))
    job = stream.receive(frame(2, data=b"many pixels"))
    stream.settle(job, Answer(Verdict.OK))
    assert job.frame.data == b""


def test_the_writer_is_called_when_an_answer_can_be_taken_and_not_before() -> None:
    stream, calls = camera_stream(), []
    stream.attach(lambda: calls.append(stream.unanswered))
    first, second = stream.receive(frame(1)), stream.receive(frame(2))
    stream.settle(second, Answer(Verdict.OK))
    assert calls == []
    stream.settle(first, Answer(Verdict.OK))
    assert calls == [2]
    stream.notify(DrainNotice(500))
    assert calls == [2, 2]
    assert stream.notices.popleft() == DrainNotice(500)
    stream.detach()
    stream.notify(DrainNotice(1))
    assert calls == [2, 2]


def test_the_last_times_of_an_answer_are_those_of_handing_it_over(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = camera_stream()
    early, late, refused = (
        stream.receive(Frame(sequence, 10 * MS, deadline_ns, b""))
        for sequence, deadline_ns in ((1, 30 * MS), (2, 30 * MS - 1), (3, 5 * MS))
    )
    for job, verdict in ((early, Verdict.OK), (late, Verdict.OK), (refused, Verdict.INFEASIBLE)):
        stream.settle(job, Answer(verdict, ready_ns=22 * MS))
    monkeypatch.setattr("foveate.service.stream.time", SimpleNamespace(monotonic_ns=lambda: 30 * MS))
    times = [answer[1].times for _ in range(3) if (answer := stream.next_answer()) is not None]
    assert [(each.reply_queue, each.total) for each in times] == [(8 * MS, 20 * MS)] * 3
    assert stream.ledger.late == 1, "a frame handed over at its deadline is on time, and only what is OK can be late"


def test_a_successor_goes_on_under_the_same_name_numbers_and_counts() -> None:
    before = camera_stream("door")
    old = before.receive(frame(5))
    before.abandon()
    after = CameraStream(before.record(), stream_options(budget_ms=50), window=3)
    assert (after.stream_id, after.resume_token, after.window) == ("door", "token of door", 3)
    assert after.number != before.number
    again = after.receive(frame(5))
    assert again.answer is not None
    assert "came twice" in again.answer.message
    before.settle(old, Answer(Verdict.OK))
    assert taken(after) == [(5, Verdict.REJECTED)], "the old connection's end does not touch the successor"
    assert counts(after.ledger) == {"received": 2, "rejected": 1, "cancelled": 1}


def test_all_streams_together_are_counted_once_more() -> None:
    class InOne:
        def of(self, pipeline: str, series: int) -> Sequence[Counts]:
            return [total]

        def in_flight(self) -> dict[str, int]:
            return {"all": total.in_flight}

    total = Ledger()
    books = Books(InOne())
    streams = [CameraStream(StreamRecord(name, name), stream_options(), 32, books) for name in "ab"]
    for stream in streams:
        stream.settle(stream.receive(frame(1)), Answer(Verdict.OK))
        stream.receive(frame(2))
    streams[0].abandon()
    assert counts(total) == {"received": 4, "ok": 2, "cancelled": 1, "undelivered": 1}
    assert total.in_flight == 1


ledgers = st.builds(Ledger, **{name: st.integers(0, 1000) for name in asdict(Ledger())})


@given(ledgers, ledgers)
def test_ledgers_add_up_field_by_field(one: Ledger, other: Ledger) -> None:
    total = Ledger()
    total.add(one)
    total.add(other)
    assert asdict(total) == {name: count + getattr(other, name) for name, count in asdict(one).items()}
    assert total.in_flight == one.in_flight + other.in_flight


@pytest.mark.parametrize("verdict", list(Verdict))
def test_each_verdict_has_its_own_count(verdict: Verdict) -> None:
    ledger = Ledger(received=1)
    ledger.count(verdict.value)
    assert counts(ledger) == {"received": 1, verdict.value: 1}
    assert ledger.in_flight == 0


SECOND = 1_000_000_000


def test_decode_cost_follows_what_is_seen_per_pixel() -> None:
    cost, now_ns = DecodeCost(), 0
    assert cost.predict_ns(1920 * 1080, now_ns) > 0
    for _ in range(60):
        now_ns += SECOND // 30
        cost.observe(640 * 480, 5_000_000, now_ns)
    assert cost.predict_ns(640 * 480, now_ns) == pytest.approx(5_000_000, rel=0.05)
    assert cost.predict_ns(1280 * 960, now_ns) == pytest.approx(20_000_000, rel=0.1), "four times the pixels"


def test_one_large_frame_does_not_make_the_small_ones_after_it_infeasible() -> None:
    cost = DecodeCost()
    cost.observe(6200 * 6200, 800_000_000, 0)
    assert cost.predict_ns(176 * 144, 1) < 2_000_000


def test_one_stall_is_not_taken_at_its_word_and_a_slow_spell_is_forgotten() -> None:
    cost = DecodeCost()
    cost.observe(640 * 480, 2 * SECOND, 0)
    assert cost.predict_ns(640 * 480, 1) < 20_000_000
    for _ in range(100):
        cost.observe(640 * 480, 2 * SECOND, 0)
    assert cost.predict_ns(640 * 480, 1) > SECOND
    predictions = [cost.predict_ns(640 * 480, step * 2 * SECOND) for step in range(1, 15)]
    assert predictions == sorted(predictions, reverse=True)
    assert predictions[-1] < 5_000_000


def test_what_is_held_is_given_back_however_a_frame_ends() -> None:
    books = Books()
    stream = CameraStream(StreamRecord("one", "token"), stream_options(), 32, books)
    jobs = [stream.receive(Frame(sequence, 0, 10**18, bytes(100))) for sequence in range(1, 5)]
    assert books.held_bytes == 400
    stream.settle(jobs[0], Answer(Verdict.OK))
    stream.settle(jobs[0], Answer(Verdict.FAILED))
    assert books.held_bytes == 300
    stream.abandon()
    stream.settle(jobs[1], Answer(Verdict.OK))
    stream.abandon()
    assert books.held_bytes == 0
