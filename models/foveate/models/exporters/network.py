"""What an exporter makes of a source: a network of torch, ready to become an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foveate.models.manifest import InputSpec

__all__ = ["Network", "sample_images"]

_OCTAVES = (2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class Network:
    """A network and the names of what it answers.

    Shapes: `module` takes images (batch, 3, H, W), normalised as the manifest's input says, and returns one tensor for
    each of `outputs`, its batch first. `constants` are outputs without a batch, the same for every image.
    """

    module: torch.nn.Module
    outputs: tuple[str, ...]
    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def sample_images(spec: InputSpec, count: int, seed: int) -> torch.Tensor:
    """Random images with as much structure in every octave, as photographs have; the same for the same seed.

    Shapes: (count, 3, H, W) float32, normalised.
    """
    random = np.random.default_rng(seed)
    size = (spec.height_px, spec.width_px)
    pixels = torch.from_numpy(random.uniform(0, 255, (count, 3, 1, 1)).astype(np.float32)).expand(-1, -1, *size)
    for side in _OCTAVES:
        contrast = random.uniform(0, 60, (count, 1, 1, 1))
        noise = torch.from_numpy((contrast * random.standard_normal((count, 3, side, side))).astype(np.float32))
        pixels = pixels + torch.nn.functional.interpolate(noise, size, mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values, dtype=torch.float32).reshape(1, 3, 1, 1) for values in (spec.mean, spec.std))
    return (pixels.clamp(0, 255) * spec.scale - mean) / std
