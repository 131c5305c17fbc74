"""A small convolutional network, fused as a real one is: enough layers for every way to make it less precise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from foveate.models.fusion import fuse
from foveate.models.manifest import HeadSpec, InputSpec
from support.onnx_models import manifest_of, model_of

__all__ = ["PRODUCT_NODES", "SIDE_PX", "network_pictures", "small_classifier", "write_small_package"]

SIDE_PX = 16
PRODUCT_NODES = ("model/stem", "model/depthwise", "model/wide", "model/logits")
"""The nodes of `small_classifier` with weights, in order."""
_CHANNELS, _CLASSES = 8, 10
_MANIFEST = f"""
name = "small"
title = "A small convolutional network"
task = "classify"
source = "file:model.onnx"
labels = {[f"class{index}" for index in range(_CLASSES)]}
min_score = 0.0
licence = "CC0-1.0"
homepage = "https://example.org"

[input]
width_px = {SIDE_PX}
height_px = {SIDE_PX}
scale = {1 / 255}
resize = "stretch"

[head]
kind = "logits"
outputs = {{ logits = "logits" }}
activation = "softmax"
top_k = {_CLASSES}
"""


def small_classifier(
    seed: int = 0,
    *,
    extra_nodes: tuple[onnx.NodeProto, ...] = (),
    spread: float = 1.0,
    channels: int = _CHANNELS,
) -> onnx.ModelProto:
    """stem, ReLU, depthwise, ReLU, wide, ReLU, pool, Gemm: fused with pixels before it and a softmax after it.

    `spread` is how much larger the last channel of the stem is than the first; `extra_nodes` go into the network and
    may read `features` and write what the last layer reads instead, `pooled_extra`. `channels` are the stem's, and a
    fourth of those of the layer behind it.
    """
    head = HeadSpec(kind="logits", outputs={"logits": "logits"}, top_k=_CLASSES, activation="softmax")
    spec = InputSpec(width_px=SIDE_PX, height_px=SIDE_PX, scale=1 / 255, resize="stretch")
    return fuse(_bare(seed, extra_nodes, spread, channels), manifest_of(head, spec))


def write_small_package(folder: Path) -> Path:
    """The same network as a model package in `folder`, which is returned."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(_bare(0, (), 1.0, _CHANNELS).SerializeToString())
    (folder / "model.toml").write_text(_MANIFEST)
    return folder


def _bare(seed: int, extra_nodes: tuple[onnx.NodeProto, ...], spread: float, channels: int) -> onnx.ModelProto:
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> NDArray[np.float32]:
        fan_in = int(np.prod(shape[1:]))
        values: NDArray[np.float32] = (random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)
        return values

    scales = np.geomspace(1, spread, channels).astype(np.float32)
    weights: dict[str, NDArray[Any]] = {
        "stem_weight": normal(channels, 3, 3, 3) * scales[:, None, None, None],
        "stem_bias": normal(channels, 4)[:, 0] * scales,
        "depthwise_weight": normal(channels, 1, 3, 3) / scales[:, None, None, None],
        "wide_weight": normal(4 * channels, channels, 1, 1),
        "wide_bias": normal(4 * channels, 4)[:, 0],
        "logits_weight": normal(_CLASSES, 4 * channels) * 4,
        "logits_bias": np.zeros(_CLASSES, np.float32),
    }
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    flat = "pooled_extra" if extra_nodes else "features"
    nodes = [
        helper.make_node("Conv", ["image", "stem_weight", "stem_bias"], ["stemmed"], name="stem", **pads),
        helper.make_node("Relu", ["stemmed"], ["stem_active"], name="stem_relu"),
        helper.make_node(
            "Conv", ["stem_active", "depthwise_weight"], ["deep"], name="depthwise", group=channels, **pads
        ),
        helper.make_node("Relu", ["deep"], ["deep_active"], name="depthwise_relu"),
        helper.make_node("Conv", ["deep_active", "wide_weight", "wide_bias"], ["widened"], name="wide"),
        helper.make_node("Relu", ["widened"], ["wide_active"], name="wide_relu"),
        helper.make_node("GlobalAveragePool", ["wide_active"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["features"], name="flatten"),
        *extra_nodes,
        helper.make_node("Gemm", [flat, "logits_weight", "logits_bias"], ["logits"], name="logits", transB=1),
    ]
    shape: list[int | str] = ["batch", 3, SIDE_PX, SIDE_PX]
    return model_of(nodes, {"image": shape}, {"logits": ["batch", _CLASSES]}, weights)


def network_pictures(count: int, seed: int = 1) -> list[NDArray[np.uint8]]:
    """Pictures with coarse structure, so that their pooled features differ."""
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (count, SIDE_PX // 4, SIDE_PX // 4, 3), np.uint8)
    return list(blocks.repeat(4, axis=1).repeat(4, axis=2))
