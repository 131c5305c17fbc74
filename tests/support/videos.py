"""Small videos, made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from foveate.tools.video_sink import VideoWriter

__all__ = ["grey_video"]


def grey_video(path: Path) -> Path:
    """Six grey frames of 64x48 at 200 a second."""
    with VideoWriter(path, 200.0) as writer:
        for level in range(0, 240, 40):
            writer.write(np.full((48, 64, 3), level, np.uint8))
    return path
