from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from foveate.engines import energy_meter as energy_module
from foveate.engines import nvml as nvml_module
from foveate.engines.energy_meter import Rapl, energy_meter
from foveate.engines.errors import EngineUnavailable
from foveate.engines.machine import Gpu
from foveate.engines.nvml import NvmlGpu


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two processors, one with a part of its own, as in /sys/class/powercap."""
    for name, energy in (("intel-rapl:0", 900), ("intel-rapl:0:0", 5), ("intel-rapl:1", 100), ("intel-rapl", 0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
        (tmp_path / name / "energy_uj").write_text(f"{energy}\n")
    return tmp_path


def _set(powercap: Path, zone: str, energy: int) -> None:
    (powercap / zone / "energy_uj").write_text(f"{energy}\n")


def test_rapl_adds_up_whole_processors(powercap: Path) -> None:
    meter = Rapl(powercap)
    assert meter.joules() == 0
    _set(powercap, "intel-rapl:0", 950)
    _set(powercap, "intel-rapl:0:0", 500)
    _set(powercap, "intel-rapl:1", 300)
    assert meter.joules() == pytest.approx(250e-6), "a part is in its processor's counter already"


def test_rapl_goes_on_when_a_counter_begins_again(powercap: Path) -> None:
    meter = Rapl(powercap)
    for energy, joules in ((950, 50e-6), (20, 120e-6), (10, 1110e-6)):
        _set(powercap, "intel-rapl:0", energy)
        assert meter.joules() == pytest.approx(joules)


def test_a_machine_without_rapl_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineUnavailable, match="has no RAPL energy counters"):
        Rapl(tmp_path)


def test_a_counter_that_may_not_be_read_is_named(powercap: Path) -> None:
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    with pytest.raises(EngineUnavailable, match=r"intel-rapl:1/energy_uj .*only root may"):
        Rapl(powercap)


class FakeNvml(ModuleType):
    """`pynvml` with one GPU; `refused` are calls that it does not support."""

    class NVMLError(Exception):
        pass

    def __init__(self, uuid: str = "GPU-1", refused: tuple[str, ...] = ()) -> None:
        super().__init__("pynvml")
        self._uuid = uuid
        self._refused = refused
        self.millijoules = 5000

    def nvmlInit(self) -> None:
        self._check("nvmlInit")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != self._uuid:
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._check("nvmlDeviceGetTotalEnergyConsumption")
        return self.millijoules

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:
        return SimpleNamespace(used=123)

    def _check(self, name: str) -> None:
        if name in self._refused:
            raise self.NVMLError("Not Supported")


@pytest.fixture(autouse=True)
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        nvml_module, "gpu_of", lambda index: Gpu("A GPU", "GPU-1", "13.0", 1 << 30) if index == 0 else None
    )


def test_nvml_tells_of_the_gpu_that_cuda_numbers_so(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = energy_meter("cuda:0")
    assert (meter.source, meter.joules()) == ("NVML", 5.0)
    nvml.millijoules = 7500
    assert meter.joules() == 7.5
    assert NvmlGpu(0).used_bytes() == 123


@pytest.mark.parametrize(
    ("nvml", "device", "said"),
    [
        (FakeNvml(), "cuda:1", "no NVIDIA GPU 1"),
        (FakeNvml(uuid="GPU-2"), "cuda:0", "does not know A GPU, GPU-1: Not Found"),
        (FakeNvml(refused=("nvmlInit",)), "cuda:0", "does not know A GPU"),
        (FakeNvml(refused=("nvmlDeviceGetTotalEnergyConsumption",)), "cuda:0", "TotalEnergyConsumption: Not Supported"),
        (None, "cuda:0", r"install `nvidia-ml-py`, which `pip install 'foveate\[gpu\]'` brings"),
    ],
)
def test_what_nvml_does_not_tell_is_said(
    monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml | None, device: str, said: str
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with pytest.raises(EngineUnavailable, match=said):
        energy_meter(device)


def test_the_cpus_meter_is_rapl(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_module, "Rapl", lambda: Rapl(powercap))
    assert isinstance(energy_meter("cpu"), Rapl)
