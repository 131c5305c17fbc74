"""Models exported from torchvision say on the torch engine what they say on ONNX Runtime, fused as they are served."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="PyTorch is not installed")

from foveate.engines import OnnxRuntimeEngine, TorchEngine
from foveate.models.store import ModelStore
from support.exported_models import prepared_export, torchvision_package


def scores(engine: Any, rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    with engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = rows
        engine.run(slot, len(rows))
        found: NDArray[np.float32] = slot.outputs["scores"].copy()
        return found


@pytest.mark.timeout(300)  # an export takes many seconds the first time
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "ssdlite320_mobilenet_v3_large"])
def test_an_export_agrees(name: str, tmp_path: Path) -> None:
    model = prepared_export(torchvision_package(tmp_path / "package", name), ModelStore(tmp_path / "store"))
    spec = model.manifest.input
    rows = np.random.default_rng(0).integers(0, 256, (2, spec.height_px, spec.width_px, 3), np.uint8)
    expected = scores(OnnxRuntimeEngine(model.onnx_path, name=name, max_batch=2), rows)
    actual = scores(TorchEngine(model.onnx_path, name=name, max_batch=2, device="cpu"), rows)
    np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=1e-6)
    assert expected.std() > 0
