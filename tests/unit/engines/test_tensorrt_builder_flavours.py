"""What the builder tells TensorRT 10 and 11, which compile nothing without a GPU: a stand-in notes it."""

from __future__ import annotations

import sys

import onnx
import pytest

from foveate.engines import BatchRange, BuildFailed, BuildOptions, EngineUnavailable, Target
from foveate.engines import tensorrt_builder as builder_module
from foveate.engines.tensorrt_builder import TensorRtBuilder
from support.fake_tensorrt import FakeTensorRt
from support.models import GAINED_MEAN, onnx_model

OPTIONS = BuildOptions(backend="tensorrt", batch=BatchRange(1, 2, 4))


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder_module, "compute_capability", lambda: "sm_90")


def _installed(monkeypatch: pytest.MonkeyPatch, version: str = "11.4.0.106") -> tuple[FakeTensorRt, TensorRtBuilder]:
    fake = FakeTensorRt(version)
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake, TensorRtBuilder("tensorrt")


def _model() -> onnx.ModelProto:
    return onnx_model(GAINED_MEAN.inputs, GAINED_MEAN.outputs, GAINED_MEAN.nodes, GAINED_MEAN.weights)


def test_a_graph_becomes_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, builder = _installed(monkeypatch)
    told: list[tuple[str, int, int]] = []
    compiled = builder.compile(
        _model(), OPTIONS, name="gained", on_progress=lambda phase, done, total: told.append((phase, done, total))
    )
    assert compiled.content == FakeTensorRt.PLAN
    assert compiled.inputs == GAINED_MEAN.inputs
    assert compiled.outputs == GAINED_MEAN.outputs
    assert compiled.weights_bytes == 1234
    assert compiled.activation_bytes is None
    assert fake.told["network name"] == "gained"
    assert fake.told["profile"] == {
        "pixels": ((1, 4, 6, 3), (2, 4, 6, 3), (4, 4, 6, 3)),
        "gain": ((1, 3), (2, 3), (4, 3)),
    }
    assert [done for _, done, _ in told] == [0, 1, 2, 2]
    assert {(phase, total) for phase, _, total in told} == {("Building engine", 2)}
    assert not {"flags", "workspace", "hardware_compatibility_level", "num_compute_capabilities"} & set(fake.told)


@pytest.mark.parametrize(("version", "flags"), [("10.13.2.6", 2), ("11.4.0.106", 0)])
def test_types_are_those_of_the_graph(monkeypatch: pytest.MonkeyPatch, version: str, flags: int) -> None:
    fake, builder = _installed(monkeypatch, version)
    builder.compile(_model(), OPTIONS)
    assert fake.told["network flags"] == flags


@pytest.mark.parametrize(
    ("target", "level", "capabilities"),
    [
        ("ampere_plus", "ampere", ("sm_80+",)),
        ("same_compute_capability", "same", ("sm_90",)),
        ("this", None, ("sm_90",)),
        ("default", None, ("sm_90",)),
    ],
)
def test_targets(
    monkeypatch: pytest.MonkeyPatch, target: str, level: str | None, capabilities: tuple[str, ...]
) -> None:
    fake, builder = _installed(monkeypatch)
    options = BuildOptions(backend="tensorrt", target=Target.parse(target))
    builder.compile(_model(), options)
    assert fake.told.get("hardware_compatibility_level") == level
    assert builder.target_capabilities(options) == capabilities


def test_other_gpus_cannot_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    _, builder = _installed(monkeypatch)
    with pytest.raises(BuildFailed, match="cannot target sm_89: build there"):
        builder.compile(_model(), BuildOptions(backend="tensorrt", target=Target.parse("sm_89")))


@pytest.mark.parametrize("target", ["default", "this", "ampere_plus"])
def test_nothing_compiles_without_a_gpu(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    _, builder = _installed(monkeypatch)
    monkeypatch.setattr(builder_module, "compute_capability", lambda: None)
    with pytest.raises(EngineUnavailable, match="needs an NVIDIA GPU"):
        builder.compile(_model(), BuildOptions(backend="tensorrt", target=Target.parse(target)))


def test_settings_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, builder = _installed(monkeypatch)
    builder.compile(_model(), BuildOptions(backend="tensorrt", version_compatible=True, workspace_mib=3))
    assert fake.told["flags"] == ["version compatible"]
    assert fake.told["workspace"] == 3 << 20


@pytest.mark.parametrize(("given", "kept"), [(b"", b"+"), (b"times", b"times+"), (b"stale", b"+")])
def test_what_was_measured_comes_back(monkeypatch: pytest.MonkeyPatch, given: bytes, kept: bytes) -> None:
    _, builder = _installed(monkeypatch)
    assert builder.measures
    assert builder.compile(_model(), OPTIONS, timing_cache=given).timing_cache == kept
