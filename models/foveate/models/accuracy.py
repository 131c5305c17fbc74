"""How right a model is on labelled pictures: top-1 and top-5 of classes, COCO's average precision of boxes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import ConfigError, EngineUnavailable
from foveate.models.outputs import Classes, Detections, Output

__all__ = ["MOST_DROP", "Accuracy", "BoxTruth", "ClassTruth", "Truth", "accuracy", "drops"]

MOST_DROP: Mapping[str, float] = {"fp32": 0.001, "fp16": 0.005, "bf16": 0.01, "int8": 0.02, "fp8": 0.02}
"""By precision: how much of top-1 or of AP may be lost."""

_JUDGED = ("top1", "ap")
_COCO_FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


@dataclass(frozen=True, slots=True)
class ClassTruth:
    """What a picture shows. Any of the classes is right: some label sets have two of one name."""

    class_ids: frozenset[int]


@dataclass(frozen=True, slots=True)
class BoxTruth:
    """All that is to be found in a picture.

    Shapes: boxes (N, 4) as x1, y1, x2, y2 in pixels; class_ids (N,); areas (N,) in pixels, by which COCO tells small
    from large; crowds (N,), true where a box stands for many that nobody has to find.
    """

    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]


Truth = ClassTruth | BoxTruth


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How right a model is."""

    frames: int
    labelled: int
    """Things that are labelled: boxes for detectors, pictures for classifiers."""
    figures: Mapping[str, float]
    """In 0..1, more is better. Classifiers: ``top1``, ``top5``. Detectors: COCO's ``ap`` (mean over IoU 0.5 to 0.95),
    ``ap50``, ``ap75``, and ``ap_small`` (below 32 x 32 pixels), ``ap_medium``, ``ap_large`` (from 96 x 96) where there
    are such boxes."""


def accuracy(truths: Sequence[Truth], said: Sequence[Output]) -> Accuracy:
    """How right a model's answers are, picture by picture.

    Raises: ConfigError where there is nothing to judge, or labels and answers are of different tasks;
    EngineUnavailable for boxes where pycocotools is missing.
    """
    if not truths or len(truths) != len(said):
        raise ConfigError(f"as many labels as answers are needed, and one at least: {len(truths)} and {len(said)}")
    classes = [
        (a, b) for a, b in zip(truths, said, strict=True) if isinstance(a, ClassTruth) and isinstance(b, Classes)
    ]
    if len(classes) == len(truths):
        return _of_classes(classes)
    boxes = [(a, b) for a, b in zip(truths, said, strict=True) if isinstance(a, BoxTruth) and isinstance(b, Detections)]
    if len(boxes) == len(truths):
        return _of_boxes(boxes)
    raise ConfigError(
        "these labels are not of this model's task: class folders are for classifiers, COCO annotations for detectors"
    )


def drops(reference: Accuracy, other: Accuracy, most: float) -> list[str]:
    """What is lost beyond the most that may be, in words; empty where all is well."""
    lost = {name: reference.figures[name] - other.figures[name] for name in _JUDGED if name in reference.figures}
    # Half a figure of the last digit that is shown is nobody's loss.
    return [f"{name} drops by {each:.4f}, {most:g} may be lost" for name, each in lost.items() if each > most + 5e-5]


def _of_classes(pairs: Sequence[tuple[ClassTruth, Classes]]) -> Accuracy:
    def share(first: int) -> float:
        return float(np.mean([bool(truth.class_ids & set(said.class_ids[:first].tolist())) for truth, said in pairs]))

    return Accuracy(len(pairs), len(pairs), {"top1": share(1), "top5": share(5)})


def _of_boxes(pairs: Sequence[tuple[BoxTruth, Detections]]) -> Accuracy:
    labelled = sum(int((~truth.crowds).sum()) for truth, _ in pairs)
    if labelled == 0:
        raise ConfigError("no box is labelled in these pictures with a class of the model, so they prove nothing")
    coco, evaluation = _import_coco()
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        judge = evaluation.COCOeval(_truths(coco, pairs), _found(coco, pairs), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    # -1 stands for a size of which nothing is labelled.
    figures = {name: float(value) for name, value in zip(_COCO_FIGURES, judge.stats, strict=False) if value >= 0}
    return Accuracy(len(pairs), labelled, figures)


def _truths(coco: ModuleType, pairs: Sequence[tuple[BoxTruth, Detections]]) -> Any:
    return _data_set(
        coco,
        pairs,
        (
            {**_box(image, truth.boxes[row], truth.class_ids[row]), "area": float(truth.areas[row]), "iscrowd": crowd}
            for image, (truth, _) in enumerate(pairs)
            for row, crowd in enumerate(truth.crowds.astype(int).tolist())
        ),
    )


def _found(coco: ModuleType, pairs: Sequence[tuple[BoxTruth, Detections]]) -> Any:
    found = []
    for image, (_, said) in enumerate(pairs):
        for box, class_id, score in zip(said.boxes.astype(np.float64), said.class_ids, said.scores, strict=True):
            area = float(np.prod(box[2:] - box[:2]))
            found.append({**_box(image, box, class_id), "area": area, "iscrowd": 0, "score": float(score)})
    return _data_set(coco, pairs, found)


def _box(image: int, box: NDArray[np.float64], class_id: Any) -> dict[str, Any]:
    x1, y1, x2, y2 = box.tolist()
    return {"image_id": image, "category_id": int(class_id), "bbox": [x1, y1, x2 - x1, y2 - y1]}


def _data_set(
    coco: ModuleType, pairs: Sequence[tuple[BoxTruth, Detections]], annotations: Iterable[dict[str, Any]]
) -> Any:
    """Both sides name the labelled classes alone: what is found of others cannot be judged."""
    known = sorted({int(each) for truth, _ in pairs for each in truth.class_ids})
    data = coco.COCO()
    data.dataset = {
        "images": [{"id": image} for image in range(len(pairs))],
        "categories": [{"id": each} for each in known],
        # From 1 on: a box with number 0 counts as one that was never matched.
        "annotations": [{"id": number, **each} for number, each in enumerate(annotations, 1)],
    }
    data.createIndex()
    return data


def _import_coco() -> tuple[ModuleType, ModuleType]:
    try:
        from pycocotools import coco, cocoeval
    except ImportError as error:
        raise EngineUnavailable(
            f"judging boxes needs pycocotools ({error}): install it with `pip install 'foveate[coco]'`"
        ) from error
    return coco, cocoeval
