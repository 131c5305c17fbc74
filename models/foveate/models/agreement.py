"""How well one model, engine or precision agrees with another on the same frames.

The reference's answers count as the truth. Every figure lies in 0..1, and more is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import ConfigError
from foveate.models.outputs import Classes, Detections, Embedding, Output

__all__ = ["THRESHOLDS", "Agreement", "agreement", "in_classes_of"]

_MATCH_IOU = 0.5
_AP_IOUS = tuple(np.arange(0.5, 1.0, 0.05).round(2))
_RECALLS = np.linspace(0, 1, 101)

_HALF = {"matched": 0.97, "mean_iou": 0.99, "top1": 0.98, "top5": 0.99, "cosine": 0.999}
_EIGHT = {"matched": 0.9, "mean_iou": 0.95, "top1": 0.95, "top5": 0.99, "cosine": 0.98}
THRESHOLDS: Mapping[str, Mapping[str, float]] = {
    "fp32": {"matched": 0.99, "mean_iou": 0.995, "top1": 0.99, "top5": 0.99, "cosine": 0.9999},
    "fp16": _HALF,
    "bf16": {**_HALF, "mean_iou": 0.97, "top1": 0.96, "cosine": 0.995},
    "int8": _EIGHT,
    "fp8": _EIGHT,
}
"""By precision: the least that each figure must be; figures that are not named are for people to read."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What came out of a comparison."""

    frames: int
    compared: int
    """Things of the reference that were compared: boxes of detectors, frames of the others."""
    figures: Mapping[str, float]
    """Detectors: ``matched``, the share of boxes of both sides that have a partner; ``mean_iou`` and
    ``score_agreement`` (1 less the mean difference) of the partners; ``ap50`` and ``ap`` with the reference's boxes as
    the truth. Classifiers: ``top1``, the same best class; ``top5``, the reference's best class among the other's first
    five; ``score_agreement`` of the best class. Embeddings: ``cosine``, the mean, and ``least_cosine``, where both
    sides have vectors of one length; ``neighbour``, the share of frames whose most similar other frame is the same on
    both sides."""

    def failures(self, precision: str) -> list[str]:
        """What is below the threshold of a precision, in words; empty where all is well."""
        least = _thresholds(precision)
        return [
            f"{name} is {value:.4f}, {precision} must reach {least[name]:g}"
            for name, value in self.figures.items()
            if name in least and not value >= least[name]
        ]

    def passes(self, precision: str) -> bool:
        """Whether every figure reaches the threshold of a precision. Raises: ConfigError for an unknown one."""
        return not self.failures(precision)

    def summary(self) -> str:
        """The figures that have thresholds, in one line."""
        judged = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in self.figures.items() if name in _EIGHT]
        return f"{', '.join(judged)} in {self.frames} picture{'s' if self.frames > 1 else ''}"


def agreement(reference: Sequence[Output], other: Sequence[Output]) -> Agreement:
    """How well the answers of another model agree with a reference's on the same frames, frame by frame.

    Raises: ConfigError where there is nothing to compare: no frames, other kinds of answers, or a detector that finds
    nothing on any frame.
    """
    if not reference or len(reference) != len(other):
        raise ConfigError(
            f"as many frames are needed on both sides, and one at least: {len(reference)} and {len(other)}"
        )
    pairs = list(zip(reference, other, strict=True))
    detections = [(a, b) for a, b in pairs if isinstance(a, Detections) and isinstance(b, Detections)]
    if len(detections) == len(pairs):
        return _of_detections(detections)
    classes = [(a, b) for a, b in pairs if isinstance(a, Classes) and isinstance(b, Classes)]
    if len(classes) == len(pairs):
        return _of_classes(classes)
    embeddings = [(a, b) for a, b in pairs if isinstance(a, Embedding) and isinstance(b, Embedding)]
    if len(embeddings) == len(pairs):
        return _of_embeddings(embeddings)
    raise ConfigError("answers of one task can be compared, not a detector's with a classifier's")


def in_classes_of(output: Output, labels: Sequence[str], reference: Sequence[str]) -> Output:
    """An answer with its classes numbered as in another label set, by name.

    A class that the other set does not have gets a negative number of its own, so that it is nobody's partner.
    """
    if isinstance(output, Embedding) or tuple(labels) == tuple(reference):
        return output
    known = {name.casefold(): index for index, name in reversed(list(enumerate(reference)))}
    numbers = [known.get(name.casefold(), -1 - index) for index, name in enumerate(labels)]
    return replace(output, class_ids=np.array([numbers[each] for each in output.class_ids], np.int64))


def _of_detections(pairs: Sequence[tuple[Detections, Detections]]) -> Agreement:
    compared = sum(len(reference.scores) for reference, _ in pairs)
    if compared == 0:
        raise ConfigError(
            f"the reference finds nothing in these {len(pairs)} pictures, so they prove nothing: "
            "give pictures that show what the model knows"
        )
    ious = [_ious(reference, other) for reference, other in pairs]
    partners = [_partners(each) for each in ious]
    matched_ious = [overlap[a, b] for overlap, found in zip(ious, partners, strict=True) for a, b in found]
    differences = [
        abs(float(reference.scores[a]) - float(other.scores[b]))
        for (reference, other), found in zip(pairs, partners, strict=True)
        for a, b in found
    ]
    boxes = compared + sum(len(other.scores) for _, other in pairs)
    precisions = [_average_precision(pairs, ious, iou) for iou in _AP_IOUS]
    figures = {
        "matched": 2 * len(matched_ious) / boxes,
        "mean_iou": float(np.mean(matched_ious)) if matched_ious else 0.0,
        "score_agreement": 1 - float(np.mean(differences)) if differences else 0.0,
        "ap50": precisions[0],
        "ap": float(np.mean(precisions)),
    }
    return Agreement(len(pairs), compared, figures)


def _of_classes(pairs: Sequence[tuple[Classes, Classes]]) -> Agreement:
    known = [(reference, other) for reference, other in pairs if len(reference.class_ids)]
    if not known:
        raise ConfigError(f"the reference names no class in these {len(pairs)} pictures: lower its min_score")
    best = [int(reference.class_ids[0]) for reference, _ in known]
    ranked = [other.class_ids.tolist() for _, other in known]
    scores = [
        float(other.scores[other.class_ids == wanted].sum()) for wanted, (_, other) in zip(best, known, strict=True)
    ]
    differences = [abs(float(reference.scores[0]) - score) for (reference, _), score in zip(known, scores, strict=True)]
    figures = {
        "top1": float(np.mean([wanted in ids[:1] for wanted, ids in zip(best, ranked, strict=True)])),
        "top5": float(np.mean([wanted in ids[:5] for wanted, ids in zip(best, ranked, strict=True)])),
        "score_agreement": 1 - float(np.mean(differences)),
    }
    return Agreement(len(pairs), len(known), figures)


def _of_embeddings(pairs: Sequence[tuple[Embedding, Embedding]]) -> Agreement:
    figures: dict[str, float] = {}
    if all(len(reference.vector) == len(other.vector) for reference, other in pairs):
        cosines = [_cosine(reference.vector, other.vector) for reference, other in pairs]
        figures = {"cosine": float(np.mean(cosines)), "least_cosine": min(cosines)}
    if len(pairs) > 2:
        here, there = (_neighbours([pair[side].vector for pair in pairs]) for side in (0, 1))
        figures["neighbour"] = float(np.mean(here == there))
    if not figures:
        raise ConfigError(
            f"vectors of {len(pairs[0][0].vector)} and {len(pairs[0][1].vector)} numbers can only be compared by which "
            "pictures they find similar: give three pictures at least"
        )
    return Agreement(len(pairs), len(pairs), figures)


def _neighbours(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    """The index of the most similar other vector, for each."""
    rows = np.array(vectors, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    similar = rows @ rows.T
    np.fill_diagonal(similar, -np.inf)
    nearest: NDArray[np.int64] = np.argmax(similar, axis=1)
    return nearest


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(np.dot(a.astype(np.float64), b.astype(np.float64))) / lengths if lengths > 0 else 0.0


def _ious(a: Detections, b: Detections) -> NDArray[np.float64]:
    """Intersection over union of every box of one with every box of the other, 0 between classes. (A, B)."""
    first, second = a.boxes.astype(np.float64)[:, None], b.boxes.astype(np.float64)[None]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    inside = np.prod(np.maximum(sides, 0), axis=-1)
    union = _areas(first) + _areas(second) - inside
    same = a.class_ids[:, None] == b.class_ids[None]
    return np.where(same & (union > 0), inside / np.where(union > 0, union, 1), 0.0)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    return areas


def _partners(ious: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of boxes, the largest overlap first, each box once, that overlap enough to mean the same thing."""
    found: list[tuple[int, int]] = []
    taken_a: set[int] = set()
    taken_b: set[int] = set()
    for flat in np.argsort(-ious, axis=None, kind="stable"):
        a, b = divmod(int(flat), ious.shape[1])
        if ious[a, b] < _MATCH_IOU:
            break
        if a not in taken_a and b not in taken_b:
            found.append((a, b))
            taken_a.add(a)
            taken_b.add(b)
    return found


def _average_precision(
    pairs: Sequence[tuple[Detections, Detections]], ious: Sequence[NDArray[np.float64]], least_iou: float
) -> float:
    """The mean over the reference's classes of the area under precision over recall, COCO's way: 101 recalls."""
    classes = np.unique(np.concatenate([reference.class_ids for reference, _ in pairs]))
    return float(np.mean([_class_precision(pairs, ious, int(wanted), least_iou) for wanted in classes]))


def _class_precision(
    pairs: Sequence[tuple[Detections, Detections]],
    ious: Sequence[NDArray[np.float64]],
    wanted: int,
    least_iou: float,
) -> float:
    truths, ranked = 0, []
    for (reference, other), overlap in zip(pairs, ious, strict=True):
        rows, columns = np.flatnonzero(reference.class_ids == wanted), np.flatnonzero(other.class_ids == wanted)
        truths += len(rows)
        right = _right(overlap[np.ix_(rows, columns)], least_iou)
        ranked += list(zip(other.scores[columns].tolist(), right, strict=True))
    ranked.sort(key=lambda each: -each[0])
    hits = np.cumsum([is_right for _, is_right in ranked])
    if len(hits) == 0:
        return 0.0
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / truths, _RECALLS)
    return float(np.mean([best_from_here[place] if place < len(hits) else 0.0 for place in places]))


def _right(overlap: NDArray[np.float64], least_iou: float) -> list[bool]:
    """Whether each found box, best first, takes a truth that no better one took. (truths, found) -> (found,)."""
    free = np.ones(len(overlap), np.bool_)
    right = []
    for column in overlap.T:
        candidates = np.where(free, column, -1.0)
        best = int(np.argmax(candidates)) if len(candidates) else -1
        hit = best >= 0 and bool(candidates[best] >= least_iou)
        if hit:
            free[best] = False
        right.append(hit)
    return right


def _thresholds(precision: str) -> Mapping[str, float]:
    if precision not in THRESHOLDS:
        raise ConfigError(f"no thresholds for precision {precision!r}: choose one of {', '.join(THRESHOLDS)}")
    return THRESHOLDS[precision]
