"""Real networks on torch find what they find on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="PyTorch is not installed")

from foveate.engines import OnnxRuntimeEngine, check_engine
from foveate.engines.torch_engine import TorchEngine
from foveate.models.fusion import fuse
from foveate.models.package import load_package
from foveate.models.synthetic import synthetic_detector
from support.shared_models import centerface, picture, shared_model

Rows = dict[str, NDArray[Any]]
MODELS: dict[str, Callable[[], Path]] = {
    "centerface": centerface,
    "efficientnet_lite0": lambda: shared_model("efficientnet_lite0.onnx"),
    "yolox_nano": lambda: shared_model("yolox_nano.onnx"),
}
NAMES = [pytest.param(name, marks=pytest.mark.network if name == "centerface" else ()) for name in MODELS]


def prepared(name: str, folder: Path) -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(fuse(onnx.load(MODELS[name]()), load_package(name).manifest), path)
    return path


def pictures(name: str) -> NDArray[np.uint8]:
    spec = load_package(name).manifest.input
    return np.stack([cv2.resize(picture(each), (spec.width_px, spec.height_px)) for each in ("astronaut", "chelsea")])


def answers(engine: Any, rows: NDArray[np.uint8]) -> Rows:
    with engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = rows
        engine.run(slot, len(rows))
        return {name: buffer.copy() for name, buffer in slot.outputs.items()}


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_onnx_runtime(name: str, tmp_path: Path) -> None:
    path, rows = prepared(name, tmp_path), pictures(name)
    expected = answers(OnnxRuntimeEngine(path, name=name, max_batch=2), rows)
    actual = answers(TorchEngine(path, name=name, max_batch=2, device="cpu"), rows)
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=1e-4)
    # Candidates of nearly equal scores may change places; those that anybody looks at keep theirs.
    seen = expected["scores"] > 0.05
    assert seen.any()
    for output in set(expected) - {"scores"}:
        np.testing.assert_allclose(actual[output][seen], expected[output][seen], rtol=1e-3, atol=0.05)


def test_a_published_classifier_conforms(tmp_path: Path) -> None:
    path = prepared("efficientnet_lite0", tmp_path)
    check_engine(lambda: TorchEngine(path, name="efficientnet_lite0", max_batch=2, device="cpu"))


def test_a_detector_with_attention_says_what_it_says_on_onnx_runtime(tmp_path: Path) -> None:
    path = tmp_path / "detector.onnx"
    onnx.save(synthetic_detector(64, width=8, neck=32), path)
    rows = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    expected = answers(OnnxRuntimeEngine(path, name="detector", max_batch=3), rows)
    actual = answers(TorchEngine(path, name="detector", max_batch=3, device="cpu"), rows)
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(actual["boxes"][:, :10], expected["boxes"][:, :10], atol=0.05)
