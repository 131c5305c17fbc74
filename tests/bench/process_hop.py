"""What it costs a frame that the engine is in another process: from the ingest and back. Prints JSON.

    python tests/bench/process_hop.py [--frames 2000]

Raw frames of 100 KB go one at a time through `Ingest` to a fake engine that takes no time, without gRPC: first in the
same process, then in an engine process. `to_run` is from handing the frame over until its run begins, the copy into
the slot included; `from_run` from the run's end until the answer is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from passthrough_engine import SPEC, let_children_find_it, open_passthrough

from foveate.service.boundary import DevicePort
from foveate.service.child import Child
from foveate.service.config import PipelineConfig, ServiceConfig, load_config
from foveate.service.frame import Frame, PixelFormat, StreamOptions
from foveate.service.ingest import Ingest
from foveate.service.link import Link
from foveate.service.opening import new_slots
from foveate.service.remote_device import RemoteDevice
from foveate.service.server import local_station
from foveate.service.stream import CameraStream, StreamRecord
from foveate.tools.bench.fake_service import FAKE_PIPELINE
from foveate.tools.provenance import provenance, spread


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    frames = parser.parse_args().frames
    let_children_find_it()
    config = load_config(pipelines={FAKE_PIPELINE: PipelineConfig(model=FAKE_PIPELINE)})
    found = {"inline": asyncio.run(_inline(config, frames)), "processes": asyncio.run(_processes(config, frames))}
    print(json.dumps(provenance() | {"frame_bytes": len(SPEC.picture), "us": found}, indent=2))


async def _inline(config: ServiceConfig, frames: int) -> dict[str, Any]:
    opened = open_passthrough(config, new_slots)
    with ThreadPoolExecutor(2) as decoders:
        ingest = Ingest(asyncio.get_running_loop().call_soon_threadsafe, decoders)
        station = await local_station(opened, ingest)
        try:
            return await _send(ingest, station.device, frames)
        finally:
            await asyncio.to_thread(opened.device.close)


async def _processes(config: ServiceConfig, frames: int) -> dict[str, Any]:
    child, serving = Child("passthrough_engine"), asyncio.Event()
    child.link.send("start", config.model_dump_json(), "cpu", None, {})
    ((ready, _),) = await asyncio.to_thread(child.link.receive)
    assert ready[0] == "ready", ready
    ours, theirs = Link.pair()
    with theirs:
        child.link.send("ingest", files=[theirs.fileno()])
    with ThreadPoolExecutor(2) as decoders:
        ingest = Ingest(asyncio.get_running_loop().call_soon_threadsafe, decoders)
        device = RemoteDevice(ingest, serving.set)
        device.connect(Link(ours))
        await serving.wait()
        try:
            return await _send(ingest, device, frames)
        finally:
            device.lose()
            child.end()


async def _send(ingest: Ingest, device: DevicePort, frames: int) -> dict[str, Any]:
    side = SPEC.side_px
    options = StreamOptions(FAKE_PIPELINE, 10**9, format=PixelFormat.RAW_RGB, width=side, height=side)
    stream, answered = CameraStream(StreamRecord("bench", ""), options, 8), asyncio.Event()
    stream.attach(answered.set)
    await device.admit(stream.number, options)
    to_run, from_run, whole = list[float](), list[float](), list[float]()
    for number in range(1, frames + 1):
        began_ns = time.monotonic_ns()
        job = stream.receive(Frame(number, began_ns, began_ns + 10**9, SPEC.picture))
        job.format, job.width, job.height = PixelFormat.RAW_RGB, side, side
        answered.clear()
        ingest.submit(job, device)
        await answered.wait()
        taken = stream.next_answer()
        assert taken is not None
        run = taken[1].run
        assert run is not None, taken[1].message
        to_run.append((run.started_ns - began_ns) / 1e3)
        from_run.append((taken[1].ready_ns - run.ended_ns) / 1e3)
        whole.append((time.monotonic_ns() - began_ns) / 1e3)
    return {"to_run": spread(to_run), "from_run": spread(from_run), "whole": spread(whole)}


if __name__ == "__main__":
    main()
