"""Who is connected where: limits, names, taking a stream up again, ingests that die."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from foveate.engines.errors import EngineUnavailable, Overloaded, StreamTaken
from foveate.service import directory as directory_module
from foveate.service.directory import StreamDirectory
from foveate.service.ledger import Ledger
from foveate.service.stream import StreamRecord

SECOND = 1_000_000_000


class Clock:
    """Stands in for the directory's `time`."""

    def __init__(self) -> None:
        self.now_ns = 0

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(directory_module, "time", clock)
    return clock


def new_directory(max_streams: int, resume_s: float, devices: int = 1) -> StreamDirectory:
    directory = StreamDirectory(max_streams, resume_s)
    directory.serving.update((device, {"objects"}) for device in range(devices))
    return directory


class Holder:
    """An ingest that lets go of a stream at once, or never."""

    def __init__(self, directory: StreamDirectory) -> None:
        self.directory = directory
        self.records: dict[str, StreamRecord] = {}
        self.hangs = False
        self.evicted: list[str] = []

    def open(self, name: str = "door", token: str = "") -> StreamRecord:
        claim = asyncio.run(self.directory.claim(self, name, token, "objects"))
        self.records[claim.record.stream_id] = claim.record
        return claim.record

    def release(self, record: StreamRecord, *, resumable: bool = True) -> None:
        self.directory.release(self, record, resumable=resumable)

    def evict(self, stream_id: str) -> None:
        self.evicted.append(stream_id)
        if not self.hangs:
            self.release(replace(self.records[stream_id], last_sequence=7, ledger=Ledger(received=8)))


def test_a_full_server_takes_one_again_when_one_has_left() -> None:
    holder = Holder(new_directory(max_streams=2, resume_s=10))
    first = holder.open("first")
    holder.open("second")
    with pytest.raises(Overloaded, match="2 streams are open"):
        holder.open("third")
    holder.release(first)
    holder.open("third")
    assert len(holder.directory) == 2


def test_a_name_is_taken_whichever_ingest_holds_it() -> None:
    directory = new_directory(8, 10)
    Holder(directory).open()
    with pytest.raises(StreamTaken, match="'door' is open already"):
        Holder(directory).open()


def test_names_and_tokens_that_are_made_up_differ() -> None:
    holder = Holder(new_directory(100, 10))
    records = [holder.open("") for _ in range(50)]
    assert len({record.stream_id for record in records}) == len({record.resume_token for record in records}) == 50


def test_a_broken_stream_is_taken_up_again_elsewhere_with_all_that_is_known_of_it(clock: Clock) -> None:
    directory = new_directory(8, resume_s=30)
    one, other = Holder(directory), Holder(directory)
    record = replace(one.open(), last_sequence=41, ledger=Ledger(received=42))
    one.release(record)
    clock.now_ns = 30 * SECOND - 1
    assert other.open("", record.resume_token) == record


def test_a_broken_stream_is_forgotten_after_its_time(clock: Clock) -> None:
    holder = Holder(new_directory(8, resume_s=30))
    record = holder.open()
    holder.release(record)
    clock.now_ns = 30 * SECOND + 1
    assert holder.open("", record.resume_token).stream_id != "door"
    assert holder.open().resume_token != record.resume_token


@pytest.mark.parametrize("token", ["unknown", "mit Ümlaut", "door"])
def test_a_token_that_nobody_has_takes_nothing_up(token: str) -> None:
    holder = Holder(new_directory(8, 30))
    holder.release(holder.open("gate"))
    holder.open()
    assert holder.open("", token).stream_id not in ("gate", "door")
    assert holder.evicted == []


def test_resuming_can_be_switched_off() -> None:
    holder = Holder(new_directory(8, resume_s=0))
    record = holder.open()
    assert holder.open("new", record.resume_token).stream_id == "new"
    assert holder.evicted == []
    holder.release(record)
    assert holder.open("newer", record.resume_token).stream_id == "newer"


def test_a_connection_that_only_looks_alive_is_ended_and_cannot_touch_its_successor() -> None:
    directory = new_directory(8, 30)
    one, other = Holder(directory), Holder(directory)
    record = one.open()
    again = other.open("", record.resume_token)
    assert (one.evicted, again.stream_id, again.last_sequence, again.ledger.received) == (["door"], "door", 7, 8)
    one.release(record)  # the old connection comes to its own end
    with pytest.raises(StreamTaken):
        one.open()


def test_an_ingest_that_hangs_does_not_keep_its_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "_EVICTED_WITHIN_S", 0.01)
    directory = new_directory(8, 30)
    one, other = Holder(directory), Holder(directory)
    one.hangs = True
    again = other.open("", one.open().resume_token)
    assert (again.stream_id, again.last_sequence) == ("door", None)


def test_a_stream_that_finds_no_room_can_still_be_taken_up_later() -> None:
    holder = Holder(new_directory(max_streams=1, resume_s=30))
    record = holder.open()
    holder.release(record)
    guest = holder.open("guest")
    with pytest.raises(Overloaded):
        holder.open("", record.resume_token)
    holder.release(guest)
    assert holder.open("", record.resume_token).stream_id == "door"


def test_streams_of_an_ingest_that_died_are_taken_up_by_name_with_nothing_remembered() -> None:
    directory = new_directory(8, 30)
    dead, alive = Holder(directory), Holder(directory)
    record, other = dead.open(), alive.open("other")
    directory.lose(dead)
    assert len(directory) == 1
    again = alive.open("", record.resume_token)
    assert (again.stream_id, again.last_sequence, again.ledger) == ("door", None, Ledger())
    alive.release(other)


def test_streams_go_to_the_device_with_the_fewest() -> None:
    directory = new_directory(80, 30, devices=2)
    holder = Holder(directory)

    def device(name: str) -> int:
        return asyncio.run(directory.claim(holder, name, "", "objects")).device

    assert [device("a"), device("b"), device("c")] == [0, 1, 0]
    holder.release(StreamRecord("a", "x"))
    holder.release(StreamRecord("c", "x"))
    assert device("d") == 0
    del directory.serving[0]
    assert device("e") == 1
    directory.serving.clear()
    with pytest.raises(EngineUnavailable, match="started again"):
        device("f")


def test_streams_go_only_to_devices_that_serve_their_pipeline() -> None:
    directory = new_directory(80, 30, devices=2)
    directory.serving[1] = {"objects", "faces"}
    holder = Holder(directory)

    def device(name: str, pipeline: str) -> int:
        return asyncio.run(directory.claim(holder, name, "", pipeline)).device

    assert [device(name, "faces") for name in "abc"] == [1, 1, 1]
    assert [device(name, "objects") for name in "defgh"] == [0, 0, 0, 0, 1]
    with pytest.raises(EngineUnavailable, match="no engine serves pipeline 'plates' now"):
        device("i", "plates")


def test_a_stream_that_finds_no_engine_can_still_be_taken_up_later() -> None:
    directory = new_directory(8, 30)
    holder = Holder(directory)
    record = replace(holder.open(), last_sequence=41)
    holder.release(record)
    served = directory.serving.pop(0)
    with pytest.raises(EngineUnavailable):
        holder.open("", record.resume_token)
    directory.serving[0] = served
    assert holder.open("", record.resume_token) == record
