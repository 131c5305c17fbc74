"""Pictures of cameras as they are sent: upright, cut, in the right colours; and the way of their results back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from foveate.tools.outputs import CameraResult
from foveate.tools.watch.jpeg import Encoder, is_whole_jpeg
from foveate.tools.watch.region import Crop, Region
from foveate.tools.watch.shot import Picture
from foveate.tools.watch.trouble import CameraTrouble
from support.results import made_result, one_detection

av = pytest.importorskip("av")


def picture(width: int = 320, height: int = 240, layout: str = "yuv420p") -> tuple[NDArray[np.uint8], Picture]:
    """Four quarters in four colours with a box in one, so that no turn or cut of it looks like another."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = (200, 30, 60)
    image[: height // 2, width // 2 :] = (20, 220, 40)
    image[height // 2 :, : width // 2] = (30, 60, 230)
    image[height // 8 : height // 4, width // 8 : width // 3] = (240, 240, 240)
    return image, Picture(av.VideoFrame.from_ndarray(image, "bgr24").reformat(format=layout), 0.0)


@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
@pytest.mark.parametrize("roi", [None, (0.25, 0.5, 0.5, 0.25), (31, 17, 101, 63), (0.5, 0.5, 0.5, 0.5)])
@pytest.mark.parametrize(("layout", "width"), [("yuv420p", 320), ("yuv420p", 321), ("yuyv422", 320), ("yuvj420p", 320)])
def test_what_is_sent_is_the_part_that_was_asked_for(
    rotate: int, roi: tuple[float, float, float, float] | None, layout: str, width: int
) -> None:
    image, shot = picture(width, layout=layout)
    encoder = Encoder(Region(roi), rotate, quality=95)
    data, crop = encoder.encode(shot)
    upright = np.rot90(image, -rotate // 90)
    if roi is None:
        assert crop is None
    else:
        assert crop is not None
        assert crop == encoder.crop_of(shot)
        upright = upright[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    sent = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert sent is not None
    assert sent.shape == upright.shape
    assert np.abs(sent.astype(int) - upright).mean() < 4
    grey = encoder.small_grey(shot)
    small = cv2.resize(cv2.cvtColor(upright, cv2.COLOR_BGR2GRAY), grey.shape[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(grey.astype(int) - small).mean() < 8


def test_a_region_in_pixels_is_cut_to_the_picture_that_came() -> None:
    region = Region((300, 200, 400, 400))
    assert region.crop(640, 480) == Crop(300, 200, 340, 280, 640, 480)
    with pytest.raises(CameraTrouble, match="outside the camera's picture of 160x120"):
        region.crop(160, 120)


def test_compressed_pictures_stay_as_they_are() -> None:
    done, jpeg = cv2.imencode(".jpg", picture()[0])
    assert done
    data = jpeg.tobytes()
    encoder = Encoder(Region(None), 0, 90)
    assert encoder.keeps_bytes
    assert encoder.encode(Picture(data, 0.0)) == (data, None)
    grey = encoder.small_grey(Picture(data, 0.0))
    assert np.abs(grey.astype(int) - encoder.small_grey(picture()[1])).mean() < 3
    assert is_whole_jpeg(data)
    assert not is_whole_jpeg(data[2:])
    assert not is_whole_jpeg(data[:100])
    assert not is_whole_jpeg(b"\xff\xd8 this is no picture \xff\xc4")
    assert not Encoder(Region(None), 90, 90).keeps_bytes
    assert not Encoder(Region((0, 0, 0.5, 0.5)), 0, 90).keeps_bytes


def test_results_come_back_in_pixels_of_the_whole_picture() -> None:
    crop = Crop(100, 50, 200, 200, 640, 480)
    result = made_result(detections=one_detection((20.0, 30.0, 60.0, 80.0)), frame_width=200, frame_height=200)
    mapped = crop.in_full_picture(result)
    assert mapped.detections.boxes.tolist() == [[120, 80, 160, 130]]
    assert mapped.detections.keypoints is not None
    assert mapped.detections.keypoints[0, 0].tolist() == [130, 90, 0.5]
    assert np.isnan(mapped.detections.keypoints[0, 1]).all()
    assert (mapped.frame_width, mapped.frame_height) == (640, 480)
    given = CameraResult("gate", mapped, b"", 0.0, (crop.x, crop.y))
    assert given.result_in_picture.detections.boxes.tolist() == result.detections.boxes.tolist()
    whole = Crop(0, 0, 640, 480, 640, 480)
    assert whole.in_full_picture(result) is result
