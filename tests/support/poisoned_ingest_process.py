"""An ingest process whose decoder is killed by one kind of picture: those 66 pixels wide."""

from __future__ import annotations

import os
import signal
from typing import Any
from unittest.mock import patch

from foveate.service import ingest_process
from foveate.service.decode import decode_into

__all__ = ["POISON_WIDTH"]

POISON_WIDTH = 66


def _fragile(row: Any, data: Any, kind: Any, size: tuple[int, int], model: Any) -> Any:
    if size[0] == POISON_WIDTH:
        os.kill(os.getpid(), signal.SIGKILL)
    return decode_into(row, data, kind, size, model)


if __name__ == "__main__":
    with patch("foveate.service.whole_frame.decode_into", _fragile):
        ingest_process.main()
