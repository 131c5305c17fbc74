"""What people who look cost the service: goodput and processor time with 8 live tiles against none. Prints JSON.

    python tests/bench/live_view_cost.py [--pipeline objects] [--fps 15,4] [--seconds 6] [--rounds 6] [--processes 0]

Eight cameras send JPEGs of 1280x720 to a service with a real model. Each round measures, in another order, the service
without its HTTP side (`off`), with it and nobody looking (`idle`), and with a viewer to whom it sends all eight tiles
(`viewed`): a program that takes them as a page does and draws nothing, since a browser is another machine's work. Of
the two rates the larger overloads the engine, so that all the service spends elsewhere is missing in its goodput; the
smaller leaves room, so that what a frame costs can be told. `cpu_ms` is the processor time that all processes of the
service took per frame answered OK. A ratio is the median over the rounds of the value against the same round's `idle`,
with the lowest and the highest, so that a machine that slows down meanwhile does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import cv2
import numpy as np

from foveate.client import Verdict
from foveate.service.config import load_config, only_pipelines
from foveate.tools.bench.load import StreamPlan, run_load
from foveate.tools.bench.served import Served, serving
from foveate.tools.provenance import provenance

_TILES = 8
_ARMS = ("off", "idle", "viewed")
_SIZE = (1280, 720)


def main() -> None:
    """Measure, and print one JSON object."""
    asked = _arguments()
    pictures = _pictures()
    rows = []
    with (
        _service(asked.pipeline, asked.processes, http="") as (off, _),
        _service(asked.pipeline, asked.processes, http=f"127.0.0.1:{_free_port()}") as (on, url),
    ):
        for served in (off, on):
            _measure(served, 4.0, 2.0, pictures, asked.pipeline)  # warm
        for fps in (float(each) for each in asked.fps.split(",")):
            rounds = [_round(off, on, url, fps, asked, pictures, seed) for seed in range(asked.rounds)]
            rows.append(_row(fps, rounds))
    sizes = {"picture_bytes": round(statistics.fmean(len(each) for each in pictures)), "tiles": _TILES}
    print(json.dumps(provenance() | sizes | {"rates": rows}, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default="objects")
    parser.add_argument("--fps", default="15,4", help="of each camera")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--processes", type=int, default=0, help="ingest processes; 0: everything in one")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class _Measured:
    goodput_fps: float
    cpu_ms: float
    pictures: int = 0
    """That the viewer was sent."""


@contextmanager
def _service(pipeline: str, processes: int, http: str) -> Iterator[tuple[Served, str]]:
    config = only_pipelines(load_config(), [pipeline])
    config = config.model_copy(update={"listen": "127.0.0.1:0", "ingest_processes": processes, "http": http})
    with serving("foveate.service.embedded", config.model_dump_json()) as served:
        yield served, f"http://{http}/live"


def _round(
    off: Served, on: Served, url: str, fps: float, asked: argparse.Namespace, pictures: Sequence[bytes], seed: int
) -> dict[str, _Measured]:
    measured = {}
    for arm in random.Random(seed).sample(_ARMS, len(_ARMS)):
        served = off if arm == "off" else on
        if arm == "viewed":
            with _viewer(url) as viewer:
                found = _measure(served, fps, asked.seconds, pictures, asked.pipeline)
            measured[arm] = _Measured(found.goodput_fps, found.cpu_ms, viewer.pictures)
        else:
            measured[arm] = _measure(served, fps, asked.seconds, pictures, asked.pipeline)
    return measured


def _row(fps: float, rounds: Sequence[dict[str, _Measured]]) -> dict[str, Any]:
    row: dict[str, Any] = {"camera_fps": fps, "offered_fps": fps * _TILES, "rounds": len(rounds)}
    for arm in _ARMS:
        row[arm] = {
            name: round(statistics.median(getattr(each[arm], name) for each in rounds), 2)
            for name in ("goodput_fps", "cpu_ms", *(["pictures"] if arm == "viewed" else []))
        }
    for arm in ("off", "viewed"):
        for name in ("goodput_fps", "cpu_ms"):
            ratios = sorted(getattr(each[arm], name) / getattr(each["idle"], name) for each in rounds)
            row[f"{arm}_against_idle_{name}"] = {
                "median": round(statistics.median(ratios), 3),
                "lowest": round(ratios[0], 3),
                "highest": round(ratios[-1], 3),
            }
    return row


def _measure(served: Served, fps: float, seconds: float, pictures: Sequence[bytes], pipeline: str) -> _Measured:
    """Send to a service from a process of its own, and see what it takes for it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    client = context.Process(target=_load, args=(served.address, fps, seconds, pictures, pipeline, theirs))
    before = _cpu_s(served)
    client.start()
    theirs.close()
    ok = ours.recv()
    client.join()
    return _Measured(ok / seconds, 1e3 * (_cpu_s(served) - before) / max(1, ok))


def _cpu_s(served: Served) -> float:
    usage = served.usage()
    assert usage is not None
    return usage.cpu_s


def _load(address: str, fps: float, seconds: float, pictures: Sequence[bytes], pipeline: str, pipe: Any) -> None:
    plans = [
        StreamPlan(
            f"cam-{number}",
            {"pipeline": pipeline, "stream_id": f"cam-{number}", "budget_ms": 300},
            [number / fps / _TILES + index / fps for index in range(int(seconds * fps))],
            pictures,
        )
        for number in range(_TILES)
    ]
    logs = asyncio.run(run_load(address, plans))
    assert not [log.refusal for log in logs if log.refusal]
    pipe.send(sum(outcome.verdict is Verdict.OK for log in logs for outcome in log.outcomes))


class _Viewer:
    """Takes all tiles, and says of each picture at once that it has drawn it."""

    def __init__(self, url: str) -> None:
        self.pictures = 0
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._look()))
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    async def _look(self) -> None:
        wishes = json.dumps({"watch": {f"cam-{number}": 640 for number in range(_TILES)}})
        async with aiohttp.ClientSession() as session, session.ws_connect(self._url, max_msg_size=0) as live:
            said_s = 0.0
            while not self._stopping.is_set():
                if time.monotonic() - said_s > 1.0:
                    await live.send_str(wishes)
                    said_s = time.monotonic()
                message = await live.receive(timeout=10)
                if message.type is aiohttp.WSMsgType.BINARY:
                    self.pictures += 1
                    await live.send_str('{"drawn": 1}')


@contextmanager
def _viewer(url: str) -> Iterator[_Viewer]:
    viewer = _Viewer(url)
    try:
        yield viewer
    finally:
        viewer.stop()


def _pictures() -> list[bytes]:
    """Some that have as many bytes as a camera's."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(16):
        coarse = rng.integers(0, 256, (_SIZE[1] // 10, _SIZE[0] // 10, 3)).astype(np.uint8)
        image = cv2.resize(coarse, _SIZE, interpolation=cv2.INTER_CUBIC).astype(np.int16)
        image += rng.integers(-6, 7, image.shape, dtype=np.int16)
        done, data = cv2.imencode(".jpg", image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 80])
        assert done
        pictures.append(data.tobytes())
    return pictures


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


if __name__ == "__main__":
    main()
