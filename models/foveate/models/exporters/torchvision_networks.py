"""torchvision's classifiers and one-stage detectors, by the names that it gives them.

A classifier is taken as it is. Of a detector, the part between the normalised image and the raw answers of its heads:
what torchvision does before it (resizing) belongs to the manifest, and what it does after (boxes from anchors, the best
candidates, suppression) to the `ssd` head, which does it with a fixed number of candidates on every backend.
"""

from __future__ import annotations

import difflib
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD

from foveate.engines.errors import ConfigError, ModelError
from foveate.models.exporters.checkpoint import weights_from_file
from foveate.models.exporters.network import Network, sample_images
from foveate.models.exporters.random_weights import calibrate
from foveate.models.exporters.torch_hub import checkpoint_file
from foveate.models.manifest import InputSpec
from foveate.models.store import Progress

__all__ = ["random_network", "trained_network"]

_SEED = 0
_CALIBRATION_IMAGES = 32
_OTHER_FAMILIES = ("segmentation", "video", "optical_flow", "quantization")
_ONE_STAGE = (SSD, RetinaNet, FCOS)


def trained_network(name: str, weights: str, spec: InputSpec, on_progress: Progress | None = None) -> Network:
    """A model with the weights that torchvision publishes under that name.

    Raises: ConfigError for a name that torchvision does not have, ModelError if the checkpoint cannot be had or the
    model cannot be exported.
    """
    _check_name(name)
    chosen = _weights(name, weights)
    file = checkpoint_file(chosen.url, Path(torch.hub.get_dir()) / "checkpoints", on_progress=on_progress)
    # A file that passes here runs no code when torchvision loads it again, its own way: that sets what a model is told
    # besides its weights.
    weights_from_file(file)
    return _network(name, models.get_model(name, weights=chosen), spec)


def random_network(name: str, spec: InputSpec) -> Network:
    """The same architecture with random weights, the same ones every time, for tests of speed and of a set-up.

    Raises: ConfigError for a name that torchvision does not have, ModelError if the model cannot be exported.
    """
    _check_name(name)
    with torch.random.fork_rng(devices=()), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of builders, about how they will initialise one day
        torch.manual_seed(_SEED)
        options = {"weights_backbone": None} if _is_detector(name) else {}
        model = models.get_model(name, weights=None, **options)
    network = _network(name, model, spec)
    images = sample_images(spec, _CALIBRATION_IMAGES, _SEED)
    calibrate(network.module, images, _class_layers(model), independent=isinstance(model, RetinaNet | FCOS))
    return network


def _check_name(name: str) -> None:
    known = models.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise ConfigError(
            f"torchvision has no model {name!r}" + (f": did you mean {' or '.join(near)}?" if near else "")
        )
    family = models.get_model_builder(name).__module__.split(".")
    for other in _OTHER_FAMILIES:
        if other in family:
            raise ModelError(f"torchvision's {name} is of its {other} models: classifiers and detectors are exported")


def _is_detector(name: str) -> bool:
    return "detection" in models.get_model_builder(name).__module__.split(".")


def _weights(name: str, weights: str) -> Any:
    known = models.get_model_weights(name)
    if weights not in known.__members__:
        raise ConfigError(
            f"torchvision's {name} has no weights {weights!r}: choose one of {', '.join(known.__members__)}"
        )
    return known[weights]


def _network(name: str, model: nn.Module, spec: InputSpec) -> Network:
    model.eval()
    if isinstance(model, _ONE_STAGE):
        raw = _RawFcos(model) if isinstance(model, FCOS) else _RawDetector(model)
        return Network(raw, ("boxes", "scores"), {"anchors": raw.anchors(sample_images(spec, 1, _SEED)).numpy()})
    if isinstance(model, GeneralizedRCNN):
        raise ModelError(
            f"torchvision's {name} is a detector of two stages: the second looks at as many regions as the first "
            "finds, by RoiAlign, which TensorRT does not compile; take a detector of one stage, such as "
            "ssdlite320_mobilenet_v3_large, retinanet_resnet50_fpn_v2 or fcos_resnet50_fpn"
        )
    _pool_by_mean(model)
    return Network(model, ("logits",))


def _pool_by_mean(model: nn.Module) -> None:
    """Write the pooling to one pixel as the mean that it is.

    Where pixels lie channels last, as in ConvNeXt, torch exports it as a gather by strides, in which the batch is lost.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size in (1, (1, 1)):
                setattr(parent, name, _GlobalMean())


class _GlobalMean(nn.Module):
    """(batch, C, H, W) to (batch, C, 1, 1)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3), keepdim=True)


def _class_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose outputs are class scores."""
    if isinstance(model, SSD):
        levels: list[Any] = list(model.head.classification_head.module_list)
        return [level[-1] if isinstance(level, nn.Sequential) else level for level in levels]
    if isinstance(model, RetinaNet | FCOS):
        return [model.head.classification_head.cls_logits]
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return layers[-1:]


class _RawDetector(nn.Module):
    """Images to `boxes` (batch, A, 4), as offsets from anchors, and `scores` (batch, A, C), not activated yet."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head
        self._anchor_generator = detector.anchor_generator
        # torchvision trains offsets that are stretched by these; FCOS has none.
        stretch = torch.tensor(getattr(detector.box_coder, "weights", (1.0, 1.0, 1.0, 1.0)), dtype=torch.float32)
        self.register_buffer("_shrink", 1 / stretch)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answers = self.head(list(self._features(image)))
        return answers["bbox_regression"] * self._shrink, self._scores(answers)

    def anchors(self, image: torch.Tensor) -> torch.Tensor:
        """The anchors for images of this size, (A, 4) as x1, y1, x2, y2 in pixels of the input."""
        with torch.no_grad():
            features = list(self._features(image))
            found: torch.Tensor = self._anchor_generator(ImageList(image, [tuple(image.shape[-2:])]), features)[0]
        return found

    def _features(self, image: torch.Tensor) -> Any:
        features = self.backbone(image)
        return (features,) if isinstance(features, torch.Tensor) else features.values()

    def _scores(self, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        return answers["cls_logits"]


class _RawFcos(_RawDetector):
    """The same, with `boxes` as distances from the anchor's centre to the edges and `scores` in 0..1."""

    def _scores(self, answers: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.sqrt(answers["cls_logits"].sigmoid() * answers["bbox_ctrness"].sigmoid())
