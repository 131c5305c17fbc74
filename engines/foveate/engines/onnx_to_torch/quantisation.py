"""Quantised tensors as their integers say: rounded and scaled back, so that a Q/DQ graph shows what int8 costs."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.engines.onnx_to_torch.node import Computation, Lowerings, Node, torch_dtype

__all__ = ["QUANTISATION"]

QUANTISATION = Lowerings()


@QUANTISATION.of("QuantizeLinear")
def _quantize_linear(node: Node) -> Computation:
    dtype = _quantised_dtype(node)
    shape = _broadcast_shape(node)
    lowest, highest = _limits(dtype)

    def quantise(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        scaled = x / scale.reshape(shape).to(x.dtype)
        if not dtype.is_floating_point:
            scaled = scaled.round()
        shifted = scaled if zero is None else scaled + zero.reshape(shape).to(x.dtype)
        return shifted.clamp(lowest, highest).to(dtype)

    return quantise


@QUANTISATION.of("DequantizeLinear")
def _dequantize_linear(node: Node) -> Computation:
    shape = _broadcast_shape(node)

    def dequantise(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        values = x.to(scale.dtype)
        shifted = values if zero is None else values - zero.reshape(shape).to(scale.dtype)
        return shifted * scale.reshape(shape)

    return dequantise


def _quantised_dtype(node: Node) -> torch.dtype:
    if node.has(2):
        return node.input(2).dtype
    asked = node.attribute("output_dtype", 0)
    return torch_dtype(asked) if asked else torch.uint8


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    limits = torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
    return limits.min, limits.max


def _broadcast_shape(node: Node) -> list[int]:
    """The shape in which a scale meets the tensor: one number, or one per entry of an axis."""
    if node.attribute("block_size", 0):
        raise node.refuse("scales by blocks")
    if node.input(1).numel() == 1:
        return []
    axis = node.axis(node.attribute("axis", 1))
    return [-1 if place == axis else 1 for place in range(node.rank(0))]
