"""Folders of real pictures: pieces of those inside the scikit-image wheel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from support.shared_models import picture

__all__ = ["real_pieces", "write_pictures"]

_NAMES = ("astronaut", "coffee", "chelsea", "rocket")
_SIDE_PX = 96


def real_pieces(count: int, seed: int = 0) -> Iterator[NDArray[np.uint8]]:
    """Square pieces of photographs, RGB."""
    random = np.random.default_rng(seed)
    for index in range(count):
        whole = picture(_NAMES[index % len(_NAMES)])
        top, left = (int(random.integers(0, side - _SIDE_PX)) for side in whole.shape[:2])
        yield whole[top : top + _SIDE_PX, left : left + _SIDE_PX]


def write_pictures(folder: Path, count: int, seed: int = 0) -> Path:
    """The same pieces as files in a new folder, which is returned."""
    folder.mkdir(parents=True)
    for index, piece in enumerate(real_pieces(count, seed)):
        assert cv2.imwrite(str(folder / f"{index:03}.png"), piece[:, :, ::-1])
    return folder
