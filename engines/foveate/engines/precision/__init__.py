"""Precision made in the ONNX graph: half precision, bfloat16, int8 and fp8, the same for every compiler.

Importing this brings in onnx and ONNX Runtime: only building does, never serving.
"""

from foveate.engines.precision.conversion import PRECISIONS, convert
from foveate.engines.precision.inspection import precision_of
from foveate.engines.precision.sensitivity import NodeLoss, propose_exclude, sensitivity

__all__ = [
    "PRECISIONS",
    "NodeLoss",
    "convert",
    "precision_of",
    "propose_exclude",
    "sensitivity",
]
