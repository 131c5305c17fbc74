"""The public list of the engines package, and that importing it is light."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import foveate.engines as engines
from foveate.engines import errors

MODULES = sorted(path.stem for path in Path(engines.__file__).parent.glob("*.py"))


def test_no_backend_library_is_imported() -> None:
    code = "import sys, foveate.engines; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"onnxruntime", "onnx", "torch", "tensorrt", "cv2"} & set(done.stdout.split())


@pytest.mark.parametrize("name", MODULES)
def test_public_lists_are_sorted_and_true(name: str) -> None:
    module = engines if name == "__init__" else import_module(f"foveate.engines.{name}")
    assert module.__all__ == sorted(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(engines.__all__)
