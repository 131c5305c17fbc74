"""torchvision models from torch to a compiled engine, with random weights: the same answers all the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from foveate.engines import BatchRange, BuildOptions, EngineStore, engine_class
from foveate.engines.build import build_engine
from foveate.models import DecodeOptions, Detections, ModelStore, PreparedModel, fetch_model, load_package, prepare
from support.exported_models import prepared_export, require_torchvision, torchvision_package
from support.onnx_models import run_onnx
from support.references import slow_nms
from support.shared_models import picture, shared_model

pytestmark = pytest.mark.timeout(300)

PICTURES = ("astronaut", "chelsea", "coffee", "rocket")
PRECISIONS = ("fp32", "fp16", "int8")
CLASSIFIERS = ("resnet18", "efficientnet_b0", "convnext_tiny", "squeezenet1_1", "vit_b_16", "googlenet")
DETECTORS = ("ssd300_vgg16", "retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn")
LEAST_SCORE = 0.55
"""Above one half of a softmax an anchor has one class: torchvision's list by class and ours by anchor are the same."""

_MOST = 1000


@pytest.fixture(scope="module")
def model_store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    require_torchvision()
    return ModelStore(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


def prepared(name: str, store: ModelStore, packages: Path) -> PreparedModel:
    return prepared_export(torchvision_package(packages / name, name), store)


def pictures(model: PreparedModel) -> NDArray[np.uint8]:
    """Real pictures of the input's size, (N, H, W, 3): cut or tiled, so that no resizing blurs the comparison."""
    spec = model.manifest.input
    rows = []
    for name in PICTURES:
        seen = picture(name)
        repeats = (-(-spec.height_px // seen.shape[0]), -(-spec.width_px // seen.shape[1]), 1)
        rows.append(np.tile(seen, repeats)[: spec.height_px, : spec.width_px])
    return np.stack(rows)


def run(model: PreparedModel, pixels: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    with engine_class("onnxruntime").from_file(model.onnx_path, name="test", max_batch=len(pixels)) as engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = pixels
        engine.run(slot, len(pixels))
        return {name: values.copy() for name, values in slot.outputs.items()}


@pytest.fixture
def torchvision_nms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suppression in plain loops in the place of torchvision's own, which its CPU wheel may lack."""
    import torch
    from torchvision.ops import boxes as box_ops

    def plain_nms(boxes: torch.Tensor, scores: torch.Tensor, iou: float) -> torch.Tensor:
        same_class = np.zeros(len(scores))
        kept = slow_nms(boxes.numpy(), scores.numpy(), same_class, iou, len(scores))
        return torch.tensor(kept, dtype=torch.int64)

    monkeypatch.setattr(box_ops, "nms", plain_nms)


def torchvision_detections(model: PreparedModel, name: str, pixels: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """What torchvision's own detector says of the same pixels, with the same weights."""
    import torch
    from torchvision import models as torchvision_models

    from foveate.models.exporters.torchvision_networks import random_network

    spec = model.manifest.input
    raw: Any = random_network(name, spec).module
    sizes = {"min_size": spec.height_px, "max_size": spec.width_px} if "fpn" in name else {}
    detector: Any = torchvision_models.get_model(
        name,
        weights=None,
        weights_backbone=None,
        score_thresh=LEAST_SCORE,
        nms_thresh=model.manifest.nms_iou,
        detections_per_img=_MOST,
        topk_candidates=_MOST,
        **sizes,
    )
    detector.backbone.load_state_dict(raw.backbone.state_dict())
    detector.head.load_state_dict(raw.head.state_dict())
    if model.manifest.head.activation != "softmax":
        answer_one_class(detector.head)
    detector.eval()
    with torch.no_grad():
        found: list[dict[str, Any]] = detector(list(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255))
    return found


def answer_one_class(head: Any) -> None:
    """Let each anchor of a torchvision detector answer with its best class alone, as ours do.

    Where classes are judged one by one, several of an anchor may reach any score.
    """
    import torch

    forward = head.forward

    def one_class(features: Any) -> Any:
        answers = forward(features)
        logits = answers["cls_logits"]
        logits[..., 0] = -torch.inf  # the class that means nothing
        best = logits.amax(-1, keepdim=True)
        return {**answers, "cls_logits": torch.where(logits == best, logits, -torch.inf)}

    head.forward = one_class


def check_detector(name: str, store: ModelStore, packages: Path) -> None:
    model = prepared(name, store, packages)
    pixels = pictures(model)
    outputs = run(model, pixels)
    compared = 0
    for index, expected in enumerate(torchvision_detections(model, name, pixels)):
        rows = {key: values[index] for key, values in outputs.items()}
        # What scores less than the last of our candidates is seen by torchvision alone.
        least = max(LEAST_SCORE, float(rows["scores"][-1]) + 1e-4)
        placement = model.place(*pixels.shape[2:0:-1])
        ours = model.decode(rows, placement, DecodeOptions(least, max_detections=_MOST))
        assert isinstance(ours, Detections)
        compared += check_same(ours, {key: values.numpy() for key, values in expected.items()}, least)
    assert compared > 10


def check_same(ours: Detections, expected: dict[str, NDArray[Any]], least: float) -> int:
    """Assert that the detections have their one partner each, in any order. Returns how many there are.

    Of a hundred, three or so may have none: where an overlap is the allowed one to the last digit, the two may differ.
    """
    boxes = expected["boxes"]
    seen = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # boxes without an area are no answer of ours
    wanted = np.flatnonzero((expected["scores"] >= least) & seen)
    free = np.ones(len(ours.scores), bool)
    for index in wanted:
        alike = free & (ours.class_ids + 1 == expected["labels"][index])
        alike &= np.abs(ours.scores - expected["scores"][index]) < 1e-3
        alike &= (np.abs(ours.boxes - boxes[index]) < 0.05).all(axis=1)
        if alike.any():
            free[int(np.argmax(alike))] = False
    partners = int((~free).sum())
    assert partners >= 0.965 * max(len(wanted), len(free)), f"{partners} of {len(wanted)} and {len(free)}"
    return partners


@pytest.mark.usefixtures("torchvision_nms")
def test_a_detector_says_what_torchvision_says(model_store: ModelStore, packages: Path) -> None:
    check_detector("ssdlite320_mobilenet_v3_large", model_store, packages)


@pytest.mark.nightly
@pytest.mark.usefixtures("torchvision_nms")
@pytest.mark.parametrize("name", DETECTORS)
def test_every_kind_of_detector_says_what_torchvision_says(name: str, model_store: ModelStore, packages: Path) -> None:
    check_detector(name, model_store, packages)


def torchvision_scores(model: PreparedModel, name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """torch's probabilities for the same pixels, (N, classes), with the same weights."""
    import torch

    from foveate.models.exporters.torchvision_networks import random_network

    spec = model.manifest.input
    normalised = (pixels * spec.scale - np.array(spec.mean)) / np.array(spec.std)
    images = torch.from_numpy(normalised.astype(np.float32)).permute(0, 3, 1, 2)
    with torch.no_grad():
        scores: NDArray[np.float32] = random_network(name, spec).module(images).softmax(1).numpy()
    return scores


def check_classifier(name: str, store: ModelStore, packages: Path) -> None:
    model = prepared(name, store, packages)
    assert model.random_weights
    pixels = pictures(model)
    expected = torchvision_scores(model, name, pixels)
    outputs = run(model, pixels)
    best = np.argsort(-expected, axis=1, kind="stable")[:, :20]
    np.testing.assert_allclose(outputs["scores"], np.take_along_axis(expected, best, axis=1), rtol=1e-2, atol=1e-5)
    np.testing.assert_array_equal(outputs["class_ids"][:, 0], best[:, 0])
    spread = np.ptp(expected, axis=0).max() / expected.max()
    assert spread > 0.05, "random weights that say the same of every picture test nothing"


def test_a_classifier_says_what_torchvision_says(model_store: ModelStore, packages: Path) -> None:
    check_classifier("mobilenet_v3_small", model_store, packages)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_kind_of_classifier_says_what_torchvision_says(
    name: str, model_store: ModelStore, packages: Path
) -> None:
    check_classifier(name, model_store, packages)


def check_compiles(name: str, precision: str, store: ModelStore, packages: Path, engines: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    model = prepared(name, store, packages)
    options = BuildOptions(precision=precision, batch=BatchRange(1, 2, 4))
    calibration = list(pictures(model)) if options.quantised else []
    record = build_engine(model.onnx_path, name, options, EngineStore(engines), calibration=calibration).record
    assert [(each.name, each.dtype) for each in record.inputs] == [("pixels", "uint8")]
    assert {each.shape[0] for each in record.outputs} == {model.manifest.head.top_k}
    assert record.engine_bytes > 1_000_000


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "ssdlite320_mobilenet_v3_large"])
def test_an_export_compiles(name: str, precision: str, model_store: ModelStore, packages: Path, tmp_path: Path) -> None:
    check_compiles(name, precision, model_store, packages, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", [*CLASSIFIERS, *DETECTORS])
def test_every_export_compiles(
    name: str, precision: str, model_store: ModelStore, packages: Path, tmp_path: Path
) -> None:
    check_compiles(name, precision, model_store, packages, tmp_path)


@pytest.mark.network
def test_efficientnet_lite0_is_exported_from_its_package(tmp_path: Path) -> None:
    require_torchvision()
    reference = onnx.load(shared_model("efficientnet_lite0.onnx"))
    store, package = ModelStore(tmp_path), load_package("efficientnet_lite0")
    exported = onnx.load(store.blob_path(fetch_model(package, store)))
    images = np.random.default_rng(0).normal(size=(3, 3, 224, 224)).astype(np.float32)
    expected = run_onnx(reference, {reference.graph.input[0].name: images})
    (logits,) = expected.values()
    np.testing.assert_allclose(run_onnx(exported, {"image": images})["logits"], logits, atol=1e-4)
    assert not prepare(package, store, fetch=False).random_weights
