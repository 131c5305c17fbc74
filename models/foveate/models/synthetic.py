"""Networks of the usual shapes with random weights, to be measured where nothing can be fetched.

Latency, memory and power of an engine hang on shapes and not on what was learned; accuracy cannot be told from these.
Weights are scaled so that activations keep their size from layer to layer, as trained ones do: noughts and
infinities are faster, or slower, than numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from foveate.models.fusion import fuse
from foveate.models.graph import GraphBuilder
from foveate.models.manifest import HeadSpec, InputSpec, Manifest
from foveate.models.surgery import BATCH, OPSET

__all__ = ["synthetic_classifier", "synthetic_detector"]

_IMAGENET_CLASSES = 1000
_COCO_CLASSES = 80
_RESNET50 = (3, 4, 6, 3)


def synthetic_classifier(
    side_px: int = 224, *, width: int = 64, blocks: Sequence[int] = _RESNET50, seed: int = 0
) -> onnx.ModelProto:
    """A fused classifier of the shape of ResNet-50 (25.6 M parameters as it stands), weights random.

    Source: He et al., Deep Residual Learning for Image Recognition, 2015, table 1.
    """
    net = _Network(seed)
    features = _backbone(net, width, blocks)[-1]
    pooled = net.graph.add("GlobalAveragePool", features.name, name="pooled")
    flat = net.graph.add("Flatten", pooled, name="features")
    logits = net.linear(flat, features.channels, _IMAGENET_CLASSES, "logits")
    model = net.model(side_px, {logits: [_IMAGENET_CLASSES]})
    head = HeadSpec(kind="logits", outputs={"logits": logits}, top_k=5, activation="softmax")
    return fuse(model, _manifest("synthetic_classifier", "classify", side_px, head))


def synthetic_detector(
    side_px: int = 640, *, width: int = 64, blocks: Sequence[int] = _RESNET50, neck: int = 256, seed: int = 0
) -> onnx.ModelProto:
    """A fused detector of the shape of RT-DETR without its decoder, weights random.

    A ResNet backbone, one encoder layer with attention over the coarsest features, a neck that goes up and down over
    strides 8, 16 and 32, and logits and a box for every place of the three: 8400 candidates at 640 pixels.
    Source: Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, 2023, figure 4.
    """
    net = _Network(seed)
    fine, middle, coarse = (net.conv(each, neck, 1, name="lateral") for each in _backbone(net, width, blocks)[1:])
    coarse = net.encoder(coarse, side_px // 32)
    middle = net.conv(net.joined(net.doubled(coarse), middle), neck, 3, name="up_middle")
    fine = net.conv(net.joined(net.doubled(middle), fine), neck, 3, name="up_fine")
    middle = net.conv(
        net.joined(net.conv(fine, neck, 3, stride=2, name="to_middle"), middle), neck, 3, name="down_middle"
    )
    coarse = net.conv(
        net.joined(net.conv(middle, neck, 3, stride=2, name="to_coarse"), coarse), neck, 3, name="down_coarse"
    )
    levels = (fine, middle, coarse)
    places = sum((side_px // stride) ** 2 for stride in (8, 16, 32))
    logits = net.rows([net.conv(each, _COCO_CLASSES, 1, name="class", active=False) for each in levels], "logits")
    boxes = net.rows([net.conv(each, 4, 1, name="box", active=False) for each in levels], "raw_boxes")
    boxes = net.graph.add("Sigmoid", boxes, name="boxes")
    model = net.model(side_px, {logits: [places, _COCO_CLASSES], boxes: [places, 4]})
    head = HeadSpec(
        kind="detr",
        outputs={"logits": logits, "boxes": boxes},
        top_k=min(300, places),
        activation="sigmoid",
        box_format="cxcywh",
        box_unit="fraction",
    )
    return fuse(model, _manifest("synthetic_detector", "detect", side_px, head))


@dataclass(frozen=True, slots=True)
class _Features:
    name: str
    channels: int


class _Network:
    """Layers with random weights, one after the other."""

    def __init__(self, seed: int) -> None:
        self.graph = GraphBuilder("net")
        self._random = np.random.default_rng(seed)

    def conv(
        self,
        x: _Features,
        channels: int,
        kernel: int,
        *,
        name: str,
        stride: int = 1,
        active: bool = True,
        gain: float = 1.0,
    ) -> _Features:
        """A convolution and, if active, its ReLU. Source of the scale: He et al., 2015, Delving Deep, section 2.2."""
        shape = (channels, x.channels, kernel, kernel)
        deviation = gain * np.sqrt((2 if active else 1) / (x.channels * kernel**2))
        weight = self.graph.floats(self._random.standard_normal(shape, np.float32) * deviation, f"{name}_weight")
        bias = self.graph.floats(np.zeros(channels), f"{name}_bias")
        pads = [kernel // 2] * 4
        made = self.graph.add("Conv", x.name, weight, bias, name=name, strides=[stride, stride], pads=pads)
        return _Features(self.graph.add("Relu", made, name=f"{name}_relu") if active else made, channels)

    def linear(self, x: str, before: int, after: int, name: str) -> str:
        """A product with a matrix; x may have any shape that ends in `before`."""
        deviation = 1 / np.sqrt(before)
        weight = self.graph.floats(
            self._random.standard_normal((before, after), np.float32) * deviation, f"{name}_weight"
        )
        return self.graph.add("MatMul", x, weight, name=name)

    def joined(self, left: _Features, right: _Features) -> _Features:
        return _Features(
            self.graph.add("Concat", left.name, right.name, name="joined", axis=1), left.channels + right.channels
        )

    def doubled(self, x: _Features) -> _Features:
        scales = self.graph.floats([1, 1, 2, 2], "doubled_scales")
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return _Features(self.graph.add("Resize", x.name, "", scales, name="doubled", **how), x.channels)

    def encoder(self, x: _Features, side: int, heads: int = 8) -> _Features:
        """One transformer layer over all places."""
        width, deep = x.channels, x.channels // heads
        flat = self.graph.reshape(x.name, [width, side * side], "tokens_last")
        tokens = self.graph.add("Transpose", flat, name="tokens", perm=[0, 2, 1])

        def split(part: str, order: Sequence[int]) -> str:
            values = self.graph.reshape(self.linear(tokens, width, width, part), [-1, heads, deep], f"{part}_heads")
            return self.graph.add("Transpose", values, name=f"{part}_first", perm=list(order))

        queries, keys, values = split("query", (0, 2, 1, 3)), split("key", (0, 2, 3, 1)), split("value", (0, 2, 1, 3))
        scale = self.graph.floats(1 / np.sqrt(deep), "attention_scale")
        scores = self.graph.add("Mul", self.graph.add("MatMul", queries, keys, name="scores"), scale, name="scaled")
        weights = self.graph.add("Softmax", scores, name="attention", axis=-1)
        mixed = self.graph.add("MatMul", weights, values, name="mixed")
        merged = self.graph.add("Transpose", mixed, name="merged", perm=[0, 2, 1, 3])
        merged = self.graph.reshape(merged, [-1, width], "merged_tokens")
        tokens = self.normalised(self.graph.add("Add", tokens, merged, name="attended"), width)
        hidden = self.graph.add("Relu", self.linear(tokens, width, 4 * width, "hidden"), name="hidden_relu")
        grown = self.linear(hidden, 4 * width, width, "grown")
        tokens = self.normalised(self.graph.add("Add", tokens, grown, name="fed"), width)
        turned = self.graph.add("Transpose", tokens, name="channels", perm=[0, 2, 1])
        return _Features(self.graph.reshape(turned, [width, side, side], "encoded"), width)

    def normalised(self, x: str, width: int) -> str:
        scale, bias = self.graph.floats(np.ones(width), "norm_scale"), self.graph.floats(np.zeros(width), "norm_bias")
        return self.graph.add("LayerNormalization", x, scale, bias, name="normalised", axis=-1)

    def rows(self, levels: Sequence[_Features], name: str) -> str:
        """Feature maps as one row per place: (batch, places, channels)."""
        flat = [self.graph.reshape(each.name, [each.channels, -1], f"{name}_flat") for each in levels]
        joined = self.graph.add("Concat", *flat, name=f"{name}_joined", axis=2)
        return self.graph.add("Transpose", joined, name=name, perm=[0, 2, 1])

    def model(self, side_px: int, outputs: dict[str, list[int]]) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.graph.nodes,
            "network",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [BATCH, 3, side_px, side_px])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, *shape])
                for name, shape in outputs.items()
            ],
            self.graph.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _backbone(net: _Network, width: int, blocks: Sequence[int]) -> list[_Features]:
    """A ResNet of bottlenecks: its features at strides 4, 8, 16 and 32."""
    x = net.conv(_Features("image", 3), width, 7, stride=2, name="stem")
    pooled = net.graph.add("MaxPool", x.name, name="stem_pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    x, stages = _Features(pooled, width), []
    for stage, count in enumerate(blocks):
        for block in range(count):
            x = _bottleneck(net, x, width << stage, stride=2 if block == 0 and stage else 1)
        stages.append(x)
    return stages


def _bottleneck(net: _Network, x: _Features, width: int, stride: int) -> _Features:
    wide = 4 * width
    inner = net.conv(x, width, 1, name="reduce")
    inner = net.conv(inner, width, 3, stride=stride, name="spatial")
    # The branch is small beside what it is added to, else fifty layers would let the sum grow out of half precision.
    inner = net.conv(inner, wide, 1, name="expand", active=False, gain=0.3)
    same = stride == 1 and x.channels == wide
    aside = x if same else net.conv(x, wide, 1, stride=stride, name="shortcut", active=False)
    total = net.graph.add("Add", inner.name, aside.name, name="sum")
    return _Features(net.graph.add("Relu", total, name="block"), wide)


def _manifest(name: str, task: str, side_px: int, head: HeadSpec) -> Manifest:
    return Manifest.model_validate(
        {
            "name": name,
            "title": "Random weights in a network of a usual shape",
            "task": task,
            "source": f"file:{name}.onnx",
            "input": InputSpec(
                width_px=side_px,
                height_px=side_px,
                scale=1 / 255,
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
                resize="stretch",
            ),
            "head": head,
            "labels": ("thing",),
            "licence": "Apache-2.0",
            "homepage": "",
        }
    )
