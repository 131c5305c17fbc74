"""A cascade says what the plain two steps say: detect, cut out with the same geometry, classify one by one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.models.geometry import Rect
from foveate.models.package import import_file, load_package
from foveate.models.store import ModelStore
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import load_config
from foveate.service.crops import Size, crop_rect
from foveate.service.embedded import embedded_server
from support.cascades import FRAME, write_detector, write_embedder
from support.frames import smooth_picture
from support.packages import write_package
from support.raw_stream import RawStream
from support.shared_models import centerface, picture, shared_model

Pixels = NDArray[np.uint8]
MARGIN = 0.15
ROWS = 12

_SETTINGS = """
fetch = false
default_pipeline = "street"
ingest_processes = {ingests}
devices = ["cpu"]

[pipelines.street]
model = "{folder}/banked"

[[pipelines.street.cascade]]
name = "channel"
pipeline = "brightest"
margin = {margin}
max_crops = 5
min_size_px = 6

[[pipelines.street.cascade]]
name = "colour"
pipeline = "colours"
classes = ["person"]

[pipelines.brightest]
model = "{folder}/brightest"

[pipelines.colours]
model = "{folder}/colours"
"""


def bank() -> NDArray[np.float32]:
    """Detections for frames, none of them in the first pixel's way; in the last rows fewer."""
    rng = np.random.default_rng(11)
    rows = np.zeros((ROWS, 7, 6), np.float32)
    for row in rows:
        left, top = rng.uniform(0, FRAME[0] - 12, 7), rng.uniform(0, FRAME[1] - 12, 7)
        wide, high = rng.uniform(4, 60, 7), rng.uniform(4, 40, 7)
        row[:, 0], row[:, 1] = left, top
        row[:, 2], row[:, 3] = np.minimum(left + wide, FRAME[0]), np.minimum(top + high, FRAME[1])
        row[:, 4], row[:, 5] = rng.uniform(0.1, 1.0, 7), rng.integers(0, 2, 7)
    rows[-2:, :, 4] = 0.0
    return np.resize(rows, (256, *rows.shape[1:]))  # for whatever first pixel an engine is tried with


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "several processes"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cascade")
    write_detector(folder / "banked", bank())
    write_package(folder / "brightest")
    write_embedder(folder / "colours")
    settings = folder / "foveate.toml"
    settings.write_text(_SETTINGS.format(folder=folder, margin=MARGIN, ingests=request.param), encoding="utf-8")
    config = load_config(settings, model_store=folder / "models", engine_store=folder / "engines")
    with embedded_server(config=config) as address:
        yield address


@pytest.fixture
def stub(address: str) -> Iterator[pb_grpc.VisionStub]:
    with grpc.insecure_channel(address) as channel:
        yield pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]


def png(image: Pixels) -> bytes:
    done, data = cv2.imencode(".png", image[:, :, ::-1])
    assert done
    return data.tobytes()


def infer(stub: pb_grpc.VisionStub, pipeline: str, data: bytes, budget_ms: int = 20_000) -> pb.FrameResult:
    result: pb.FrameResult = stub.Infer(
        pb.InferRequest(pipeline=pipeline, frame=pb.Frame(data=data, budget_ms=budget_ms))
    )
    assert result.verdict == pb.VERDICT_OK, result.message
    return result


def cut_out(image: Pixels, box: pb.Box, margin: float) -> Pixels:
    """The crop of a box, cut by hand."""
    corners = np.array([box.x, box.y, box.x + box.width, box.y + box.height], np.float32)
    rect: Rect = crop_rect(corners, Size(image.shape[1], image.shape[0]), margin)
    return image[rect.y : rect.y + rect.height, rect.x : rect.x + rect.width]


def attributes_of(detection: pb.Detection) -> dict[str, pb.Attribute]:
    return {attribute.name: attribute for attribute in detection.attributes}


def check_against_two_steps(stub: pb_grpc.VisionStub, image: Pixels, result: pb.FrameResult) -> int:
    """Compare each attribute with the answer to its crop alone; how many there were."""
    assert result.verdict == pb.VERDICT_OK, result.message
    assert (result.attributes_missing, result.message) == (0, "")
    expected_channel = [each for each in result.detections if min(each.box.width, each.box.height) >= 6][:5]
    for detection in result.detections:
        said = attributes_of(detection)
        assert ("channel" in said) == any(detection is each for each in expected_channel)
        assert ("colour" in said) == (
            detection.label == "person" and min(detection.box.width, detection.box.height) >= 16
        )
        if channel := said.get("channel"):
            best = infer(stub, "brightest", png(cut_out(image, detection.box, MARGIN))).classes[0]
            assert (channel.id, channel.label) == (best.id, best.label)
            assert channel.score == pytest.approx(best.score, abs=1e-5)
        if colour := said.get("colour"):
            plain = infer(stub, "colours", png(cut_out(image, detection.box, 0.1)))
            assert list(colour.embedding) == pytest.approx(list(plain.embedding), abs=1e-5)
    return sum(len(detection.attributes) for detection in result.detections)


def pictures(count: int, seed: int) -> list[Pixels]:
    """Random ones, of which each says in its first pixel what is to be detected in it."""
    rng, made = np.random.default_rng(seed), []
    for index in range(count):
        image = smooth_picture(rng, *FRAME)
        image[0, 0] = (index % ROWS, 0, 0)
        made.append(image)
    return made


def test_streams_get_what_the_two_steps_give(stub: pb_grpc.VisionStub) -> None:
    streams = [RawStream(stub) for _ in range(2)]
    sent = [pictures(ROWS, seed) for seed in range(2)]
    for stream, images in zip(streams, sent, strict=True):
        stream.open(budget_ms=20_000, delivery=pb.DELIVERY_QUEUE, queue_depth=ROWS)
        for sequence, image in enumerate(images, 1):
            stream.frame(sequence, png(image))
    compared = 0
    for stream, images in zip(streams, sent, strict=True):
        for image, result in zip(images, stream.results(ROWS), strict=True):
            compared += check_against_two_steps(stub, image, result)
        stream.rest()
    assert compared > 40


def test_single_pictures_too(stub: pb_grpc.VisionStub) -> None:
    (image,) = pictures(1, 7)
    assert check_against_two_steps(stub, image, infer(stub, "street", png(image))) > 1


def test_a_client_gets_attributes_of_the_classes_that_it_asks_for(stub: pb_grpc.VisionStub) -> None:
    image = pictures(3, 5)[2]
    request = pb.InferRequest(pipeline="street", frame=pb.Frame(data=png(image), budget_ms=20_000), classes=["person"])
    result = stub.Infer(request)
    assert {detection.label for detection in result.detections} == {"person"}
    assert any(detection.attributes for detection in result.detections)


_REAL = """
fetch = false
[pipelines.faces]
model = "centerface"
[[pipelines.faces.cascade]]
name = "kind"
pipeline = "imagenet"
margin = 0.6
[pipelines.objects]
model = "yolox_nano"
[[pipelines.objects.cascade]]
name = "kind"
pipeline = "imagenet"
margin = 0.05
[pipelines.imagenet]
model = "efficientnet_lite0"
min_score = 0.05
"""


@pytest.mark.network
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("pipeline", "name"), [("faces", "astronaut"), ("objects", "chelsea"), ("objects", "coffee")])
@pytest.mark.parametrize("kind", [".png", ".jpg"])
def test_real_models_say_what_they_say_of_the_crop_alone(
    pipeline: str, name: str, kind: str, real_stub: pb_grpc.VisionStub
) -> None:
    margin = {"faces": 0.6, "objects": 0.05}[pipeline]
    image = picture(name)
    done, data = cv2.imencode(kind, image[:, :, ::-1])
    assert done
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    seen = np.asarray(decoded[:, :, ::-1], np.uint8)
    result = infer(real_stub, pipeline, data.tobytes())
    found = [detection for detection in result.detections if detection.attributes]
    assert found
    for detection in found:
        (kind_of,) = detection.attributes
        best = infer(real_stub, "imagenet", png(cut_out(seen, detection.box, margin))).classes[0]
        assert kind_of.label == best.label
        assert kind_of.score == pytest.approx(best.score, abs=1e-4 if kind == ".png" else 0.05)


@pytest.fixture(scope="module")
def real_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pb_grpc.VisionStub]:
    folder = tmp_path_factory.mktemp("real")
    store = ModelStore(folder / "models")
    import_file(load_package("centerface"), store, centerface())
    for name in ("yolox_nano", "efficientnet_lite0"):
        import_file(load_package(name), store, shared_model(f"{name}.onnx"))
    settings = Path(folder / "foveate.toml")
    settings.write_text(_REAL, encoding="utf-8")
    config = load_config(settings, model_store=folder / "models", engine_store=folder / "engines")
    with embedded_server(config=config) as address, grpc.insecure_channel(address) as channel:
        yield pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]
