"""Backends by name."""

from __future__ import annotations

import pytest

from foveate.engines import ConfigError, Engine, FakeEngine, OnnxRuntimeEngine, backend_names, engine_class
from foveate.engines.tensorrt_engine import TensorRtEngine, TensorRtRtxEngine


def test_names_lead_to_their_classes() -> None:
    assert engine_class("fake") is FakeEngine
    assert engine_class("onnxruntime") is OnnxRuntimeEngine
    assert engine_class("tensorrt") is TensorRtEngine
    assert engine_class("tensorrt_rtx") is TensorRtRtxEngine


@pytest.mark.parametrize("backend", backend_names())
def test_every_name_leads_to_an_engine(backend: str) -> None:
    assert issubclass(engine_class(backend), Engine)


def test_unknown_name_tells_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'onnx'.*fake, onnxruntime"):
        engine_class("onnx")
