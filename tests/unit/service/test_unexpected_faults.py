"""An error that nobody expected, at the edge of a thread, a task or a message: whoever waits for it hears of it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import numpy as np
import pytest

from foveate.engines.errors import EngineError, FoveateError
from foveate.service import embedded, engine_process, ingest_process, remote_ingest, server, supervisor
from foveate.service.batch import Batch, Entry
from foveate.service.boundary import Refused, Row, VideoUnit
from foveate.service.config import load_config
from foveate.service.device_video import DeviceVideo
from foveate.service.frame import Frame, PixelFormat, StreamOptions, Verdict
from foveate.service.ingest import AtDevice, Ingest
from foveate.service.link import Link, LinkBroken
from foveate.service.pipeline import PipelineSet
from foveate.service.remote_device import RemoteDevice
from foveate.service.remote_ingest import serve_ingest
from foveate.service.remote_video import RemoteVideo
from foveate.service.stream import CameraStream, StreamRecord
from foveate.service.supervisor import Supervisor
from foveate.service.video import VideoStream
from support.waiting import until, until_in_loop


def fail(*_: Any, **__: Any) -> NoReturn:
    raise ZeroDivisionError("a fault of ours")


class Held:
    """What a device has, and is told of it; `faulty` ones cannot bear it."""

    def __init__(self, *, faulty: bool = False) -> None:
        self.stream = CameraStream(StreamRecord("camera", ""), StreamOptions("p", 10**9), 8)
        self.prepare_ns, self.over = 0, False
        self.told: list[str] = []
        self._faulty = faulty

    def refused(self, refusal: Refused, engine: str) -> None:
        if self._faulty:
            fail()
        self.told.append(refusal.verdict.value)

    def failed(self, message: str) -> None:
        self.told.append(message)


class FakeDevice:
    """Takes whatever is handed to it."""

    def submit(self, ticket: object) -> None:
        pass


def hand_over(ingest: Ingest, held: Held) -> int:
    return ingest.hand_over(cast(AtDevice, held), cast(Any, FakeDevice()), 1, 0)


def test_a_fault_in_one_frames_answer_is_its_own_alone() -> None:
    ingest = Ingest(lambda call: call(), cast(Executor, None))
    before, faulty, after = Held(), Held(faulty=True), Held()
    numbers = [hand_over(ingest, held) for held in (before, faulty, after)]
    ingest.settle_refused([Refused(number, Verdict.EXPIRED, "late") for number in numbers])
    assert (before.told, after.told) == (["expired"], ["expired"])
    assert faulty.told == ["the service failed: ZeroDivisionError"]


def test_frames_for_which_no_thread_can_be_had_are_failed() -> None:
    threads, done = ThreadPoolExecutor(1), list[tuple[int, bool]]()
    threads.shutdown()
    ingest = Ingest(lambda call: call(), threads)
    ingest.serve(cast(Any, SimpleNamespace(name="p", model=None, cascade=(), engine_name="e")), [cast(Any, range(4))])
    held = [Held(), Held()]
    rows = [Row(hand_over(ingest, each), at) for at, each in enumerate(held)]
    ingest.start_decoding("p", 0, rows, lambda frame, succeeded, encoded=None: done.append((frame, succeeded)))
    assert done == [(row.frame, False) for row in rows], "a lane waits for each"
    assert [each.told for each in held] == [["failed"], ["failed"]]


def test_a_row_that_is_told_of_twice_counts_once() -> None:
    one, other = (Entry(cast(Any, None), number, 0) for number in range(2))
    batch = Batch(0, 0, (one, other))
    batch.decoded(one, succeeded=False)
    batch.decoded(one, succeeded=False)
    assert not batch._decoded.is_set()
    batch.decoded(other, succeeded=True)
    batch.wait_for_pixels()


@pytest.fixture
def engine_side() -> Iterator[Link]:
    """The link to a device of which every call fails."""
    ours, theirs = (Link(end) for end in Link.pair())
    session = SimpleNamespace(submit=fail, admit_now=fail, rates=fail, close=lambda: None)
    video = DeviceVideo.none("there is no such GPU")
    device = cast(Any, SimpleNamespace(session=lambda ingest: session, video=video))
    serving = threading.Thread(target=serve_ingest, args=(theirs, device, PipelineSet({}, "p"), {}))
    serving.start()
    assert ours.receive()[0][0][0] == "serving"
    yield ours
    ours.hang_up()
    serving.join()
    ours.close()


def test_an_engine_process_answers_for_messages_that_it_fails_at(engine_side: Link) -> None:
    engine_side.send("submit", (7, 1, 0, 0, False), [])
    assert engine_side.receive()[0][0] == ("refuse", [(7, "failed", "the engine process failed: ZeroDivisionError", 0)])
    engine_side.send("admit", 3, 1, None)
    kind, number, outcome = engine_side.receive()[0][0]
    assert (kind, number, type(outcome)) == ("answer", 3, EngineError)
    engine_side.send("decode", 4, 1, ("a unit that makes no sense",))
    kind, number, outcome = engine_side.receive()[0][0]
    assert (kind, number, type(outcome)) == ("video", 4, EngineError)


def test_the_thread_that_advises_an_ingest_goes_on(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    tried, calls = threading.Semaphore(0), iter((fail, lambda _: tried.release()))
    monkeypatch.setattr(remote_ingest, "_ADVISED_EVERY_S", 0.001)
    monkeypatch.setattr(remote_ingest._Advice, "tell", lambda advice: next(calls, lambda _: None)(advice))
    request.getfixturevalue("engine_side")
    assert tried.acquire(timeout=20), "once more, after the first had failed"


def test_a_streams_rate_is_looked_at_again_after_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_ADVISED_EVERY_S", 0.001)
    looked = list[int]()

    def advise() -> None:
        looked.append(len(looked))
        if not looked[-1]:
            fail()

    async def go() -> None:
        advising = asyncio.create_task(server._advise(cast(Any, SimpleNamespace(advise=advise))))
        await until_in_loop(lambda: len(looked) > 1, 20)
        advising.cancel()

    asyncio.run(go())


def test_an_engine_process_that_cannot_serve_an_ingest_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(engine_process, "serve_ingest", fail)
    monkeypatch.setattr(os, "_exit", ended.append)
    engine_process._serve_ingest(cast(Any, None), cast(Any, None), cast(Any, None), {})
    assert ended == [1]


def test_an_ingest_fails_frames_of_messages_that_it_cannot_take_in() -> None:
    async def go() -> None:
        ours, theirs = (Link(end) for end in Link.pair())
        ingest = Ingest(lambda call: call(), cast(Executor, None))
        device = RemoteDevice(ingest, lambda: None)
        chosen, ran = Held(), Held()
        theirs.send("prepare", "of which nobody has heard", 0, [(hand_over(ingest, chosen), 0, False)])
        theirs.send("ran", "of which nobody has heard", (), [(hand_over(ingest, ran), [])])
        device.connect(ours)
        await until_in_loop(lambda: bool(chosen.told and ran.told), 20)
        assert (chosen.told, ran.told) == (["failed"], ["failed"])
        assert theirs.receive()[0][0] == ("prepared", 1, False, None), "the device waits for its row"
        device.lose()
        theirs.close()

    asyncio.run(go())


def test_a_picture_that_cannot_be_handed_on_is_answered() -> None:
    work, loop = list[Any](), list[Any]()
    threads = cast(Any, SimpleNamespace(submit=lambda *call: work.append(call)))
    picture = SimpleNamespace(width=4, height=3, nbytes=36)
    decoder = cast(Any, SimpleNamespace(decode=lambda data, follows: picture))
    video = VideoStream(decoder, threads, loop.append, fail)
    stream = CameraStream(StreamRecord("camera", ""), StreamOptions("p", 10**9, format=PixelFormat.H264), 8)
    job = stream.receive(Frame(1, 1, 10**18, b"unit"))
    video.take(job)
    call, *arguments = work.pop()
    call(*arguments)
    loop.pop()()
    assert job.answer is not None
    assert (job.answer.verdict, job.answer.message) == (Verdict.FAILED, "the service failed: ZeroDivisionError")


class Answers:
    """The link to a process that asked."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, *message: Any, files: Sequence[int] = ()) -> None:
        self.sent.append(message)


def test_a_supervisor_that_fails_at_a_call_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> list[Any]:
        made, link = Supervisor(load_config(devices=("cpu",)), 1), Answers()
        monkeypatch.setattr(made._directory, "claim", fail)
        monkeypatch.setattr(made, "status", fail)
        await made._claim(made._ingests[0], cast(Any, link), 1, "door", "", "objects")
        await made._tell_status(cast(Any, link), 2)
        return link.sent

    (_, first, claim), (_, second, status) = asyncio.run(go())
    assert (first, type(claim), str(claim)) == (1, FoveateError, "a stream could not be entered: ZeroDivisionError")
    assert (second, type(status)) == (2, FoveateError)


def test_a_supervisor_takes_the_messages_behind_one_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = list[tuple[int, int]]()
    monkeypatch.setattr(os, "kill", lambda *what: killed.append(what))

    async def go() -> None:
        made = Supervisor(load_config(devices=("cpu",)), 1)
        (ingest,), (engine,) = made._ingests, made._engines
        messages: list[Any] = [(("what", "is this"), []), (("answer", 1, "heard"), [])]
        child = cast(Any, SimpleNamespace(link=SimpleNamespace(receive=lambda: messages), pid=12345))
        heard = asyncio.get_running_loop().create_future()
        ingest.calls._waiting[1] = heard
        made._read(ingest, child)
        assert (await heard, killed) == ("heard", [])
        messages[:] = [(("ready", "or not"), [])]
        made._read(engine, child)
        assert killed == [(12345, signal.SIGKILL)], "nothing else would tell that it never will be"

    asyncio.run(go())


def test_an_ingest_that_has_lost_its_link_to_an_engine_alone_gets_another() -> None:
    async def go() -> None:
        made = Supervisor(load_config(devices=("cpu",)), 1)
        (ingest,), (engine,) = made._ingests, made._engines
        engine.pipelines = PipelineSet({}, "p")
        asked, served = Answers(), Answers()
        ingest.child, engine.child = (cast(Any, SimpleNamespace(link=link)) for link in (asked, served))
        made._handle(ingest, ("unlinked", 0), [])
        assert (asked.sent, served.sent) == ([("device", 0)], [("ingest",)])
        engine.pipelines = None
        made._handle(ingest, ("unlinked", 0), [])
        assert len(asked.sent) == 1, "it has died, and is introduced when it is back"

    asyncio.run(go())


def test_a_process_that_cannot_be_started_now_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[str]()

    def child(program: str) -> Any:
        started.append(program)
        if len(started) == 1:
            raise BlockingIOError("no more processes")
        raise AssertionError("the second time it is started")

    monkeypatch.setattr(supervisor, "Child", child)
    monkeypatch.setattr(supervisor, "_LONGEST_PAUSE_S", 0.01)

    async def go() -> None:
        made = Supervisor(load_config(devices=("cpu",)), 1)
        made._engines[0].pause_s = 0.01
        with pytest.raises(AssertionError, match="the second time"):
            await made._relaunch(made._engines[0])

    asyncio.run(go())


def test_an_ingest_process_that_fails_as_it_starts_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ended(BaseException):
        """In place of the process's end."""

    def end(code: int) -> NoReturn:
        raise Ended(code)

    monkeypatch.setattr(ingest_process, "IngestServer", fail)
    monkeypatch.setattr(os, "_exit", end)

    async def go() -> None:
        config = load_config(devices=("cpu",))
        counts = Supervisor(config, 1)._ingests[0].counts_file
        with pytest.raises(Ended):
            await ingest_process._IngestProcess(cast(Any, None))._start(config, "unix:/nowhere", 0, counts)

    asyncio.run(go())


def test_an_ingest_process_takes_the_messages_behind_one_that_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Answers()
    link = cast(Any, SimpleNamespace(receive=lambda: [(("device", 9), []), (("ping", 4), [])], send=sent.send))
    process = ingest_process._IngestProcess(link)
    process._read(link)
    assert sent.sent == [("answer", 4, True)]

    def broken() -> NoReturn:
        raise LinkBroken

    ended = list[int]()
    monkeypatch.setattr(os, "_exit", ended.append)
    link.receive = broken
    process._read(link)
    assert ended == [1]


def test_an_embedded_server_ends_with_its_parent_whatever_that_says_last(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = list[int]()
    monkeypatch.setattr(os, "kill", lambda pid, what: ended.append(what))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(fileno=fail))
    with pytest.raises(ZeroDivisionError):
        embedded._stop_with_parent()
    assert ended == [signal.SIGTERM]


def test_a_picture_that_cannot_be_taken_over_leaves_nobody_waiting() -> None:
    video = RemoteVideo(lambda *message: True, lambda call: None, "gone")
    with ThreadPoolExecutor(1) as threads:
        bringing = threads.submit(video.pixels, 1, (4, 4))
        until(lambda: video._waiting)
        video.answer(1, (4, 4, 3), [os.memfd_create("empty")])
        with pytest.raises(EngineError, match="could not be taken over"):
            bringing.result()


def test_pictures_are_brought_down_while_all_decoders_are_busy() -> None:
    """A lane waits for them."""
    going_on = threading.Event()
    ours, theirs = (Link(end) for end in Link.pair())
    session = SimpleNamespace(
        decode_unit=lambda stream, unit: going_on.wait(60) and None,
        picture_pixels=lambda picture, size: np.full((size[1], size[0], 3), picture, np.uint8),
        rates=dict,
        close=lambda: None,
    )
    video = DeviceVideo.none("none is needed here")
    device = cast(Any, SimpleNamespace(session=lambda ingest: session, video=video))
    serving = threading.Thread(target=serve_ingest, args=(theirs, device, PipelineSet({}, "p"), {}))
    serving.start()
    assert ours.receive()[0][0][0] == "serving"
    for number in range(50):
        ours.send("decode", number, 1, tuple(VideoUnit(b"", None, True, True)))
    ours.send("pixels", 50, 7, (4, 2))
    (((kind, number, shape), (file,)),) = ours.receive()
    assert (kind, number, shape) == ("video", 50, (2, 4, 3))
    assert os.pread(file, 100, 0) == bytes([7] * 24)
    os.close(file)
    going_on.set()
    ours.hang_up()
    serving.join()
    ours.close()
    video.close()
