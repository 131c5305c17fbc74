"""Pictures of a folder or a video as serving sees them: to find an int8 build's ranges with, and to judge it by."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foveate.engines.errors import ConfigError, FrameError
from foveate.models.geometry import Placement
from foveate.models.package import PreparedModel
from foveate.service.decode import decode_into
from foveate.service.frame import PixelFormat
from foveate.service.picture_header import picture_format, picture_size
from foveate.tools.video_source import Image, PictureFiles, open_source

__all__ = ["PlacedPicture", "calibration_pictures", "placed_file", "placed_pictures"]


@dataclass(frozen=True, slots=True)
class PlacedPicture:
    """A picture in a model's input. Shapes: row (H, W, 3) uint8 RGB."""

    row: NDArray[np.uint8]
    placement: Placement


def calibration_pictures(source: str, model: PreparedModel, most: int) -> list[NDArray[np.uint8]]:
    """At most `most` pictures of a folder or a video, spread over all of it, placed in the model's input.

    Shapes: each (H, W, 3) uint8 of the model's input, RGB.
    Raises: ConfigError if there is no such source, or a picture in it cannot be decoded.
    """
    return [each.row for each in placed_pictures(source, model, most)]


def placed_pictures(source: str, model: PreparedModel, most: int) -> list[PlacedPicture]:
    """The same pictures, each with the way back from the model's input to its own pixels. Raises: as above."""
    opened = open_source(source)
    if opened.keeps_time:
        raise ConfigError(f"{opened.name} cannot be used here: give a folder of pictures or a video")
    step = max(1, -(-(opened.count or 0) // most))
    placed = []
    for number, picture in enumerate(opened):
        if number % step == 0:
            placed.append(_placed(picture, model, f"picture {number} of {opened.name}"))
        if len(placed) == most:
            break
    if not placed:
        raise ConfigError(f"{source} holds no pictures")
    return placed


def placed_file(path: Path, model: PreparedModel) -> PlacedPicture:
    """One picture on disk, likewise. Raises: ConfigError if it cannot be read or decoded."""
    (picture,) = PictureFiles(path.name, (path,))
    return _placed(picture, model, str(path))


def _placed(picture: Image | bytes, model: PreparedModel, name: str) -> PlacedPicture:
    spec = model.manifest.input
    row = np.empty((spec.height_px, spec.width_px, 3), np.uint8)
    try:
        if isinstance(picture, bytes):
            kind = picture_format(picture)
            decoded = decode_into(row, picture, kind, picture_size(picture, kind), model)
        else:
            height, width = picture.shape[:2]
            decoded = decode_into(row, np.ascontiguousarray(picture).data, PixelFormat.RAW_BGR, (width, height), model)
    except FrameError as error:
        raise ConfigError(f"{name} cannot be used: {error}") from error
    return PlacedPicture(row, decoded.placement)
