"""The torch engine on a GPU: conforms, agrees with the CPU, overlaps its copies; skips where torch sees no GPU."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
if not torch.cuda.is_available():
    pytest.skip("torch sees no NVIDIA GPU", allow_module_level=True)

from foveate.engines import EngineUnavailable, check_engine  # noqa: E402
from foveate.engines.profile import fill_slot  # noqa: E402
from foveate.engines.torch_engine import TorchEngine  # noqa: E402
from foveate.models.fusion import fuse  # noqa: E402
from foveate.models.package import load_package  # noqa: E402
from foveate.tools.gpu_report.shared_pages import shared_pages  # noqa: E402
from support.models import TINY_MODELS, TinyModel  # noqa: E402
from support.networks import SIDE_PX, network_pictures, small_classifier  # noqa: E402
from support.shared_models import shared_model  # noqa: E402


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torch") / "small.onnx"
    onnx.save(small_classifier(), path)
    return path


def answers(path: Path, rows: NDArray[np.uint8], **arguments: Any) -> dict[str, NDArray[Any]]:
    with TorchEngine(path, name="model", max_batch=len(rows), **arguments) as engine:
        slot = engine.new_slot()
        slot.inputs["pixels"][:] = rows
        engine.run(slot, len(rows))
        return {name: buffer.copy() for name, buffer in slot.outputs.items()}


@pytest.mark.parametrize("model", TINY_MODELS, ids=lambda model: model.name)
def test_conforms(model: TinyModel, tmp_path: Path) -> None:
    path = model.save(tmp_path)
    check_engine(lambda: TorchEngine(path, name=model.name, max_batch=5, device="cuda:0"))


def test_the_gpu_is_taken_by_default(classifier: Path) -> None:
    with TorchEngine(classifier, name="small", max_batch=1) as engine:
        assert engine.info.device == "cuda:0"
        assert engine.info.max_in_flight > 1


@pytest.mark.parametrize(("precision", "most"), [("fp32", 1e-4), ("fp16", 0.03), ("bf16", 0.05)])
def test_answers_are_those_of_the_cpu(classifier: Path, precision: str, most: float) -> None:
    rows = np.stack(network_pictures(8))
    expected = answers(classifier, rows, device="cpu")
    actual = answers(classifier, rows, device="cuda:0", precision=precision)
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=most)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "yolox_nano"])
def test_a_published_network_says_what_it_says_on_the_cpu(name: str, tmp_path: Path) -> None:
    manifest = load_package(name).manifest
    path = tmp_path / "fused.onnx"
    onnx.save(fuse(onnx.load(shared_model(f"{name}.onnx")), manifest), path)
    shape = (2, manifest.input.height_px, manifest.input.width_px, 3)
    rows = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    expected, actual = answers(path, rows, device="cpu"), answers(path, rows, device="cuda:0")
    np.testing.assert_allclose(actual["scores"], expected["scores"], atol=1e-3)


def test_slots_in_flight_from_several_threads_keep_their_answers(classifier: Path) -> None:
    with TorchEngine(classifier, name="small", max_batch=8, device="cuda:0") as engine:
        slots = [engine.new_slot() for _ in range(engine.info.max_in_flight)]
        pictures = np.stack(network_pictures(8))
        rows = [np.roll(pictures, number, axis=0) for number in range(len(slots))]
        expected = [answers(classifier, each, device="cuda:0") for each in rows]
        wrong: list[int] = []

        def work(number: int) -> None:
            slot = slots[number]
            for _ in range(50):
                slot.inputs["pixels"][:] = rows[number]
                engine.run(slot, 8)
                if not np.allclose(slot.outputs["scores"], expected[number]["scores"], atol=1e-4):
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(slots))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_times_of_copies_and_computing_are_told(classifier: Path) -> None:
    with TorchEngine(classifier, name="small", max_batch=8, device="cuda:0") as engine:
        slot = engine.new_slot()
        fill_slot(engine, slot)
        times = engine.run(slot, 8)
        assert min(times.copy_in_ns, times.infer_ns, times.copy_out_ns) > 0


def test_shared_memory_is_read_where_it_lies(classifier: Path) -> None:
    pytest.importorskip("cuda.bindings.driver", reason="cuda-python is not installed")
    pixels = shared_pages((8, SIDE_PX, SIDE_PX, 3), np.uint8)
    pixels[:] = np.stack(network_pictures(8))
    expected = answers(classifier, pixels, device="cuda:0")
    with TorchEngine(classifier, name="small", max_batch=8, device="cuda:0") as engine:
        slot = engine.new_slot({"pixels": pixels})
        assert slot.inputs["pixels"] is pixels, "this system does not let its memory be registered; the log says why"
        engine.run(slot, 8)
        np.testing.assert_allclose(slot.outputs["scores"], expected["scores"], atol=1e-4)
    pixels[:] = 0  # it is its owner's as before


def test_runs_allocate_nothing_on_the_device(classifier: Path) -> None:
    with TorchEngine(classifier, name="small", max_batch=8, device="cuda:0") as engine:
        slot = engine.new_slot()
        fill_slot(engine, slot)
        engine.run(slot, 8)
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        for batch in (1, 8, 3) * 20:
            engine.run(slot, batch)
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_memory_is_given_up_on_close(classifier: Path) -> None:
    before = torch.cuda.memory_allocated()
    with TorchEngine(classifier, name="small", max_batch=8, device="cuda:0") as engine:
        engine.new_slot()
        assert torch.cuda.memory_allocated() > before
    assert torch.cuda.memory_allocated() == before


def test_an_index_beyond_the_gpus_is_refused(classifier: Path) -> None:
    with pytest.raises(EngineUnavailable, match="no cuda:99 here"):
        TorchEngine(classifier, name="small", max_batch=1, device="cuda:99").load()
