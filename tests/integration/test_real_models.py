"""The three default pipelines on real pictures, from encoded bytes over gRPC to labels: faces, objects, classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import grpc
import pytest

from foveate.models.package import import_file, load_package
from foveate.models.store import ModelStore
from foveate.proto import vision_pb2 as pb
from foveate.proto import vision_pb2_grpc as pb_grpc
from foveate.service.config import load_config
from foveate.service.embedded import embedded_server
from support.shared_models import centerface, picture, shared_model

pytestmark = [pytest.mark.network, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pb_grpc.VisionStub]:
    """A server in a process of its own, its store filled with all the models that are at hand."""
    root = tmp_path_factory.mktemp("store")
    store = ModelStore(root / "models")
    import_file(load_package("centerface"), store, centerface())
    for name in ("yolox_nano", "efficientnet_lite0"):
        try:
            import_file(load_package(name), store, shared_model(f"{name}.onnx"))
        except pytest.skip.Exception:
            continue  # the tests that need it skip with the reason
    with (
        embedded_server(config=load_config(model_store=root / "models", engine_store=root / "engines")) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]


def _infer(stub: pb_grpc.VisionStub, pipeline: str, name: str, kind: str = ".jpg") -> pb.FrameResult:
    done, data = cv2.imencode(kind, picture(name)[:, :, ::-1])
    assert done
    frame = pb.Frame(data=data.tobytes(), budget_ms=20_000)
    result: pb.FrameResult = stub.Infer(pb.InferRequest(pipeline=pipeline, frame=frame))
    assert result.verdict == pb.VERDICT_OK, result.message
    return result


@pytest.mark.parametrize("kind", [".jpg", ".png", ".webp"])
def test_a_face_and_its_landmarks_are_found(stub: pb_grpc.VisionStub, kind: str) -> None:
    result = _infer(stub, "faces", "astronaut", kind)
    (face,) = result.detections
    assert face.label == "face"
    assert face.score > 0.8
    assert (face.box.x, face.box.x + face.box.width) == pytest.approx((183, 268), abs=6)
    left_eye, right_eye, nose, *mouth = [(point.x, point.y) for point in face.keypoints]
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_eye[1] < nose[1] < mouth[0][1]


@pytest.mark.parametrize(("name", "label"), [("chelsea", "cat"), ("coffee", "cup"), ("astronaut", "person")])
def test_an_object_is_found(stub: pb_grpc.VisionStub, name: str, label: str) -> None:
    shared_model("yolox_nano.onnx")
    result = _infer(stub, "objects", name)
    assert label in {detection.label for detection in result.detections}
    height, width = picture(name).shape[:2]
    for detection in result.detections:
        box = detection.box
        assert -0.01 <= box.x <= box.x + box.width <= width + 0.01
        assert -0.01 <= box.y <= box.y + box.height <= height + 0.01


@pytest.mark.parametrize(("name", "label"), [("coffee", "espresso"), ("chelsea", "Egyptian cat")])
def test_a_picture_is_classified(stub: pb_grpc.VisionStub, name: str, label: str) -> None:
    shared_model("efficientnet_lite0.onnx")
    result = _infer(stub, "imagenet", name)
    assert label in [each.label for each in result.classes[:2]]
    scores = [each.score for each in result.classes]
    assert scores == sorted(scores, reverse=True)


def test_pipelines_say_what_they_are(stub: pb_grpc.VisionStub) -> None:
    pipelines = {each.name: each for each in stub.ListPipelines(pb.ListPipelinesRequest()).pipelines}
    assert set(pipelines) == {"faces", "objects", "imagenet"}
    faces = pipelines["faces"]
    assert (faces.is_default, faces.task, faces.licence) == (True, "detect", "MIT")
    assert list(faces.labels) == ["face"]
    assert faces.smallest_budget_ms > 0


def test_a_missing_model_is_said_with_what_to_do(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    import_file(load_package("centerface"), store, centerface())
    with (
        embedded_server(config=load_config(model_store=tmp_path, engine_store=tmp_path / "engines")) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = pb_grpc.VisionStub(channel)  # type: ignore[no-untyped-call]
        with pytest.raises(grpc.RpcError) as refused:
            stub.Infer(pb.InferRequest(pipeline="objects"))
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "foveate models fetch yolox_nano" in str(refused.value.details())
