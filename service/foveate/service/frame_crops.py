"""The crops of a frame, cut out of its picture together: it is decoded once, and kept no longer than that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import BadFrame, FrameError
from foveate.models.geometry import Rect
from foveate.models.package import PreparedModel
from foveate.service.crops import Size, enough_pixels
from foveate.service.decode import crop_into, whole_picture
from foveate.service.device_codec import DevicePicture
from foveate.service.frame import SharedMemoryRef
from foveate.service.job import DecodeCost, DecodedPicture, Job
from foveate.service.shared_memory import shared_pixels

__all__ = ["FrameCrops"]

_CUT_NS = 200_000
"""To cut a crop out of a picture, and resize it."""
_COPY_NS = 20_000

Pixels = NDArray[np.uint8]
_Source = tuple[bytes | SharedMemoryRef, DecodedPicture | None]


class FrameCrops:
    """Cut when the first of them is chosen; the others wait for that, and are copies then. Thread-safe.

    What waits is as large as the models' inputs: hundreds of whole pictures would not fit in memory.
    """

    def __init__(self, job: Job, seen: Size, crops: Sequence[tuple[Rect, PreparedModel]], cost: DecodeCost) -> None:
        """Of a frame of the size `seen`, these parts for these models; `cost` learns what decoding takes."""
        self._job = job
        self._source: _Source | None = (job.frame.data, job.picture)  # the job lets go of them when it is answered
        self._seen = seen
        self._crops = crops
        self._cost = cost
        self._lock = threading.Lock()
        self._cut: list[Pixels] = []
        self._fault: FrameError | None = None

    def prepare_ns(self, index: int) -> int:
        """What `write` is predicted to take, of one after the other."""
        if index:
            return _COPY_NS
        job = self._job
        decode_ns = 0 if job.picture else self._cost.predict_ns(job.width * job.height, time.monotonic_ns())
        return decode_ns + len(self._crops) * _CUT_NS

    def write(self, index: int, row: Pixels) -> None:
        """Write a crop into a row of a batch. Raises: FrameError."""
        with self._lock:
            if self._fault is not None:
                raise self._fault
            if not self._cut:
                try:
                    self._cut = self._cut_out(self._picture())
                    self.let_go()
                except FrameError as error:
                    self._fault = error
                    raise
        row[...] = self._cut[index]

    def let_go(self) -> None:
        """No more of them will be written, or all of them have been cut: their picture takes much memory."""
        self._source = None

    def _picture(self) -> Pixels:
        job, source, began_ns = self._job, self._source, time.monotonic_ns()
        if source is None:
            raise BadFrame("nobody waits for the crops of this frame any more")
        data, picture = source
        if isinstance(picture, DevicePicture):  # of which less comes down then
            return picture.reduced(enough_pixels(self._seen, self._crops))
        if picture is not None:
            return picture.rgb()
        if isinstance(data, SharedMemoryRef):
            data = shared_pixels(data)
        image = whole_picture(data, job.format, (job.width, job.height), enough_pixels(self._seen, self._crops))
        now_ns = time.monotonic_ns()
        self._cost.observe(job.width * job.height, now_ns - began_ns, now_ns)
        return image

    def _cut_out(self, image: Pixels) -> list[Pixels]:
        cut = []
        for rect, model in self._crops:
            spec = model.manifest.input
            cut.append(np.empty((spec.height_px, spec.width_px, 3), np.uint8))
            crop_into(cut[-1], image, rect, self._seen, model)
        return cut
