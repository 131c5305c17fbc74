"""GPUs of several models in one machine: each engine process sees its own, and gets the engine that fits it.

The driver is a stub that shows what CUDA_VISIBLE_DEVICES leaves of its GPUs, as CUDA does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from foveate.engines import EngineStore
from foveate.engines.engine_record import BatchRecord, MemoryPlan
from support.engine_records import engine_record

ROOT = Path(__file__).resolve().parents[3]
PLAN, GRAPH = b"a plan", b"a prepared graph"
TWO_MODELS = "8.9:24,9.0:139"

SERVE = """
import os

from foveate.engines.errors import FoveateError
from foveate.service.devices import device_names
from support.processes import service_of_processes

names = (os.environ["NAMED"],) if "NAMED" in os.environ else device_names("all")
try:
    with service_of_processes(ingests=1, devices=names, engine="support.choosing_engine_process") as service:
        for each in service.settled(lambda status: len(status.engines) == len(names)).engines:
            print(each.engine.device, each.engine.name)
except FoveateError as error:
    print(type(error).__name__, error)
"""
DEVICES = """
from foveate.engines.errors import EngineUnavailable
from foveate.service.devices import device_names, visible_gpu

for name in device_names("all"):
    print(name, visible_gpu(name))
try:
    visible_gpu("cuda:7")
except EngineUnavailable as error:
    print(error)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("driver")
    source = ROOT / "tests/support/stub_driver.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source), "-ldl"], check=True)
    return folder


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    (tmp_path / "graph.onnx").write_bytes(GRAPH)
    return EngineStore(tmp_path / "engines")


def put(store: EngineStore, seed: str, capability: str, **changes: Any) -> str:
    """An engine for a GPU; the first digits of its key."""
    fields: dict[str, Any] = {
        "source_sha256": hashlib.sha256(GRAPH).hexdigest(),
        "backend": "tensorrt",
        "library_version": "11.4",
        "compute_capabilities": (capability,),
        "batch": BatchRecord(min=1, opt=4, max=8),
    }
    record = engine_record(PLAN, seed, **fields | changes)
    return store.find_or_build(record.key, lambda: (PLAN, record)).key[:12]


def said(script: str, driver: Path, gpus: str, store: EngineStore | None = None, **more: str) -> list[str]:
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(driver),
        "STUB_GPUS": gpus,
        "PYTHONPATH": str(ROOT / "tests"),
        "STORE": str(store.root) if store else "",
        "GRAPH": str(store.root.with_name("graph.onnx")) if store else "",
    }
    environment.pop("CUDA_VISIBLE_DEVICES", None)
    ran = subprocess.run(
        [sys.executable, "-c", script], env=environment | more, capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_each_gpu_gets_the_engine_that_fits_it(driver: Path, store: EngineStore) -> None:
    ada, hopper = put(store, "ada", "sm_89"), put(store, "hopper", "sm_90")
    assert sorted(said(SERVE, driver, TWO_MODELS, store)) == [f"cuda:0 {ada}", f"cuda:1 {hopper}"]


def test_of_one_model_the_smaller_gpu_gets_what_it_has_memory_for(driver: Path, store: EngineStore) -> None:
    small = put(store, "small", "sm_90", batch=BatchRecord(min=1, opt=2, max=2))
    large_plan = MemoryPlan(weights_bytes=20 << 30, activation_bytes=10 << 30, slot_bytes=1 << 30)
    large = put(store, "large", "sm_90", memory=large_plan)
    assert sorted(said(SERVE, driver, "9.0:24,9.0:139", store)) == [f"cuda:0 {small}", f"cuda:1 {large}"]


def test_an_engine_that_fits_one_gpu_alone_is_refused_for_the_other(driver: Path, store: EngineStore) -> None:
    put(store, "ada", "sm_89")
    (line,) = said(SERVE, driver, TWO_MODELS, store)
    for text in (
        "PlanMismatch on cuda:1: no engine of tiny for tensorrt in fp16 that fits",
        "`CUDA_VISIBLE_DEVICES=GPU-00000002-0000-0000-0000-000000000000 foveate build tiny --backend tensorrt ",
        "is for compute capability sm_89, here is sm_90 (stub 2)",
    ):
        assert text in line


def test_a_service_on_a_gpu_that_is_not_there_does_not_start_on_another(driver: Path, store: EngineStore) -> None:
    put(store, "ada", "sm_89")
    (line,) = said(SERVE, driver, TWO_MODELS, store, NAMED="cuda:7")
    assert line.startswith("EngineUnavailable there is no GPU cuda:7 here")


def test_processes_are_given_gpus_by_what_names_them_for_good(driver: Path) -> None:
    first, second, refusal = said(DEVICES, driver, TWO_MODELS)
    assert first == "cuda:0 GPU-00000001-0000-0000-0000-000000000000"
    assert second == "cuda:1 GPU-00000002-0000-0000-0000-000000000000"
    assert refusal.startswith("there is no GPU cuda:7 here")


def test_the_only_gpu_that_is_left_is_seen_without_more(driver: Path) -> None:
    """It may be a part of a GPU, whose own name is another than its UUID's."""
    hidden = said(DEVICES, driver, TWO_MODELS, CUDA_VISIBLE_DEVICES="GPU-00000002")
    assert hidden[0] == "cuda:0 None"
    assert len(hidden) == 2
