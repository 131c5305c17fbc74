from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from foveate.engines import BatchRange, BuildOptions, EngineStore
from foveate.engines import profiling as profiling_module
from foveate.engines.build import build_engine
from foveate.engines.errors import EngineUnavailable
from foveate.models.package import PreparedModel, load_package, prepare
from foveate.models.store import ModelStore
from foveate.tools.profile_command import profile
from support.networks import write_small_package

Run = Callable[..., tuple[int, str, str]]
"""Arguments of `foveate profile` -> exit status, stdout, stderr."""


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    return EngineStore(tmp_path / "engines")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write_small_package(tmp_path / "small")


@pytest.fixture
def model(package: Path, tmp_path: Path) -> PreparedModel:
    return prepare(load_package(package), ModelStore(tmp_path / "models"))


@pytest.fixture
def run(tmp_path: Path, store: EngineStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `foveate profile` on stores of its own, for the shortest time."""
    app = typer.Typer()
    app.command()(profile)
    options = ("--seconds", "0.1", "--model-store", str(tmp_path / "models"), "--engine-store", str(store.root))
    monkeypatch.setenv("COLUMNS", "80")

    def invoke(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*arguments, *options])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


def test_a_model_is_profiled_as_it_is_and_the_profile_kept(run: Run, store: EngineStore, package: Path) -> None:
    code, out, err = run(str(package), "--max-batch", "3", "--threads", "1", "--json")
    assert code == 0, err
    facts: dict[str, Any] = json.loads(out)
    (kept,) = store.profiles(facts["key"])
    assert (facts["model"], facts["built"]) == ("small", False)
    assert facts["latency"] == kept.latency.to_json()
    assert kept.latency.buckets == (1, 2, 3)
    measured = [batch for batch, known in zip(kept.latency.buckets, kept.latency.measured, strict=True) if known]
    assert [rate.batch for rate in kept.rates] == measured
    assert (kept.conditions.backend, kept.conditions.precision, kept.conditions.threads) == ("onnxruntime", "fp32", 1)
    assert facts["best_frames_per_s"] == max(rate["frames_per_s"] for rate in facts["rates"]) > 0
    assert facts["alpha_ns"] >= 0 <= facts["beta_ns"]
    assert facts["memory"]["meter"] == "resident memory of the process"
    assert facts["planned_memory"]["slot_bytes"] == 3 * (16 * 16 * 3 + 10 * (4 + 4)), "uint8 pixels, scores and ids"
    assert facts["planned_memory"]["weights_bytes"] > 0


def test_an_engine_is_profiled_by_its_key_into_its_sidecar(run: Run, store: EngineStore, model: PreparedModel) -> None:
    options = BuildOptions("onnxruntime", "fp16", BatchRange(1, 1, 2))
    built = build_engine(model.onnx_path, "small", options, store)
    assert run(built.key[:10])[0] == 0
    (kept,) = store.resolve(built.key).record.profiles
    assert (kept.max_batch, kept.conditions.precision) == (2, "fp16")
    assert run(built.key[:10])[0] == 0
    assert len(store.profiles(built.key)) == 1, "measured again, it takes the old one's place"


def test_people_get_tables(run: Run, package: Path) -> None:
    code, out, _ = run(str(package), "--max-batch", "2", "--threads", "2")
    assert code == 0
    assert out.startswith("small in fp32, onnxruntime ")
    for text in (
        "on cpu, 2 threads",
        "median",
        "l(b) is about",
        "frames/s in batches of",
        "first batch in flight",
    ):
        assert text in out
    assert "each further one" not in out, "only one batch runs at a time"


@pytest.mark.parametrize(("watts", "header"), [(0.0, "J/frame"), (None, "frames/s")])
def test_power_is_shown_where_it_is_known(
    run: Run, package: Path, monkeypatch: pytest.MonkeyPatch, watts: float | None, header: str
) -> None:
    class Meter:
        source = "a meter"

        def joules(self) -> float:
            return 0.0

    def meter(device: str) -> Meter:
        if watts is None:
            raise EngineUnavailable(f"nothing measures {device}")
        return Meter()

    monkeypatch.setattr(profiling_module, "energy_meter", meter)
    out = run(str(package), "--max-batch", "1")[1]
    assert next(line for line in out.splitlines() if "median" in line).rstrip().endswith(header)
    assert ("power: a meter" if watts is not None else "power: not available: nothing measures cpu") in out


def test_an_engine_that_was_not_built_is_told_with_the_command(run: Run, package: Path) -> None:
    code, _, err = run(str(package), "--precision", "int8")
    assert code == 1
    assert f"`foveate build {package} --backend onnxruntime --precision int8 --batch 8 --calibration" in err


def test_a_store_that_cannot_be_written_does_not_cost_the_figures(run: Run, store: EngineStore, package: Path) -> None:
    store.root.write_text("a file where the store's folder should be")
    code, out, err = run(str(package), "--max-batch", "1")
    assert code == 1
    assert "frames/s in batches of 1" in out
    assert "cannot write to the engine store" in err


def test_an_unknown_key_and_an_unknown_model_are_told(run: Run) -> None:
    code, _, err = run("012345")
    assert code == 1
    assert "`foveate engines list` shows them" in err
    code, _, err = run("no-such-model")
    assert code == 1
    assert "no-such-model" in err
