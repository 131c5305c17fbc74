"""`foveate verify`: the table, the exit status, and what it refuses to judge by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from foveate.engines.onnx_graph import graph_from_file
from foveate.models import ModelStore, load_package, prepare
from foveate.tools.verification import PictureSource
from foveate.tools.verify_command import verify
from support.packages import tiny_classifier, write_package

Run = Callable[..., tuple[int, str, str]]
"""Arguments of `foveate verify` -> exit status, stdout, stderr."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    app = typer.Typer()
    app.command()(verify)

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*arguments, "--store", str(tmp_path / "store")], env={"COLUMNS": "120"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


@pytest.fixture
def package(tmp_path: Path) -> str:
    return str(write_package(tmp_path / "package"))


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(9):
        colour = random.permutation([40, 120, 220])
        picture = random.normal(colour, 10, (24, 48, 3)).clip(0, 255).astype(np.uint8)
        assert cv2.imwrite(str(folder / f"{number}.png"), picture)
    return str(folder)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_good_conversion_passes(run: Run, package: str, pictures: str, precision: str) -> None:
    code, out, err = run(package, "--pictures", pictures, "--precision", precision)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    judged = 4 if precision == "int8" else 9  # the others find the ranges
    assert ["top1", "1.0000", {"fp32": "0.99", "fp16": "0.98", "int8": "0.95"}[precision]] in lines
    assert f"{judged} compared in {judged} pictures" in out


def test_json_holds_all_figures(run: Run, package: str, pictures: str) -> None:
    code, out, _ = run(package, "--pictures", pictures, "--precision", "int8", "--target", "onnxruntime", "--json")
    facts = json.loads(out)
    assert code == 0
    assert (facts["precision"], facts["exclude"], facts["failures"]) == ("int8", [], [])
    assert facts["agreement"]["figures"]["top1"] == 1
    assert facts["agreement"]["frames"] == 4


def test_the_proposal_is_printed_as_options(run: Run, package: str, pictures: str) -> None:
    code, out, _ = run(package, "--pictures", pictures, "--precision", "int8", "--int8-exclude", "model/MatMul_2")
    assert code == 0
    assert "--int8-exclude model/MatMul_2" in out.splitlines()
    code, out, _ = run(package, "--pictures", pictures, "--precision", "int8", "--propose-exclude")
    assert code == 0
    assert "--int8-exclude" not in out, "one node of one is more than may be left out"


def test_a_graph_that_says_something_else_fails(run: Run, package: str, pictures: str, tmp_path: Path) -> None:
    model = prepare(load_package(package), ModelStore(tmp_path / "store"))
    graph = graph_from_file(model.onnx_path)
    (gains,) = (each for each in graph.graph.initializer if each.name == "model/gains")
    gains.raw_data = np.roll(np.eye(3, dtype=np.float32) * 8, 1, axis=1).tobytes()
    liar = tmp_path / "liar.onnx"
    liar.write_bytes(graph.SerializeToString())
    code, out, err = run(package, "--pictures", pictures, "--engine", str(liar), "--precision", "int8")
    assert code == 1
    assert "top1" in out
    assert err.startswith("too low: top1 is 0.0000, int8 must reach 0.95")
    code, out, _ = run(package, "--pictures", pictures, "--engine", str(model.onnx_path), "--json")
    assert code == 0
    assert json.loads(out)["precision"] == "fp32", "told from the graph where no precision is named"


def test_another_model_is_a_reference_too(run: Run, package: str, pictures: str, tmp_path: Path) -> None:
    same = write_package(tmp_path / "louder", content=tiny_classifier(gain=9.0))
    code, out, _ = run(str(same), "--pictures", pictures, "--against", package)
    assert code == 0
    assert package in out
    assert "1.0000" in out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--precision", "fp16"), "pictures are needed"),
        (("--pictures", "PICTURES"), "nothing to compare with"),
        (("--pictures", "PICTURES", "--precision", "fp16", "--calibration", "PICTURES"), "belong to --precision int8"),
        (("--pictures", "PICTURES", "--precision", "fp16", "--propose-exclude"), "belong to --precision int8"),
        (("--pictures", "/no/such/folder", "--precision", "fp16"), "no source"),
        (("--pictures", "PICTURES", "--precision", "fp4"), "no precision 'fp4'"),
        (("--pictures", "PICTURES", "--precision", "bf16", "--target", "onnxruntime"), "has no bf16"),
        (("--pictures", "PICTURES", "--engine", "/no/such.onnx"), "no model file"),
        (("--pictures", "PICTURES/0.png", "--precision", "int8"), "one picture"),
    ],
)
def test_a_mistake_is_one_line_on_stderr_and_status_1(
    run: Run, package: str, pictures: str, arguments: tuple[str, ...], complaint: str
) -> None:
    code, out, err = run(package, *(each.replace("PICTURES", pictures) for each in arguments))
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert complaint in err


def test_no_picture_both_finds_ranges_and_judges(package: str, pictures: str, tmp_path: Path) -> None:
    model = prepare(load_package(package), ModelStore(tmp_path / "store"))
    calibration, judged = PictureSource(pictures, None, 3).split(model)
    assert (len(calibration), len(judged)) == (3, 2)
    rows = [each.row.tobytes() for each in (*calibration, *judged)]
    assert len(set(rows)) == len(rows)
