"""A manifest for an ONNX file that comes without one, from what the file says of itself.

Shapes tell which head reads a graph, and leave open how a picture becomes its input: that is taken from what each
family of models is trained with, and said, so that whoever adds a model knows what to check.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from foveate.engines.errors import ConfigError, ModelError
from foveate.models.graph_facts import GraphFacts, OutputFacts
from foveate.models.manifest import HeadKind

__all__ = ["HEAD_NAMES", "HeadGuess", "InputGuess", "guess_head", "guess_input"]

HEAD_NAMES: tuple[str, ...] = get_args(HeadKind)
_STRIDES = (8, 16, 32)
_ANCHORS_A_CELL = 3
_MOST_QUERIES = 1000
"""A transformer has some hundreds of queries, a detector with anchors thousands of them."""
_EMBEDDING_LENGTHS = (64, 128, 192, 256, 320, 384, 512, 576, 640, 768, 960, 1024, 1280, 1536, 2048)
_IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_BYTE = 1 / 255


@dataclass(frozen=True, slots=True)
class HeadGuess:
    """A head that can read a graph: the fields of the manifest's ``[head]``, and why."""

    kind: str
    outputs: Mapping[str, str]
    classes: int
    """How many labels it needs; 0 for embeddings."""
    why: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    """What the shapes do not tell."""


@dataclass(frozen=True, slots=True)
class InputGuess:
    """How a picture becomes the input: the fields of the manifest's ``[input]`` but its size, and on what grounds."""

    fields: Mapping[str, Any]
    why: str


def guess_head(facts: GraphFacts, wished: str | None, labels: int | None) -> HeadGuess:
    """The head that fits the shapes of a graph's outputs, the wished one or the likeliest.

    `labels` is how many class names there are, where that is known: it tells a background from a class.
    Raises: ModelError where no head, or not the wished one, can read these outputs; ConfigError for an unknown head.
    """
    if wished is not None and wished not in HEAD_NAMES:
        raise ConfigError(f"no head is called {wished!r}: choose one of {', '.join(HEAD_NAMES)}")
    if facts.metadata.get("task") == "segment":
        raise ModelError("a segmentation model: no head reads masks; export its detector, or another model")
    kinds = [wished] if wished else list(_GUESSES)
    for kind in kinds:
        if kind == "embedding" and wished is None and not _seems_an_embedding(facts, labels):
            continue  # a vector is a classifier's, unless something speaks for the other
        guess = _GUESSES[kind](facts, labels)
        if guess is not None:
            return guess
    found = "; ".join(map(str, facts.outputs))
    raise ModelError(
        f"{f'head {wished!r} does not' if wished else 'no head can'} read these outputs at "
        f"{facts.width_px}x{facts.height_px}: {found}. {_EXPECTATIONS}"
    )


_EXPECTATIONS = (
    "Expected is one of: predictions (batch, boxes, columns) or (batch, columns, boxes); boxes (batch, N, 4) beside "
    "scores (batch, N, classes); logits (batch, classes); a vector (batch, length); CenterFace's four maps. Export the "
    "model without its post-processing"
)


def _cells(facts: GraphFacts) -> int:
    return sum((facts.height_px // stride) * (facts.width_px // stride) for stride in _STRIDES)


def _single(facts: GraphFacts, rank: int) -> OutputFacts | None:
    """The only output that counts: exports of YOLOv5 keep their raw levels, of rank 4, beside it."""
    fitting = [each for each in facts.outputs if len(each.shape) == rank and not each.constant]
    others = [each for each in facts.outputs if len(each.shape) < 4 and each not in fitting]
    return fitting[0] if len(fitting) == 1 and not others else None


def _keypoints(facts: GraphFacts) -> int:
    digits = [
        int(each) for each in facts.metadata.get("kpt_shape", "").strip("[]() ").split(",") if each.strip().isdigit()
    ]
    return digits[0] if digits else 0


def _yolo_end2end(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    output = _single(facts, 2)
    if output is None:
        return None
    candidates, width = output.shape
    keypoints = _keypoints(facts)
    if candidates in (_cells(facts), _ANCHORS_A_CELL * _cells(facts)):
        return None  # a row for every place: nothing has been chosen yet
    if width != 6 + 3 * keypoints or candidates > _MOST_QUERIES:
        return None
    fields = {"keypoints": keypoints} if keypoints else {}
    return HeadGuess(
        "yolo_end2end",
        {"predictions": output.name},
        labels or len(facts.labels),
        f"{output}: few rows of x1, y1, x2, y2, score, class, as YOLOv10 and YOLO26 end",
        fields,
        ("boxes are corners in pixels of the input, and the model has left out overlapping ones itself",),
    )


def _yolox(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    output = _single(facts, 2)
    if output is None or output.shape[0] != _cells(facts) or output.shape[1] < 6 or "Exp" in facts.operators:
        return None
    if labels is not None and labels == output.shape[1] - 4:
        return None  # no column is left for an objectness
    return HeadGuess(
        "yolox",
        {"predictions": output.name},
        output.shape[1] - 5,
        f"{output}: one row a cell of the strides 8, 16 and 32, with an objectness, and no Exp that would decode it",
        {"strides": list(_STRIDES)},
    )


def _yolo(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    output = _single(facts, 2)
    if output is None:
        return None
    first, second = output.shape
    channels_first = first < second
    candidates, width = (second, first) if channels_first else (first, second)
    cells = _cells(facts)
    points = _keypoints(facts)
    if candidates not in (cells, _ANCHORS_A_CELL * cells) or width < 5 + 3 * points:
        return None
    classes = width - 4 - 3 * points
    # Three anchors a cell, or rows: the older family, with an objectness. Labels know better.
    objectness = classes - 1 == labels if labels is not None else candidates != cells or not channels_first
    layout = "channels_first" if channels_first else "channels_last"
    fields: dict[str, Any] = {"layout": layout, "objectness": objectness}
    if points:
        fields["keypoints"] = points
    return HeadGuess(
        "yolo",
        {"predictions": output.name},
        classes - int(objectness),
        f"{output}: {candidates // cells} a cell of the strides 8, 16 and 32, {width} columns each",
        fields,
        (
            "boxes are centre and size in pixels of the input",
            "scores are in 0..1 already"
            if output.activation != "none" or "Sigmoid" in facts.operators
            else "scores are in 0..1 already, though the graph has no Sigmoid: if they are not, set activation",
        ),
    )


def _pair(facts: GraphFacts) -> tuple[OutputFacts, OutputFacts] | None:
    """Boxes and scores of the same number of candidates; constants aside."""
    outputs = [each for each in facts.outputs if not each.constant]
    if len(outputs) != 2 or any(len(each.shape) != 2 for each in outputs):
        return None
    boxes = [each for each in outputs if each.shape[1] == 4]
    if len(boxes) == 2:  # four classes: the name decides
        boxes = [each for each in boxes if any(word in each.name.lower() for word in ("box", "loc", "det"))]
    if len(boxes) != 1:
        return None
    (scores,) = (each for each in outputs if each is not boxes[0])
    return (boxes[0], scores) if scores.shape[0] == boxes[0].shape[0] else None


def _detr(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    pair = _pair(facts)
    if pair is None or pair[0].shape[0] > _MOST_QUERIES:
        return None
    boxes, scores = pair
    classes = scores.shape[1]
    background = labels == classes - 1
    fields = {
        "activation": "softmax" if background else "sigmoid",
        "background": background,
        "box_format": "cxcywh",
        "box_unit": "fraction",
        "top_k": min(300, boxes.shape[0] * classes),
    }
    return HeadGuess(
        "detr",
        {"logits": scores.name, "boxes": boxes.name},
        classes - int(background),
        f"{boxes} and {scores}: a box and class scores for each of {boxes.shape[0]} queries",
        fields,
        (
            "boxes are centre and size as fractions of the input",
            "the last class means nothing and scores go through a softmax"
            if background
            else "scores are judged one by one, through a sigmoid",
        ),
    )


def _ssd(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    pair = _pair(facts)
    anchors = [each for each in facts.outputs if each.constant and len(each.shape) == 2 and each.shape[1] == 4]
    if pair is None or len(anchors) > 1:
        return None
    boxes, scores = pair
    # A softmax needs a column for nothing; without labels it is told by the head that goes through one.
    background = labels == scores.shape[1] - 1 if labels is not None else scores.activation != "sigmoid"
    activation = "none" if scores.activation != "none" else "softmax" if background else "sigmoid"
    fields: dict[str, Any] = {"activation": activation, "background": background}
    outputs = {"boxes": boxes.name, "scores": scores.name}
    if anchors:
        fields["box_coding"] = "anchor_offsets"
        outputs["anchors"] = anchors[0].name
        assumed = "boxes are offsets from the anchors; anchor_edges is for FCOS"
    else:
        fields |= {"box_format": "xyxy", "box_unit": "fraction"}
        assumed = "boxes are decoded from their anchors already: corners as fractions of the input"
    return HeadGuess(
        "ssd",
        outputs,
        scores.shape[1] - int(background),
        f"{boxes} and {scores}: a box and class scores for each of {boxes.shape[0]} anchors",
        fields,
        (assumed, f"{'class 0 means nothing' if background else 'no class means nothing'}, activation {activation}"),
    )


def _centernet(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    height, width = facts.height_px // 4, facts.width_px // 4
    maps = [each for each in facts.outputs if each.shape[1:] == (height, width)]
    if len(maps) != len(facts.outputs) or [each.shape[0] for each in maps[:3]] != [1, 2, 2] or len(maps) not in (3, 4):
        return None
    outputs = dict(zip(("heatmap", "scale", "offset", "landmarks"), (each.name for each in maps), strict=False))
    points = maps[3].shape[0] // 2 if len(maps) == 4 else 0
    return HeadGuess(
        "centernet",
        outputs,
        1,
        f"{'; '.join(map(str, maps))}: CenterFace's maps at a quarter of the input",
        {"keypoints": points},
        ("of the two maps of two channels the first is the scale and the second the offset",),
    )


def _vector(facts: GraphFacts) -> OutputFacts | None:
    outputs = [each for each in facts.outputs if not each.constant]
    if len(outputs) != 1:
        return None
    (output,) = outputs
    flat = len(output.shape) == 1 or (len(output.shape) == 3 and output.shape[1:] == (1, 1))
    return output if flat else None


def _logits(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    output = _vector(facts)
    if output is None:
        return None
    ends = output.activation
    return HeadGuess(
        "logits",
        {"logits": output.name},
        output.shape[0],
        f"{output}: one number a class",
        {"activation": "softmax" if ends == "none" else "none", "top_k": min(20, output.shape[0])},
        (f"the graph ends in a {ends}",) if ends != "none" else ("one class a picture: scores go through a softmax",),
    )


def _seems_an_embedding(facts: GraphFacts, labels: int | None) -> bool:
    output = _vector(facts)
    return (
        output is not None and labels is None and output.activation == "none" and output.shape[0] in _EMBEDDING_LENGTHS
    )


def _embedding(facts: GraphFacts, labels: int | None) -> HeadGuess | None:
    output = _vector(facts)
    if output is None:
        return None
    return HeadGuess(
        "embedding",
        {"embedding": output.name},
        0,
        f"{output}: a vector of a length that embeddings have, and no class names are known",
        {"normalize": True},
        ("vectors are compared by their angle, so they are scaled to length 1",),
    )


_GUESSES: Mapping[str, Callable[[GraphFacts, int | None], HeadGuess | None]] = {
    "yolo_end2end": _yolo_end2end,
    "yolox": _yolox,
    "yolo": _yolo,
    "detr": _detr,
    "ssd": _ssd,
    "centernet": _centernet,
    "embedding": _embedding,
    "logits": _logits,
}
"""In the order in which they are tried: the narrower ones first."""


def guess_input(facts: GraphFacts, head: HeadGuess) -> InputGuess:
    """How models with that head are trained to see, unless the graph says otherwise."""
    guess = _INPUTS[head.kind]
    if head.kind == "detr" and {"dets", "labels"} <= {each.name for each in facts.outputs}:
        guess = InputGuess(
            {**guess.fields, **_IMAGENET}, "RF-DETR, by the names of its outputs, sees ImageNet's mean and deviation"
        )
    if facts.normalises:
        kept = {name: value for name, value in guess.fields.items() if name not in ("scale", "mean", "std")}
        return replace(
            guess, fields=kept, why="the graph begins with arithmetic on the image, so it is given bytes 0..255"
        )
    return guess


_INPUTS: Mapping[str, InputGuess] = {
    "yolo": InputGuess({"colour": "rgb", "scale": _BYTE, "resize": "letterbox"}, "YOLO's own: RGB in 0..1, letterbox"),
    "yolo_end2end": InputGuess(
        {"colour": "rgb", "scale": _BYTE, "resize": "letterbox"}, "YOLO's own: RGB in 0..1, letterbox"
    ),
    "yolox": InputGuess(
        {"colour": "bgr", "resize": "letterbox", "anchor": "top_left"},
        "YOLOX's own: BGR in 0..255, letterbox at the top left",
    ),
    "detr": InputGuess(
        {"colour": "rgb", "scale": _BYTE, "resize": "stretch"}, "RT-DETR's and D-FINE's own: RGB in 0..1, stretched"
    ),
    "ssd": InputGuess(
        {"colour": "rgb", "scale": _BYTE, **_IMAGENET, "resize": "stretch"},
        "most often so: RGB, ImageNet's mean and deviation",
    ),
    "centernet": InputGuess(
        {"colour": "rgb", "resize": "letterbox", "pad_value": 0}, "CenterFace's own: RGB in 0..255, letterbox"
    ),
    "logits": InputGuess(
        {"colour": "rgb", "scale": _BYTE, **_IMAGENET, "resize": "center_crop"},
        "torchvision's and timm's most frequent: RGB, ImageNet's mean and deviation",
    ),
    "embedding": InputGuess(
        {"colour": "rgb", "scale": _BYTE, **_IMAGENET, "resize": "stretch"},
        "most often so: RGB, ImageNet's mean and deviation",
    ),
}
