"""Models as data: what a model is, how a frame gets into it, and what it says.

`foveate.models.fusion` and `foveate.models.heads` are left out on purpose: they import onnx, which serving
from a warm store never needs.
"""

from foveate.models.catalog import catalog_names
from foveate.models.geometry import Placement, Rect, place
from foveate.models.manifest import HeadSpec, InputSpec, Manifest, manifest_from_file, manifest_from_text
from foveate.models.outputs import Classes, DecodeOptions, Detections, Embedding, Output
from foveate.models.package import (
    ModelPackage,
    PreparedModel,
    fetch_model,
    import_file,
    is_fetched,
    load_package,
    prepare,
)
from foveate.models.store import ModelStore

__all__ = [
    "Classes",
    "DecodeOptions",
    "Detections",
    "Embedding",
    "HeadSpec",
    "InputSpec",
    "Manifest",
    "ModelPackage",
    "ModelStore",
    "Output",
    "Placement",
    "PreparedModel",
    "Rect",
    "catalog_names",
    "fetch_model",
    "import_file",
    "is_fetched",
    "load_package",
    "manifest_from_file",
    "manifest_from_text",
    "place",
    "prepare",
]
