"""Programs of the system that some tests need beside Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from typing import NoReturn

import pytest

__all__ = ["require_gstreamer", "require_program"]

_SBIN = "/usr/sbin:/sbin"
"""Where Debian puts servers, and where few look for them."""


def require_program(name: str) -> str:
    """The path of a program. Where it is missing the test is skipped, or fails under CI, which has all of them."""
    path = shutil.which(name) or shutil.which(name, path=_SBIN)
    if path is None:
        _skip_or_fail(f"{name} is not installed: see tests/install_system_packages.sh")
    return path


def require_gstreamer() -> str:
    """The path of the system's Python, which can serve RTSP with GStreamer; as `require_program` where it cannot."""
    python = require_program("/usr/bin/python3")
    if fault := _gstreamer_fault(python):
        _skip_or_fail(f"GStreamer cannot serve RTSP ({fault}): see tests/install_system_packages.sh")
    return python


@cache
def _gstreamer_fault(python: str) -> str:
    program = (
        "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None)\n"
        "names = ('x264enc', 'x265enc', 'jpegenc', 'rtph264pay', 'rtph265pay', 'rtpjpegpay')\n"
        "missing = [name for name in names if Gst.ElementFactory.find(name) is None]\n"
        "assert not missing, f'it lacks {missing}'\n"
    )
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    return "" if done.returncode == 0 else done.stderr.strip().rpartition("\n")[2]


def _skip_or_fail(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
