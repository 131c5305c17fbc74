"""torchvision models with random weights, exported once and kept in the user's cache: an export takes many seconds."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from foveate.engines.errors import EngineUnavailable
from foveate.models import exporters
from foveate.models.exporters import export_torchvision
from foveate.models.exporters.torch_library import import_torchvision
from foveate.models.package import ModelPackage, PreparedModel, import_file, load_package, prepare
from foveate.models.sources import TorchvisionSource
from foveate.models.store import ModelStore

__all__ = ["prepared_export", "require_torchvision", "torchvision_package"]

_LIBRARIES = ("torch", "torchvision", "onnxscript", "onnx")


_MANIFEST = """
name = "{name}"
title = "{name}, random"
task = "{task}"
source = "torchvision:{name}/{weights}"
labels = "{labels}"
min_score = 0.05
nms_iou = 0.5
licence = "BSD-3-Clause"
homepage = "https://example.org"

[input]
width_px = {side}
height_px = {side}
scale = 0.00392156862745098
mean = {mean}
std = {std}
resize = "stretch"

[head]
top_k = {top_k}
{head}
"""
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_CLASSIFIER = {
    **_IMAGENET,
    "task": "classify",
    "weights": "IMAGENET1K_V1",
    "labels": "imagenet1k",
    "side": 224,
    "top_k": 20,
    "head": 'kind = "logits"\noutputs = { logits = "logits" }\nactivation = "softmax"',
}
_SSD_OUTPUTS = (
    'kind = "ssd"\noutputs = { boxes = "boxes", scores = "scores", anchors = "anchors" }\nbackground = true\n'
)
_DETECTOR = {
    **_IMAGENET,
    "task": "detect",
    "weights": "COCO_V1",
    "labels": "coco90",
    "side": 320,
    "top_k": 1000,
    "head": f'{_SSD_OUTPUTS}activation = "sigmoid"\nbox_coding = "anchor_offsets"',
}
_SSD = {**_DETECTOR, "head": f'{_SSD_OUTPUTS}activation = "softmax"\nbox_coding = "anchor_offsets"'}
_DETECTORS: dict[str, dict[str, Any]] = {
    "ssdlite320_mobilenet_v3_large": {**_SSD, "mean": [0.5] * 3, "std": [0.5] * 3},
    "ssd300_vgg16": {**_SSD, "side": 300, "mean": [0.48235, 0.45882, 0.40784], "std": [1 / 255] * 3},
    "retinanet_resnet50_fpn": _DETECTOR,
    "retinanet_resnet50_fpn_v2": _DETECTOR,
    "fcos_resnet50_fpn": {**_DETECTOR, "head": f'{_SSD_OUTPUTS}box_coding = "anchor_edges"'},
}


def torchvision_package(folder: Path, name: str) -> ModelPackage:
    """A package of a torchvision model at a size that keeps tests quick, written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _MANIFEST.format(name=name, **_DETECTORS.get(name, _CLASSIFIER))
    (folder / "model.toml").write_text(text)
    return load_package(folder)


def require_torchvision() -> None:
    """The test skips, with the reason, where models cannot be exported."""
    try:
        import_torchvision()
    except EngineUnavailable as error:
        pytest.skip(str(error))


def prepared_export(package: ModelPackage, store: ModelStore) -> PreparedModel:
    """A package of a torchvision model, exported with random weights and prepared; skips without torchvision."""
    require_torchvision()
    source = package.source
    assert isinstance(source, TorchvisionSource)
    path = platformdirs.user_cache_path("foveate-tests") / "exports" / f"{source.model}-{_recipe(package)}.onnx"
    if not path.is_file():
        logging.getLogger("torch.__trace").propagate = False  # a line a step, which pytest would keep
        exported = export_torchvision(source, package.manifest.input, random_weights=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        for older in path.parent.glob(f"{source.model}-*.onnx"):
            older.unlink(missing_ok=True)
        partial = path.with_suffix(f".{id(exported)}")
        partial.write_bytes(exported.content)
        partial.replace(path)
    import_file(package, store, path)
    return prepare(package, store, fetch=False)


def _recipe(package: ModelPackage) -> str:
    """Changes whenever an export would: with the exporters, their libraries, the source and the input."""
    folder = Path(exporters.__file__).parent
    facts = [str(package.source), package.manifest.input.model_dump_json()]
    facts += [importlib.metadata.version(name) for name in _LIBRARIES]
    facts += [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py"))]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
