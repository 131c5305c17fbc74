"""Random weights that behave like trained ones where it matters to a machine: nothing vanishes, nothing explodes.

A network that is merely initialised answers every picture alike: its batch norms know no statistics, and heads are
made to begin near zero. One pass over sample images mends both, layer by layer.

Source: Mishkin and Matas, "All you need is a good init", ICLR 2016, for the scale of the layers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

__all__ = ["calibrate"]

_CLASS_SPREAD = 2.0
"""Standard deviation of class scores before their activation: enough that here and there a class stands out."""
_RARE = -4.0
"""Mean of class scores that are judged one by one, in standard deviations: few of the many reach one half."""
_SMALLEST_SPREAD = 1e-6
_SEED = 0
_LEAST_VARIANCE = 0.2
"""Of a channel, as a share of the mean over all channels of its layer."""


def calibrate(
    module: nn.Module, images: torch.Tensor, class_layers: Collection[nn.Module], *, independent: bool = False
) -> None:
    """Scale a network's layers, in place, to outputs of spread 1, and give its batch norms their statistics.

    `class_layers` give the class scores; `independent` says that each of them is judged by itself, by a sigmoid, so
    that most must be low. The network is left in evaluation mode.
    Shapes: images (batch, 3, H, W), normalised.
    """
    done: set[nn.Module] = set()

    def scaled(layer: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if layer in done:  # a head that several levels share keeps to the first of them, the largest
            return output
        done.add(layer)
        if not layer.weight.any():  # a head that training begins with nothing, as vision transformers' do
            nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(_SEED))
            output = layer.forward(*inputs)
        spread = _CLASS_SPREAD if layer in class_layers else 1.0
        centre = _RARE * spread if layer in class_layers and independent else 0.0
        factor = spread / output.std().clamp(min=_SMALLEST_SPREAD)
        shift = centre - output.mean() * factor if layer.bias is not None else torch.zeros(())
        layer.weight.mul_(factor)
        if layer.bias is not None:
            layer.bias.mul_(factor).add_(shift)
        return output * factor + shift

    module.eval()
    hooks = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            hooks.append(layer.register_forward_hook(scaled))
        elif isinstance(layer, nn.BatchNorm2d):
            hooks.append(layer.register_forward_hook(_normalised))
    try:
        with torch.no_grad():
            module(images)
    finally:
        for hook in hooks:
            hook.remove()


def _normalised(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """Give a batch norm the statistics of its input, and the output that follows from them.

    A channel that hardly varies over the samples counts as one that varies somewhat: any other picture would be
    blown up by it.
    """
    (features,) = inputs
    variance, mean = torch.var_mean(features, (0, 2, 3))
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(variance.clamp(min=_LEAST_VARIANCE * variance.mean()))
    again: torch.Tensor = layer.forward(features)
    return again
