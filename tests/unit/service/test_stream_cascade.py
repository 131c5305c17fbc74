"""One stream's cascade at a device that the test plays: crops out, words back, one answer in time whatever comes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame
from foveate.service import ingest
from foveate.service.boundary import FrameTicket
from foveate.service.config import TrackConfig
from foveate.service.decode import whole_picture
from foveate.service.frame import Delivery, Grant, PixelFormat, Ran, Verdict
from foveate.service.job import Job
from foveate.service.stream_cascade import StreamCascade
from support.cascades import FRAME, HandStage, answer_to, cascade_stage
from support.clocks import let_time_pass_by_readings
from support.frames import MS, smooth_picture

LEFT, RIGHT = (4, 4, 36, 60), (50, 10, 90, 50)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets end where a test says so, and nowhere else."""
    let_time_pass_by_readings(monkeypatch)


def detected(place: HandStage, *boxes: tuple[int, int, int, int], **how: float) -> tuple[Job, list[FrameTicket]]:
    """A frame in which the boxes are seen, and its crops' tickets."""
    job, ticket = place.send(**how)  # type: ignore[arg-type]
    place.detect(ticket, *boxes)
    return job, place.device.take()


def words(job: Job) -> list[list[tuple[str, str]]]:
    """What was said of each detection, as names and labels."""
    return [[(said.name, said.label) for said in each] for each in answer_to(job).attributes]


def test_an_answer_waits_for_its_crops_and_has_their_words() -> None:
    place = HandStage(cascade_stage())
    job, (first, second) = detected(place, LEFT, RIGHT)
    assert job.answer is None
    place.classify(second, 2, 0.7)
    assert job.answer is None
    place.classify(first, 1, 0.6)
    answer = answer_to(job)
    assert (answer.verdict, answer.message, answer.attributes_missing) == (Verdict.OK, "", 0)
    assert words(job) == [[("kind", "taxi")], [("kind", "child")]]
    assert [said.class_id for each in answer.attributes for said in each] == [1, 2]
    assert [said.score for each in answer.attributes for said in each] == pytest.approx([0.6, 0.7])
    assert answer.times.cascade > 0
    assert answer.crops_ns == 2 * 2 * MS
    assert place.ingest.in_flight == 0
    assert place.stream.ledger.received == place.stream.ledger.ok == 1, "crops are no frames in the books"


def test_crops_come_in_a_stream_of_their_own_with_the_frames_deadline_and_rank() -> None:
    place = HandStage(cascade_stage(max_crops=3), priority=2, weight=5.0, delivery=Delivery.QUEUE, queue_depth=7)
    job, tickets = detected(place, LEFT, RIGHT)
    ((number, (options, grant)),) = place.device.entered.items()
    assert {ticket.stream for ticket in tickets} == {number} != {place.stream.number}
    assert all(job.frame.deadline_ns - 4 * MS < ticket.deadline_ns < job.frame.deadline_ns for ticket in tickets)
    assert (options.pipeline, options.priority, options.weight, options.crops) == ("kinds", 2, 5.0, True)
    assert (options.delivery, grant) == (Delivery.QUEUE, Grant.BEST_EFFORT)
    assert options.queue_depth >= 3 * 7, "what the camera may have in flight"
    detected(place, LEFT)
    assert len(place.device.entered) == 1, "entered once"


def test_each_crop_shows_its_part_of_the_frame() -> None:
    picture = smooth_picture(np.random.default_rng(1), *FRAME)
    place = HandStage(cascade_stage())
    _, ticket = place.send(picture)
    place.detect(ticket, LEFT, (40, 8, 56, 16))
    first, second = place.device.take()
    assert place.prepared("kinds", second, 3)
    assert np.array_equal(place.pixels["kinds"][3], picture[8:16, 40:56]), "of the model's own size: not resized"
    assert place.prepared("kinds", first, 0)
    difference = place.pixels["kinds"][0].mean(axis=(0, 1)) - picture[4:60, 4:36].mean(axis=(0, 1))
    assert np.abs(difference).max() < 4


@pytest.mark.parametrize("kind", [PixelFormat.JPEG, PixelFormat.WEBP])
def test_a_reduced_picture_stands_for_the_whole_one(kind: PixelFormat) -> None:
    picture = smooth_picture(np.random.default_rng(2), 16 * FRAME[0], 16 * FRAME[1])
    place = HandStage(cascade_stage(margin=0.1))
    _, ticket = place.send(picture, kind=kind)
    place.detect(ticket, LEFT)
    (crop,) = place.device.take()
    assert place.prepared("kinds", crop)
    # The box in the detector's 96 x 64 is 16 times as large here; 0.1 of its sides is added all around.
    seen = picture[0 : round(16 * 65.6), round(16 * 0.8) : round(16 * 39.2)]
    difference = place.pixels["kinds"][0].mean(axis=(0, 1)) - seen.mean(axis=(0, 1))
    assert np.abs(difference).max() < 5


class VideoPicture:
    """A picture that was decoded before it was chosen."""

    def __init__(self, image: NDArray[np.uint8]) -> None:
        self.image = image
        self.height, self.width = image.shape[:2]
        self.nbytes = image.nbytes

    def rgb(self) -> NDArray[np.uint8]:
        return self.image

    def reduced(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        return self.image


def test_crops_of_video_come_out_of_its_decoded_picture() -> None:
    picture = smooth_picture(np.random.default_rng(3), *FRAME)
    place = HandStage(cascade_stage())
    _, ticket = place.send(decoded=VideoPicture(picture))  # of which the data say something else
    place.detect(ticket, (40, 8, 56, 16))
    (crop,) = place.device.take()
    assert place.prepared("kinds", crop)
    assert np.array_equal(place.pixels["kinds"][0], picture[8:16, 40:56])


def test_the_picture_is_decoded_once_when_the_first_crop_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def spy(*arguments: Any) -> NDArray[np.uint8]:
        calls.append(len(arguments))
        return whole_picture(*arguments)

    monkeypatch.setattr("foveate.service.frame_crops.whole_picture", spy)
    place = HandStage(cascade_stage())
    _, (first, second) = detected(place, LEFT, RIGHT)
    assert calls == []
    assert place.prepared("kinds", first, 0)
    assert place.prepared("kinds", second, 1)
    assert len(calls) == 1
    assert first.prepare_ns > second.prepare_ns, "it counts once"


def test_stages_run_side_by_side_on_what_each_is_to_look_at() -> None:
    place = HandStage(cascade_stage(), cascade_stage("colour", "colours", min_size_px=35))
    job, (car, bus, colour) = detected(place, LEFT, RIGHT)
    place.classify(car, 0)
    place.classify(bus, 1)
    vector = np.array([0.1, 0.2, 0.3], np.float32)
    assert place.prepared("colours", colour)
    place.ran("colours", colour, {"embedding": vector})
    (kind,), (other, said) = answer_to(job).attributes
    assert (kind.label, other.label, said.name, said.label) == ("van", "taxi", "colour", "")
    assert said.embedding is not None
    assert said.embedding.tolist() == vector.tolist()


def test_a_class_below_the_threshold_is_no_attribute_and_not_missing() -> None:
    place = HandStage(cascade_stage(min_score=0.5))
    job, (first, second) = detected(place, LEFT, RIGHT)
    place.classify(first, 0, 0.49)
    place.classify(second, 1, 0.51)
    assert words(job) == [[], [("kind", "taxi")]]
    assert answer_to(job).attributes_missing == 0


def test_a_frame_without_anything_to_look_at_is_answered_at_once() -> None:
    place = HandStage(cascade_stage(min_size_px=50))
    for boxes in ((), (LEFT,)):
        job, crops = detected(place, *boxes)
        assert crops == []
        assert words(job) == [[]] * len(boxes)
    assert place.device.entered == {}
    assert place.alarms == []


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (Verdict.EXPIRED, "the budget ran out"),
        (Verdict.INFEASIBLE, "the budget ran out"),
        (Verdict.REJECTED, "too many crops of the stream wait already"),
        (Verdict.FAILED, "the engine is broken"),
    ],
)
def test_what_is_refused_is_missing_and_the_frame_is_ok(verdict: Verdict, why: str) -> None:
    place = HandStage(cascade_stage(), cascade_stage("colour", "colours"))
    job, (first, second, one, other) = detected(place, LEFT, RIGHT)
    place.classify(first, 0)
    place.refuse(verdict, second, one, other, message="the engine is broken")
    answer = answer_to(job)
    assert answer.verdict is Verdict.OK
    assert answer.attributes_missing == 2, "detections, however many stages they lack"
    assert answer.message == f"1 of 2 detections has no `kind`: {why}; 2 of 2 detections have no `colour`: {why}"
    assert words(job) == [[("kind", "van")], []]


def test_crops_of_a_picture_that_cannot_be_decoded_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> object:
        raise BadFrame("cut off")

    place = HandStage(cascade_stage())
    job, (first, second) = detected(place, LEFT, RIGHT)
    monkeypatch.setattr("foveate.service.frame_crops.whole_picture", broken)
    assert not place.prepared("kinds", first)
    monkeypatch.undo()
    assert not place.prepared("kinds", second), "it is not tried for each of them"
    answer = answer_to(job)
    assert (answer.verdict, answer.attributes_missing) == (Verdict.OK, 2)
    assert answer.message == "2 of 2 detections have no `kind`: cut off"


def test_when_the_time_is_up_the_answer_goes_out_and_late_words_are_ignored() -> None:
    place = HandStage(cascade_stage())
    job, (first, second) = detected(place, LEFT, RIGHT)
    (alarm,) = place.alarms
    left_s = (job.frame.deadline_ns - time.monotonic_ns()) / 1e9
    assert 0 < alarm.delay_s < left_s, "before the deadline, so that the answer gets out in time"
    place.classify(first, 0)
    place.time_is_up()
    answer = answer_to(job)
    assert (answer.attributes_missing, words(job)) == (1, [[("kind", "van")], []])
    assert answer.message == "1 of 2 detections has no `kind`: the budget ran out"
    assert place.ingest.in_flight == 0
    assert not place.prepared("kinds", second), "it is not decoded any more"
    place.ran("kinds", second, {"scores": np.ones(1, np.float32), "class_ids": np.zeros(1, np.int64)})
    assert answer_to(job) is answer


def test_no_crop_is_handed_over_when_the_budget_is_over_already() -> None:
    place = HandStage(cascade_stage())
    job, ticket = place.send(budget_ms=0.001)
    place.detect(ticket, LEFT)
    assert place.device.take() == []
    assert answer_to(job).attributes_missing == 1


def test_an_answer_in_time_stops_the_clock() -> None:
    place = HandStage(cascade_stage())
    _, (crop,) = detected(place, LEFT)
    place.classify(crop, 0)
    (alarm,) = place.alarms
    assert alarm.cancelled


def test_outputs_that_make_no_sense_are_missing_words_alone(caplog: pytest.LogCaptureFixture) -> None:
    place = HandStage(cascade_stage())
    job, (crop,) = detected(place, LEFT)
    place.ran("kinds", crop, {"unknown": np.zeros(1)})
    assert answer_to(job).message == "1 of 1 detections has no `kind`: post-processing failed: KeyError"
    assert answer_to(job).verdict is Verdict.OK
    assert "could not be understood" in caplog.text


def test_a_stream_that_is_over_takes_its_crops_and_their_stream_along() -> None:
    place = HandStage(cascade_stage())
    job, (crop,) = detected(place, LEFT)
    other = place.new_stream("other")
    kept, ticket = place.send(stream=other)
    place.stream.abandon()
    place.ingest.forget(place.stream)
    assert place.device.left == [crop.stream]
    assert place.alarms[0].cancelled
    assert not place.prepared("kinds", crop)
    assert job.answer is None
    assert place.ingest.in_flight == 1
    place.detect(ticket)
    assert answer_to(kept).verdict is Verdict.OK


def test_a_lost_device_answers_what_was_detected_and_fails_what_was_not() -> None:
    place = HandStage(cascade_stage())
    seen, _ = detected(place, LEFT, RIGHT)
    waiting, _ = place.send()
    place.ingest.fail_all("the engine process has died")
    assert answer_to(waiting).verdict is Verdict.FAILED
    answer = answer_to(seen)
    assert (answer.verdict, answer.attributes_missing) == (Verdict.OK, 2)
    assert answer.message == "2 of 2 detections have no `kind`: the engine process has died"
    assert place.ingest.in_flight == 0


def test_a_single_picture_has_a_cascade_and_leaves_nothing_behind() -> None:
    place = HandStage(cascade_stage(), track=TrackConfig())
    single = place.new_stream("")
    job, ticket = place.send(stream=single)
    place.detect(ticket, LEFT)
    (crop,) = place.device.take()
    assert [grant for _, grant in place.device.entered.values()] == [None]
    place.classify(crop, 2)
    assert words(job) == [[("kind", "child")]]
    assert answer_to(job).track_ids == (), "one picture makes no track"
    place.ingest.forget(single)
    assert place.device.left == [crop.stream]


def test_the_detector_is_asked_to_leave_time_for_the_cascade() -> None:
    place = HandStage(cascade_stage(expected_ns=60 * MS))
    job, ticket = place.send()
    assert job.frame.deadline_ns - ticket.deadline_ns == 60 * MS
    place.detect(ticket)
    assert answer_to(job).times.predicted >= 60 * MS
    for _ in range(64):
        _, (crop,) = detected(place, LEFT)
        place.classify(crop, 0)
    job, ticket = place.send()
    assert 0 <= job.frame.deadline_ns - ticket.deadline_ns < 60 * MS, "it has learned that it takes less"


def test_nothing_is_left_for_it_while_there_is_nothing_to_look_at() -> None:
    place = HandStage(cascade_stage(expected_ns=60 * MS))
    for boxes, reserved in [((), True)] * 8 + [((), False), ((LEFT,), False), ((), True)]:
        job, ticket = place.send()
        assert (job.frame.deadline_ns > ticket.deadline_ns) is reserved
        place.detect(ticket, *boxes)
        place.device.take()


def test_no_more_is_left_for_the_cascade_than_the_frame_can_spare() -> None:
    place = HandStage(cascade_stage(expected_ns=400 * MS))
    place.stream.smallest_budget_ns = 150 * MS
    job, ticket = place.send(budget_ms=500)
    assert 300 * MS < job.frame.deadline_ns - ticket.deadline_ns <= 350 * MS
    job, ticket = place.send(budget_ms=100)
    assert job.frame.deadline_ns == ticket.deadline_ns


@pytest.mark.parametrize("verdict", [Verdict.EXPIRED, Verdict.INFEASIBLE])
def test_a_frame_too_late_for_its_cascade_is_tried_without(verdict: Verdict) -> None:
    place = HandStage(cascade_stage(expected_ns=60 * MS))
    job, ticket = place.send()
    place.refuse(verdict, ticket, message="too late")
    assert job.answer is None
    (again,) = place.device.take()
    assert (again.deadline_ns, again.again, again.stream) == (job.frame.deadline_ns, True, ticket.stream)
    place.refuse(verdict, again, message="too late")
    assert (answer_to(job).verdict, answer_to(job).message) == (verdict, "too late"), "now it is final"


def test_a_frame_that_a_newer_one_has_overtaken_is_not_tried_again() -> None:
    place = HandStage(cascade_stage(expected_ns=60 * MS))
    older, first = place.send()
    newer, _ = place.send()
    place.refuse(Verdict.EXPIRED, first)
    assert place.device.take() == []
    assert answer_to(older).verdict is Verdict.SUPERSEDED
    assert newer.answer is None
    queued = HandStage(cascade_stage(expected_ns=60 * MS), delivery=Delivery.QUEUE)
    _, first = queued.send()
    queued.send()
    queued.refuse(Verdict.EXPIRED, first)
    assert [ticket.again for ticket in queued.device.take()] == [True], "a queue wants every frame"


@pytest.mark.parametrize("verdict", [Verdict.SUPERSEDED, Verdict.FAILED, Verdict.REJECTED])
def test_other_refusals_are_final(verdict: Verdict) -> None:
    place = HandStage(cascade_stage(expected_ns=60 * MS))
    job, ticket = place.send()
    place.refuse(verdict, ticket)
    assert answer_to(job).verdict is verdict


def test_the_lane_of_a_stage_learns_how_long_the_way_out_takes() -> None:
    place = HandStage(cascade_stage())
    _, (crop,) = detected(place, LEFT)
    place.classify(crop, 0)
    ((stream, took_ns),) = place.device.replies
    assert stream == crop.stream
    assert 0 < took_ns < 5000 * MS


def test_tracks_have_ids_and_what_is_known_of_them_is_not_asked_again() -> None:
    place = HandStage(cascade_stage(), track=TrackConfig(confirm_frames=1, refresh_s=30.0))
    ids, asked = [], []
    for label in (1, 1, 2, 1):
        job, crops = detected(place, LEFT, RIGHT)
        asked.append(len(crops))
        for crop in crops:
            place.classify(crop, label, 0.9)
        ids.append(answer_to(job).track_ids)
    assert set(ids) == {(1, 2)}
    assert asked == [2, 0, 0, 0], "until something has changed"
    assert words(job) == [[("kind", "taxi")], [("kind", "taxi")]], "from memory"
    assert place.stream.next_track_id == 3


def test_what_a_track_is_known_to_be_is_not_missing_when_time_runs_out() -> None:
    place = HandStage(cascade_stage(), track=TrackConfig(confirm_frames=1, refresh_s=0.0001))
    job, (crop,) = detected(place, LEFT)
    place.classify(crop, 2)
    job, (crop,) = detected(place, LEFT)
    place.refuse(Verdict.EXPIRED, crop)
    assert words(job) == [[("kind", "child")]]
    assert (answer_to(job).attributes_missing, answer_to(job).message) == (0, "")


def test_a_result_that_comes_behind_a_newer_one_is_not_tracked() -> None:
    place = HandStage(track=TrackConfig(confirm_frames=1))
    older, first = place.send()
    newer, second = place.send()
    place.detect(second, LEFT)
    place.detect(first, LEFT)
    assert answer_to(newer).track_ids == (1,)
    assert answer_to(older).track_ids == (0,)


def test_a_stream_taken_up_again_goes_on_with_its_track_ids() -> None:
    place = HandStage(track=TrackConfig(confirm_frames=1))
    detected(place, LEFT, RIGHT)
    assert place.stream.record().next_track_id == 3


CALLS = st.sampled_from(["classify", "expire", "fail", "time", "forget", "lose"])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.tuples(CALLS, st.integers(0, 9)), max_size=6)), max_size=5))
def test_whatever_happens_each_frame_has_one_answer_and_nothing_is_kept(frames: list[Any]) -> None:
    place = HandStage(cascade_stage(max_crops=2), cascade_stage("colour", "colours"))
    jobs: list[Job] = []
    crops: list[FrameTicket] = []
    over = False
    said: dict[str, NDArray[Any]]
    for boxes, calls in frames:
        job, tickets = detected(place, *([LEFT, RIGHT, LEFT][:boxes]))
        jobs.append(job)
        crops += tickets
        for call, at in calls:
            if call == "time":
                place.time_is_up()
            elif call == "forget" and at == 0:
                place.stream.abandon()
                place.ingest.forget(place.stream)
                over = True
            elif call == "lose" and at == 0:
                place.ingest.fail_all("gone")
            elif crops:
                ticket = crops.pop(at % len(crops))
                if call == "classify":
                    said = {"scores": np.ones(1, np.float32), "class_ids": np.zeros(1, np.int64)}
                    place.ran("kinds", ticket, {**said, "embedding": np.zeros(3, np.float32)})
                else:
                    place.refuse(Verdict.EXPIRED if call == "expire" else Verdict.FAILED, ticket)
        if over:
            break
    place.time_is_up()
    assert place.ingest.in_flight == 0
    assert all(job.over for job in jobs)
    assert all(job.answer is None or job.answer.verdict is Verdict.OK for job in jobs)
    ledger = place.stream.ledger
    assert ledger.received == len(jobs) == ledger.ok + ledger.cancelled


@pytest.mark.parametrize("step", ["_looks", "_vote"])
def test_a_fault_costs_a_frame_its_attributes_alone(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = HandStage(cascade_stage())

    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a fault of the service")

    with monkeypatch.context() as broken:
        broken.setattr(StreamCascade, step, fail)
        job, crops = detected(place, LEFT)
        for crop in crops:
            place.classify(crop, 1)
    answer = answer_to(job)
    assert (answer.verdict, answer.message) == (Verdict.OK, "no attributes: the service failed: ZeroDivisionError")
    assert "a fault of the service" in caplog.text
    job, (crop,) = detected(place, LEFT)
    place.classify(crop, 1)
    assert words(job) == [[("kind", "taxi")]], "the next one is served again"


def test_a_large_batch_leaves_the_loop_to_others_between_its_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    place, posted = HandStage(), deque[Callable[[], None]]()
    monkeypatch.setattr(ingest, "_TURN_NS", -1)
    monkeypatch.setattr(place.ingest, "_post", posted.append)
    sent = [place.send() for _ in range(3)]
    assert all(place.prepared("objects", ticket) for _, ticket in sent)
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "class_ids": np.zeros(0, np.int64)}
    ran = Ran(3, 0, 1, 0, 1, 0, 1, 1, 0, 1)
    place.ingest.settle_run("objects", ran, [(ticket.frame, nothing) for _, ticket in sent])

    def answered() -> list[bool]:
        return [job.answer is not None for job, _ in sent]

    assert answered() == [True, False, False]
    late, ticket = place.send()
    assert place.prepared("objects", ticket)
    place.ingest.settle_run("objects", ran, [(ticket.frame, nothing)])
    assert late.answer is None, "in the order of the runs"
    while posted:
        posted.popleft()()
    assert (answered(), late.answer is not None) == ([True, True, True], True)
