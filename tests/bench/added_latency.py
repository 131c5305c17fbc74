"""What the service adds to the engine's own time, for one stream of real video. Prints JSON.

    python tests/bench/added_latency.py [VIDEO] [--pipeline faces] [--load 0.5] [--seconds 20]

In one run on one machine: first the bare engine in a loop, one frame a batch, in this process; then a server in a
process of its own, to which the video's frames go as JPEG at their native size, at `load` of the bare engine's
rate. The bare loop runs once more at the end, so that a machine which changed its speed meanwhile is found out.

added = total - decode - infer, per frame: everything that is neither decoding nor the engine. At loads where the
engine is idle when a frame arrives it holds no waiting for a running batch, otherwise it does, so it errs upwards.
The server's total ends where the answer is handed to gRPC; `round_trip` also holds both ways through gRPC.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from foveate.client import Client, Frame, Result, Verdict
from foveate.engines.onnx_runtime import OnnxRuntimeEngine
from foveate.models.package import PreparedModel, load_package, prepare
from foveate.models.store import ModelStore
from foveate.service.config import DEFAULT_PIPELINES
from foveate.service.embedded import embedded_server
from foveate.tools.demo_video import demo_video_path
from foveate.tools.provenance import provenance, spread

_BARE_RUNS = 60


def main() -> None:
    """Measure, and print one JSON object."""
    asked = _arguments()
    video = asked.video or demo_video_path()
    pictures = _pictures(video, asked.quality)
    model = prepare(load_package(DEFAULT_PIPELINES[asked.pipeline].model), ModelStore())
    before = _bare_engine_ms(model)
    fps = asked.load * 1e3 / statistics.median(before)
    results, drift_ms = _stream(pictures, asked.pipeline, fps, asked.budget_ms, asked.seconds)
    after = _bare_engine_ms(model)
    name = asked.video.name if asked.video else "the demo's"
    report = provenance() | {
        "video": f"{name}, {_size(pictures[0])}, JPEG quality {asked.quality}",
        "pipeline": asked.pipeline,
        "bare_engine_ms": {"before": spread(before), "after": spread(after)},
        "offered_fps": round(fps, 2),
        "offered_load": asked.load,
        "budget_ms": asked.budget_ms,
        "send_delay_ms": spread(drift_ms),
    }
    print(json.dumps(report | _figures(results, before + after), indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", nargs="?", type=Path, help="a video file; default: the demo's")
    parser.add_argument("--pipeline", default="faces", choices=list(DEFAULT_PIPELINES))
    parser.add_argument("--load", type=float, default=0.5, help="of the bare engine's rate")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--budget-ms", type=int, default=250)
    parser.add_argument("--quality", type=int, default=90, help="of the JPEGs")
    return parser.parse_args()


def _pictures(video: Path, quality: int) -> list[bytes]:
    capture, pictures = cv2.VideoCapture(str(video)), []
    while True:
        there, frame = capture.read()
        if not there:
            break
        pictures.append(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())
    capture.release()
    if not pictures:
        sys.exit(f"error: no frame can be read from {video}")
    return pictures


def _bare_engine_ms(model: PreparedModel) -> list[float]:
    """The engine in a loop, as the server runs it, on random pixels."""
    with OnnxRuntimeEngine(model.onnx_path, name=model.manifest.name, max_batch=1) as engine:
        slot = engine.new_slot()
        (pixels,) = slot.inputs.values()
        pixels[...] = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
        taken = [engine.run(slot, 1).total_ns / 1e6 for _ in range(_BARE_RUNS)]
    return taken[_BARE_RUNS // 6 :]


def _stream(
    pictures: list[bytes], pipeline: str, fps: float, budget_ms: int, seconds: float
) -> tuple[list[Result], list[float]]:
    """Send on schedule, whatever the answers do; returns them, and by how much each frame was sent late."""
    drift_ms: list[float] = []

    def paced() -> Iterator[Frame]:
        started = time.monotonic() + 0.1
        for number in range(int(seconds * fps)):
            due = started + number / fps
            time.sleep(max(0.0, due - time.monotonic()))
            drift_ms.append((time.monotonic() - due) * 1e3)
            yield Frame(pictures[number % len(pictures)])

    with embedded_server([pipeline]) as address, Client(address) as client:
        for _ in client.stream((Frame(picture) for picture in pictures[:10]), pipeline=pipeline, budget_ms=5000):
            pass  # warm: the first frames pay for pages and caches
        results = list(client.stream(paced(), pipeline=pipeline, budget_ms=budget_ms, fps=fps))
    return results, drift_ms


def _figures(results: list[Result], bare_ms: list[float]) -> dict[str, Any]:
    ok = [result for result in results if result.verdict is Verdict.OK]
    added = [result.times.total_ms - result.times.decode_ms - result.times.infer_ms for result in ok]
    infer = [result.times.infer_ms for result in ok]
    return {
        "frames": len(results),
        "verdicts": dict(Counter(result.verdict.value for result in results)),
        "on_time_share": round(sum(result.on_time for result in results) / len(results), 5),
        "added_ms": spread(added),
        "decode_ms": spread([result.times.decode_ms for result in ok]),
        "infer_ms": spread(infer),
        "total_ms": spread([result.times.total_ms for result in ok]),
        "round_trip_ms": spread([result.round_trip_ms for result in ok if result.round_trip_ms is not None]),
        "infer_over_bare_engine": round(statistics.median(infer) / statistics.median(bare_ms), 3),
        "added_over_bare_engine": round(statistics.median(added) / statistics.median(bare_ms), 4),
    }


def _size(picture: bytes) -> str:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return f"{image.shape[1]}x{image.shape[0]}"


if __name__ == "__main__":
    main()
