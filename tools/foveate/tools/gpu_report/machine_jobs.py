"""What is on this machine: GPU, driver, libraries, packages, and models that can be measured."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from foveate.engines.compute_capability import compute_capability
from foveate.engines.machine import gpu_of, this_machine
from foveate.tools.gpu_report.child import Keep

__all__ = ["facts", "models"]

_PACKAGES = (
    "foveate",
    "av",
    "cuda-bindings",
    "cuda-core",
    "numpy",
    "nvidia-ml-py",
    "nvidia-modelopt",
    "nvidia-nvimgcodec-cu12",
    "nvidia-nvimgcodec-cu13",
    "onnx",
    "onnxconverter-common",
    "onnxruntime",
    "onnxruntime-gpu",
    "pycuda",
    "pytest",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
    "torchvision",
)
_MODULES = (
    *("onnxruntime", "torch", "tensorrt", "tensorrt_rtx", "cuda.bindings", "cuda.core", "pycuda.driver", "pynvml"),
    "nvidia.nvimgcodec",
)
_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1", "libnvrtc.so.13")
_ASKED = "name,driver_version,compute_cap,memory.total,power.limit,clocks.max.sm,clocks.max.memory,pcie.link.gen.max"
_IMPORT_S = 60


def facts(_arguments: dict[str, Any], _seconds: float, keep: Keep) -> None:
    """Keep what the machine is and has, piece by piece."""
    keep("system", {"platform": platform.platform(), "python": sys.version, "memory_kib": _memory_kib()})
    gpu = gpu_of(0)
    machine = this_machine("cuda:0" if gpu else "cpu")
    keep("machine", {**machine.model_dump(), "compute_capability": compute_capability() or ""})
    keep("gpu", gpu.name if gpu else "")
    keep("nvidia_smi", _nvidia_smi())
    keep("libraries", {name: _opened(name) for name in _LIBRARIES})
    keep("packages", {name: found for name in _PACKAGES if (found := _version(name))})
    imports: dict[str, Any] = {}
    for name in _MODULES:
        imports[name] = _imported(name)
        keep("imports", imports)


def _memory_kib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1024


def _nvidia_smi() -> dict[str, str]:
    command = shutil.which("nvidia-smi")
    if command is None:
        return {"why_not": "there is no nvidia-smi here"}
    asked = [command, f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        return {"why_not": (done.stderr or done.stdout).strip()}
    first = done.stdout.splitlines()[0].split(", ")
    return dict(zip(_ASKED.split(","), first, strict=False))


def _opened(library: str) -> str:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return "ok"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _imported(module: str) -> dict[str, str]:
    """Imported in a process of its own: a library that does not fit the driver may end it."""
    code = (
        "import os; from foveate.tools.gpu_report.libraries import preload; preload(os.environ);"
        f"import {module} as module; print(getattr(module, '__version__', 'without a version'))"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_IMPORT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return {"why_not": f"importing it takes more than {_IMPORT_S} s"}
    if done.returncode == 0:
        return {"version": done.stdout.strip().splitlines()[-1]}
    last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    return {"why_not": last}


def models(arguments: dict[str, Any], _seconds: float, keep: Keep) -> None:
    """Keep where models lie that can be measured: two made here, and those of the catalog that are on this machine."""
    # Imported here: what the machine is must be told also where onnx is missing.
    from foveate.models.synthetic import synthetic_classifier, synthetic_detector

    folder = Path(arguments["work"]) / "models"
    folder.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, str]] = []
    small: dict[str, Any] = {"side_px": 64, "width": 16} if arguments["small"] else {}
    for name, make in (("synthetic_classifier", synthetic_classifier), ("synthetic_detector", synthetic_detector)):
        path = folder / f"{name}.onnx"
        path.write_bytes(make(**small).SerializeToString())
        found.append({"name": name, "path": str(path)})
        keep("models", found)
    keep("models", [*found, *_catalog_models()])


def _catalog_models() -> list[dict[str, str]]:
    from foveate.models.catalog import catalog_names
    from foveate.models.package import is_fetched, load_package, prepare
    from foveate.models.store import ModelStore

    store = ModelStore()
    packages = [load_package(name) for name in catalog_names()]
    return [
        {"name": package.manifest.name, "path": str(prepare(package, store, fetch=False).onnx_path)}
        for package in packages
        if is_fetched(package, store)
    ]
