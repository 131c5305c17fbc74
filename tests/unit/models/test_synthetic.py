"""Synthetic networks have the shapes that they stand for, and activations that keep their size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest

from foveate.models.synthetic import synthetic_classifier, synthetic_detector
from support.onnx_models import run_onnx

SMALL: Any = {"width": 4, "blocks": (1, 1, 1, 1)}


def parameters(model: onnx.ModelProto) -> int:
    return sum(math.prod(each.dims) for each in model.graph.initializer if each.name.startswith("model/"))


def test_the_classifier_has_the_size_of_a_resnet50() -> None:
    assert parameters(synthetic_classifier()) == pytest.approx(25.5e6, rel=0.01)


def test_the_classifier_answers_different_pictures_differently() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    pixels[1, :32] = 0
    answers = run_onnx(synthetic_classifier(64, **SMALL), {"pixels": pixels})
    assert answers["scores"].shape == (2, 5)
    assert np.isfinite(answers["scores"]).all()
    assert not np.allclose(answers["scores"][0], answers["scores"][1], atol=1e-6)


def test_the_detector_gives_boxes_of_three_strides() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    answers = run_onnx(synthetic_detector(64, neck=16, **SMALL), {"pixels": pixels})
    places = 8**2 + 4**2 + 2**2
    assert answers["boxes"].shape == (2, places, 4)
    assert answers["class_ids"].max() < 80
    assert np.isfinite(answers["boxes"]).all()
    assert 0 < answers["scores"].min() < answers["scores"].max() < 1


def test_activations_keep_their_size_through_fifty_layers() -> None:
    """Else half precision would overflow, or everything would be 0 and faster than it should be."""
    model = synthetic_classifier(64, width=8)
    model.graph.output.append(onnx.ValueInfoProto(name="model/net/features"))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    features = run_onnx(model, {"pixels": pixels})["model/net/features"]
    assert 0.01 < features.std() < 100


def test_the_same_seed_gives_the_same_network() -> None:
    first, second = (synthetic_classifier(64, seed=3, **SMALL) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    assert first != synthetic_classifier(64, seed=4, **SMALL)
