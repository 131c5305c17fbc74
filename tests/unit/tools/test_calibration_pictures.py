"""Calibration sees what serving sees: the same decoder, the same place in the model's input."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.engines import ConfigError
from foveate.models import ModelStore, PreparedModel, load_package, prepare
from foveate.service.decode import decode_into
from foveate.service.frame import PixelFormat
from foveate.tools.calibration_pictures import calibration_pictures
from support.packages import write_package

COLOURS = [(250, 10, 20), (20, 240, 30), (30, 20, 245), (90, 90, 90), (200, 200, 10)]


@pytest.fixture
def model(tmp_path: Path) -> PreparedModel:
    return prepare(load_package(write_package(tmp_path / "package")), ModelStore(tmp_path / "store"))


def _plain(colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Shapes: (24, 48, 3) RGB."""
    return np.full((24, 48, 3), colour, np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for number, colour in enumerate(COLOURS):
        assert cv2.imwrite(str(path / f"{number}.png"), _plain(colour)[:, :, ::-1])
    return path


def test_pictures_are_placed_as_when_serving(folder: Path, model: PreparedModel) -> None:
    pictures = calibration_pictures(str(folder), model, most=64)
    assert len(pictures) == len(COLOURS)
    for number, picture in enumerate(pictures):
        row = np.zeros((8, 16, 3), np.uint8)
        decode_into(row, (folder / f"{number}.png").read_bytes(), PixelFormat.PNG, (48, 24), model)
        np.testing.assert_array_equal(picture, row)
        assert tuple(picture[4, 8]) == COLOURS[number]


@pytest.mark.parametrize(("most", "numbers"), [(1, [0]), (2, [0, 3]), (3, [0, 2, 4]), (4, [0, 2, 4]), (5, range(5))])
def test_few_pictures_are_spread_over_all(folder: Path, model: PreparedModel, most: int, numbers: list[int]) -> None:
    pictures = calibration_pictures(str(folder), model, most)
    assert [tuple(picture[0, 0]) for picture in pictures] == [COLOURS[number] for number in numbers]


def test_a_videos_frames_are_right_way_round(tmp_path: Path, model: PreparedModel) -> None:
    path = tmp_path / "video.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 24))
    for colour in COLOURS:
        writer.write(_plain(colour)[:, :, ::-1])
    writer.release()
    pictures = calibration_pictures(str(path), model, most=3)
    assert len(pictures) == 3
    for picture, number in zip(pictures, (0, 2, 4), strict=True):
        np.testing.assert_allclose(picture[4, 8].astype(int), COLOURS[number], atol=12)


def test_a_broken_picture_is_named(folder: Path, model: PreparedModel) -> None:
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:40])
    with pytest.raises(ConfigError, match=r"picture 2 of pictures cannot be used: .*PNG"):
        calibration_pictures(str(folder), model, most=64)


def test_no_such_source_is_said(tmp_path: Path, model: PreparedModel) -> None:
    with pytest.raises(ConfigError, match="no source"):
        calibration_pictures(str(tmp_path / "nowhere"), model, most=64)
