"""A lane over a fake engine: every frame gets its own answer, whatever fails beside it.

The engine answers the mean colour of each row, and every frame is painted in a colour of its own, so an answer
that reaches the wrong frame shows. Nothing here waits for a time: gates hold batches, and conditions tell.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines.contract import RunTimes, Slot, TensorSpec
from foveate.engines.errors import DeviceLost, EngineUnavailable
from foveate.engines.fake import FakeEngine, Gate
from foveate.models.geometry import Placement
from foveate.models.outputs import DecodeOptions, Embedding, Output
from foveate.models.package import PreparedModel
from foveate.service import shared_memory, whole_frame
from foveate.service.admission import admit_frame
from foveate.service.batch import Batch, Entry
from foveate.service.boundary import IngestPort
from foveate.service.config import Limits
from foveate.service.decode import Decoded, decode_into
from foveate.service.device import Device
from foveate.service.device_time import DeviceTime
from foveate.service.frame import Answer, Delivery, Frame, PixelFormat, SharedMemoryRef, Verdict
from foveate.service.ingest import Ingest
from foveate.service.job import Job
from foveate.service.lane import Lane, _Carried
from foveate.service.opening import new_slots
from foveate.service.pipeline import Pipeline
from foveate.service.scheduler import Plan, Scheduler, StreamShare
from foveate.service.stream import CameraStream
from support.frames import MS, camera_stream, colour_model, device_stream, encoded, latency_model, nv12, plain

WITHIN_S = 20.0
LONG_MS = 60_000.0
Colour = tuple[int, int, int]


def mean_colours(inputs: Mapping[str, NDArray[Any]], batch: int) -> dict[str, NDArray[Any]]:
    (pixels,) = inputs.values()
    return {"embedding": pixels.astype(np.float32).mean(axis=(1, 2))}


def colour_engine(**wishes: Any) -> FakeEngine:
    outputs = (TensorSpec("embedding", np.dtype(np.float32), (3,)),)
    engine = FakeEngine("colour", input_shape=(24, 32, 3), outputs=outputs, compute=mean_colours, **wishes)
    engine.load()
    return engine


class Decoding:
    """Stands before the decoder: counts the frames that come, and breaks where it is told to."""

    def __init__(self) -> None:
        self.crash_on: Callable[[bytes], bool] = lambda data: False
        self._decode_into = decode_into
        self.count = 0
        self._came = threading.Condition()

    def __call__(self, row: Any, data: bytes, *arguments: Any) -> Decoded:
        with self._came:
            self.count += 1
            self._came.notify_all()
        if self.crash_on(data):
            raise ZeroDivisionError("a fault of the decoder")
        return self._decode_into(row, data, *arguments)

    def wait_for(self, count: int) -> None:
        with self._came:
            assert self._came.wait_for(lambda: self.count >= count, WITHIN_S), f"{self.count} of {count} frames"


class Bench:
    """A lane, its engine, and all answers that came out of it."""

    def __init__(
        self,
        engine: FakeEngine,
        decoding: Decoding,
        *,
        model: PreparedModel | None = None,
        slots: int = 3,
        decoders: int = 2,
        profile_ms: int = 1,
        hold_ms: int = 0,
        device_time: DeviceTime | None = None,
    ) -> None:
        self.engine, self.decoding = engine, decoding
        self.jobs: list[Job] = []
        self._changed = threading.Condition()
        model = model or colour_model(32, 24)
        latency, made = latency_model(lambda batch: profile_ms * MS), new_slots("colour", engine, slots)
        self.lane = Lane(
            "colour", engine, latency, made, decoders=decoders, hold_ns=hold_ms * MS, device_time=device_time
        )
        self._decoders = ThreadPoolExecutor(decoders)
        self._ingest = Ingest(self._post, self._decoders)
        self._ingest.serve(Pipeline("colour", model, engine.info, DecodeOptions(0.0, 100), slots), self.lane.inputs)
        self.device = Device([self.lane])
        self._session = self.device.session(self._ingest)
        self._entered: set[CameraStream] = set()

    def send(
        self, data: bytes | SharedMemoryRef, stream: CameraStream | None = None, budget_ms: float = LONG_MS
    ) -> Job:
        """Send one frame, as a stream of its own where none is named."""
        stream = stream or camera_stream(window=1000)
        now_ns = time.monotonic_ns()
        job = stream.receive(Frame(len(self.jobs), now_ns, now_ns + int(budget_ms * MS), data))
        refusal = admit_frame(job, Limits(), shared_memory=True)
        if refusal:
            stream.settle(job, refusal)
        else:
            self._hand_over(job)
        self.jobs.append(job)
        return job

    def answers(self, count: int | None = None) -> dict[Job, Answer]:
        """The answers by frame, once there are as many; by default one for each frame that was sent."""
        expected = len(self.jobs) if count is None else count
        with self._changed:
            came = self._changed.wait_for(lambda: len(self._answered()) >= expected, WITHIN_S)
            assert came, f"{len(self._answered())} of {expected} answers"
            return self._answered()

    def withdraw(self, stream: CameraStream) -> None:
        """The stream's client is gone."""
        self._ingest.forget(stream)
        self._session.leave(stream.number)

    def close(self) -> None:
        self.lane.close()
        self._decoders.shutdown()

    def occupy(self) -> None:
        """Let one batch stand in the engine and one behind it, so that what comes now is planned together."""
        assert isinstance(self.engine.gate, Gate)
        self.send(png((0, 0, 0)))
        self.engine.gate.wait_for_held(1)
        self.send(png((0, 0, 0)))
        self.decoding.wait_for(2)

    def _hand_over(self, job: Job) -> None:
        stream = job.stream
        with self._changed:
            if stream not in self._entered:
                self._entered.add(stream)
                self._session.enter(stream.number, replace(stream.options, pipeline="colour"))
        self._ingest.submit(job, self._session)

    def _answered(self) -> dict[Job, Answer]:
        return {job: job.answer for job in self.jobs if job.answer is not None}

    def _post(self, call: Callable[[], None]) -> None:
        with self._changed:
            call()
            self._changed.notify_all()


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    spy = Decoding()
    monkeypatch.setattr(whole_frame, "decode_into", spy)
    return spy


@pytest.fixture
def bench(decoding: Decoding) -> Iterator[Callable[..., Bench]]:
    """Makes lanes that are closed when the test ends, with their gates opened first."""
    made: list[Bench] = []

    def make(engine: FakeEngine, **wishes: Any) -> Bench:
        made.append(Bench(engine, decoding, **wishes))
        return made[-1]

    yield make
    for each in made:
        if each.engine.gate is not None:
            each.engine.gate.set()
        each.close()


def png(colour: Colour, width: int = 48, height: int = 32) -> bytes:
    return encoded(plain(colour, width, height), PixelFormat.PNG)


def seen(answer: Answer) -> Colour:
    """The colour that an answer is about."""
    assert answer.verdict is Verdict.OK, answer.message
    assert isinstance(answer.output, Embedding)
    red, green, blue = (round(value) for value in answer.output.vector.tolist())
    return red, green, blue


def random_colours(rng: np.random.Generator, count: int) -> list[Colour]:
    """Colours that differ, in random order."""
    codes = rng.choice(256**3, count, replace=False)
    return [(int(code) >> 16, int(code) >> 8 & 255, int(code) & 255) for code in codes]


@pytest.mark.parametrize("seed", range(4))
def test_every_frame_gets_the_answer_to_its_own_pixels(seed: int, bench: Callable[..., Bench]) -> None:
    rng = np.random.default_rng(seed)
    max_batch, slots, decoders = int(rng.integers(1, 9)), int(rng.integers(2, 5)), int(rng.integers(1, 4))
    place = bench(colour_engine(max_batch=max_batch), slots=slots, decoders=decoders)
    queue = {"delivery": Delivery.QUEUE, "queue_depth": 500}
    streams = [
        *(camera_stream(f"png {index}", window=500, **queue) for index in range(3)),
        camera_stream("raw", window=500, format=PixelFormat.RAW_BGR, width=48, height=32, **queue),
        camera_stream("nv12", window=500, format=PixelFormat.RAW_NV12, width=48, height=32, **queue),
    ]
    expected = {}
    for colour in random_colours(rng, 80):
        stream = streams[int(rng.integers(len(streams)))]
        picture = plain(colour) if stream.options.format.raw else plain(colour, *rng.integers(1, 90, 2).tolist())
        kind = stream.options.format
        data = nv12(picture) if kind is PixelFormat.RAW_NV12 else encoded(picture, PixelFormat.PNG)
        if kind is PixelFormat.RAW_BGR:
            data = picture[..., ::-1].tobytes()
        expected[place.send(data, stream)] = colour
    for job, answer in place.answers().items():
        off = 4 if job.format is PixelFormat.RAW_NV12 else 0
        assert np.abs(np.subtract(seen(answer), expected[job])).max() <= off
        assert (answer.frame_width, answer.frame_height) == (job.width, job.height)
        assert 1 <= answer.batch_size <= max_batch
        assert answer.engine == "colour/fake/fp32/cpu"


def test_frames_of_many_threads_get_their_own_answers(bench: Callable[..., Bench]) -> None:
    place = bench(colour_engine(max_batch=6))
    colours = random_colours(np.random.default_rng(9), 60)
    answered: dict[Job, Colour] = {}

    def camera(mine: list[Colour]) -> None:
        for colour in mine:
            answered[place.send(png(colour))] = colour

    threads = [threading.Thread(target=camera, args=(colours[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {job: seen(answer) for job, answer in place.answers(60).items()} == answered


def test_the_next_batch_is_decoded_while_one_runs(bench: Callable[..., Bench], decoding: Decoding) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate))
    place.send(png((1, 2, 3)))
    gate.wait_for_held(1)
    place.send(png((4, 5, 6)))
    decoding.wait_for(2)
    assert place.answers(0) == {}, "the first batch is still in the engine"
    gate.set()
    assert [seen(answer) for answer in place.answers().values()] == [(1, 2, 3), (4, 5, 6)]


def test_as_many_batches_run_at_once_as_the_engine_takes(bench: Callable[..., Bench]) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate, max_in_flight=2), slots=4)
    first = place.send(png((1, 2, 3)))
    gate.wait_for_held(1)
    second = place.send(png((4, 5, 6)))
    gate.wait_for_held(2)
    gate.set()
    answers = place.answers()
    assert (seen(answers[first]), seen(answers[second])) == ((1, 2, 3), (4, 5, 6))


def test_what_has_come_meanwhile_runs_as_one_batch(bench: Callable[..., Bench]) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate), slots=2)
    place.occupy()
    colours = random_colours(np.random.default_rng(1), 5)
    jobs = [place.send(png(colour)) for colour in colours]
    assert place.lane.status().waiting == 5
    gate.set()
    answers = place.answers()
    assert [seen(answers[job]) for job in jobs] == colours
    assert {answers[job].batch_size for job in jobs} == {5}


@pytest.mark.parametrize("bad", [(0,), (1,), (4,), (0, 1), (1, 3), (0, 2, 4), (0, 1, 2, 3), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("fault", ["broken bytes", "crash of the decoder"])
def test_a_frame_that_cannot_be_decoded_leaves_the_others_of_its_batch_right(
    bad: tuple[int, ...],
    fault: str,
    bench: Callable[..., Bench],
    decoding: Decoding,
    capfd: pytest.CaptureFixture[str],
) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate), slots=2)
    place.occupy()
    colours = random_colours(np.random.default_rng(sum(bad)), 5)
    pictures = [png(colour) for colour in colours]
    if fault == "broken bytes":
        pictures = [data[:40] if index in bad else data for index, data in enumerate(pictures)]
    else:
        crashing = {pictures[index] for index in bad}
        decoding.crash_on = lambda data: data in crashing
    jobs = [place.send(data) for data in pictures]
    gate.set()
    answers = place.answers()
    for index, job in enumerate(jobs):
        if index not in bad:
            assert seen(answers[job]) == colours[index]
            assert answers[job].batch_size == 5 - len(bad)
        elif fault == "broken bytes":
            assert answers[job].verdict is Verdict.BAD_FRAME
            assert "cut off or corrupt" in answers[job].message
        else:
            assert answers[job].verdict is Verdict.FAILED
            assert answers[job].message == "the decoder failed: ZeroDivisionError"
    after = place.send(png((9, 8, 7)))
    assert seen(place.answers()[after]) == (9, 8, 7)
    capfd.readouterr()


def test_a_batch_that_fails_is_answered_and_the_lane_serves_on(bench: Callable[..., Bench]) -> None:
    gate, failures = Gate(), [None, None, RuntimeError("out of memory")]
    engine = colour_engine(gate=gate, fail_when=lambda slot, batch: failures.pop(0) if failures else None)
    place = bench(engine, slots=2)
    place.occupy()
    doomed = [place.send(png(colour)) for colour in random_colours(np.random.default_rng(2), 3)]
    gate.set()
    answers = place.answers()
    for job in doomed:
        assert answers[job].verdict is Verdict.FAILED
        assert "out of memory" in answers[job].message
        assert answers[job].batch_size == 3
        assert answers[job].engine == "colour/fake/fp32/cpu"
    after = place.send(png((9, 8, 7)))
    assert seen(place.answers()[after]) == (9, 8, 7)
    assert place.lane.status().frames == 3, "what failed was not inferred"


class FussyModel(PreparedModel):
    """Cannot make sense of a red frame."""

    def decode(self, outputs: Mapping[str, NDArray[Any]], placement: Placement, options: DecodeOptions) -> Output:
        if outputs["embedding"][0] == 255:
            raise IndexError("no such class")
        return super().decode(outputs, placement, options)


def test_outputs_that_cannot_be_understood_fail_their_frame_alone(bench: Callable[..., Bench]) -> None:
    gate, model = Gate(), colour_model(32, 24)
    fussy = FussyModel(model.manifest, model.labels, model.onnx_path, model.key)
    place = bench(colour_engine(gate=gate), slots=2, model=fussy)
    place.occupy()
    jobs = [place.send(png(colour)) for colour in ((1, 1, 1), (255, 0, 0), (2, 2, 2))]
    gate.set()
    answers = place.answers()
    assert answers[jobs[1]].verdict is Verdict.FAILED
    assert answers[jobs[1]].message == "post-processing failed: IndexError"
    assert (seen(answers[jobs[0]]), seen(answers[jobs[2]])) == ((1, 1, 1), (2, 2, 2))


def test_a_frame_without_time_is_answered_by_submit_itself(bench: Callable[..., Bench]) -> None:
    place = bench(colour_engine())
    job = place.send(png((1, 2, 3)), budget_ms=0)
    answer = place.answers(1)[job]
    assert answer.verdict is Verdict.INFEASIBLE
    assert (answer.frame_width, answer.frame_height, answer.batch_size) == (48, 32, 0)
    assert answer.ready_ns > 0
    assert place.lane.status().batches == 0


def test_frames_behind_a_stuck_engine_expire_while_it_is_stuck(bench: Callable[..., Bench]) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate), slots=2)
    stuck = place.send(png((1, 2, 3)))
    gate.wait_for_held(1)
    budget_ms, verdicts = 100.0, set[Verdict]()
    while verdicts != {Verdict.EXPIRED} or place.decoding.count < 2:
        planned = place.send(png((4, 5, 6)), budget_ms=budget_ms)
        waiting = place.send(png((7, 8, 9)), budget_ms=budget_ms)
        answers = place.answers(len(place.jobs) - 1)
        verdicts = {answers[planned].verdict, answers[waiting].verdict}
        assert verdicts <= {Verdict.EXPIRED, Verdict.INFEASIBLE}
        budget_ms *= 4  # once more, if this machine took so long that there was no hope from the beginning
    gate.set()
    assert seen(place.answers()[stuck]) == (1, 2, 3)


def test_a_newer_frame_supersedes_the_one_that_waits(bench: Callable[..., Bench]) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate), slots=2)
    place.occupy()
    stream = camera_stream()
    jobs = [place.send(png(colour), stream) for colour in ((1, 1, 1), (2, 2, 2), (3, 3, 3))]
    superseded = place.answers(2)
    assert [superseded[job].verdict for job in jobs[:2]] == [Verdict.SUPERSEDED] * 2
    gate.set()
    assert seen(place.answers()[jobs[2]]) == (3, 3, 3)


def test_withdrawn_frames_are_not_run_and_nobody_is_told(bench: Callable[..., Bench]) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate), slots=2)
    place.occupy()
    gone = camera_stream("gone", delivery=Delivery.QUEUE)
    for _ in range(3):
        place.send(png((1, 1, 1)), gone)
    stays = place.send(png((2, 2, 2)))
    place.withdraw(gone)
    assert place.lane.status().waiting == 1
    gate.set()
    answers = place.answers(3)
    assert seen(answers[stays]) == (2, 2, 2)
    assert not any(job.stream is gone for job in answers)
    place.lane.close()
    assert len(place.answers(3)) == 3


def test_closing_answers_what_waits_and_then_releases_the_engine(bench: Callable[..., Bench]) -> None:
    gate = Gate()
    place = bench(colour_engine(gate=gate, max_batch=2), slots=2)
    place.occupy()
    colours = random_colours(np.random.default_rng(3), 7)
    jobs = [place.send(png(colour)) for colour in colours]
    closing = threading.Thread(target=place.lane.close)
    closing.start()
    assert place.answers(0) == {}
    assert place.engine.loaded
    gate.set()
    closing.join(WITHIN_S)
    assert not closing.is_alive()
    answers = place.answers()
    assert [seen(answers[job]) for job in jobs] == colours
    assert not place.engine.loaded


def test_an_idle_lane_closes_at_once_and_twice() -> None:
    engine = colour_engine()
    lane = Lane("colour", engine, latency_model(lambda batch: MS), new_slots("colour", engine, 3))
    lane.close()
    lane.close()
    assert not engine.loaded


def test_raw_frames_are_read_from_shared_memory(
    bench: Callable[..., Bench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_memory, "_FOLDER", str(tmp_path))
    raw = plain((11, 22, 33)).tobytes()
    (tmp_path / "foveate-door").write_bytes(b"before" + raw)
    fields: dict[str, Any] = {"format": PixelFormat.RAW_RGB, "width": 48, "height": 32, "delivery": Delivery.QUEUE}
    place, stream = bench(colour_engine()), camera_stream(**fields)
    there = place.send(SharedMemoryRef("foveate-door", 6, len(raw)), stream)
    missing = place.send(SharedMemoryRef("foveate-window", 0, len(raw)), stream)
    answers = place.answers()
    assert seen(answers[there]) == (11, 22, 33)
    assert answers[missing].verdict is Verdict.BAD_FRAME
    assert "cannot be opened" in answers[missing].message


def test_times_and_statistics_account_for_every_run(bench: Callable[..., Bench]) -> None:
    place = bench(colour_engine(max_batch=4))
    began_ns = time.monotonic_ns()
    for colour in random_colours(np.random.default_rng(4), 20):
        place.send(png(colour))
    answers = place.answers()
    took_ns = time.monotonic_ns() - began_ns
    for answer in answers.values():
        times = answer.times
        stages = (times.receive_queue, times.decode, times.wait, times.infer, times.postprocess)
        assert min(stages) >= 0
        assert 0 < sum(stages) <= took_ns
        assert times.predicted > 0
        assert (times.copy_in, times.copy_out, times.cascade) == (0, 0, 0)
    place.lane.close()
    statistics = place.lane.status()
    assert (statistics.frames, statistics.waiting) == (20, 0)
    assert 5 <= statistics.batches <= 20
    assert 0 < statistics.busy_share <= 1
    assert statistics.batch_cap == 4


def test_a_batch_that_waits_is_run_by_the_thread_whose_run_has_just_ended(bench: Callable[..., Bench]) -> None:
    threads: list[int] = []
    gate = Gate()

    def note(slot: Slot, batch: int) -> None:
        threads.append(threading.get_ident())

    place = bench(colour_engine(max_batch=1, fail_when=note, gate=gate))
    place.occupy()
    deadline = time.monotonic() + WITHIN_S
    while not place.lane._decoded:
        assert time.monotonic() < deadline, "the second batch never stood behind the first"
        time.sleep(0.001)
    gate.set()
    assert [answer.verdict for answer in place.answers().values()] == [Verdict.OK] * 2
    assert threads[0] == threads[1], "or the engine would wait for a thread to wake up"


def test_a_reply_is_learned_with_the_next_run(bench: Callable[..., Bench]) -> None:
    place = bench(colour_engine())
    for index in range(8):
        for _ in range(50):
            place.lane.observe_reply(5 * MS)
        place.send(png((1, 2, index)))
        place.answers()
    place.lane.close()
    assert place.lane.latency.margin_ns >= 5 * MS


def test_lanes_of_a_device_run_one_at_a_time_and_each_answers_its_own_frames(bench: Callable[..., Bench]) -> None:
    shared = DeviceTime()
    places = [
        bench(colour_engine(latency_s=lambda batch: 0.002, max_in_flight=most), device_time=shared) for most in (1, 2)
    ]
    colours = random_colours(np.random.default_rng(5), 60)
    for index, colour in enumerate(colours):
        places[index % 2].send(png(colour))
    runs = []
    for number, place in enumerate(places):
        answers = place.answers()
        assert [seen(answers[job]) for job in place.jobs] == colours[number::2]
        runs += [(answer.run.started_ns, answer.run.ended_ns, number) for answer in answers.values() if answer.run]
    assert {number for *_, number in runs} == {0, 1}
    runs.sort()
    for before, after in pairwise(runs):
        assert before[2] == after[2] or before[1] <= after[0], "two lanes ran side by side"


def test_a_lane_counts_on_what_another_one_runs(bench: Callable[..., Bench]) -> None:
    shared, gate = DeviceTime(), Gate()
    slow = bench(colour_engine(gate=gate), device_time=shared, profile_ms=30_000)
    quick = bench(colour_engine(), device_time=shared)
    slow.send(png((1, 1, 1)))
    gate.wait_for_held(1)
    hopeless = quick.send(png((2, 2, 2)), budget_ms=10_000)
    patient = quick.send(png((3, 3, 3)), budget_ms=60_000)
    assert quick.answers(1)[hopeless].verdict is Verdict.INFEASIBLE
    gate.set()
    assert seen(quick.answers()[patient]) == (3, 3, 3), "it is told when the device is free before it was predicted"


def test_of_two_lanes_the_one_with_the_higher_class_plans_first(bench: Callable[..., Bench]) -> None:
    shared, gate = DeviceTime(), Gate()
    lower = bench(colour_engine(gate=gate), device_time=shared)
    higher = bench(colour_engine(), device_time=shared)
    lower.occupy()
    late = lower.send(png((1, 1, 1)), camera_stream("low", priority=1))
    first = higher.send(png((2, 2, 2)), camera_stream("high", priority=0))
    gate.set()
    runs = higher.answers()[first].run, lower.answers()[late].run
    assert runs[0] is not None
    assert runs[1] is not None
    assert runs[0].batch < runs[1].batch


def test_a_lane_that_holds_back_is_not_waited_for(bench: Callable[..., Bench]) -> None:
    shared = DeviceTime()
    holds = bench(colour_engine(max_batch=2), device_time=shared, hold_ms=50_000)
    other = bench(colour_engine(), device_time=shared)
    held = holds.send(png((1, 1, 1)), camera_stream("held", priority=0))
    passing = [other.send(png((2, 2, index)), camera_stream(f"{index}", priority=1)) for index in range(5)]
    assert [seen(other.answers()[job]) for job in passing] == [(2, 2, index) for index in range(5)]
    assert holds.lane.status().waiting == 1
    holds.send(png((3, 3, 3)))
    answers = holds.answers()
    assert answers[held].batch_size == 2, "it was held until it was full"


def test_frames_behind_another_lanes_stuck_run_expire_while_it_is_stuck(bench: Callable[..., Bench]) -> None:
    shared, gate = DeviceTime(), Gate()
    stuck, other = bench(colour_engine(gate=gate), device_time=shared), bench(colour_engine(), device_time=shared)
    stuck.send(png((1, 1, 1)))
    gate.wait_for_held(1)
    for colour in random_colours(np.random.default_rng(6), 5):
        other.send(png(colour), budget_ms=300)
    assert {answer.verdict for answer in other.answers().values()} <= {Verdict.EXPIRED, Verdict.INFEASIBLE}
    gate.set()
    assert seen(stuck.answers()[stuck.jobs[0]]) == (1, 1, 1)


def test_closing_one_lane_of_a_device_leaves_the_other(bench: Callable[..., Bench]) -> None:
    shared = DeviceTime()
    first, second = (bench(colour_engine(), device_time=shared) for _ in range(2))
    job = first.send(png((1, 2, 3)))
    first.lane.close()
    assert seen(first.answers()[job]) == (1, 2, 3)
    after = second.send(png((4, 5, 6)))
    assert seen(second.answers()[after]) == (4, 5, 6)


def test_a_lost_device_is_told_of_once_and_not_tried_again(bench: Callable[..., Bench]) -> None:
    gate, told = Gate(), list[tuple[str, str]]()
    tried = []

    def fail(slot: object, batch: int) -> DeviceLost:
        tried.append(batch)
        return DeviceLost("an illegal address: restart it")

    place = bench(colour_engine(gate=gate, fail_when=fail), slots=2)
    place.device.when_lost(lambda pipeline, reason: told.append((pipeline, reason)))
    place.occupy()
    for colour in random_colours(np.random.default_rng(7), 3):
        place.send(png(colour))
    gate.set()
    answers = place.answers()
    after = place.send(png((1, 2, 3)))
    answers = place.answers()
    assert {answer.verdict for answer in answers.values()} == {Verdict.FAILED}
    assert "illegal address" in answers[after].message
    assert 1 <= len(tried) <= 2, "the one behind it had begun already, perhaps"
    assert told == [("colour", "an illegal address: restart it")]
    with pytest.raises(EngineUnavailable, match="illegal address"):
        place.device.admit(device_stream(), place.lane)


class Fault:
    """A step of one lane's scheduler that fails when it is done, so that what it took out is in nobody's hands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str, lane: Lane) -> None:
        self._failing, done = lane._scheduler, getattr(Scheduler, step)

        def fail(scheduler: Scheduler[Entry], *arguments: Any) -> Any:
            outcome = done(scheduler, *arguments)
            if scheduler is self._failing:
                raise ZeroDivisionError("a fault of the scheduler")
            return outcome

        monkeypatch.setattr(Scheduler, step, fail)


@pytest.mark.parametrize("step", ["plan", "arrive", "expire", "withdraw"])
def test_a_fault_of_the_scheduler_ends_the_lane_and_leaves_no_frame_without_an_answer(
    step: str, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate, told = Gate(), list[tuple[str, str]]()
    place = bench(colour_engine(gate=gate), slots=2)
    place.device.when_lost(lambda pipeline, reason: told.append((pipeline, reason)))
    place.occupy()
    waiting = [place.send(png(colour)) for colour in random_colours(np.random.default_rng(8), 3)]
    assert place.lane.status().waiting == 3
    Fault(monkeypatch, step, place.lane)
    place.lane.withdraw(StreamShare())
    waiting.append(place.send(png((1, 2, 3))))
    gate.set()
    answers = place.answers()
    assert {answers[job].verdict for job in waiting} == {Verdict.FAILED}
    assert {answers[job].message for job in waiting} == {"the lane failed: ZeroDivisionError"}
    assert seen(answers[place.jobs[0]]) == (0, 0, 0), "what runs comes back"
    place.lane.close()
    assert told == [("colour", "the lane failed: ZeroDivisionError")]
    assert caplog.text.count("the lane of colour cannot go on") == 1
    assert caplog.text.count("ZeroDivisionError: a fault of the scheduler") == 1, "with where it comes from"
    after = place.send(png((4, 5, 6)))
    assert place.answers()[after].verdict is Verdict.FAILED
    assert place.lane.status().waiting == 0
    with pytest.raises(EngineUnavailable, match="the lane failed"):
        place.device.admit(device_stream(), place.lane)


@pytest.mark.parametrize("step", ["bid", "beside"])
def test_a_fault_that_another_lane_of_the_device_meets_is_not_its_own(
    step: str, bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = DeviceTime()
    broken = bench(colour_engine(max_batch=2), device_time=shared, hold_ms=50_000)
    other = bench(colour_engine(), device_time=shared)
    held = broken.send(png((1, 1, 1)))
    Fault(monkeypatch, step, broken.lane)
    job = other.send(png((2, 2, 2)))
    assert seen(other.answers()[job]) == (2, 2, 2)
    assert broken.answers()[held].verdict is Verdict.FAILED
    assert (broken.lane.lost, other.lane.lost) == ("the lane failed: ZeroDivisionError", "")


def test_a_thread_that_cannot_tell_of_a_refusal_does_not_end_in_silence(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, told = bench(colour_engine()), threading.Event()
    place.lane.when_lost = lambda reason: told.set()
    refuse = place._ingest.refuse

    def fail_once(refused: Any) -> None:
        monkeypatch.setattr(place._ingest, "refuse", refuse)
        raise ZeroDivisionError("a fault of the way back")

    monkeypatch.setattr(Scheduler, "plan", refuse_all)
    monkeypatch.setattr(place._ingest, "refuse", fail_once)
    place.send(png((1, 2, 3)))
    assert told.wait(WITHIN_S)
    assert place.lane.lost == "the lane failed: ZeroDivisionError"


def refuse_all(scheduler: Scheduler[Entry], now_ns: int, engine_free_ns: int) -> Plan[Entry]:
    """A plan that starts nothing."""
    return Plan((), tuple(scheduler.expire(1 << 60, engine_free_ns)))


def test_no_run_is_entered_for_a_batch_of_which_no_frame_is_left(bench: Callable[..., Bench]) -> None:
    """As when all of its frames turn out to be broken just as the run before it ends."""
    lane = bench(colour_engine()).lane
    entry = Entry(cast(IngestPort, None), 1, time.monotonic_ns() + 60_000 * MS)
    with lane.device_time.lock:
        turns = lane.device_time.turns
        running, empty = (Batch(turns.take(MS, 0, lane, 1), 0, (entry,)) for _ in range(2))
        turns.ready(running.turn)
        turns.begin(running.turn, MS, 0)
        turns.ready(empty.turn)
        waits = _Carried(1, empty)
        lane._decoded.append(waits)
    entry.out = True
    assert lane._end(_Carried(0, running, (0, 1, RunTimes(0, 1, 0)))) is False
    assert (waits.slot, waits.batch, waits.ran) == (1, empty, None)
    with lane.device_time.lock:
        lane._leave(waits)
