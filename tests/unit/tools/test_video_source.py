"""Videos, pictures and folders as sources."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from foveate.engines.errors import ConfigError
from foveate.tools.video_sink import VideoWriter
from foveate.tools.video_source import Image, PictureFiles, VideoFile, encoded, open_source, paced


def grey(level: int, width: int = 64, height: int = 48) -> Image:
    return np.full((height, width, 3), level, np.uint8)


def write_video(path: Path, levels: list[int], fps: float = 10.0) -> Path:
    with VideoWriter(path, fps) as writer:
        for level in levels:
            writer.write(grey(level))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".avi"])
def test_a_written_video_reads_back(tmp_path: Path, suffix: str) -> None:
    source = open_source(str(write_video(tmp_path / f"video{suffix}", [40, 80, 120, 160])))
    assert isinstance(source, VideoFile)
    assert source.fps == pytest.approx(10.0)
    assert source.name == f"video{suffix}"
    levels = [float(np.mean(image)) for image in source if isinstance(image, np.ndarray)]
    assert levels == pytest.approx([40, 80, 120, 160], abs=6)
    assert len(list(source)) == 4, "a second reading starts anew"


def test_other_sizes_are_fitted_into_the_first(tmp_path: Path) -> None:
    path = tmp_path / "video.avi"
    with VideoWriter(path, 5.0) as writer:
        writer.write(grey(200, 65, 49))  # odd sides lose a pixel
        writer.write(grey(200, 128, 48))
    images = [image for image in open_source(str(path)) if isinstance(image, np.ndarray)]
    assert [image.shape for image in images] == [(48, 64, 3)] * 2
    assert images[1][0].mean() < 20, "black above a wider picture"
    assert images[1][24].mean() > 180


@pytest.mark.parametrize("name", ["video.gif", "video", "nowhere/video.mp4"])
def test_what_cannot_be_written_is_said_before_anything_is_sent(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        VideoWriter(tmp_path / name, 5.0)


def test_a_file_that_cannot_be_opened_for_writing(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").mkdir()
    with VideoWriter(tmp_path / "video.mp4", 5.0) as writer, pytest.raises(ConfigError, match="no permission"):
        writer.write(grey(1))


def test_pictures_go_as_they_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, level in (("b.png", 2), ("a.jpg", 1)):
        cv2.imwrite(str(tmp_path / name), grey(level))
    (tmp_path / "notes.txt").write_text("no picture")
    source = open_source(str(tmp_path))
    assert isinstance(source, PictureFiles)
    assert (source.count, source.fps) == (2, None)
    assert list(source) == [(tmp_path / "a.jpg").read_bytes(), (tmp_path / "b.png").read_bytes()]
    assert open_source(str(tmp_path / "b.png")).count == 1


def test_what_is_no_source_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no source 'nothing'"):
        open_source("nothing")
    with pytest.raises(ConfigError, match="no pictures in"):
        open_source(str(tmp_path))
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(ConfigError, match="no video that OpenCV can read"):
        open_source(str(tmp_path / "text.mp4"))


def test_encoding_keeps_bytes_and_makes_jpeg_of_pixels() -> None:
    assert encoded(b"as it is", 50) == b"as it is"
    noise = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    small, large = encoded(noise, 20), encoded(noise, 95)
    assert small[:2] == large[:2] == b"\xff\xd8"
    assert len(small) < len(large)


def test_pacing_leaves_nothing_out_and_ends_when_asked() -> None:
    stop = threading.Event()
    assert list(paced([1, 2, 3], 1e6, stop)) == [1, 2, 3]
    slow = paced([1, 2, 3], 0.001, stop)
    assert next(slow) == 1
    stop.set()  # or the second would take a quarter of an hour
    assert list(slow) == []
