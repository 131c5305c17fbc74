"""The fused graph: its input, its terms with the manifest, and real models against the same sums in NumPy."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, checker, helper

from foveate.engines.errors import ModelError
from foveate.models.fusion import PIXELS, fuse
from foveate.models.geometry import Placement, place
from foveate.models.manifest import HeadSpec, InputSpec
from foveate.models.outputs import Classes, DecodeOptions, Detections, Output
from foveate.models.postprocess import decode
from support.onnx_models import bank_model, bank_pixels, manifest_of, model_of, passing_model, run_onnx
from support.references import Candidate, normalised, softmax, yolox
from support.shared_models import picture, shared_model

RNG = np.random.default_rng(5)
SEEN = HeadSpec(kind="embedding", outputs={"embedding": "seen"}, normalize=False)
REFUSED_OPERATORS = {"NonMaxSuppression", "NonZero", "RoiAlign", "Where", "Loop", "If", "ScatterND"}


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"colour": "bgr"},
        {"scale": 1 / 255},
        {"mean": (127, 127, 127), "std": (128, 128, 128)},
        {"colour": "bgr", "scale": 1 / 255, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"mean": (0, 5, 0)},
    ],
)
def test_the_model_sees_normalised_pixels(how: dict[str, Any], dtype: int) -> None:
    spec = InputSpec.model_validate({"width_px": 12, "height_px": 8, **how})
    model = fuse(passing_model((8, 12), dtype), manifest_of(SEEN, spec))
    pixels = RNG.integers(0, 256, (3, 8, 12, 3), dtype=np.uint8)
    seen = run_onnx(model, {PIXELS: pixels})["embedding"]
    expected = np.stack([normalised(each, spec).ravel() for each in pixels])
    tolerance = 1e-5 if dtype == TensorProto.FLOAT else 2e-3
    np.testing.assert_allclose(seen, expected, rtol=tolerance, atol=tolerance)


def test_what_is_identity_is_not_computed() -> None:
    spec = InputSpec(width_px=8, height_px=8)
    fused = fuse(passing_model((8, 8)), manifest_of(SEEN, spec))
    assert [node.op_type for node in fused.graph.node] == ["Cast", "Transpose", "Identity", "Reshape"]


def test_scale_mean_and_deviation_are_one_factor_and_one_addend() -> None:
    spec = InputSpec(width_px=8, height_px=8, scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    operators = [node.op_type for node in fuse(passing_model((8, 8)), manifest_of(SEEN, spec)).graph.node]
    assert (operators.count("Mul"), operators.count("Add")) == (1, 1)


def test_names_are_unique_and_never_the_models_own() -> None:
    # Nodes of the model that bear the names that fusion uses itself.
    nodes = [
        helper.make_node("Relu", ["pixels"], ["boxes"], name="foveate/input/channels_first"),
        helper.make_node("Relu", ["boxes"], ["embedding"], name="scores"),
    ]
    model = model_of(nodes, {"pixels": ["n", 3, 8, 8]}, {"embedding": ["n", 3, 8, 8]})
    head = HeadSpec(kind="embedding", outputs={"embedding": "embedding"}, normalize=False)
    fused = fuse(model, manifest_of(head, InputSpec(width_px=8, height_px=8)))
    names = [node.name for node in fused.graph.node]
    assert len(set(names)) == len(names)
    tensors = [name for node in fused.graph.node for name in node.output]
    assert len(set(tensors)) == len(tensors)
    assert {name.split("/")[0] for name in names} == {"foveate", "model"}
    pixels = RNG.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    seen = run_onnx(fused, {PIXELS: pixels})["embedding"]
    np.testing.assert_array_equal(seen.reshape(2, 3, 8, 8), pixels.transpose(0, 3, 1, 2))


def test_the_argument_is_untouched_and_fusing_twice_gives_the_same_bytes() -> None:
    model, manifest = passing_model((8, 8)), manifest_of(SEEN, InputSpec(width_px=8, height_px=8))
    before = model.SerializeToString(deterministic=True)
    first, second = (fuse(model, manifest).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert model.SerializeToString(deterministic=True) == before


def test_half_precision_outputs_are_decoded_in_single_precision() -> None:
    banks = {"answer": RNG.normal(size=(2, 20)).astype(np.float16)}
    model = bank_model(banks, (8, 8))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    head = HeadSpec(kind="logits", outputs={"logits": "answer"}, top_k=3)
    fused = fuse(model, manifest_of(head, InputSpec(width_px=8, height_px=8)))
    outputs = run_onnx(fused, {PIXELS: bank_pixels([1, 0], (8, 8))})
    assert outputs["scores"].dtype == np.float32
    np.testing.assert_array_equal(outputs["class_ids"][0], np.argsort(-banks["answer"][1])[:3])


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"kind": "logits", "outputs": {"logits": "missing"}}, "no output missing, only answer"),
        ({"kind": "logits", "outputs": {}}, "needs outputs for the roles logits; the manifest names none"),
        ({"kind": "logits", "outputs": {"logits": "answer", "boxes": "answer"}}, "names boxes, logits"),
        ({"kind": "yolox", "outputs": {"predictions": "answer"}}, r"\(batch, 84, any\), but it is \(batch, 20\)"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(head: dict[str, Any], message: str) -> None:
    model = bank_model({"answer": np.zeros((1, 20), np.float32)}, (64, 64))
    with pytest.raises(ModelError, match=message):
        fuse(model, manifest_of(HeadSpec.model_validate(head), InputSpec(width_px=64, height_px=64)))


def test_a_model_that_takes_bytes_is_refused() -> None:
    model = passing_model((8, 8), TensorProto.UINT8)
    with pytest.raises(ModelError, match="must be float or float16, it is UINT8"):
        fuse(model, manifest_of(SEEN, InputSpec(width_px=8, height_px=8)))


def prepared(image: NDArray[np.uint8], spec: InputSpec) -> tuple[NDArray[np.uint8], Placement]:
    """A picture as a decoder would put it into the model's input."""
    placement = place(image.shape[1], image.shape[0], spec)
    source, dest = placement.source, placement.destination
    canvas = np.full((spec.height_px, spec.width_px, 3), spec.pad_value, np.uint8)
    part = image[source.y : source.y + source.height, source.x : source.x + source.width]
    canvas[dest.y : dest.y + dest.height, dest.x : dest.x + dest.width] = cv2.resize(part, (dest.width, dest.height))
    return canvas, placement


def answers(
    fused: onnx.ModelProto, head: HeadSpec, spec: InputSpec, names: list[str], min_score: float
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]], dict[str, Output]]:
    """The pictures as one batch, what the graph gave, and what that means in each picture's pixels."""
    pixels, placements = zip(*(prepared(picture(name), spec) for name in names), strict=True)
    batch = np.stack(pixels)
    outputs = run_onnx(fused, {PIXELS: batch})
    task = manifest_of(head, spec).task
    decoded = {
        name: decode(
            {key: rows[index] for key, rows in outputs.items()},
            task,
            placements[index],
            DecodeOptions(min_score, 10),
            0.45,
        )
        for index, name in enumerate(names)
    }
    return batch, outputs, decoded


def detections(output: Output) -> Detections:
    assert isinstance(output, Detections)
    return output


def classes(output: Output) -> Classes:
    assert isinstance(output, Classes)
    return output


def assert_portable(model: onnx.ModelProto) -> None:
    checker.check_model(model, full_check=True)
    assert not REFUSED_OPERATORS.intersection(node.op_type for node in model.graph.node)
    for output in model.graph.output:
        assert output.type.tensor_type.shape.dim[0].dim_param == "batch"
        assert all(dim.dim_value > 0 for dim in output.type.tensor_type.shape.dim[1:])


def assert_same_boxes(rows: NDArray[np.float32], expected: list[Candidate], min_score: float) -> None:
    strong = [candidate.box for candidate in expected if candidate.score >= min_score]
    assert strong
    np.testing.assert_allclose(rows[: len(strong)], strong, rtol=1e-3, atol=0.05)


def test_yolox_nano_sees_what_is_in_the_pictures() -> None:
    raw = onnx.load(shared_model("yolox_nano.onnx"))
    spec = InputSpec(width_px=416, height_px=416, colour="bgr", anchor="top_left")
    head = HeadSpec(kind="yolox", outputs={"predictions": "output"})
    fused = fuse(raw, manifest_of(head, spec))
    assert_portable(fused)
    names = ["astronaut", "chelsea", "coffee"]
    batch, outputs, decoded = answers(fused, head, spec, names, 0.5)
    for index in range(3):
        image = normalised(batch[index], spec)[None]
        reference = yolox(run_onnx(raw, {"images": image})["output"][0], spec, head)
        scores = [candidate.score for candidate in reference]
        np.testing.assert_allclose(outputs["scores"][index], scores, rtol=1e-3, atol=1e-4)
        assert_same_boxes(outputs["boxes"][index], reference, 0.3)
    person, cat, cup = (detections(decoded[name]) for name in names)
    assert (person.class_ids[0], person.scores[0]) == (0, pytest.approx(0.93, abs=0.03))
    assert person.boxes[0] == pytest.approx([11, 20, 369, 507], abs=8)
    assert (cat.class_ids[0], cat.scores[0]) == (15, pytest.approx(0.62, abs=0.05))
    assert (cup.class_ids[0], cup.scores[0]) == (41, pytest.approx(0.90, abs=0.03))


def test_efficientnet_lite0_knows_the_pictures() -> None:
    raw = onnx.load(shared_model("efficientnet_lite0.onnx"))
    spec = InputSpec(width_px=224, height_px=224, mean=(127, 127, 127), std=(128, 128, 128), resize="center_crop")
    head = HeadSpec(kind="logits", outputs={"logits": "logits"}, activation="softmax", top_k=5)
    fused = fuse(raw, manifest_of(head, spec))
    assert_portable(fused)
    names = ["chelsea", "coffee", "rocket"]
    batch, outputs, decoded = answers(fused, head, spec, names, 0.1)
    for index in range(3):
        shares = softmax(run_onnx(raw, {"images": normalised(batch[index], spec)[None]})["logits"][0])
        best = np.argsort(-shares, kind="stable")[:5]
        np.testing.assert_array_equal(outputs["class_ids"][index], best)
        np.testing.assert_allclose(outputs["scores"][index], shares[best], rtol=1e-3, atol=1e-5)
    cat, espresso, missile = (classes(decoded[name]) for name in names)
    assert set(cat.class_ids.tolist()) <= {281, 282, 283, 284, 285}  # ImageNet's cats
    assert (espresso.class_ids[0], espresso.scores[0]) == (967, pytest.approx(0.95, abs=0.03))
    assert missile.class_ids[0] in (657, 744)  # missile, projectile
