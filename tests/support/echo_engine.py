"""A TensorRT engine that answers its input's pixels, built on the GPU that is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from foveate.engines import BatchRange, BuildOptions, EngineError, EngineUnavailable
from foveate.engines.contract import TensorSpec
from foveate.engines.cuda import Device
from foveate.engines.tensorrt_builder import TensorRtBuilder
from foveate.engines.tensorrt_engine import TensorRtEngine
from support.models import onnx_model

__all__ = ["echo_engine"]


@contextmanager
def echo_engine(folder: Path, size: tuple[int, int], max_batch: int) -> Iterator[TensorRtEngine]:
    """Its input is `pixels`, its output `seen`. Skips the test, saying at which step it ends, where there is none.

    Units: size is (width, height) in pixels.
    """
    try:
        device = Device.open()
        with device.current():
            capability = device.compute_capability
        device.close()
        builder = TensorRtBuilder("tensorrt")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    path = folder / "engine.plan"
    try:
        options = BuildOptions(backend="tensorrt", batch=BatchRange(1, max_batch, max_batch))
        path.write_bytes(builder.compile(_echo((size[1], size[0], 3)), options).content)
    except EngineError as error:
        pytest.skip(f"tensorrt compiles no plan on {capability}: {error}")
    with TensorRtEngine(path, name="echo", max_batch=max_batch) as made:
        yield made


def _echo(shape: tuple[int, int, int]) -> onnx.ModelProto:
    inputs = (TensorSpec("pixels", np.dtype(np.uint8), shape),)
    outputs = (TensorSpec("seen", np.dtype(np.float32), shape),)
    return onnx_model(inputs, outputs, (helper.make_node("Cast", ["pixels"], ["seen"], to=TensorProto.FLOAT),), {})
