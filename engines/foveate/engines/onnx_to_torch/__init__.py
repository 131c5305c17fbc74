"""ONNX graphs as torch calls, for the operators that detectors, classifiers and their exports are made of.

Importing this brings in torch and onnx: only the torch engine does, when it loads.
"""

from foveate.engines.onnx_to_torch.operators import OPERATORS
from foveate.engines.onnx_to_torch.program import BoundProgram, TorchProgram

__all__ = ["OPERATORS", "BoundProgram", "TorchProgram"]
