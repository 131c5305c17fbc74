"""The layer on cuda-python's real bindings, against a driver that is a stub: each call as the bindings want it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

PLACE = """
from contextlib import closing
from pathlib import Path
from foveate.engines import EngineUnavailable
from foveate.engines.cuda import *

device = Device.open()
picture = DevicePicture(PictureLayout.NV12, 64, 64, 4711, 64, 8192)
whole, target = Rectangle(0, 0, 64, 64), Rectangle(0, 0, 33, 17)
with device.current():
    with closing(device.new_stream()) as stream, closing(device.new_buffer(33 * 17 * 3)) as row:
        with closing(device.new_pinned((64,), "uint8")) as host:
            kernels = PictureKernels(device, KernelCache(Path("kernels")))
            kernels.place(picture, whole, row.address, (33, 17), target, stream)
            stream.copy_to_host(host.array, row.address)
            print(bytes(host.array).split(bytes(1))[0].decode())
            kernels.close()
device.close()
try:
    Device.open(1)
except EngineUnavailable as error:
    print(error)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process that finds the stub where others find the driver."""
    pytest.importorskip("cuda.bindings.driver")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler here")
    folder = tmp_path_factory.mktemp("driver")
    source = ROOT / "tests/support/stub_driver.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "libcuda.so.1"), str(source), "-ldl"], check=True)
    return os.environ | {"LD_LIBRARY_PATH": str(folder)}


def test_the_checks_for_gpus_pass(environment: dict[str, str]) -> None:
    """The GPU's own test file, as far as no kernel has to compute."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_cuda_layer.py"]
    chosen = "(test_layer and cuda-python) or again"
    ran = subprocess.run([*command, "-k", chosen], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout
    assert "skipped" not in ran.stdout


def test_kernels_get_their_parameter(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PLACE]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    launched, refused = ran.stdout.splitlines()
    assert launched == "place_nv12 2 3 1 32 8 1 4711"
    assert "cuDeviceGet failed with CUDA_ERROR_INVALID_DEVICE" in refused
    assert "(101): there is no GPU of this index" in refused
