from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from foveate.engines import BatchRange, BuiltEngine, EngineStore
from foveate.engines import precision as precision_package
from foveate.tools.build_command import build
from support.packages import write_package

Run = Callable[..., tuple[int, str, str]]
"""Arguments of `foveate build` -> exit status, stdout, stderr."""


@pytest.fixture(autouse=True)
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the conversion was told, which has tests of its own: precision, pictures, exclusions."""
    told: list[Any] = []

    def convert(
        model: onnx.ModelProto,
        precision: str,
        *,
        target: str,
        calibration: Sequence[NDArray[np.uint8]] = (),
        exclude: Collection[str] = (),
    ) -> onnx.ModelProto:
        told.append((precision, [picture.shape for picture in calibration], tuple(exclude)))
        return model

    monkeypatch.setattr(precision_package, "convert", convert)
    return told


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs `foveate build` on a tiny package, with stores of its own."""
    app = typer.Typer()
    app.command()(build)
    package = write_package(tmp_path / "package")
    stores = ("--model-store", str(tmp_path / "models"), "--engine-store", str(tmp_path / "engines"))

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [str(package), *arguments, *stores])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def _engines(tmp_path: Path) -> list[BuiltEngine]:
    return EngineStore(tmp_path / "engines").engines()


def test_an_engine_is_built_once(run: Run, tmp_path: Path, seen: list[Any]) -> None:
    code, out, _ = run("--backend", "onnxruntime", "--batch", "1:2:4")
    assert code == 0
    assert out.startswith("brightest: built\n")
    (engine,) = _engines(tmp_path)
    assert engine.key in out
    assert str(engine.path) in out
    assert "1:2:4" in out
    code, out, _ = run("--backend", "onnxruntime", "--batch", "1:2:4")
    assert code == 0
    assert out.startswith("brightest: was built before\n")
    run("--backend", "onnxruntime", "--batch", "1:2:4", "--force")
    assert len(seen) == 2
    assert len(_engines(tmp_path)) == 1


def test_every_option_reaches_the_engine(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    code, out, _ = run("--batch", "3", "--target", "sm_89,sm_86", "--workspace-mib", "64")
    assert code == 0
    (engine,) = _engines(tmp_path)
    record = engine.record
    assert (record.backend, record.precision, record.target) == ("tensorrt_rtx", "fp32", "sm_86,sm_89")
    assert record.compute_capabilities == ("sm_86", "sm_89")
    assert (record.batch.min, record.batch.opt, record.batch.max) == (1, 3, 3)
    assert f"tensorrt_rtx {record.library_version}" in out


def test_the_defaults_are_those_of_the_options(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the compiler of tensorrt_rtx is not installed")
    assert run()[0] == 0
    record = _engines(tmp_path)[0].record
    batch = BatchRange()
    assert (record.backend, record.precision, record.compute_capabilities) == ("tensorrt_rtx", "fp32", ("sm_80+",))
    assert (record.batch.min, record.batch.opt, record.batch.max) == (batch.min, batch.opt, batch.max)


def test_int8_is_calibrated_with_pictures_in_the_models_size(run: Run, tmp_path: Path, seen: list[Any]) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        assert cv2.imwrite(str(pictures / f"{number}.png"), np.full((20, 30, 3), 50 * number, np.uint8))
    options = ("--precision", "int8", "--calibration", str(pictures), "--calibration-pictures", "2")
    code, out, _ = run("--backend", "onnxruntime", *options, "--int8-exclude", "a", "--int8-exclude", "b")
    assert code == 0
    assert seen == [("int8", [(8, 16, 3)] * 2, ("a", "b"))]
    assert "a, b" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8"], "add --calibration FOLDER_OR_VIDEO"),
        (["--calibration", "somewhere"], "fp32 is not calibrated"),
        (["--precision", "fp4"], "no precision is called 'fp4'"),
        (["--backend", "tvm"], "no backend is called 'tvm'"),
        (["--batch", "4:2:1"], "1 <= min <= opt <= max, not 4:2:1"),
        (["--target", "turing"], "a target is one of default"),
        (["--precision", "fp8", "--target", "sm_86", "--calibration", "x"], "sm_86 has no fp8 arithmetic"),
        (["--backend", "onnxruntime", "--target", "this"], "no GPU in particular"),
    ],
)
def test_what_makes_no_sense_is_said(run: Run, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 1
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert _engines(tmp_path) == []
