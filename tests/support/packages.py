"""A tiny model package on disk: a classifier that names the brightest colour channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from foveate.engines import TensorSpec
from support.models import onnx_model

__all__ = ["MANIFEST", "tiny_classifier", "write_package"]

_FLOAT32 = np.dtype(np.float32)

MANIFEST = """
name = "brightest"
title = "Which channel is the brightest"
task = "classify"
source = "file:model.onnx"
labels = ["red", "green", "blue"]
min_score = 0.0
licence = "CC0-1.0"
homepage = "https://example.org"

[input]
width_px = 16
height_px = 8
scale = 0.00392156862745098
resize = "stretch"

[head]
kind = "logits"
outputs = { logits = "logits" }
activation = "softmax"
top_k = 3
"""


def tiny_classifier(gain: float = 8.0) -> bytes:
    """An ONNX file: the mean of each channel times `gain` as three logits."""
    nodes = (
        onnx.helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["means"]),
        onnx.helper.make_node("MatMul", ["means", "gains"], ["logits"]),
    )
    model = onnx_model(
        (TensorSpec("image", _FLOAT32, (3, 8, 16)),),
        (TensorSpec("logits", _FLOAT32, (3,)),),
        nodes,
        {"gains": np.eye(3, dtype=np.float32) * np.float32(gain)},
    )
    content: Any = model.SerializeToString()
    return bytes(content)


def write_package(folder: Path, *, content: bytes | None = None, **fields: str) -> Path:
    """Write a package into `folder` and return it; `fields` replace whole lines of the manifest's head.

    `content` is the model file; empty leaves it out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = MANIFEST.strip().splitlines()
    for name, value in fields.items():
        lines = [line for line in lines if not line.startswith(f"{name} = ")]
        lines.insert(0, f"{name} = {value}")
    (folder / "model.toml").write_text("\n".join(lines) + "\n")
    if content != b"":
        (folder / "model.onnx").write_bytes(tiny_classifier() if content is None else content)
    return folder
