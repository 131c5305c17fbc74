"""`foveate verify`: the table, the exit status, and what it refuses to judge by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from foveate.engines import BatchRange, BuildOptions, EngineStore
from foveate.engines.build import build_engine
from foveate.engines.onnx_graph import graph_from_file
from foveate.engines.precision import convert
from foveate.models import ModelStore, load_package, prepare
from foveate.tools.verification import PictureSource
from foveate.tools.verify_command import verify
from support.networks import write_small_package
from support.packages import tiny_classifier, write_package
from support.picture_folders import write_pictures

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
    code, out, _ = run(package, "--pictures", pictures, "--precision", "int8", "--target", "onnxruntime", "--json", "-")
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
    code, out, _ = run(package, "--pictures", pictures, "--engine", str(model.onnx_path), "--json", "-")
    assert code == 0
    assert json.loads(out)["precision"] == "fp32", "told from the graph where no precision is named"


def test_another_model_is_a_reference_too(run: Run, package: str, pictures: str, tmp_path: Path) -> None:
    same = write_package(tmp_path / "louder", content=tiny_classifier(gain=9.0))
    code, out, _ = run(str(same), "--pictures", pictures, "--against", package)
    assert code == 0
    assert package in out
    assert "1.0000" in out


def test_another_models_classes_are_matched_by_name(run: Run, package: str, pictures: str, tmp_path: Path) -> None:
    model = onnx.load_from_string(tiny_classifier())
    (gains,) = (each for each in model.graph.initializer if each.name == "gains")
    gains.raw_data = np.roll(np.eye(3, dtype=np.float32) * 8, 1, axis=1).tobytes()
    moved = write_package(tmp_path / "moved", content=model.SerializeToString(), labels='["blue", "Red", "green"]')
    code, out, err = run(str(moved), "--pictures", pictures, "--against", package)
    assert (code, err) == (0, ""), out


@pytest.fixture
def labelled(tmp_path: Path, pictures: str) -> str:
    """The same pictures by the colour that they have most of; one lies in the wrong folder."""
    folder = tmp_path / "labelled"
    for number, path in enumerate(sorted(Path(pictures).iterdir())):
        blue, green, red = cv2.imread(str(path)).mean(axis=(0, 1))  # type: ignore[union-attr]
        name = ("red", "green", "blue")[int(np.argmax((red, green, blue)))]
        if number == 4:
            name = "red" if name != "red" else "blue"
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / path.name).write_bytes(path.read_bytes())
    return str(folder)


def test_labels_say_how_right_a_precision_is(run: Run, package: str, labelled: str) -> None:
    code, out, err = run(package, "--labelled", labelled, "--precision", "fp16")
    assert (code, err) == (0, "")
    assert ["top1", "0.8889", "0.8889", "+0.0000"] in [line.split() for line in out.splitlines()]
    assert "9 labels in 9 pictures" in out
    assert out.splitlines()[-1] == "passes as fp16"
    code, out, _ = run(package, "--labelled", labelled, "--precision", "int8", "--json", "-")
    assert code == 0
    assert [each["frames"] for each in json.loads(out)["accuracy"]] == [4, 4], "the others found the ranges"


def test_a_loss_on_labels_fails(run: Run, package: str, labelled: str, tmp_path: Path) -> None:
    model = onnx.load_from_string(tiny_classifier())
    (gains,) = (each for each in model.graph.initializer if each.name == "gains")
    gains.raw_data = np.roll(np.eye(3, dtype=np.float32) * 8, 1, axis=1).tobytes()
    wrong = str(write_package(tmp_path / "wrong", content=model.SerializeToString()))
    code, out, err = run(wrong, "--labelled", labelled, "--against", package)
    assert code == 1
    assert err.startswith("too low: top1 drops by ")
    assert "0.001 may be lost" in err
    assert out.splitlines()[-1] == "fails as fp32"
    assert run(wrong, "--labelled", labelled, "--against", package, "--max-drop", "1")[0] == 0


@pytest.fixture
def overflowing(tmp_path: Path) -> str:
    """A network whose first layer gives more than half precision can hold, and whose answers do not show it."""
    package = write_small_package(tmp_path / "overflowing")
    model = onnx.load(package / "model.onnx")
    factors = {"stem_weight": 6e4, "stem_bias": 6e4, "depthwise_weight": 1 / 6e4}
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor) * np.float32(factors.get(tensor.name, 1.0))
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (package / "model.onnx").write_bytes(model.SerializeToString())
    return str(package)


def test_the_layer_that_breaks_half_precision_is_named(run: Run, overflowing: str, tmp_path: Path) -> None:
    real = str(write_pictures(tmp_path / "real", 12))
    report = tmp_path / "report.json"
    code, out, err = run(overflowing, "--pictures", real, "--precision", "fp16", "--bisect", "--json", str(report))
    assert code == 1
    assert "too low: top1 is" in err
    assert "model/stem breaks it: its own error is inf" in out
    facts = json.loads(report.read_text())
    assert facts["bisection"]["culprit"]["layer"]["node"] == "model/stem"
    assert facts["bisection"]["error"] == "inf"
    assert [each["layer"]["node"] for each in facts["bisection"]["layers"]][:3] == [
        "model/stem",
        "model/stem_relu",
        "model/depthwise",
    ]
    assert run(overflowing, "--pictures", real, "--precision", "fp16", "--target", "onnxruntime")[0] == 0, (
        "ONNX Runtime computes it in single precision, so served by it nothing is wrong"
    )


def test_layers_of_a_given_graph_are_compared_too(run: Run, tmp_path: Path) -> None:
    package = write_small_package(tmp_path / "small")
    model = prepare(load_package(package), ModelStore(tmp_path / "store"))
    graph = convert(graph_from_file(model.onnx_path), "fp16", target="tensorrt")
    (weights,) = (each for each in graph.graph.initializer if each.name == "model/logits_weight")
    weights.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weights), weights.name))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(graph.SerializeToString())
    real = str(write_pictures(tmp_path / "real", 6))
    code, out, _ = run(str(package), "--pictures", real, "--engine", str(broken), "--bisect")
    assert code == 1
    assert "model/logits breaks it" in out


def test_a_built_engine_is_named_by_its_key(run: Run, package: str, pictures: str, tmp_path: Path) -> None:
    model = prepare(load_package(package), ModelStore(tmp_path / "store"))
    store = EngineStore(tmp_path / "engines")
    options = BuildOptions("onnxruntime", "fp16", BatchRange(1, 1, 1))
    built = build_engine(model.onnx_path, "brightest", options, store)
    engine = ("--engine", built.key[:10], "--engine-store", str(store.root))
    code, out, err = run(package, "--pictures", pictures, *engine)
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "passes as fp16"
    code, _, err = run(package, "--pictures", pictures, *engine, "--bisect")
    assert code == 1
    assert "shows no layers" in err
    assert "no engines in" in run(package, "--pictures", pictures, "--engine", "0123", *engine[2:])[2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--precision", "fp16"), "pictures are needed"),
        (("--pictures", "PICTURES"), "nothing to compare with"),
        (("--pictures", "PICTURES", "--labelled", "PICTURES", "--precision", "fp16"), "pictures are needed"),
        (("--labelled", "/no/such", "--precision", "fp16"), "no folder"),
        (("--pictures", "PICTURES", "--against", "x", "--bisect"), "one model alone"),
        (("--pictures", "PICTURES", "--precision", "fp16", "--calibration", "PICTURES"), "belong to --precision int8"),
        (("--pictures", "PICTURES", "--precision", "fp16", "--propose-exclude"), "belong to --precision int8"),
        (("--pictures", "/no/such/folder", "--precision", "fp16"), "no source"),
        (("--pictures", "PICTURES", "--precision", "fp4"), "no precision 'fp4'"),
        (("--pictures", "PICTURES", "--precision", "bf16", "--target", "onnxruntime"), "has no bf16"),
        (("--pictures", "PICTURES", "--engine", "/no/such.onnx"), "cannot be read as an ONNX model"),
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
