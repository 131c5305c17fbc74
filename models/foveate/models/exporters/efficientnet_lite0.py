"""EfficientNet-Lite0, for the checkpoint that is published without its architecture.

Written down here, from its publisher's description, so that nothing that was downloaded runs: the checkpoint holds
numbers alone, and its names must be those below, all of them and no other.

Source: tensorflow/tpu, models/official/efficientnet/lite (no squeeze-and-excite, ReLU6, fixed stem and head); padding
as TensorFlow's SAME: what does not divide goes to the right and the bottom.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from foveate.engines.errors import ModelError
from foveate.models.exporters.checkpoint import weights_from_file
from foveate.models.exporters.network import Network
from foveate.models.manifest import InputSpec

__all__ = ["efficientnet_lite0_from_checkpoint"]

_STAGES = (
    # repeats, kernel, stride, expansion, channels in, channels out
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_EPSILON = 1e-3


def efficientnet_lite0_from_checkpoint(path: Path, spec: InputSpec) -> Network:
    """The network with its published weights. Raises: ModelError if the checkpoint is another's."""
    model = _EfficientNetLite0()
    try:
        model.load_state_dict(weights_from_file(path), strict=True)
    except RuntimeError as error:
        raise ModelError(f"the checkpoint does not hold the weights of EfficientNet-Lite0: {error}") from error
    return Network(model, ("logits",))


class _SameConv(nn.Conv2d):
    """A convolution that pads like TensorFlow: for outputs of ceil(size / stride), the odd row and column last."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(features.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(features, pads) if any(pads) else features)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> _SameConv:
    return _SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPSILON)


class _Block(nn.Module):
    """Widen, filter each channel by itself, narrow; attributes are called as in the checkpoint."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self._expands = expansion != 1
        self._skips = stride == 1 and inputs == outputs
        if self._expands:
            self._expand_conv, self._bn0 = _conv(inputs, wide, 1), _norm(wide)
        self._depthwise_conv, self._bn1 = _conv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _conv(wide, outputs, 1), _norm(outputs)
        self._activation = nn.ReLU6()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        values = features
        if self._expands:
            values = self._activation(self._bn0(self._expand_conv(values)))
        values = self._activation(self._bn1(self._depthwise_conv(values)))
        values = self._bn2(self._project_conv(values))
        return values + features if self._skips else values


class _EfficientNetLite0(nn.Module):
    """Images (batch, 3, H, W) to logits (batch, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, _STEM, 3, 2), _norm(_STEM)
        self._blocks = nn.ModuleList(
            _Block(outputs if index else inputs, outputs, kernel, 1 if index else stride, expansion)
            for repeats, kernel, stride, expansion, inputs, outputs in _STAGES
            for index in range(repeats)
        )
        self._conv_head, self._bn1 = _conv(_STAGES[-1][-1], _HEAD, 1), _norm(_HEAD)
        self._fc = nn.Linear(_HEAD, _CLASSES)
        self._activation = nn.ReLU6()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self._activation(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            features = block(features)
        features = self._activation(self._bn1(self._conv_head(features)))
        logits: torch.Tensor = self._fc(features.mean((2, 3)))
        return logits
