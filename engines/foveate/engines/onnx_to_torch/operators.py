"""All operators that a graph for torch may hold."""

from __future__ import annotations

from foveate.engines.onnx_to_torch.elementwise import ELEMENTWISE
from foveate.engines.onnx_to_torch.node import Lowerings
from foveate.engines.onnx_to_torch.quantisation import QUANTISATION
from foveate.engines.onnx_to_torch.reduction import REDUCTION
from foveate.engines.onnx_to_torch.shaping import SHAPING
from foveate.engines.onnx_to_torch.spatial import SPATIAL

__all__ = ["OPERATORS"]

OPERATORS = Lowerings(ELEMENTWISE | SHAPING | SPATIAL | REDUCTION | QUANTISATION)
"""By their ONNX names."""
