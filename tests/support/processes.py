"""A whole service of several processes over the fake detector, and ways to kill its parts."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import grpc

from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import load_config
from foveate.service.supervisor import Programs, Supervisor
from support.service import grey_config, loop_in_thread

__all__ = ["ServiceOfProcesses", "gone", "service_of_processes", "shared_memory_names"]

T = TypeVar("T")

FAKE_ENGINE = "support.fake_engine_process"
POISONED_INGEST = "support.poisoned_ingest_process"


class ServiceOfProcesses:
    """A service whose processes a test may kill."""

    def __init__(self, supervisor: Supervisor, loop: asyncio.AbstractEventLoop) -> None:
        self.supervisor = supervisor
        self._loop = loop
        self.address = supervisor.address
        self._channels: list[grpc.Channel] = []
        self.stub = self.new_stub()

    def new_stub(self) -> Any:
        """A client with a connection of its own, which the kernel gives to any of the ingests."""
        channel = grpc.insecure_channel(self.address, [("grpc.use_local_subchannel_pool", 1)])
        self._channels.append(channel)
        return pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the supervisor's loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(40)

    def pid(self, name: str) -> int:
        return self.supervisor.processes[name]

    def kill(self, name: str) -> int:
        """End a process without a word, and return the id that it had."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def status(self) -> pb.GetStatusReply:
        """From whichever ingest answers: any must know everything."""
        reply: pb.GetStatusReply = self.stub.GetStatus(pb.GetStatusRequest(), wait_for_ready=True, timeout=30)
        return reply

    def settled(self, holds: Any, timeout_s: float = 40.0) -> pb.GetStatusReply:
        """The status as soon as it is as expected."""
        pause, status = threading.Event(), None
        for _ in range(int(timeout_s / 0.05)):
            with suppress(grpc.RpcError):
                if holds(status := self.status()):
                    return status
            pause.wait(0.05)
        raise AssertionError(f"the status never came to be as expected; last: {status}")

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


@contextmanager
def service_of_processes(
    *, ingests: int = 2, devices: Sequence[str] = ("cpu",), ingest: str = "", engine: str = FAKE_ENGINE, **settings: Any
) -> Iterator[ServiceOfProcesses]:
    """Serve until the block ends; PYTHONPATH must lead the children to the tests."""
    programs = Programs(engine=engine, ingest=ingest) if ingest else Programs(engine=engine)
    config = load_config(**{"listen": "127.0.0.1:0", "pipelines": grey_config(), "devices": tuple(devices), **settings})
    with loop_in_thread() as loop:

        async def start() -> Supervisor:
            supervisor = Supervisor(config, ingests, programs)
            await supervisor.start()
            return supervisor

        supervisor = asyncio.run_coroutine_threadsafe(start(), loop).result(40)
        service = ServiceOfProcesses(supervisor, loop)
        try:
            yield service
        finally:
            service.close()
            asyncio.run_coroutine_threadsafe(supervisor.stop(0), loop).result(30)


def gone(pid: int) -> bool:
    """Whether a process has ended, whoever has to bury it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"


def shared_memory_names() -> set[str]:
    """What lies in the host's shared memory."""
    return set(os.listdir("/dev/shm"))
