"""What a frame costs the service itself: processor time per process, and the time added. Prints JSON.

    python tests/bench/ingest_cost.py [--streams 1,10,50,200] [--fps 400] [--seconds 5] [--rounds 5]

Raw frames of 100 KB that need no decoding go over loopback gRPC to a fake engine that takes no time, at a fixed total
rate, first with everything in one process (`inline`), then with one ingest and one engine process. The clients are a
process of their own. `cpu_us` is the processor time (user and system) that a process took per frame from when all
streams were open until all answers had come, so 1e6 / cpu_us is what one core can carry at most; it holds on a machine
that is busy otherwise, which the latencies do not. The numbers of streams take turns, in another order each round, and
a figure is the mean over the rounds, with the bounds within which the true mean lies in 95 of 100 cases.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from passthrough_engine import SPEC, let_children_find_it, open_passthrough

from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import Limits, PipelineConfig, ServiceConfig, load_config
from foveate.service.server import Server
from foveate.service.supervisor import Programs, Supervisor
from foveate.tools.bench.fake_service import FAKE_PIPELINE
from foveate.tools.provenance import provenance, spread

_T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""Student's t, two-sided, by the number of values."""


def main() -> None:
    """Measure, and print one JSON object."""
    asked = _arguments()
    let_children_find_it()
    rng, rows = random.Random(1), list[dict[str, Any]]()
    for mode in asked.modes.split(","):
        measured: dict[int, list[_Measured]] = {int(streams): [] for streams in asked.streams.split(",")}
        with _service(mode) as (address, pids):
            _measure(address, pids, 4, asked.fps, 1.0)  # warm: the first frames pay for pages and caches
            for _ in range(asked.rounds):
                for streams in rng.sample(list(measured), len(measured)):
                    measured[streams].append(_measure(address, pids, streams, asked.fps, asked.seconds))
        rows += [_row(mode, streams, asked.fps, rounds) for streams, rounds in measured.items()]
    print(json.dumps(provenance() | {"frame_bytes": len(SPEC.picture), "runs": rows}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1,10,50,200")
    parser.add_argument("--modes", default="inline,processes")
    parser.add_argument("--fps", type=float, default=400.0, help="over all streams")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class _Measured:
    """One round."""

    cpu_us: dict[str, float]
    ok: int
    totals_ms: list[float]
    round_trips_ms: list[float]


def _row(mode: str, streams: int, fps: float, rounds: list[_Measured]) -> dict[str, Any]:
    by_process = {name: [each.cpu_us[name] for each in rounds] for name in rounds[0].cpu_us}
    return {
        "mode": mode,
        "streams": streams,
        "offered_fps": fps,
        "frames": sum(len(each.totals_ms) for each in rounds),
        "ok": sum(each.ok for each in rounds),
        "cpu_us": {name: _mean(values) for name, values in by_process.items()},
        "total_ms": spread([total for each in rounds for total in each.totals_ms]),
        "round_trip_ms": spread([took for each in rounds for took in each.round_trips_ms]),
    }


def _mean(values: list[float]) -> dict[str, float]:
    """The mean and how far it may be off, by Student's t."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf
    return {"mean": round(statistics.fmean(values)), "plus_minus": round(_T_95.get(len(values), 2.0) * error, 1)}


@contextmanager
def _service(mode: str) -> Iterator[tuple[str, dict[str, int]]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    service = context.Process(target=_serve, args=(mode, theirs))
    service.start()
    yield ours.recv()
    ours.send("stop")
    service.join()


def _measure(address: str, pids: dict[str, int], streams: int, fps: float, seconds: float) -> _Measured:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    client = context.Process(target=_load, args=(address, streams, fps, seconds, theirs))
    client.start()
    ours.recv()  # all streams are open
    before = {name: _cpu_s(pid) for name, pid in pids.items()}
    ours.send("go")
    ours.recv()  # all answers are there
    after = {name: _cpu_s(pid) for name, pid in pids.items()}
    ours.send("close")
    ok, totals, round_trips = ours.recv()
    client.join()
    return _Measured({name: (after[name] - before[name]) / len(totals) * 1e6 for name in pids}, ok, totals, round_trips)


def _serve(mode: str, pipe: Any) -> None:
    config = load_config(
        listen="127.0.0.1:0",
        pipelines={FAKE_PIPELINE: PipelineConfig(model=FAKE_PIPELINE)},
        devices=("cpu",),
        limits=Limits(max_streams=1024),
    )
    asyncio.run(_serve_until_told(mode, config, pipe))


async def _serve_until_told(mode: str, config: ServiceConfig, pipe: Any) -> None:
    if mode == "inline":
        service: Server | Supervisor = Server(config, open_passthrough)
        await service.start()
        pids = {"service": os.getpid()}
    else:
        service = Supervisor(config, 1, Programs(engine="passthrough_engine"))
        await service.start()
        pids = service.processes | {"supervisor": os.getpid()}
    pipe.send((service.address, pids))
    await asyncio.to_thread(pipe.recv)
    await service.stop(0)


def _cpu_s(pid: int) -> float:
    """Of all its threads that have not ended, to the nanosecond; a clock's tick would be a tenth of a frame's cost."""
    took_ns = 0
    for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with suppress(OSError):  # it has just ended
            took_ns += int(thread.read_text(encoding="ascii").split()[0])
    return took_ns / 1e9


def _load(address: str, streams: int, fps: float, seconds: float, pipe: Any) -> None:
    pipe.send(asyncio.run(_send_all(address, streams, fps, seconds, pipe)))


async def _send_all(
    address: str, streams: int, fps: float, seconds: float, pipe: Any
) -> tuple[int, list[float], list[float]]:
    ok, totals, round_trips = 0, list[float](), list[float]()
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        stub: Any = pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]
        calls = [await _opened(stub, fps / streams) for _ in range(streams)]
        pipe.send("open")
        await asyncio.to_thread(pipe.recv)
        count = int(seconds * fps / streams)
        each = [_one_stream(call, number / fps, fps / streams, count) for number, call in enumerate(calls)]
        for results in await asyncio.gather(*each):
            for verdict, total_us, round_trip_ms in results:
                ok += verdict == pb.VERDICT_OK
                totals.append(total_us / 1e3)
                round_trips.append(round_trip_ms)
        pipe.send("answered")
        await asyncio.to_thread(pipe.recv)
        for call in calls:
            await call.done_writing()
    return ok, totals, round_trips


async def _opened(stub: Any, fps: float) -> Any:
    side, call = SPEC.side_px, stub.Stream()
    await call.write(
        pb.StreamRequest(
            open=pb.OpenStream(budget_ms=1000, fps=fps, format=pb.PIXEL_FORMAT_RAW_RGB, width=side, height=side)
        )
    )
    await call.read()
    return call


async def _one_stream(call: Any, delay_s: float, fps: float, count: int) -> Sequence[tuple[int, int, float]]:
    sent: dict[int, float] = {}
    results: list[tuple[int, int, float]] = []

    async def receive() -> None:
        while len(results) < count:
            reply = await call.read()
            if reply.WhichOneof("message") == "result":
                result = reply.result
                took_ms = (time.monotonic() - sent.pop(result.sequence)) * 1e3
                results.append((result.verdict, result.times.total, took_ms))

    receiving = asyncio.create_task(receive())
    started = time.monotonic() + delay_s
    for number in range(1, count + 1):
        await asyncio.sleep(max(0.0, started + number / fps - time.monotonic()))
        sent[number] = time.monotonic()
        await call.write(pb.StreamRequest(frame=pb.Frame(sequence=number, data=SPEC.picture)))
    await receiving
    return results


if __name__ == "__main__":
    main()
