"""What a frame costs the service itself: processor time per process, and the time added. Prints JSON.

    python tests/bench/ingest_cost.py [--streams 1,10,50,200] [--fps 400] [--seconds 6]

Raw frames of 100 KB that need no decoding go over loopback gRPC to a fake engine that takes no time, at a fixed total
rate, first with everything in one process (`inline`), then with one ingest and one engine process. The clients are a
process of their own. `cpu_us` is the processor time that a process took per frame, so 1e6 / cpu_us is what one core
can carry at most; it holds on a machine that is busy otherwise, which the latencies do not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Sequence
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

_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, and print one JSON object."""
    asked = _arguments()
    let_children_find_it()
    rows = [
        _measure(mode, streams, asked.fps, asked.seconds)
        for streams in map(int, asked.streams.split(","))
        for mode in asked.modes.split(",")
    ]
    print(json.dumps(provenance() | {"frame_bytes": len(SPEC.picture), "runs": rows}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", default="1,10,50,200")
    parser.add_argument("--modes", default="inline,processes")
    parser.add_argument("--fps", type=float, default=400.0, help="over all streams")
    parser.add_argument("--seconds", type=float, default=6.0)
    return parser.parse_args()


def _measure(mode: str, streams: int, fps: float, seconds: float) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    service = context.Process(target=_serve, args=(mode, theirs))
    service.start()
    address, pids = ours.recv()
    client = context.Process(target=_load, args=(address, streams, fps, seconds, theirs))
    before = {name: _cpu_s(pid) for name, pid in pids.items()}
    client.start()
    ok, sent, totals, round_trips = ours.recv()
    after = {name: _cpu_s(pid) for name, pid in pids.items()}
    client.join()
    ours.send("stop")
    service.join()
    return {
        "mode": mode,
        "streams": streams,
        "offered_fps": fps,
        "frames": sent,
        "ok": ok,
        "cpu_us": {name: round((after[name] - before[name]) / sent * 1e6) for name in pids},
        "total_ms": spread(totals),
        "round_trip_ms": spread(round_trips),
    }


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
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _load(address: str, streams: int, fps: float, seconds: float, pipe: Any) -> None:
    pipe.send(asyncio.run(_send_all(address, streams, fps, seconds)))


async def _send_all(
    address: str, streams: int, fps: float, seconds: float
) -> tuple[int, int, list[float], list[float]]:
    ok, totals, round_trips = 0, list[float](), list[float]()
    options = [("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        stub: Any = pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]
        each = [
            _one_stream(stub, number / fps, fps / streams, int(seconds * fps / streams)) for number in range(streams)
        ]
        for results in await asyncio.gather(*each):
            for verdict, total_us, round_trip_ms in results:
                ok += verdict == pb.VERDICT_OK
                totals.append(total_us / 1e3)
                round_trips.append(round_trip_ms)
    return ok, len(totals), totals, round_trips


async def _one_stream(stub: Any, delay_s: float, fps: float, count: int) -> Sequence[tuple[int, int, float]]:
    side = SPEC.side_px
    call = stub.Stream()
    await call.write(
        pb.StreamRequest(
            open=pb.OpenStream(budget_ms=1000, fps=fps, format=pb.PIXEL_FORMAT_RAW_RGB, width=side, height=side)
        )
    )
    await call.read()
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
    await call.done_writing()
    return results


if __name__ == "__main__":
    main()
