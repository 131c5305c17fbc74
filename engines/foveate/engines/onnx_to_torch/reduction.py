"""Operators over whole axes: sums, maxima, products of matrices, normalisation, ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

from foveate.engines.onnx_to_torch.node import Computation, Lowerings, Node

__all__ = ["REDUCTION"]

REDUCTION = Lowerings()

_AXES_AS_INPUT_SINCE = 18


def _prod(x: Tensor, axes: Sequence[int], keepdim: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim)
    return x


_REDUCTIONS: dict[str, Callable[[Tensor, Sequence[int], bool], Tensor]] = {
    "ReduceL1": lambda x, axes, keepdim: x.abs().sum(axes, keepdim),
    "ReduceL2": lambda x, axes, keepdim: x.square().sum(axes, keepdim).sqrt(),
    "ReduceLogSumExp": torch.logsumexp,
    "ReduceMax": torch.amax,
    "ReduceMean": torch.mean,
    "ReduceMin": torch.amin,
    "ReduceProd": _prod,
    "ReduceSum": lambda x, axes, keepdim: x.sum(axes, keepdim, dtype=x.dtype),
    "ReduceSumSquare": lambda x, axes, keepdim: x.square().sum(axes, keepdim, dtype=x.dtype),
}


def _reduction(function: Callable[[Tensor, Sequence[int], bool], Tensor]) -> Callable[[Node], Computation]:
    def lower(node: Node) -> Computation:
        axes = node.ints(1) if node.has(1) else node.attribute("axes")
        if not axes and node.attribute("noop_with_empty_axes", 0):
            return lambda x, *_: x
        chosen = [node.axis(axis) for axis in axes] if axes else list(range(node.rank(0)))
        keepdim = bool(node.attribute("keepdims", 1))
        return lambda x, *_: function(x, chosen, keepdim)

    return lower


REDUCTION.update({operator: _reduction(function) for operator, function in _REDUCTIONS.items()})


@REDUCTION.of("ArgMax")
def _arg_max(node: Node) -> Computation:
    return _first_best(node, torch.argmax)


@REDUCTION.of("ArgMin")
def _arg_min(node: Node) -> Computation:
    return _first_best(node, torch.argmin)


def _first_best(node: Node, function: Callable[..., Tensor]) -> Computation:
    if node.attribute("select_last_index", 0):
        raise node.refuse("takes the last of equal values")
    axis, keepdim = node.attribute("axis", 0), bool(node.attribute("keepdims", 1))
    return lambda x: function(x, axis, keepdim)


@REDUCTION.of("TopK")
def _top_k(node: Node) -> Computation:
    (count,) = node.ints(1) or [0]
    axis, largest = node.axis(node.attribute("axis", -1)), bool(node.attribute("largest", 1))
    return lambda x, _: tuple(torch.topk(x, count, axis, largest, sorted=True))


@REDUCTION.of("Softmax")
def _softmax(node: Node) -> Computation:
    axis = node.attribute("axis", -1)
    return lambda x: torch.softmax(x, axis)


@REDUCTION.of("LogSoftmax")
def _log_softmax(node: Node) -> Computation:
    axis = node.attribute("axis", -1)
    return lambda x: torch.log_softmax(x, axis)


@REDUCTION.of("CumSum")
def _cum_sum(node: Node) -> Computation:
    if node.attribute("exclusive", 0) or node.attribute("reverse", 0):
        raise node.refuse("sums exclusively or in reverse")
    axis = node.number(1)
    return lambda x, _: torch.cumsum(x, axis, dtype=x.dtype)


@REDUCTION.of("MatMul")
def _mat_mul(_: Node) -> Computation:
    return lambda left, right: torch.matmul(left, right)


@REDUCTION.of("Einsum")
def _einsum(node: Node) -> Computation:
    equation = node.attribute("equation")
    return lambda *tensors: torch.einsum(equation, *tensors)


@REDUCTION.of("Gemm")
def _gemm(node: Node) -> Computation:
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    turn_left, turn_right = node.attribute("transA", 0), node.attribute("transB", 0)

    def gemm(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        left, right = left.t() if turn_left else left, right.t() if turn_right else right
        if bias is None:
            return left @ right if alpha == 1 else left @ right * alpha
        return torch.addmm(bias, left, right, beta=beta, alpha=alpha)

    return gemm


@REDUCTION.of("BatchNormalization")
def _batch_normalization(node: Node) -> Computation:
    if node.attribute("training_mode", 0):
        raise node.refuse("is in training mode")
    epsilon = node.attribute("epsilon", 1e-5)
    return lambda x, scale, bias, mean, variance: F.batch_norm(x, mean, variance, scale, bias, eps=epsilon)


@REDUCTION.of("LayerNormalization")
def _layer_normalization(node: Node) -> Computation:
    if node.outputs > 1:
        raise node.refuse("wants the mean and deviation, which only training has")
    shape = node.shape(0)[node.axis(node.attribute("axis", -1)) :]
    epsilon = node.attribute("epsilon", 1e-5)

    def normalise(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.layer_norm(x, shape, scale.expand(shape), None if bias is None else bias.expand(shape), epsilon)

    return normalise


@REDUCTION.of("InstanceNormalization")
def _instance_normalization(node: Node) -> Computation:
    epsilon = node.attribute("epsilon", 1e-5)
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@REDUCTION.of("GroupNormalization")
def _group_normalization(node: Node) -> Computation:
    groups, epsilon = node.attribute("num_groups"), node.attribute("epsilon", 1e-5)
    channels = node.shape(0)[1]
    each = channels // node.shape(1)[0]  # up to opset 20 one scale per group, then one per channel

    def normalise(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return F.group_norm(x, groups, scale.repeat_interleave(each), bias.repeat_interleave(each), epsilon)

    return normalise


@REDUCTION.of("LpNormalization")
def _lp_normalization(node: Node) -> Computation:
    axis, power = node.attribute("axis", -1), node.attribute("p", 2)
    return lambda x: x / torch.linalg.vector_norm(x, power, axis, keepdim=True)
