"""Operators that work element by element: arithmetic, comparisons, activations, types."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # its usual name
from torch import Tensor

from foveate.engines.onnx_to_torch.node import Computation, Lowerings, Node, torch_dtype

__all__ = ["ELEMENTWISE"]

ELEMENTWISE = Lowerings()

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs,
    "Atan": torch.atan,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "IsNaN": torch.isnan,
    "Log": torch.log,
    "Mish": F.mish,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softsign": F.softsign,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
}
_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "And": torch.logical_and,
    "Equal": torch.eq,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "Sub": torch.sub,
    "Xor": torch.logical_xor,
}
_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Max": torch.maximum,
    "Min": torch.minimum,
    "Sum": torch.add,
}


def _plain(function: Computation) -> Callable[[Node], Computation]:
    return lambda _: function


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Computation:
    return lambda *tensors: functools.reduce(function, tensors)


ELEMENTWISE.update({operator: _plain(function) for operator, function in (_UNARY | _BINARY).items()})
ELEMENTWISE["Where"] = _plain(torch.where)
ELEMENTWISE.update({operator: _plain(_folded(function)) for operator, function in _VARIADIC.items()})


@ELEMENTWISE.of("Identity", "Dropout")
def _identity(node: Node) -> Computation:
    if node.outputs > 1:
        raise node.refuse("wants the mask of a dropout, which only training has")
    return lambda tensor, *_: tensor


@ELEMENTWISE.of("Div")
def _div(node: Node) -> Computation:
    # Whole numbers are divided towards zero, as in C.
    rounding = None if node.input(0).is_floating_point() else "trunc"
    return lambda left, right: torch.div(left, right, rounding_mode=rounding)


@ELEMENTWISE.of("Pow")
def _pow(node: Node) -> Computation:
    dtype = node.input(0).dtype
    exponent = node.input(1)
    if not exponent.is_meta and exponent.numel() == 1 and node.rank(0) >= node.rank(1):
        power = node.number(1)
        return lambda base, _: torch.pow(base, power).to(dtype)
    return lambda base, exponent: torch.pow(base, exponent).to(dtype)


@ELEMENTWISE.of("Mod")
def _mod(node: Node) -> Computation:
    function: Computation = torch.fmod if node.attribute("fmod", 0) else torch.remainder
    return function


@ELEMENTWISE.of("Clip")
def _clip(node: Node) -> Computation:
    if any(node.has(index) and node.input(index).is_meta for index in (1, 2)):
        return lambda tensor, low=None, high=None: torch.clamp(tensor, low, high)
    low, high = node.number(1), node.number(2)
    if low is None and high is None:
        return lambda tensor, *_: tensor
    return lambda tensor, *_: torch.clamp(tensor, low, high)


@ELEMENTWISE.of("Cast")
def _cast(node: Node) -> Computation:
    dtype = torch_dtype(node.attribute("to"))
    return lambda tensor: tensor.to(dtype)


@ELEMENTWISE.of("CastLike")
def _cast_like(node: Node) -> Computation:
    dtype = node.input(1).dtype
    node.read_beforehand.add(1)
    return lambda tensor, _: tensor.to(dtype)


@ELEMENTWISE.of("HardSigmoid")
def _hard_sigmoid(node: Node) -> Computation:
    alpha, beta = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    return lambda tensor: (tensor * alpha + beta).clamp(0, 1)


@ELEMENTWISE.of("LeakyRelu")
def _leaky_relu(node: Node) -> Computation:
    return _bound(F.leaky_relu, node.attribute("alpha", 0.01))


@ELEMENTWISE.of("Elu")
def _elu(node: Node) -> Computation:
    return _bound(F.elu, node.attribute("alpha", 1.0))


@ELEMENTWISE.of("Celu")
def _celu(node: Node) -> Computation:
    return _bound(F.celu, node.attribute("alpha", 1.0))


@ELEMENTWISE.of("Selu")
def _selu(node: Node) -> Computation:
    alpha = node.attribute("alpha", 1.67326319217681884765625)
    gamma = node.attribute("gamma", 1.05070102214813232421875)
    return lambda tensor: F.elu(tensor, alpha) * gamma


@ELEMENTWISE.of("Softplus")
def _softplus(_: Node) -> Computation:
    return lambda tensor: torch.logaddexp(tensor, torch.zeros_like(tensor))


@ELEMENTWISE.of("PRelu")
def _prelu(_: Node) -> Computation:
    return lambda tensor, slope: torch.where(tensor < 0, tensor * slope, tensor)


@ELEMENTWISE.of("Gelu")
def _gelu(node: Node) -> Computation:
    approximate = node.attribute("approximate", "none")
    return lambda tensor: F.gelu(tensor, approximate=approximate)


@ELEMENTWISE.of("Swish")
def _swish(node: Node) -> Computation:
    alpha = node.attribute("alpha", 1.0)
    return lambda tensor: tensor * torch.sigmoid(tensor * alpha)


def _bound(function: Callable[..., Tensor], argument: Any) -> Computation:
    return lambda tensor: function(tensor, argument)
