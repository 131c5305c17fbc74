"""Annotated videos: real time, new files when they are due, and what is left of them after a kill or a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from foveate.client import Verdict
from foveate.tools.outputs import open_outputs, spec_from_text
from foveate.tools.outputs.destination import Unavailable, Undeliverable
from foveate.tools.outputs.output import OutputCounts
from foveate.tools.outputs.video import CameraVideo
from support.camera_results import camera_result, grey_jpeg
from support.full_disk import at_most
from support.waiting import until

START = 1_767_225_600.0


def times_in(path: Path) -> list[float]:
    """When each frame of a video is shown, in seconds; all of them are decoded."""
    with av.open(str(path)) as video:
        return [round(float(frame.time or 0.0), 3) for frame in video.decode(video=0)]


def noise(sequence: int) -> bytes:
    """A picture that no encoder makes small."""
    import cv2

    picture = np.random.default_rng(sequence).integers(0, 255, (480, 640, 3), np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def videos(folder: Path) -> dict[str, list[float]]:
    return {str(path.relative_to(folder)): times_in(path) for path in sorted(folder.rglob("*.mp4"))}


def test_a_video_for_each_camera_at_the_time_of_capture(tmp_path: Path) -> None:
    outputs = open_outputs([spec_from_text(f"video:{tmp_path}/new/folder")])
    moments = [0.0, 0.04, 0.5, 0.5, 0.46, 3.0]  # a camera without a rhythm, and a clock that is set back a little
    for sequence, moment in enumerate(moments):
        verdict = Verdict.EXPIRED if sequence == 2 else Verdict.OK
        for camera, level in (("door", 60), ("../yard", 180)):
            picture = grey_jpeg(level)
            outputs.put(camera_result(sequence, camera, verdict=verdict, picture=picture, at=START + moment))
    outputs.close(20.0)
    assert outputs.counts == {"video": OutputCounts(sent=12)}
    assert videos(tmp_path / "new/folder") == {
        f"{name}/2026-01-01T00-00-00Z.mp4": [0.0, 0.04, 0.5, 0.5, 0.5, 3.0] for name in ("%2E.%2Fyard", "door")
    }
    with av.open(str(next((tmp_path / "new/folder/door").iterdir()))) as video:
        frame = next(video.decode(video=0))
        corner = frame.to_ndarray(format="rgb24")[-80, 10]
        assert frame.width == 640, "small pictures are enlarged, so that words on them can be read"
        assert np.abs(corner.astype(int) - 60).max() < 12, "the camera's own picture"


def test_new_files_are_begun_when_they_are_due(tmp_path: Path) -> None:
    video = CameraVideo(tmp_path, "door", 2.0, 26)
    small, large = grey_jpeg(), grey_jpeg(width=80)
    shots = [
        (0.0, small),
        (1.9, small),
        (2.0, small),  # the first file is full
        (2.1, large),  # another size: within the same second
        (60.0, large),  # full again
        (121.0, large),  # away for a minute and more
        (119.0, large),  # the clock was set back
    ]
    for moment, picture in shots:
        video.deliver([camera_result(picture=picture, at=START + moment)])
    video.close()
    assert videos(tmp_path) == {
        "door/2026-01-01T00-00-00Z.mp4": [0.0, 1.9],
        "door/2026-01-01T00-00-02Z-2.mp4": [0.0],
        "door/2026-01-01T00-00-02Z.mp4": [0.0],
        "door/2026-01-01T00-01-00Z.mp4": [0.0],
        "door/2026-01-01T00-01-59Z.mp4": [0.0],
        "door/2026-01-01T00-02-01Z.mp4": [0.0],
    }


def test_frames_without_a_picture_are_said_and_cost_only_themselves(tmp_path: Path) -> None:
    outputs = open_outputs([spec_from_text(f"video:{tmp_path}")])
    outputs.put(camera_result(1, picture=None))
    until(lambda: "without pictures" in outputs.troubles.get("video", ""))
    outputs.put(camera_result(2, picture=b"no picture", verdict=Verdict.BAD_FRAME))
    until(lambda: "no picture that can be read" in outputs.troubles.get("video", ""))
    outputs.put(camera_result(3, picture=grey_jpeg()))
    outputs.close(20.0)
    assert outputs.counts == {"video": OutputCounts(sent=1, failed=2)}
    assert not outputs.troubles
    with pytest.raises(Undeliverable):
        CameraVideo(tmp_path, "door", 0.0, 26).deliver([camera_result(picture=None)])


_RECORDS_AND_HANGS = """
import sys, threading
from foveate.tools.outputs import open_outputs, spec_from_text
from support.camera_results import camera_result, grey_jpeg
from support.waiting import until
outputs = open_outputs([spec_from_text("video:" + sys.argv[1])])
for sequence in range(110):
    outputs.put(camera_result(sequence, picture=grey_jpeg(sequence), at=1e9 + sequence / 25))
    until(lambda: outputs.counts["video"].sent == sequence + 1)
print("recorded", flush=True)
threading.Event().wait()
"""


def test_all_but_the_last_second_survives_a_kill(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _RECORDS_AND_HANGS, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as recorder:
        assert recorder.stdout is not None
        assert recorder.stdout.readline() == "recorded\n"
        recorder.kill()
    (times,) = videos(tmp_path).values()
    assert times == [round(sequence / 25, 3) for sequence in range(100)]


def test_a_full_disk_leaves_whole_files_and_a_new_one_once_there_is_room(tmp_path: Path) -> None:
    video = CameraVideo(tmp_path, "door", 0.0, 34)
    delivered = 0

    def record_on() -> None:
        nonlocal delivered
        for delivered in range(500):
            video.deliver([camera_result(delivered, picture=noise(delivered % 5))])

    with at_most(350_000), pytest.raises(Unavailable, match=r"cannot write a video in .*door: File too large"):
        record_on()
    for _ in range(3):
        with at_most(100), pytest.raises(Unavailable):
            video.deliver([camera_result(delivered + 1, picture=noise(1))])
    (whole,) = videos(tmp_path).values()
    assert len(whole) % 25 == 0, "seconds are written as a whole"
    assert delivered - 25 <= len(whole) <= delivered + 1
    video.deliver([camera_result(delivered + 1, picture=noise(1))])
    video.close()
    assert sorted(len(times) for times in videos(tmp_path).values()) == [1, len(whole)], "and no empty file is left"


def test_a_folder_that_vanishes_is_made_again(tmp_path: Path) -> None:
    video = CameraVideo(tmp_path / "a", "door", 1.0, 26)
    video.deliver([camera_result(picture=grey_jpeg(), at=START)])
    for path in (tmp_path / "a/door").iterdir():
        path.unlink()
    (tmp_path / "a/door").rmdir()
    video.deliver([camera_result(picture=grey_jpeg(), at=START + 5)])
    video.close()
    assert len(videos(tmp_path)) == 1


def test_only_the_newest_recordings_are_kept_and_nothing_else_is_touched(tmp_path: Path) -> None:
    folder = tmp_path / "door"
    folder.mkdir()
    others = {"holiday.mp4", "2026-01-01T00-00-00Z.mp4.part", "2026-01-01T00-00-00Z.jpg"}
    for name in others:
        (folder / name).write_bytes(b"x" * 10_000)
    (folder / "2020-01-01T00-00-00Z.mp4").symlink_to(folder / "holiday.mp4")
    video = CameraVideo(tmp_path, "door", 1.0, 26, keep_bytes=4_000)
    made: list[Path] = []
    for number in range(6):
        video.deliver([camera_result(picture=grey_jpeg(), at=START + number)])
        made += [path for path in folder.glob("2026*Z.mp4") if path not in made]
        os.utime(made[-1], (START + number, START + number))
    video.close()
    left = {path.name for path in folder.iterdir()}
    kept = [path.name for path in made if path.name in left]
    assert kept == [path.name for path in made[-len(kept) :]], "the newest"
    assert 2 <= len(kept) < 6
    assert left == others | set(kept) | {"2020-01-01T00-00-00Z.mp4"}


def test_a_limit_below_one_recording_keeps_the_last_one(tmp_path: Path) -> None:
    video = CameraVideo(tmp_path, "door", 1.0, 26, keep_bytes=1)
    for number in range(4):
        video.deliver([camera_result(picture=grey_jpeg(), at=START + number)])
    video.close()
    assert sorted(videos(tmp_path)) == ["door/2026-01-01T00-00-02Z.mp4", "door/2026-01-01T00-00-03Z.mp4"]
