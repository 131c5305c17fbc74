"""TensorRT and TensorRT for RTX, whose Python modules differ in name and in little else."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from importlib import import_module
from typing import Any

from foveate.engines.errors import ConfigError, EngineUnavailable

__all__ = ["BuildProgress", "MessageLog", "ProgressRelay", "new_logger", "new_monitor", "tensorrt_library"]

BuildProgress = Callable[[str, int, int], None]
"""Called with a phase of the build, its steps done and its steps in all; phases hold other phases."""

_MOST_MESSAGES = 4096
"""An engine that runs for months must not grow with what its library has to say."""

_EXTRAS = {"tensorrt": "gpu", "tensorrt_rtx": "rtx"}


def tensorrt_library(backend: str) -> Any:
    """The Python module of a backend, imported now.

    Raises: EngineUnavailable naming the extra to install, ConfigError for a backend that is not TensorRT.
    """
    if backend not in _EXTRAS:
        raise ConfigError(f"{backend!r} is not TensorRT: choose one of {', '.join(_EXTRAS)}")
    try:
        return import_module(backend)
    except (ImportError, OSError) as error:  # OSError: the bindings are there, a library under them is not
        raise EngineUnavailable(
            f"{backend} is not usable here ({error}): install it with `pip install 'foveate[{_EXTRAS[backend]}]'`"
        ) from error


class MessageLog:
    """What the library said lately. Threads of the library write into it."""

    _NO_DRIVER = ("cudaError 35", "CUDA initialization failure with error: 35")
    """Said after everything else on a machine without a GPU, where building works nevertheless."""

    def __init__(self) -> None:
        self._messages: deque[tuple[str, str]] = deque(maxlen=_MOST_MESSAGES)

    def clear(self) -> None:
        """Forget what was said: what comes now belongs to something else."""
        self._messages.clear()

    def add(self, severity: str, message: str) -> None:
        if severity != "VERBOSE":
            self._messages.append((severity, message))

    def reason(self, most: int = 3) -> str:
        """The last errors in one line; of the missing driver only if there is nothing else to say."""
        errors = [" ".join(text.split()) for severity, text in tuple(self._messages) if severity.endswith("ERROR")]
        telling = [text for text in errors if not any(noise in text for noise in self._NO_DRIVER)]
        return "; ".join((telling or errors)[-most:]) or "the library gave no reason"

    def bytes_after(self, words: str) -> int | None:
        """The number that follows some words in the last message that has them, such as ``Total Weights Memory:``."""
        for _, text in reversed(self._messages):
            _, found, rest = text.partition(words)
            number = rest.split(maxsplit=1)[0] if rest.strip() else ""
            if found and number.isdecimal():
                return int(number)
        return None


class ProgressRelay:
    """The library's progress, told to a callback, and the way to stop a build. Threads of the library call it."""

    def __init__(self, on_progress: BuildProgress | None, cancel: threading.Event) -> None:
        self._on_progress = on_progress
        self._cancel = cancel
        self._lock = threading.Lock()
        self._steps: dict[str, int] = {}
        self.error: Exception | None = None
        """What the callback raised, which stops the build."""

    def start(self, phase: str, steps: int) -> None:
        self._steps[phase] = steps
        self._tell(phase, 0)

    def step(self, phase: str, done: int) -> bool:
        """Tell of a step, and say whether to go on."""
        self._tell(phase, done)
        return not self._cancel.is_set()

    def finish(self, phase: str) -> None:
        self._tell(phase, self._steps.get(phase, 1))

    def _tell(self, phase: str, done: int) -> None:
        with self._lock:
            if self._on_progress is None or self.error is not None:
                return
            try:
                self._on_progress(phase, done, self._steps.get(phase, max(1, done)))
            except Exception as error:  # noqa: BLE001  # it must not fly through the library's own frames
                self.error = error
                self._cancel.set()


def new_logger(trt: Any, log: MessageLog) -> Any:
    """The library's logger that writes into a log. It must outlive whatever it is given to."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # known only once the library is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity.name, message)

    return Logger()


def new_monitor(trt: Any, relay: ProgressRelay) -> Any:
    """The library's progress monitor that tells a relay. It must outlive whatever it is given to."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # known only once the library is imported
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            relay.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return relay.step(phase_name, step + 1)

        def phase_finish(self, phase_name: str) -> None:
            relay.finish(phase_name)

    return Monitor()
