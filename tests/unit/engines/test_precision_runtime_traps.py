"""What ONNX Runtime does to graphs that were converted with care, and that the engine keeps it from doing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from foveate.engines import OnnxRuntimeEngine
from foveate.engines.precision import convert
from foveate.models.fusion import fuse
from foveate.models.package import load_package
from support.shared_models import picture, shared_model

pytestmark = pytest.mark.timeout(180)

CLASSES = 1000


@pytest.fixture(scope="module")
def fused() -> onnx.ModelProto:
    package = load_package("efficientnet_lite0")
    return fuse(onnx.load(shared_model("efficientnet_lite0.onnx")), package.manifest)


@pytest.fixture(scope="module")
def pictures() -> list[NDArray[np.uint8]]:
    return [picture(name)[:224, :224] for name in ("astronaut", "coffee", "chelsea")]


@pytest.mark.parametrize(("target", "exclude"), [("tensorrt", ()), ("onnxruntime", ("model/node_Conv_882",))])
def test_the_engine_runs_a_converted_graph_as_it_was_meant(
    target: str,
    exclude: tuple[str, ...],
    fused: onnx.ModelProto,
    pictures: list[NDArray[np.uint8]],
    tmp_path: Path,
) -> None:
    """Left to itself, ONNX Runtime puts weights into int8 that were left in float, one scale for all channels."""
    converted = convert(fused, "int8", target=target, calibration=pictures, exclude=exclude)
    path = tmp_path / "converted.onnx"
    path.write_bytes(converted.SerializeToString())
    expected = _by_default(fused, pictures)
    served, plain = (_by_engine(path, pictures, optimize=optimize) for optimize in (True, False))
    assert _cosine(served, plain) > 0.995
    assert _cosine(served, expected) > 0.9
    by_default = _by_default(converted, pictures)
    assert 1 - _cosine(by_default, expected) > 5 * (1 - _cosine(served, expected)), "it no longer does: allow it again"


def _by_engine(path: Path, pictures: list[NDArray[np.uint8]], *, optimize: bool) -> NDArray[np.float64]:
    with OnnxRuntimeEngine(path, name="converted", max_batch=len(pictures), optimize=optimize) as engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = np.stack(pictures)
        engine.run(slot, len(pictures))
        return _by_class(slot.outputs)


def _by_default(model: onnx.ModelProto, pictures: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return _by_class(dict(zip(names, session.run(names, {"pixels": np.stack(pictures)}), strict=True)))


def _by_class(outputs: Any) -> NDArray[np.float64]:
    """The scores in the order of the classes; 0 for those that are not among the best."""
    scores = np.zeros((len(outputs["scores"]), CLASSES))
    np.put_along_axis(scores, outputs["class_ids"].astype(np.int64), outputs["scores"], axis=1)
    return scores


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b)))
