"""`foveate verify` on real networks and photographs: labels in both layouts, student and teacher, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from foveate.models.package import import_file, load_package
from foveate.models.store import ModelStore
from foveate.tools.verify_command import verify
from support.shared_models import picture, shared_model

pytestmark = pytest.mark.timeout(240)

Run = Callable[..., tuple[int, dict[str, Any]]]
"""Arguments of `foveate verify` -> exit status and its JSON."""
BOXES = {
    "chelsea": ("cat", (140, 25, 230, 250)),
    "astronaut": ("person", (10, 0, 420, 510)),
    "coffee": ("cup", (130, 60, 330, 290)),
}
"""By eye, as x, y, width, height: near enough for an overlap of a half."""


def _prepared(tmp_path: Path, name: str) -> Run:
    import_file(load_package(name), ModelStore(tmp_path / "store"), shared_model(f"{name}.onnx"))
    app = typer.Typer()
    app.command()(verify)

    def invoke(*arguments: str) -> tuple[int, dict[str, Any]]:
        report = tmp_path / "report.json"
        options = ["--store", str(tmp_path / "store"), "--json", str(report)]
        result = CliRunner().invoke(app, [name, *arguments, *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert report.is_file(), result.stderr
        return result.exit_code, json.loads(report.read_text())

    return invoke


def _write(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture(name)[:, :, ::-1])


def test_boxes_in_cocos_layout(tmp_path: Path) -> None:
    run = _prepared(tmp_path, "yolox_nano")
    folder = tmp_path / "coco"
    names = list(BOXES)
    for name in names:
        _write(folder / "images" / f"{name}.png", name)
    data = {
        "images": [{"id": index, "file_name": f"{name}.png"} for index, name in enumerate(names)],
        "categories": [{"id": 100 + index, "name": label} for index, (label, _) in enumerate(BOXES.values())],
        "annotations": [
            {"image_id": index, "category_id": 100 + index, "bbox": list(box), "iscrowd": 0}
            for index, (_, box) in enumerate(BOXES.values())
        ],
    }
    (folder / "annotations").mkdir()
    (folder / "annotations" / "boxes.json").write_text(json.dumps(data))
    code, facts = run("--labelled", str(folder), "--precision", "fp16")
    reference, half = (each["figures"] for each in facts["accuracy"])
    assert reference["ap50"] > 0.6, "two of three at least, best first"
    assert half["ap50"] == pytest.approx(reference["ap50"], abs=0.02)
    assert abs(half["ap"] - reference["ap"]) < 0.05
    assert code == (1 if facts["failures"] else 0)
    assert facts["accuracy"][0]["labelled"] == 3


def test_classes_in_folders(tmp_path: Path) -> None:
    run = _prepared(tmp_path, "efficientnet_lite0")
    folder = tmp_path / "classes"
    _write(folder / "espresso" / "coffee.png", "coffee")
    _write(folder / "Egyptian_cat" / "chelsea.png", "chelsea")
    _write(folder / "missile" / "rocket.png", "rocket")
    code, facts = run("--labelled", str(folder), "--precision", "fp16")
    assert (code, facts["failures"]) == (0, [])
    for each in facts["accuracy"]:
        assert each["figures"]["top5"] >= 2 / 3
        assert each["figures"]["top1"] >= 1 / 3


def test_no_layer_of_a_sound_network_is_blamed(tmp_path: Path) -> None:
    run = _prepared(tmp_path, "yolox_nano")
    for name in BOXES:
        _write(tmp_path / "pictures" / f"{name}.png", name)
    options = ("--pictures", str(tmp_path / "pictures"), "--limit", "2", "--precision", "fp16", "--bisect")
    _, facts = run(*options)
    bisection = facts["bisection"]
    assert len(bisection["layers"]) > 100
    assert bisection["error"] < 0.02
    assert "culprit" not in bisection
    errors = np.array([each["own_error"] for each in bisection["layers"]])
    assert errors.max() < 0.02
    operators = {each["layer"]["op_type"] for each in bisection["layers"]}
    assert {"Conv", "Concat", "MaxPool", "Resize"} <= operators
