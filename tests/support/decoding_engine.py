"""A fake engine that decodes JPEGs, and takes pictures, into memory of its own, as one on a GPU does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from foveate.engines.contract import EncodedRow, Slot
from foveate.engines.fake import FakeEngine
from support.cpu_video import CpuVideoPicture

__all__ = ["DecodingEngine"]


class DecodingEngine(FakeEngine):
    """What it has decoded lies apart from the host's rows, and counts for one run or until the next placing."""

    def __init__(self, *arguments: Any, **wishes: Any) -> None:
        super().__init__(*arguments, **wishes)
        self.is_open = False
        self.placed: list[list[int]] = []
        """The rows of each placing that had any."""
        self.fault: Exception | None = None
        """Ends the next placing."""
        self._rows: dict[int, dict[int, NDArray[np.uint8]]] = {}

    def _open_placer_impl(self) -> bool:
        return True

    def _open_decoder_impl(self) -> bool:
        self.is_open = True
        return True

    def _close_decoder_impl(self) -> None:
        self.is_open = False

    def _place_encoded_impl(self, slot: Slot, rows: Sequence[EncodedRow]) -> list[bool]:
        self._rows[slot.index] = placed = {}
        fault, self.fault = self.fault, None
        if fault:
            raise fault
        if rows:
            self.placed.append([row.row for row in rows])
        for row in rows:
            try:
                placed[row.row] = self._decoded(row)
            except ValueError:
                continue
        return [row.row in placed for row in rows]

    def _decoded(self, row: EncodedRow) -> NDArray[np.uint8]:
        if isinstance(row.data, CpuVideoPicture):
            image = row.data.picture.rgb()
        else:
            assert isinstance(row.data, bytes)
            image = simplejpeg.decode_jpeg(row.data, "RGB", strict=True)
        (x, y, width, height), (to_x, to_y, to_width, to_height) = row.source, row.target
        pixels = np.full(self.info.inputs[0].shape, row.pad_value, np.uint8)
        cut = image[y : y + height, x : x + width]
        pixels[to_y : to_y + to_height, to_x : to_x + to_width] = cv2.resize(
            cut, (to_width, to_height), interpolation=cv2.INTER_AREA
        )
        return pixels

    def _answers(self, slot: Slot, batch: int) -> Mapping[str, NDArray[Any]]:
        (pixels,) = slot.inputs.values()
        run = pixels.copy()
        for row, decoded in self._rows.pop(slot.index, {}).items():
            run[row] = decoded
        return super()._answers(Slot(slot.index, {"pixels": run}, slot.outputs), batch)
