"""Jobs for the GPU report's tests: each ends in another way. Called by name in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

from foveate.engines.errors import EngineUnavailable
from foveate.tools.gpu_report.child import Keep

__all__ = ["break_down", "die", "hang", "refuse", "succeed"]


def succeed(arguments: dict[str, Any], seconds: float, keep: Keep) -> None:
    keep("doubled", arguments["number"] * 2)
    keep("seconds", seconds)


def refuse(_arguments: dict[str, Any], _seconds: float, keep: Keep) -> None:
    keep("before", 1)
    raise EngineUnavailable("no such device")


def break_down(_arguments: dict[str, Any], _seconds: float, _keep: Keep) -> None:
    raise ZeroDivisionError("a fault of ours")


def die(_arguments: dict[str, Any], _seconds: float, keep: Keep) -> None:
    keep("before", 1)
    print("the driver said this", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def hang(_arguments: dict[str, Any], _seconds: float, keep: Keep) -> None:
    """Wait for ever, with a process of its own that would too."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    keep("child", child.pid)
    threading.Event().wait()
