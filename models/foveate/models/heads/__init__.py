"""Heads: how a model's own outputs become boxes, classes or an embedding, as a part of the fused graph.

One module per kind; a new head is a module with a `HEAD` and its line in the table.
"""

from __future__ import annotations

from collections.abc import Mapping

from foveate.models.heads import centernet, detr, embedding, logits, ssd, yolo, yolo_end2end, yolox
from foveate.models.heads.contract import Head, HeadInputs, HeadOutputs, Tensor

__all__ = ["HEADS", "Head", "HeadInputs", "HeadOutputs", "Tensor"]

HEADS: Mapping[str, Head] = {
    "centernet": centernet.HEAD,
    "detr": detr.HEAD,
    "embedding": embedding.HEAD,
    "logits": logits.HEAD,
    "ssd": ssd.HEAD,
    "yolo": yolo.HEAD,
    "yolo_end2end": yolo_end2end.HEAD,
    "yolox": yolox.HEAD,
}
"""The manifest's `kind` -> its head."""
