"""The ONNX Runtime engine: right answers, written in place, and clear words for files that do not fit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from foveate.engines import (
    ConfigError,
    EngineError,
    EngineUnavailable,
    OnnxRuntimeEngine,
    PlanMismatch,
    RunFailed,
    check_engine,
)
from support.models import COLOUR_MEAN, TINY_DETECTOR, TINY_MODELS, Rows, TinyModel, onnx_model

MODELS = Path(__file__).resolve().parents[3] / "../shared/models"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[OnnxRuntimeEngine]:
    with OnnxRuntimeEngine(COLOUR_MEAN.save(tmp_path), name="colour_mean", max_batch=4) as engine:
        yield engine


def loaded_options(monkeypatch: pytest.MonkeyPatch, path: Path, **arguments: Any) -> Any:
    """The session options that an engine with these arguments hands to ONNX Runtime."""
    seen: list[Any] = []
    real_session = onnxruntime.InferenceSession

    def recording_session(model: str, options: Any, **rest: Any) -> Any:
        seen.append(options)
        return real_session(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", recording_session)
    with OnnxRuntimeEngine(path, name="colour_mean", max_batch=1, **arguments):
        return seen[0]


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def compressing_model(axis: int) -> onnx.ModelProto:
    """The mean colours less the rows (axis 0) or colours (axis 1) that are black: a size that data decide."""
    model = onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, {})
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["mean"], ["largest"], axes=[1 - axis], keepdims=0),
            helper.make_node("Cast", ["largest"], ["seen"], to=TensorProto.BOOL),
            helper.make_node("Compress", ["mean", "seen"], ["kept"], axis=axis),
        ]
    )
    del model.graph.output[:]
    colours: int | str = 3 if axis == 0 else "colours"
    model.graph.output.append(helper.make_tensor_value_info("kept", TensorProto.FLOAT, ["batch", colours]))
    return model


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_answers_are_those_of_numpy(model: TinyModel, tmp_path: Path) -> None:
    with OnnxRuntimeEngine(model.save(tmp_path), name=model.name, max_batch=4) as engine:
        slot = engine.new_slot()

        def run(inputs: Rows) -> Rows:
            for name, rows in inputs.items():
                slot.inputs[name][:3] = rows
            engine.run(slot, 3)
            return {name: buffer[:3] for name, buffer in slot.outputs.items()}

        model.check(run, rows=3)


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_conforms(model: TinyModel, tmp_path: Path) -> None:
    path = model.save(tmp_path)
    check_engine(lambda: OnnxRuntimeEngine(path, name=model.name, max_batch=5))


def test_info_says_what_the_file_and_the_library_are(tmp_path: Path) -> None:
    path = TINY_DETECTOR.save(tmp_path)
    info = OnnxRuntimeEngine(path, name="tiny", max_batch=3, precision="int8").load()
    assert info.inputs == TINY_DETECTOR.inputs
    assert info.outputs == TINY_DETECTOR.outputs
    assert (info.name, info.backend, info.precision, info.device) == ("tiny", "onnxruntime", "int8", "cpu")
    assert info.backend_version == onnxruntime.__version__
    assert info.max_batch == 3


def test_outputs_land_in_the_slots_own_buffers(engine: OnnxRuntimeEngine) -> None:
    slot = engine.new_slot()
    pixels, mean = slot.inputs["pixels"], slot.outputs["mean"]
    for value in (10, 20):
        pixels[:] = value
        engine.run(slot, 4)
        assert slot.outputs["mean"] is mean
        np.testing.assert_array_equal(mean, np.full((4, 3), value, np.float32))


def test_every_batch_is_bound_once_to_the_slots_own_memory(engine: OnnxRuntimeEngine) -> None:
    slots = [engine.new_slot(), engine.new_slot()]
    bound = [list(bindings) for bindings in engine._bindings]
    for slot in slots:
        for batch in range(1, 5):
            engine.run(slot, batch)
            (mean,) = engine._bindings[slot.index][batch - 1].get_outputs()
            assert mean.data_ptr() == slot.outputs["mean"].ctypes.data
            assert mean.shape() == [batch, 3]
    assert engine._bindings == bound


def test_failed_run_leaves_the_engine_usable(tmp_path: Path) -> None:
    # Rows of black pixels are dropped: fewer rows come out than went in, which only a run can show.
    path = saved(compressing_model(axis=0), tmp_path)
    with OnnxRuntimeEngine(path, name="dropper", max_batch=2) as engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][0] = 9
        with pytest.raises(RunFailed, match=r"dropper on cpu, slot 0: .*\{2,3\}"):
            engine.run(slot, 2)
        slot.inputs["pixels"][1] = 8
        engine.run(slot, 2)
        np.testing.assert_array_equal(slot.outputs["kept"], [[9, 9, 9], [8, 8, 8]])


def test_memory_of_the_session_is_given_up_on_close(engine: OnnxRuntimeEngine) -> None:
    engine.new_slot()
    engine.close()
    assert engine._session is None
    assert not engine._bindings


def test_missing_library_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(EngineUnavailable, match="pip install onnxruntime"):
        OnnxRuntimeEngine(COLOUR_MEAN.save(tmp_path), name="colour_mean", max_batch=1).load()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no model file at .*absent\.onnx"):
        OnnxRuntimeEngine(tmp_path / "absent.onnx", name="absent", max_batch=1).load()


@pytest.mark.parametrize("content", [b"", b"not a model" * 9], ids=["empty", "garbage"])
def test_corrupt_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "corrupt.onnx"
    path.write_bytes(content)
    with pytest.raises(PlanMismatch, match=r"cannot load .*corrupt\.onnx.*Prepare the model again"):
        OnnxRuntimeEngine(path, name="corrupt", max_batch=1).load()


def test_truncated_file(tmp_path: Path) -> None:
    path = TINY_DETECTOR.save(tmp_path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(PlanMismatch, match="cannot load"):
        OnnxRuntimeEngine(path, name="truncated", max_batch=1).load()


def test_fixed_batch_is_refused(tmp_path: Path) -> None:
    model = onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, {}, batch=1)
    with pytest.raises(PlanMismatch, match=r"input 'pixels'.*\[1, 4, 6, 3\] has no dynamic batch.*Export"):
        OnnxRuntimeEngine(saved(model, tmp_path), name="fixed", max_batch=1).load()


def test_output_without_the_batch_is_refused(tmp_path: Path) -> None:
    model = onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, {})
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    with pytest.raises(PlanMismatch, match=r"output 'mean'.*\[8, 3\] has no dynamic batch"):
        OnnxRuntimeEngine(saved(model, tmp_path), name="fixed", max_batch=1).load()


def test_dynamic_input_size_is_refused(tmp_path: Path) -> None:
    model = onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, {})
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    with pytest.raises(PlanMismatch, match=r"input .*'height', 6, 3\] is dynamic beyond the batch.*one input size"):
        OnnxRuntimeEngine(saved(model, tmp_path), name="dynamic", max_batch=1).load()


def test_dynamic_output_size_is_refused(tmp_path: Path) -> None:
    path = saved(compressing_model(axis=1), tmp_path)
    with pytest.raises(PlanMismatch, match=r"output 'kept'.* is dynamic beyond the batch"):
        OnnxRuntimeEngine(path, name="dynamic", max_batch=1).load()


def test_text_outputs_are_refused(tmp_path: Path) -> None:
    words = helper.make_tensor_value_info("words", TensorProto.STRING, ["batch", 3])
    model = onnx_model(COLOUR_MEAN.inputs, COLOUR_MEAN.outputs, COLOUR_MEAN.nodes, {})
    model.graph.node.append(helper.make_node("Cast", ["mean"], ["words"], to=TensorProto.STRING))
    model.graph.output.append(words)
    with pytest.raises(PlanMismatch, match=r"'words' of type tensor\(string\).*cannot be held in a buffer"):
        OnnxRuntimeEngine(saved(model, tmp_path), name="words", max_batch=1).load()


@pytest.mark.parametrize("arguments", [{"max_batch": 0}, {"max_batch": 1, "intra_op_threads": 0}])
def test_settings_out_of_range_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        OnnxRuntimeEngine(Path("any.onnx"), name="any", **arguments)


@pytest.mark.parametrize(
    ("cores", "asked", "spinning"), [(4, None, "0"), (5, None, "1"), (2, True, "1"), (64, False, "0")]
)
def test_spinning_is_off_where_cores_are_few(
    cores: int, asked: bool | None, spinning: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    path = COLOUR_MEAN.save(tmp_path)
    options = loaded_options(monkeypatch, path, allow_spinning=asked, intra_op_threads=1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spinning


@pytest.mark.parametrize(("asked", "threads"), [(None, 3), (2, 2)])
def test_threads_are_set_outright(
    asked: int | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5})
    options = loaded_options(monkeypatch, COLOUR_MEAN.save(tmp_path), intra_op_threads=asked)
    assert options.intra_op_num_threads == threads
    assert options.inter_op_num_threads == 1


@pytest.mark.parametrize(("optimize", "level"), [(True, "ORT_ENABLE_ALL"), (False, "ORT_DISABLE_ALL")])
def test_graph_optimization_can_be_switched_off(
    optimize: bool, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = loaded_options(monkeypatch, COLOUR_MEAN.save(tmp_path), optimize=optimize)
    assert options.graph_optimization_level == getattr(onnxruntime.GraphOptimizationLevel, level)


def test_a_published_classifier_conforms() -> None:
    path = MODELS / "efficientnet_lite0.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} in a shared/models folder beside the checkout")
    check_engine(lambda: OnnxRuntimeEngine(path, name="efficientnet_lite0", max_batch=2))


def test_a_published_detector_of_fixed_batch_is_refused() -> None:
    path = MODELS / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"no {path.name} in a shared/models folder beside the checkout")
    with pytest.raises(PlanMismatch, match="no dynamic batch"):
        OnnxRuntimeEngine(path, name="yolox_nano", max_batch=2).load()
