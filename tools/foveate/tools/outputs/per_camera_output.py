"""One output that is several: each camera has a queue and a thread of its own behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.closing import close_side_by_side
from foveate.tools.outputs.output import Output, OutputCounts

__all__ = ["PerCameraOutput"]


class PerCameraOutput:
    """For work that is done camera by camera, such as encoding: a heavy camera takes no time from the others."""

    def __init__(self, name: str, output_for: Callable[[str], Output]) -> None:
        """`output_for` makes the output of a camera when its first result comes."""
        self._name = name
        self._output_for = output_for
        self._lock = threading.Lock()
        self._outputs: dict[str, Output] = {}
        self._closed = False
        self._refused = 0
        """Results of cameras that have no output, as it is too late or the system has no room for one."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def counts(self) -> OutputCounts:
        outputs, refused = self._all()
        return sum((output.counts for output in outputs), OutputCounts(dropped=refused))

    @property
    def trouble(self) -> str:
        said = (f"{output.name}: {output.trouble}" for output in self._all()[0] if output.trouble)
        return "; ".join(said)

    def put(self, result: CameraResult) -> None:
        output = self._outputs.get(result.camera) or self._opened(result.camera)
        if output is not None:
            output.put(result)

    def close(self, timeout_s: float) -> None:
        with self._lock:
            self._closed = True
        close_side_by_side(self._all()[0], timeout_s)

    def _opened(self, camera: str) -> Output | None:
        with self._lock:
            if camera not in self._outputs:
                if self._closed:
                    self._refused += 1
                    return None
                try:
                    self._outputs[camera] = self._output_for(camera)
                except RuntimeError:  # no room for another thread
                    self._refused += 1
                    return None
            return self._outputs[camera]

    def _all(self) -> tuple[list[Output], int]:
        with self._lock:
            return list(self._outputs.values()), self._refused
