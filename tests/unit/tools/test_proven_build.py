"""A build proves its engine on real pictures: what passes says so, what does not is not kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import typer
from onnx import numpy_helper
from typer.testing import CliRunner

from foveate.engines import BuiltEngine, EngineStore, OnnxRuntimeEngine, RunFailed
from foveate.models import ModelStore, load_package, prepare
from foveate.tools import precision_choice, proven_build, verification
from foveate.tools.build_command import build
from foveate.tools.proven_build import BuildPictures
from support.networks import write_small_package
from support.picture_folders import write_pictures

Run = Callable[..., tuple[int, str, str]]
"""Arguments of `foveate build` -> exit status, stdout, stderr."""
RTX = ("--backend", "tensorrt_rtx", "--batch", "1:1:2")
ONNX = ("--backend", "onnxruntime", "--batch", "1:1:2")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_small_package(tmp_path / "package")


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    return str(write_pictures(tmp_path / "pictures", 16))


@pytest.fixture
def run(tmp_path: Path, package: Path) -> Run:
    app = typer.Typer()
    app.command()(build)
    stores = ("--model-store", str(tmp_path / "models"), "--engine-store", str(tmp_path / "engines"))

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [str(package), *arguments, *stores], env={"COLUMNS": "160"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def _needs_compiler() -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")


def _engines(tmp_path: Path) -> list[BuiltEngine]:
    return EngineStore(tmp_path / "engines").engines()


def _accuracy(tmp_path: Path) -> dict[str, Any]:
    (engine,) = _engines(tmp_path)
    return engine.record.accuracy or {}


def _scale_weights(package: Path, **factors: float) -> None:
    """Multiply weights of the package's network; factors that cancel leave its answers as they are."""
    model = onnx.load(package / "model.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in factors:
            scaled = numpy_helper.to_array(tensor) * np.float32(factors[tensor.name])
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    (package / "model.onnx").write_bytes(model.SerializeToString())


def _overflow_half(package: Path) -> None:
    """Make the first layer exceed what half precision can hold; the next one takes the factor back."""
    _scale_weights(package, stem_weight=6e4, stem_bias=6e4, depthwise_weight=1 / 6e4)


def test_an_engine_that_agrees_is_kept_with_its_proof(run: Run, tmp_path: Path, pictures: str) -> None:
    _needs_compiler()
    code, out, err = run("--precision", "fp16", "--pictures", pictures, *RTX)
    assert (code, err) == (0, "")
    assert "proven: fp16 agrees with fp32, by the graph on onnxruntime on 16 pictures" in out
    accuracy = _accuracy(tmp_path)
    assert accuracy["failures"] == []
    assert accuracy["accepted"] is False
    assert (accuracy["frames"], accuracy["figures"]["top1"]) == (16, 1)
    assert accuracy["summary"] == "top1 1.0000, top5 1.0000 in 16 pictures"
    assert _engines(tmp_path)[0].record.agrees is True


def test_below_the_bar_nothing_is_kept(run: Run, tmp_path: Path, package: Path, pictures: str) -> None:
    _needs_compiler()
    _overflow_half(package)
    code, out, err = run("--precision", "fp16", "--pictures", pictures, *RTX)
    assert code == 1
    assert err.startswith("error: fp16 agrees too little with fp32 (top1 is ")
    assert "0.98" in out, "the table shows what had to be reached"
    assert _engines(tmp_path) == []
    code, out, _ = run("--precision", "fp16", "--pictures", pictures, "--json", "-", *RTX)
    refused = json.loads(out)
    assert (code, refused["engine"], refused["proof"]["accepted"]) == (1, None, False)
    assert refused["proof"]["failures"]
    assert run("--precision", "fp32", "--pictures", pictures, *RTX)[0] == 0, "the model itself is sound"


def test_what_is_accepted_is_marked(run: Run, tmp_path: Path, package: Path, pictures: str) -> None:
    _needs_compiler()
    _overflow_half(package)
    code, out, _ = run("--precision", "fp16", "--pictures", pictures, "--accept", *RTX)
    assert code == 0
    assert "accepted below the bar: top1 is" in out
    accuracy = _accuracy(tmp_path)
    assert accuracy["accepted"] is True
    assert accuracy["failures"]
    assert _engines(tmp_path)[0].record.agrees is False, "so serving refuses it unless told"
    code, _, err = run("--precision", "fp16", "--pictures", pictures, *RTX)
    assert code == 1
    assert "was accepted below the bar" in err


def test_an_engine_without_pictures_is_called_not_proven_until_it_is(run: Run, tmp_path: Path, pictures: str) -> None:
    code, _, err = run("--precision", "fp16", *ONNX)
    assert code == 0
    assert err == "warning: not proven: no pictures; --pictures compares with fp32, --no-proof asks for none\n"
    assert _engines(tmp_path)[0].record.agrees is None
    code, out, err = run("--precision", "fp16", "--pictures", pictures, *ONNX)
    assert (code, err) == (0, "")
    assert "was built before" in out
    assert "by the engine on cpu on 16 pictures" in out
    assert _engines(tmp_path)[0].record.agrees is True


def test_an_engine_of_the_store_that_fails_later_is_deleted(
    run: Run, tmp_path: Path, package: Path, pictures: str
) -> None:
    _needs_compiler()
    _overflow_half(package)
    assert run("--precision", "fp16", "--no-proof", *RTX)[::2] == (0, "")
    assert run("--precision", "fp16", "--pictures", pictures, *RTX)[0] == 1
    assert _engines(tmp_path) == []


def test_int8_is_judged_on_pictures_that_found_no_ranges(run: Run, tmp_path: Path, pictures: str) -> None:
    model = prepare(load_package(write_small_package(tmp_path / "again")), ModelStore(tmp_path / "models"))
    calibration, judged = BuildPictures(None, pictures, 64).split(model)
    assert (len(calibration), len(judged)) == (8, 8)
    assert not {each.row.tobytes() for each in calibration} & {each.row.tobytes() for each in judged}
    others = str(write_pictures(tmp_path / "others", 5, seed=9))
    calibration, judged = BuildPictures(others, pictures, 64).split(model)
    assert (len(calibration), len(judged)) == (16, 5)
    calibration, judged = BuildPictures(None, pictures, 64, proves=False).split(model)
    assert (len(calibration), len(judged)) == (16, 0)
    code, _, _ = run("--precision", "int8", "--calibration", pictures, "--accept", *ONNX)
    assert code == 0
    assert _accuracy(tmp_path)["frames"] == 8


def test_an_engine_that_runs_here_is_judged_itself(
    run: Run, tmp_path: Path, package: Path, pictures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_compiler()
    liar = write_small_package(tmp_path / "liar")
    _scale_weights(liar, logits_weight=-1.0)
    lying_graph = prepare(load_package(liar), ModelStore(tmp_path / "models")).onnx_path

    @contextmanager
    def running_here(*_: Any) -> Iterator[OnnxRuntimeEngine]:
        with OnnxRuntimeEngine(lying_graph, name="small", max_batch=1) as engine:
            yield engine

    monkeypatch.setattr(proven_build, "running_here", running_here)
    code, _, err = run("--precision", "fp16", "--pictures", pictures, *RTX)
    assert code == 1
    assert "fp16 agrees too little with fp32" in err
    assert _engines(tmp_path) == []
    code, out, _ = run("--precision", "fp32", "--pictures", pictures, "--accept", *RTX)
    assert code == 0
    assert "by the engine on cpu" in out
    assert _accuracy(tmp_path)["accepted"] is True


def test_auto_goes_down_to_what_passes(run: Run, tmp_path: Path, package: Path, pictures: str) -> None:
    _needs_compiler()
    _overflow_half(package)
    report = tmp_path / "report.json"
    code, out, _ = run("--precision", "auto", "--pictures", pictures, "--json", str(report), *RTX)
    assert code == 0
    (engine,) = _engines(tmp_path)
    assert engine.record.precision == "fp32"
    assert "below the bar" in out
    attempts = json.loads(report.read_text())["attempts"]
    assert [(each["precision"], each["outcome"]) for each in attempts] == [("fp16", "below the bar"), ("fp32", "kept")]
    assert "top1 is" in attempts[0]["reached"]


def test_auto_stops_at_the_first_that_passes_where_nothing_can_be_measured(
    run: Run, tmp_path: Path, pictures: str
) -> None:
    _needs_compiler()
    report = tmp_path / "report.json"
    code, _, _ = run("--precision", "auto", "--pictures", pictures, "--json", str(report), *RTX)
    assert code == 0
    assert [each["precision"] for each in json.loads(report.read_text())["attempts"]] == ["fp16"]
    assert _engines(tmp_path)[0].record.precision == "fp16"


def test_auto_says_why_a_precision_is_not_possible(
    run: Run, tmp_path: Path, pictures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_compiler()
    monkeypatch.setitem(sys.modules, "onnxconverter_common", None)
    code, out, _ = run("--precision", "auto", "--pictures", pictures, *RTX)
    assert code == 0
    assert "not possible" in out
    assert "foveate[build]" in "".join(out.split())
    assert _engines(tmp_path)[0].record.precision == "fp32"


def test_an_engine_that_fails_when_it_runs_is_not_kept(
    run: Run, tmp_path: Path, pictures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _needs_compiler()

    @contextmanager
    def running_here(*_: Any) -> Iterator[OnnxRuntimeEngine]:
        raise RunFailed("out of memory")
        yield

    monkeypatch.setattr(proven_build, "running_here", running_here)
    code, _, err = run("--precision", "fp16", "--pictures", pictures, *RTX)
    assert (code, err) == (1, "error: out of memory\n")
    assert _engines(tmp_path) == []


@pytest.mark.parametrize(("rates", "kept"), [({"int8": 90.0, "fp32": 50.0}, "int8"), ({"int8": 9, "fp32": 50}, "fp32")])
def test_auto_keeps_the_fastest_of_those_measured(
    run: Run, tmp_path: Path, pictures: str, monkeypatch: pytest.MonkeyPatch, rates: dict[str, float], kept: str
) -> None:
    monkeypatch.setattr(precision_choice, "_frames_per_s", lambda built, _: rates[built.record.precision])
    plain = str(write_pictures(Path(pictures).parent / "one", 1, seed=5))
    code, out, _ = run("--precision", "auto", "--calibration", pictures, "--pictures", plain, *ONNX)
    assert code == 0, out
    (engine,) = _engines(tmp_path)
    assert engine.record.precision == kept
    assert "slower" in out


def test_what_is_measured_is_the_engine(run: Run, tmp_path: Path, pictures: str) -> None:
    report = tmp_path / "report.json"
    assert run("--precision", "auto", "--pictures", pictures, "--json", str(report), *ONNX)[0] == 0
    (attempt,) = json.loads(report.read_text())["attempts"]
    assert (attempt["precision"], attempt["outcome"]) == ("fp32", "kept")
    assert attempt["frames_per_s"] > 0
    assert _engines(tmp_path)[0].record.profiles, "what was measured is kept beside the engine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "auto"], "auto keeps what is proven"),
        (["--precision", "auto", "--pictures", "x", "--accept"], "leave --accept"),
        (["--precision", "auto", "--pictures", "x", "--no-proof"], "leave --accept"),
        (["--precision", "fp16", "--pictures", "x", "--no-proof"], "--no-proof compares nothing"),
        (["--precision", "fp16", "--pictures", "/no/such"], "no source"),
    ],
)
def test_what_makes_no_sense_is_said(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert _engines(tmp_path) == []


def test_the_nodes_that_lose_most_are_found_and_stay_float(
    run: Run, pictures: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The small network is too good to lose enough for a proposal of its own.
    monkeypatch.setattr(verification, "propose_exclude", lambda losses: (losses[0].node,))
    wish = ("--precision", "int8", "--calibration", pictures, "--accept", *ONNX, "--json", "-")
    _, plain, _ = run(*wish)
    status, proposed, said = run(*wish, "--propose-exclude")
    assert status == 0, said
    engines = [json.loads(text)["engine"] for text in (plain, proposed)]
    assert engines[0]["exclude"] == []
    assert engines[1]["exclude"]
    assert engines[0]["key"] != engines[1]["key"]


def test_nodes_are_proposed_for_int8_alone(run: Run, pictures: str) -> None:
    status, _, said = run("--precision", "fp16", "--pictures", pictures, "--propose-exclude", *RTX)
    assert status == 1
    assert "--propose-exclude" in said
