"""torch and torchvision, imported when a model is exported and never before.

torchvision's wheels from the package index are compiled against torch's CUDA build. Beside a CPU build of torch its
compiled operators do not load, and then its own import fails, since it describes two of them to the compiler without
looking whether they are there. No network that is exported here calls either, so their names are declared and the
import goes through.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

from foveate.engines.errors import EngineUnavailable

__all__ = ["import_torch", "import_torchvision"]

_HINT = "exporting a model needs {}: install it with `pip install 'foveate[export]'`"
_DESCRIBED_ON_IMPORT = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_torch() -> ModuleType:
    """torch, with what its ONNX exporter needs. Raises: EngineUnavailable naming the extra to install."""
    torch = _imported("torch")
    _imported("onnxscript")
    return torch


@cache
def import_torchvision() -> ModuleType:
    """torchvision, also where only torch's CPU build is installed. Raises: EngineUnavailable."""
    torch = import_torch()
    found = importlib.util.find_spec("torchvision")
    if found is not None and found.submodule_search_locations:
        folder = Path(found.submodule_search_locations[0])
        if not _operators_load(torch, folder):
            _declare_operators(torch)
    return _imported("torchvision")


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:  # a library of another build fails with one of the latter
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        reason = name if missing else f"{name}, which cannot be imported here ({error})"
        raise EngineUnavailable(_HINT.format(reason)) from error


def _operators_load(torch: ModuleType, folder: Path) -> bool:
    """Whether torchvision's compiled operators fit this torch; loading them twice does no harm."""
    try:
        for library in folder.glob("_C*.so"):
            torch.ops.load_library(str(library))
    except OSError:
        return False
    return hasattr(torch.ops.torchvision, "nms")


def _declare_operators(torch: ModuleType) -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _DESCRIBED_ON_IMPORT:
        library.define(schema)
    _KEPT.append(library)


_KEPT: list[object] = []
"""torch forgets a declaration together with the object that made it."""
