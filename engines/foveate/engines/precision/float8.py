"""A network in fp8 by NVIDIA ModelOpt, which is optional: it brings PyTorch along."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx

from foveate.engines.errors import BuildFailed, EngineUnavailable
from foveate.engines.precision.inspection import precision_of
from foveate.engines.precision.session import Feed

__all__ = ["require_modelopt", "to_float8"]


def to_float8(network: onnx.ModelProto, feeds: Sequence[Feed], exclude: Collection[str]) -> onnx.ModelProto:
    """The network with its products in fp8 and the rest in fp16; the argument is not modified.

    Raises: EngineUnavailable without ModelOpt, BuildFailed where it cannot quantise the network.
    """
    quantization = require_modelopt()
    with tempfile.TemporaryDirectory(prefix="foveate-") as folder:
        source, result = Path(folder) / "network.onnx", Path(folder) / "fp8.onnx"
        onnx.save(network, source)
        try:
            quantization.quantize(
                str(source),
                quantize_mode="fp8",
                calibration_data=_stacked(feeds),
                calibration_eps=["cpu"],
                nodes_to_exclude=sorted(exclude),
                high_precision_dtype="fp16",
                output_path=str(result),
            )
            quantised = onnx.load(result)
        except Exception as error:  # ModelOpt's exceptions have no common base
            raise BuildFailed(f"ModelOpt cannot quantise the network to fp8 ({error}): build it as fp16") from error
    if precision_of(quantised) != "fp8":  # it leaves layers of few channels alone, and says so in its log only
        raise BuildFailed(
            "ModelOpt finds no layer that fp8 makes faster: convolutions of few channels, and what was excluded, stay "
            "in fp16; build it as fp16"
        )
    return quantised


def require_modelopt() -> ModuleType:
    """ModelOpt's ONNX quantiser. Raises: EngineUnavailable, naming the extra, where it is not installed."""
    try:
        from modelopt.onnx import quantization
    except ImportError as error:
        raise EngineUnavailable(
            f"fp8 needs NVIDIA ModelOpt ({error}): install it with `pip install 'foveate[modelopt]'`, or build as "
            "int8 or fp16"
        ) from error
    module: ModuleType = quantization
    return module


def _stacked(feeds: Sequence[Feed]) -> Mapping[str, Any]:
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}
