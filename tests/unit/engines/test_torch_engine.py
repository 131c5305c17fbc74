"""The torch engine on the CPU: conforms, agrees with ONNX Runtime, and has clear words for files that do not fit."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from foveate.engines import (  # noqa: E402
    ConfigError,
    EngineError,
    EngineUnavailable,
    OnnxRuntimeEngine,
    PlanMismatch,
    RunFailed,
    TensorSpec,
    check_engine,
    engine_class,
)
from foveate.engines.precision import convert  # noqa: E402
from foveate.engines.torch_engine import TorchEngine  # noqa: E402
from foveate.engines.torch_runtime import open_program, script_description  # noqa: E402
from support.models import COLOUR_MEAN, TINY_DETECTOR, TINY_MODELS, Rows, TinyModel, onnx_model  # noqa: E402
from support.networks import network_pictures, small_classifier  # noqa: E402

PIXELS = TensorSpec("pixels", np.dtype(np.uint8), (4, 6, 3))


Module: Any = torch.nn.Module


class ColourMean(Module):  # type: ignore[misc]  # mypy does not read torch
    def forward(self, pixels: Any) -> dict[str, Any]:
        return {"mean": pixels.float().mean((1, 2))}


@pytest.fixture
def threads() -> Iterator[None]:
    """torch's threads as they were before the test: the number belongs to the process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[TorchEngine]:
    with TorchEngine(COLOUR_MEAN.save(tmp_path), name="colour_mean", max_batch=4, device="cpu") as engine:
        yield engine


def exported(folder: Path, module: Any, *, most: int = 64) -> Path:
    """A module as a .pt2 file for batches of 1 to `most`."""
    batch = torch.export.Dim("batch", min=1, max=most)
    program = torch.export.export(
        module, (torch.zeros(2, *PIXELS.shape, dtype=torch.uint8),), dynamic_shapes=({0: batch},)
    )
    path = folder / "colour_mean.pt2"
    torch.export.save(program, path)
    return path


def scripted(folder: Path, module: Any, *, described: bool = True) -> Path:
    path = folder / "colour_mean.ts"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.trace(module, torch.zeros(2, *PIXELS.shape, dtype=torch.uint8), strict=False)
        torch.jit.save(script, str(path), _extra_files=script_description((PIXELS,)) if described else {})
    return path


def answers_of(engine: Any, rows: np.ndarray[Any, Any]) -> Rows:
    with engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = rows
        engine.run(slot, len(rows))
        return {name: buffer.copy() for name, buffer in slot.outputs.items()}


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_conforms(model: TinyModel, tmp_path: Path) -> None:
    path = model.save(tmp_path)
    check_engine(lambda: TorchEngine(path, name=model.name, max_batch=5, device="cpu"))


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_answers_are_those_of_numpy(model: TinyModel, tmp_path: Path) -> None:
    with TorchEngine(model.save(tmp_path), name=model.name, max_batch=4, device="cpu") as engine:
        slot = engine.new_slot()

        def run(inputs: Rows) -> Rows:
            for name, rows in inputs.items():
                slot.inputs[name][:3] = rows
            engine.run(slot, 3)
            return {name: buffer[:3] for name, buffer in slot.outputs.items()}

        model.check(run, rows=3)


@pytest.mark.parametrize("kind", [exported, scripted], ids=["pt2", "torchscript"])
def test_programs_of_torch_itself_conform(kind: Any, tmp_path: Path) -> None:
    path = kind(tmp_path, ColourMean())
    check_engine(lambda: TorchEngine(path, name="colour_mean", max_batch=5, device="cpu"))
    info = TorchEngine(path, name="colour_mean", max_batch=5, device="cpu").load()
    assert info.inputs == (PIXELS,)
    assert info.outputs == COLOUR_MEAN.outputs


def test_an_exported_programs_weights_go_to_its_device(tmp_path: Path) -> None:
    """To the meta device here: it needs no GPU, and takes no tensor of another device."""

    class Scaled(Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))

        def forward(self, pixels: Any) -> Any:
            return pixels.float().mean((1, 2)) * self.scale

    program = open_program(exported(tmp_path, Scaled()), torch.device("meta"), "fp32", 4)
    (answer,) = program.bind(2)([torch.zeros(2, *PIXELS.shape, dtype=torch.uint8, device="meta")])
    assert answer.is_meta
    assert answer.shape == (2, 3)


def test_info_says_what_the_file_and_the_library_are(tmp_path: Path) -> None:
    path = TINY_DETECTOR.save(tmp_path)
    info = engine_class("torch").from_file(path, name="tiny", max_batch=3, threads=1).load()
    assert info.inputs == TINY_DETECTOR.inputs
    assert info.outputs == TINY_DETECTOR.outputs
    assert (info.name, info.backend, info.precision) == ("tiny", "torch", "fp32")
    assert info.backend_version == torch.__version__
    assert info.device == ("cuda:0" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_converted_graphs_say_what_they_say_on_onnx_runtime(precision: str, tmp_path: Path) -> None:
    """The graph that TensorRT compiles, run by torch: its Q/DQ pairs and its half precision."""
    pictures = network_pictures(8)
    converted = convert(small_classifier(), precision, target="tensorrt", calibration=pictures)
    path = tmp_path / "converted.onnx"
    onnx.save(converted, path)
    rows = np.stack(pictures)
    torchs = answers_of(TorchEngine(path, name="small", max_batch=8, device="cpu"), rows)
    # Node by node, since ONNX Runtime's own rewrites of such graphs lose accuracy.
    plain = answers_of(OnnxRuntimeEngine(path, name="small", max_batch=8, optimize=False), rows)
    np.testing.assert_allclose(torchs["scores"], plain["scores"], atol=0.01)
    np.testing.assert_array_equal(torchs["class_ids"][:, 0], plain["class_ids"][:, 0])


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_of_a_float_graph(precision: str, tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    onnx.save(small_classifier(), path)
    rows = np.stack(network_pictures(8))
    exact = answers_of(TorchEngine(path, name="small", max_batch=8, device="cpu"), rows)
    engine = TorchEngine(path, name="small", max_batch=8, device="cpu", precision=precision)
    assert engine.load().precision == precision
    half = answers_of(engine, rows)
    assert half["scores"].dtype == np.float32
    np.testing.assert_allclose(half["scores"], exact["scores"], atol=0.03)
    assert not np.array_equal(half["scores"], exact["scores"])


def test_inputs_are_read_and_outputs_written_in_place(engine: TorchEngine) -> None:
    slot = engine.new_slot()
    mean = slot.outputs["mean"]
    for value in (10, 20):
        slot.inputs["pixels"][:] = value
        engine.run(slot, 4)
        assert slot.outputs["mean"] is mean
        np.testing.assert_array_equal(mean, np.full((4, 3), value, np.float32))


def test_a_slot_reads_its_callers_memory(engine: TorchEngine) -> None:
    shared = np.full((4, 4, 6, 3), 7, np.uint8)
    slot = engine.new_slot({"pixels": shared})
    assert slot.inputs["pixels"] is shared
    engine.run(slot, 2)
    np.testing.assert_array_equal(slot.outputs["mean"][:2], np.full((2, 3), 7, np.float32))


def test_no_gradient_is_recorded(engine: TorchEngine) -> None:
    seen = []

    def bound(inputs: Any) -> Any:
        seen.append(torch.is_inference_mode_enabled())
        return [torch.zeros(1, 3)]

    runner: Any = engine._runner
    runner._bound[0] = bound
    engine.run(engine.new_slot(), 1)
    assert seen == [True]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("asked", "expected"), [(None, 3), (2, 2)])
def test_threads_are_set_for_the_thread_that_runs(
    asked: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
    torch.set_num_threads(1)
    with TorchEngine(COLOUR_MEAN.save(tmp_path), name="mean", max_batch=1, device="cpu", threads=asked) as engine:
        engine.run(engine.new_slot(), 1)
        assert torch.get_num_threads() == expected


@pytest.mark.parametrize(("chosen", "policy"), [("", "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_do_not_spin_where_cores_are_few(chosen: str, policy: str, tmp_path: Path) -> None:
    path = COLOUR_MEAN.save(tmp_path)
    code = f"""
import os, pathlib
from foveate.engines import TorchEngine
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
TorchEngine(pathlib.Path({str(path)!r}), name="mean", max_batch=1, device="cpu").load()
print(os.environ["OMP_WAIT_POLICY"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    if chosen:
        environment["OMP_WAIT_POLICY"] = chosen
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.split() == [policy]


def test_outputs_of_a_wrong_shape_fail_the_run(tmp_path: Path) -> None:
    """One row for all must not be spread over the batch."""

    class First(Module):  # type: ignore[misc]
        def forward(self, pixels: Any) -> Any:
            return pixels.float().mean((1, 2))[:1]

    path = scripted(tmp_path, First())
    with TorchEngine(path, name="first", max_batch=2, device="cpu") as engine:
        slot = engine.new_slot()
        engine.run(slot, 1)
        with pytest.raises(RunFailed, match=r"made \[1, 3\] where \[2, 3\] belongs"):
            engine.run(slot, 2)
        engine.run(slot, 1)


def test_close_gives_the_weights_up(engine: TorchEngine) -> None:
    engine.new_slot()
    engine.close()
    assert engine._runner is None


def test_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EngineUnavailable, match=r"pip install 'foveate\[torch\]'"):
        TorchEngine(COLOUR_MEAN.save(tmp_path), name="colour_mean", max_batch=1).load()


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="this torch is built with CUDA")
def test_a_gpu_without_a_build_for_it(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="built without CUDA: install a CUDA build"):
        TorchEngine(COLOUR_MEAN.save(tmp_path), name="colour_mean", max_batch=1, device="cuda:0").load()


@pytest.mark.parametrize(
    ("available", "count", "complaint"), [(False, 0, "sees no NVIDIA GPU"), (True, 1, r"no cuda:1 here.*sees 1 GPU")]
)
def test_a_gpu_that_is_not_there(
    available: bool, count: int, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(EngineUnavailable, match=complaint):
        TorchEngine(COLOUR_MEAN.save(tmp_path), name="colour_mean", max_batch=1, device="cuda:1").load()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no model file at .*absent\.onnx"):
        TorchEngine(tmp_path / "absent.onnx", name="absent", max_batch=1, device="cpu").load()


@pytest.mark.parametrize("content", [b"", b"not a model" * 9], ids=["empty", "garbage"])
@pytest.mark.parametrize("name", ["corrupt.onnx", "corrupt.pt2", "corrupt.ts"])
def test_corrupt_file(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(PlanMismatch, match="corrupt"):
        TorchEngine(path, name="corrupt", max_batch=1, device="cpu").load()


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3")
    with pytest.raises(PlanMismatch, match=r"reads \.onnx, \.pt2, \.pt, \.ts"):
        TorchEngine(path, name="other", max_batch=1, device="cpu").load()


def test_fixed_batch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    onnx.save(onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, {}, batch=1), path)
    with pytest.raises(PlanMismatch, match=r"'pixels'.*\[1, 4, 6, 3\] has no dynamic batch"):
        TorchEngine(path, name="fixed", max_batch=1, device="cpu").load()


def test_fixed_batch_of_an_exported_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(ColourMean(), (torch.zeros(1, *PIXELS.shape),)), path)
    with pytest.raises(PlanMismatch, match=r"'pixels' of shape \[1, 4, 6, 3\] has no dynamic batch"):
        TorchEngine(path, name="fixed", max_batch=1, device="cpu").load()


def test_more_than_an_exported_program_takes_is_refused(tmp_path: Path) -> None:
    path = exported(tmp_path, ColourMean(), most=4)
    with pytest.raises(PlanMismatch, match="takes batches of 1 to 4, not of 1 to 5"):
        TorchEngine(path, name="small", max_batch=5, device="cpu").load()


def test_torchscript_must_say_its_inputs(tmp_path: Path) -> None:
    path = scripted(tmp_path, ColourMean(), described=False)
    with pytest.raises(PlanMismatch, match=r"does not say what its inputs are.*script_description"):
        TorchEngine(path, name="mute", max_batch=1, device="cpu").load()


def test_an_operator_without_counterpart_is_named_at_load(tmp_path: Path) -> None:
    nodes = (*COLOUR_MEAN.nodes[:-1], helper.make_node("NonZero", ["floats"], ["mean"], name="finder"))
    model = onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, {})
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "finder.onnx")
    with pytest.raises(PlanMismatch, match=r"node 'finder' \(NonZero\).*another backend"):
        TorchEngine(tmp_path / "finder.onnx", name="finder", max_batch=1, device="cpu").load()


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_batch": 0},
        {"max_batch": 1, "threads": 0},
        {"max_batch": 1, "device": "tpu"},
        {"max_batch": 1, "device": "cuda:x"},
    ],
)
def test_settings_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        TorchEngine(Path("any.onnx"), name="any", **arguments)
