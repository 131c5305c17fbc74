"""Packages proposed for graphs with the shapes of well-known exports, and for the real files at hand."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from foveate.engines.errors import ConfigError, FoveateError, ModelError
from foveate.models.manifest import Manifest
from foveate.models.new_package import propose_package
from foveate.models.package import load_package, prepare
from foveate.models.store import ModelStore
from support.onnx_models import bank_model
from support.shared_models import centerface, shared_model

SIDE = 96
CELLS = 144 + 36 + 9
"""At strides 8, 16 and 32."""


def saved(
    folder: Path,
    outputs: Mapping[str, tuple[int, ...]],
    *,
    end: str = "",
    metadata: Mapping[str, str] | None = None,
    anchors: int = 0,
    first: str = "",
    dynamic: bool = False,
) -> Path:
    """A file whose outputs have these shapes; `end` is the operator that the first of them goes through at last."""
    banks = {name: np.zeros((1, *shape), np.float32) for name, shape in outputs.items()}
    model = bank_model(banks, (SIDE, SIDE))
    graph = model.graph
    if end:
        name = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["raw" if each == name else each for each in node.output]
        graph.node.append(helper.make_node(end, ["raw"], [name]))
    if first:
        for node in graph.node:
            node.input[:] = ["seen" if each == "image" else each for each in node.input]
        graph.initializer.append(numpy_helper.from_array(np.array(255, np.float32), "largest"))
        graph.node.insert(0, helper.make_node(first, ["image", "largest"], ["seen"]))
    if anchors:
        graph.initializer.append(numpy_helper.from_array(np.zeros((anchors, 4), np.float32), "anchors"))
        graph.output.append(helper.make_tensor_value_info("anchors", onnx.TensorProto.FLOAT, (anchors, 4)))
    if dynamic:
        for dim, letter in zip(graph.input[0].type.tensor_type.shape.dim[2:], "hw", strict=True):
            dim.dim_param = letter
    helper.set_model_props(model, dict(metadata or {}))
    path = folder / "a model.onnx"
    onnx.save(model, path)
    return path


FAMILIES: list[Any] = [
    pytest.param(
        {"output": (3 * CELLS, 85)}, {}, "yolo", {"objectness": True, "layout": "channels_last"}, 80, id="yolov5"
    ),
    pytest.param(
        {"output0": (84, CELLS)}, {}, "yolo", {"objectness": False, "layout": "channels_first"}, 80, id="yolov8"
    ),
    pytest.param({"output0": (300, 6)}, {"labels": "coco80"}, "yolo_end2end", {}, 80, id="yolov10"),
    pytest.param({"output": (CELLS, 85)}, {}, "yolox", {"strides": (8, 16, 32)}, 80, id="yolox"),
    pytest.param({"output": (CELLS, 84)}, {"labels": "coco80"}, "yolo", {"objectness": False}, 80, id="yolov8-in-rows"),
    pytest.param(
        {"logits": (300, 80), "pred_boxes": (300, 4)},
        {},
        "detr",
        {"activation": "sigmoid", "background": False, "box_format": "cxcywh", "box_unit": "fraction"},
        80,
        id="rt-detr",
    ),
    pytest.param(
        {"logits": (100, 92), "pred_boxes": (100, 4)},
        {"labels": "coco91"},
        "detr",
        {"activation": "softmax", "background": True},
        91,
        id="detr",
    ),
    pytest.param(
        {"scores": (3000, 91), "boxes": (3000, 4)},
        {"labels": "coco"},
        "ssd",
        {"activation": "softmax", "background": True, "box_format": "xyxy"},
        90,
        id="ssd",
    ),
    pytest.param({"logits": (1000,)}, {}, "logits", {"activation": "softmax"}, 1000, id="classifier"),
    pytest.param({"logits": (1000, 1, 1)}, {}, "logits", {}, 1000, id="convolutional-classifier"),
    pytest.param({"vector": (512,)}, {}, "embedding", {"normalize": True}, 0, id="embedding"),
    pytest.param({"logits": (512,)}, {"head": "logits"}, "logits", {}, 512, id="classifier-of-512"),
    pytest.param(
        {"a": (1, 24, 24), "b": (2, 24, 24), "c": (2, 24, 24), "d": (10, 24, 24)},
        {},
        "centernet",
        {"outputs": {"heatmap": "a", "scale": "b", "offset": "c", "landmarks": "d"}, "keypoints": 5},
        1,
        id="centerface",
    ),
]


@pytest.mark.parametrize(("outputs", "options", "kind", "fields", "classes"), FAMILIES)
def test_a_family_is_known_by_its_shapes(
    tmp_path: Path, outputs: Any, options: dict[str, Any], kind: str, fields: dict[str, Any], classes: int
) -> None:
    proposed = propose_package(saved(tmp_path, outputs), **options)
    head = proposed.manifest.head
    assert head.kind == kind
    assert {name: getattr(head, name) for name in fields} == fields
    assert len(proposed.labels) == classes
    assert proposed.found[0].startswith(f"head {kind}: ")
    assert proposed.assumed


def test_what_is_written_is_a_package_that_can_be_prepared(tmp_path: Path) -> None:
    proposed = propose_package(saved(tmp_path, {"output0": (7, CELLS)}), licence="MIT")
    folder = proposed.write(tmp_path / "repository" / "mine")
    assert folder == tmp_path / "repository" / "mine" / "a_model"
    assert sorted(path.name for path in folder.iterdir()) == ["labels.txt", "model.onnx", "model.toml"]
    package = load_package(folder)
    assert package.labels == ("class 0", "class 1", "class 2")
    assert package.manifest == proposed.manifest
    assert package.manifest.licence == "MIT"
    assert prepare(package, ModelStore(tmp_path / "store")).onnx_path.is_file()
    assert "# Assumed: boxes are centre and size in pixels of the input." in proposed.text


def test_a_package_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    proposed = propose_package(saved(tmp_path, {"logits": (1000,)}), name="mine")
    (tmp_path / "mine").mkdir()
    with pytest.raises(ConfigError, match="mine is there already: remove it, or choose another --name or --out"):
        proposed.write(tmp_path)
    assert list((tmp_path / "mine").iterdir()) == []


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proposed = propose_package(saved(tmp_path, {"logits": (1000,)}))

    def interrupted(*paths: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        proposed.write(tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


ULTRALYTICS = {
    "names": "{0: 'cat', 1: 'dog'}",
    "imgsz": f"[{SIDE}, {SIDE}]",
    "license": "AGPL-3.0 License",
    "description": 'A "model"',
    "task": "detect",
}


def test_metadata_gives_names_size_and_terms(tmp_path: Path) -> None:
    proposed = propose_package(saved(tmp_path, {"output0": (6, CELLS)}, metadata=ULTRALYTICS, dynamic=True))
    assert proposed.labels == ("cat", "dog")
    assert (proposed.manifest.input.width_px, proposed.manifest.head.kind) == (SIDE, "yolo")
    assert (proposed.manifest.licence, proposed.manifest.title) == ("AGPL-3.0", 'A "model"')
    assert any("binds a service" in each for each in proposed.assumed)


def test_a_pose_model_has_its_points(tmp_path: Path) -> None:
    metadata = {"kpt_shape": "[17, 3]", "names": "{0: 'person'}"}
    manifest = propose_package(saved(tmp_path, {"output0": (5 + 51, CELLS)}, metadata=metadata)).manifest
    assert (manifest.head.kind, manifest.head.keypoints, manifest.head.objectness) == ("yolo", 17, False)


@pytest.mark.parametrize("end", ["Softmax", "Sigmoid"])
def test_scores_that_are_activated_already_are_left_alone(tmp_path: Path, end: str) -> None:
    assert propose_package(saved(tmp_path, {"logits": (1000,)}, end=end)).manifest.head.activation == "none"


def test_a_graph_that_normalises_is_given_bytes(tmp_path: Path) -> None:
    proposed = propose_package(saved(tmp_path, {"logits": (1000,)}, first="Div"))
    assert (proposed.manifest.input.scale, proposed.manifest.input.mean) == (1.0, (0, 0, 0))
    assert "input: the graph begins with arithmetic" in proposed.assumed[0]


def test_rf_detr_is_known_by_the_names_of_its_outputs(tmp_path: Path) -> None:
    manifest = propose_package(saved(tmp_path, {"dets": (300, 4), "labels": (300, 91)})).manifest
    assert manifest.head.outputs == {"boxes": "dets", "logits": "labels"}
    assert manifest.input.mean == (0.485, 0.456, 0.406)


def test_anchors_in_the_file_are_used(tmp_path: Path) -> None:
    path = saved(tmp_path, {"boxes": (2000, 4), "scores": (2000, 91)}, anchors=2000)
    head = propose_package(path).manifest.head
    assert (head.kind, head.box_coding, head.outputs["anchors"]) == ("ssd", "anchor_offsets", "anchors")


def test_a_file_of_labels_is_copied(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    proposed = propose_package(saved(tmp_path, {"output0": (6, CELLS)}), labels=str(tmp_path / "names.txt"))
    assert load_package(proposed.write(tmp_path / "out")).labels == ("cat", "dog")


def corrupt(folder: Path) -> Path:
    (folder / "not.onnx").write_bytes(b"not a model")
    return folder / "not.onnx"


def with_suppression(folder: Path) -> Path:
    path = saved(folder, {"boxes": (10, 4), "scores": (3, 10)})
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("NonMaxSuppression", ["boxes", "scores"], ["kept"]))
    onnx.save(model, path)
    return path


REFUSALS: list[Any] = [
    pytest.param(corrupt, {}, ModelError, r"not\.onnx is not an ONNX ", id="no-onnx"),
    pytest.param(lambda folder: folder / "absent.onnx", {}, ModelError, r"cannot read the model file", id="no-file"),
    pytest.param(with_suppression, {}, ModelError, "NonMaxSuppression.*without suppression", id="suppression"),
    pytest.param(
        lambda folder: saved(folder, {"a": (3, 5, 7)}),
        {},
        ModelError,
        r"no head can read these outputs at 96x96: a \(batch, 3, 5, 7\)\. Expected",
        id="no-head",
    ),
    pytest.param(
        lambda folder: saved(folder, {"logits": (1000,)}),
        {"head": "yolo"},
        ModelError,
        "head 'yolo' does not read these outputs",
        id="wrong-head",
    ),
    pytest.param(
        lambda folder: saved(folder, {"logits": (1000,)}),
        {"head": "yoloo"},
        ConfigError,
        "no head is called",
        id="unknown",
    ),
    pytest.param(
        lambda folder: saved(folder, {"output0": (84, CELLS)}),
        {"labels": "imagenet"},
        ModelError,
        "imagenet names 1000 classes, the model has 80",
        id="labels",
    ),
    pytest.param(
        lambda folder: saved(folder, {"logits": (77,)}),
        {"labels": "coco"},
        ModelError,
        "none of the label sets coco80, coco90, coco91 has the 77 names",
        id="label-sets",
    ),
    pytest.param(
        lambda folder: saved(folder, {"logits": (9,)}),
        {"labels": "no/such.txt"},
        ConfigError,
        "cannot read",
        id="label-file",
    ),
    pytest.param(
        lambda folder: saved(folder, {"logits": (9,)}, dynamic=True), {}, ModelError, "say .* with --size", id="size"
    ),
    pytest.param(
        lambda folder: saved(folder, {"logits": (9,)}),
        {"name": "Not a name"},
        ConfigError,
        "name: String should",
        id="name",
    ),
    pytest.param(
        lambda folder: saved(folder, {"output0": (116, CELLS), "proto": (32, 16, 16)}, metadata={"task": "segment"}),
        {},
        ModelError,
        "no head reads masks",
        id="masks",
    ),
]


@pytest.mark.parametrize(("made", "options", "error", "complaint"), REFUSALS)
def test_what_cannot_be_read_is_refused_with_the_reason(
    tmp_path: Path, made: Any, options: dict[str, Any], error: type[FoveateError], complaint: str
) -> None:
    with pytest.raises(error, match=complaint):
        propose_package(made(tmp_path), **options)


def same_facts(name: str, proposed: Manifest) -> None:
    known = load_package(name).manifest
    left_out = {"top_k", "keypoints"}
    assert proposed.head.model_dump(exclude=left_out) == known.head.model_dump(exclude=left_out)
    assert proposed.input.model_dump(exclude={"mean", "std", "scale"}) == known.input.model_dump(
        exclude={"mean", "std", "scale"}
    )


def test_the_real_yolox_is_read_as_the_catalog_reads_it() -> None:
    proposed = propose_package(shared_model("yolox_nano.onnx"), labels="coco").manifest
    same_facts("yolox_nano", proposed)
    assert (proposed.labels, proposed.input.mean) == ("coco80", (0, 0, 0))


def test_the_real_classifier_is_read_as_the_catalog_reads_it() -> None:
    proposed = propose_package(shared_model("efficientnet_lite0.onnx")).manifest
    same_facts("efficientnet_lite0", proposed)
    assert proposed.labels == "imagenet1k"


@pytest.mark.network
def test_the_real_centerface_is_read_as_the_catalog_reads_it() -> None:
    same_facts("centerface", propose_package(centerface(), size_px=(640, 384)).manifest)
