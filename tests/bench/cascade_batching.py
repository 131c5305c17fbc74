"""What a cascade gains by batching crops over frames and streams. Prints JSON.

    python tests/bench/cascade_batching.py [--streams 8] [--detections 4] [--seconds 10] [--classifier NAME]

Cameras send 640x480 JPEGs, each the next one when the last is answered, over gRPC to a server in a process of its own.
A detector that takes next to no time sees so many objects in each; a classifier of the catalog looks at all of them, or
`wide`: fully connected layers of 24 M random weights, which a run reads once however many crops it has, as it is with
small models on a GPU. In turn, twice over so that a machine which changes its speed is found out:

- `batched`: a cascade, as it is served;
- `one_run_per_crop`: the same with a classifier that takes one crop a run;
- `one_call_per_crop`: no cascade: each client cuts the crops out itself and sends each as a JPEG in a call of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any

import cv2
import grpc
import numpy as np
from onnx import helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import load_config
from foveate.service.embedded import embedded_server
from foveate.tools.provenance import provenance
from support.cascades import FRAME, write_detector
from support.frames import smooth_picture
from support.onnx_models import model_of
from support.packages import write_package
from support.raw_stream import RawStream

WIDTH, HEIGHT = 640, 480
BUDGET_MS = 20_000
SIDE_PX = 160
"""Of a crop."""
Work = Callable[[Any, threading.Event], int]


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--detections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--classifier", default="efficientnet_lite0")
    parser.add_argument("--max-batch", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        detector = write_detector(Path(folder) / "street", _bank(asked.detections))
        classifier = _wide(Path(folder) / "wide") if asked.classifier == "wide" else asked.classifier
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(2):
            for name, largest, work in (
                ("batched", asked.max_batch, _cascade(asked.detections)),
                ("one_run_per_crop", 1, _cascade(asked.detections)),
                ("one_call_per_crop", asked.max_batch, _calls(asked.detections)),
            ):
                with _served(detector, classifier, largest) as address:
                    measured = _measure(address, work, asked.streams, asked.seconds)
                found.setdefault(name, []).append(measured)
    rates = {name: mean(each["crops_per_s"] for each in runs) for name, runs in found.items()}
    ratios = {
        f"batched_over_{name}": round(rates["batched"] / rate, 2) for name, rate in rates.items() if name != "batched"
    }
    report = provenance() | {"asked": vars(asked), "frame": f"{WIDTH}x{HEIGHT} JPEG", "found": found, "ratios": ratios}
    print(json.dumps(report, indent=2))


def _wide(folder: Path) -> str:
    rng, sizes = np.random.default_rng(0), (768, 8192, 2048, 10)
    nodes, weights, last = [helper.make_node("Flatten", ["image"], ["layer0"])], {}, "layer0"
    for index, (before, after) in enumerate(pairwise(sizes), 1):
        weights[f"weight{index}"] = rng.standard_normal((before, after), np.float32) / np.float32(before**0.5)
        nodes.append(helper.make_node("MatMul", [last, f"weight{index}"], [f"sum{index}"]))
        nodes.append(helper.make_node("Relu", [f"sum{index}"], [last := f"layer{index}"]))
    model = model_of(nodes, {"image": ["batch", 3, 16, 16]}, {last: ["batch", 10]}, weights)
    labels = json.dumps([f"class{index}" for index in range(10)])
    name = write_package(folder, content=model.SerializeToString(), labels=labels)
    manifest = (name / "model.toml").read_text(encoding="utf-8")
    manifest = manifest.replace("height_px = 8", "height_px = 16").replace('logits = "logits"', f'logits = "{last}"')
    (name / "model.toml").write_text(manifest, encoding="utf-8")
    return str(name)


def _bank(detections: int) -> Any:
    rng = np.random.default_rng(0)
    scale = np.array([FRAME[0] / WIDTH, FRAME[1] / HEIGHT] * 2)
    corners = rng.uniform(0, (WIDTH - SIDE_PX, HEIGHT - SIDE_PX), (detections, 2))
    boxes = np.hstack([corners, corners + SIDE_PX]) * scale
    row = np.hstack([boxes, np.full((detections, 1), 0.9), np.zeros((detections, 1))])
    return np.broadcast_to(row, (256, *row.shape)).astype(np.float32)


@contextmanager
def _served(detector: Path, classifier: str, max_batch: int) -> Iterator[str]:
    stage = {"name": "kind", "pipeline": "kinds", "margin": 0.0, "min_score": 0.0}
    pipelines = {
        "street": {"model": str(detector), "cascade": [stage]},
        "plain": {"model": str(detector)},
        "kinds": {"model": classifier, "min_score": 0.0001, "engine": {"max_batch": max_batch}},
    }
    with embedded_server(config=load_config(pipelines=pipelines, fetch=False, ingest_processes=0)) as address:
        yield address


def _measure(address: str, work: Work, streams: int, seconds: float) -> dict[str, Any]:
    """How many crops a second come back, once all streams are under way."""
    over, warm = threading.Event(), threading.Event()
    with grpc.insecure_channel(address) as channel, ThreadPoolExecutor(streams) as threads:
        stub = pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]
        threads.submit(work, stub, warm)
        warm.wait(2.0)
        warm.set()
        before, began = _lane(stub), time.monotonic()
        running = [threads.submit(work, stub, over) for _ in range(streams)]
        over.wait(seconds)
        took, after = time.monotonic() - began, _lane(stub)
        over.set()
        missing = sum(each.result() for each in running)
    batches, frames = after.batches - before.batches, after.frames - before.frames
    return {
        "crops_per_s": round(frames / took, 1),
        "crops_per_run": round(frames / max(1, batches), 2),
        "run_ms": {str(point.batch): round(point.latency_ms, 2) for point in after.profile},
        "detections_without": missing,
    }


def _lane(stub: Any) -> pb.EngineStatus:
    status: pb.GetStatusReply = stub.GetStatus(pb.GetStatusRequest())
    (lane,) = [each for each in status.engines if each.pipeline == "kinds"]
    return lane


def _cascade(detections: int) -> Work:
    """A camera whose detections the server looks at."""
    data = _jpeg(_picture())

    def camera(stub: Any, over: threading.Event) -> int:
        sequence = missing = 0
        with RawStream(stub, timeout_s=600) as stream:
            stream.open(pipeline="street", budget_ms=BUDGET_MS)
            while not over.is_set():
                sequence += 1
                stream.frame(sequence, data)
                missing += detections - sum(len(each.attributes) for each in stream.result().detections)
            stream.rest()
        return missing

    return camera


def _calls(detections: int) -> Work:
    """A camera whose client cuts its detections out and asks about each."""
    image = _picture()
    data = _jpeg(image)

    def camera(stub: Any, over: threading.Event) -> int:
        sequence = missing = 0
        with RawStream(stub, timeout_s=600) as stream:
            stream.open(pipeline="plain", budget_ms=BUDGET_MS)
            while not over.is_set():
                sequence += 1
                stream.frame(sequence, data)
                asked = [stub.Infer.future(_request(image, each.box)) for each in stream.result().detections]
                missing += detections - sum(bool(each.result().classes) for each in asked)
            stream.rest()
        return missing

    return camera


def _request(image: Any, box: pb.Box) -> pb.InferRequest:
    left, top = round(box.x), round(box.y)
    crop = _jpeg(image[top : top + round(box.height), left : left + round(box.width)])
    return pb.InferRequest(pipeline="kinds", frame=pb.Frame(data=crop, budget_ms=BUDGET_MS))


def _picture() -> Any:
    return smooth_picture(np.random.default_rng(3), WIDTH, HEIGHT)


def _jpeg(image: Any) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


if __name__ == "__main__":
    main()
