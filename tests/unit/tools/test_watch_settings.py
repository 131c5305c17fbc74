"""What may be said about cameras: read whole, named, and refused field by field without showing any URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from foveate.engines.errors import ConfigError
from foveate.tools.watch.settings import CameraSettings, cameras_from_urls, load_cameras

SECRET = "s3cretPassw0rd"
URL = f"rtsp://admin:{SECRET}@10.0.0.7/stream"


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "cameras.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_file_says_everything_of_each_camera(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        f"""
        [[camera]]
        name = "gate"
        url = "{URL}"
        pipeline = "faces"
        budget_ms = 150
        fps = 12.5
        roi = [0.1, 0.2, 0.5, 0.5]
        rotate = 90
        motion = {{ threshold = 0.01, min_fps = 0.5 }}
        transport = "udp"
        weight = 2.0
        priority = 1
        timeout_s = 3

        [[camera]]
        url = "rtsps://10.0.0.8:322/stream"
        passthrough = true

        [[camera]]
        url = "http://10.0.0.8/video.mjpg"

        [[output]]
        kind = "jsonl"
        path = "-"
        """,
    )
    (gate, second, third), outputs = load_cameras(file)
    assert (gate.name, gate.pipeline, gate.budget_ms, gate.fps, gate.rotate) == ("gate", "faces", 150, 12.5, 90)
    assert gate.motion is not None
    assert (gate.motion.threshold, gate.motion.min_fps, gate.roi) == (0.01, 0.5, (0.1, 0.2, 0.5, 0.5))
    assert (gate.transport, gate.weight, gate.priority, gate.timeout_s) == ("udp", 2.0, 1, 3.0)
    assert gate.address.target == URL
    assert (second.name, third.name) == ("10.0.0.8", "10.0.0.8-2")
    assert second.passthrough
    assert [output.kind for output in outputs] == ["jsonl"]


def test_every_wrong_field_is_named_and_no_url_is_shown(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        f"""
        [[camera]]
        name = "gate"
        url = "{URL}"
        rotate = 45
        fpz = 3
        weight = 0

        [[camera]]
        url = "ftp://me:{SECRET}@10.0.0.8/x"
        roi = [0.5, 0.5, 0.6, 0.5]
        """,
    )
    with pytest.raises(ConfigError) as caught:
        load_cameras(file)
    said = str(caught.value)
    for part in ("camera 1 (gate) rotate", "camera 1 (gate) fpz", "camera 1 (gate) weight", "camera 2 url: ftp://"):
        assert part in said
    assert "camera 2 roi: expected shares of the picture" in said
    assert SECRET not in said
    assert SECRET not in repr(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"passthrough": True, "roi": (0.0, 0.0, 0.5, 0.5)}, "leave out roi"),
        ({"passthrough": True, "rotate": 90, "fps": 5}, "leave out rotate, fps"),
        ({"passthrough": True, "motion": {}}, "leave out motion"),
        ({"loop": True}, "loop is for files"),
        ({"roi": (0, 0, 0, 10)}, "width and height above 0"),
        ({"roi": (0, 0, 10.5, 10)}, "whole numbers of pixels"),
        ({"roi": (-1, 0, 10, 10)}, "at least 0"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"name": "née"}, "name: expected printable ASCII"),
        ({"name": "front door"}, "without a space, as in front-door"),  # the server takes none
        ({"name": "x" * 129}, "name"),
        ({"motion": {"threshold": 2}}, "motion.threshold"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cameras_from_urls([URL], **fields)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_loop_is_meant_for_files_where_there_are_cameras_too(tmp_path: Path) -> None:
    file, folder = tmp_path / "door.mp4", tmp_path / "pictures"
    file.touch()
    folder.mkdir()
    cameras = cameras_from_urls([URL, str(file), "0", str(folder)], loop=True)
    assert [camera.loop for camera in cameras] == [False, True, False, True]
    assert [camera.loop for camera in cameras_from_urls([URL, str(file)])] == [False, False]
    with pytest.raises(ConfigError, match="loop is for files and folders"):
        cameras_from_urls([URL, "0"], loop=True)
    with pytest.raises(ConfigError, match="loop is for files and folders"):
        load_cameras(written(tmp_path, f'[[camera]]\nurl = "{URL}"\nloop = true\n'))


def test_a_camera_needs_a_place(tmp_path: Path) -> None:
    for url, said in (
        ("nothing.mp4", "no file, folder or device"),
        ("x" * 5000 + ".mp4", "cannot read .*: File name too long"),
        ("rtsp:///x", "names no host"),
        ("rtsp://[fe80/x", "names no host"),
        ("rtsp://host:99999/x", "names no host"),
    ):
        with pytest.raises(ConfigError, match=said):
            cameras_from_urls([url])
    with pytest.raises(ConfigError, match="camera"):
        load_cameras(written(tmp_path, "cameras = []"))
    with pytest.raises(ConfigError, match="is not TOML"):
        load_cameras(written(tmp_path, "[[camera"))
    with pytest.raises(ConfigError, match="no cameras at"):
        load_cameras(tmp_path / "absent.toml")


def test_names_are_unique(tmp_path: Path) -> None:
    first, second = cameras_from_urls([URL, URL])
    assert (first.name, second.name) == ("10.0.0.7", "10.0.0.7-2")
    with pytest.raises(ConfigError, match="several cameras are called gate"):
        load_cameras(written(tmp_path, '[[camera]]\nurl="rtsp://a/"\nname="gate"\n' * 2))


def test_an_automatic_name_leaves_given_ones_alone(tmp_path: Path) -> None:
    text = '[[camera]]\nurl="rtsp://a/"\n[[camera]]\nurl="rtsp://b/"\nname="a"\n'
    cameras, _ = load_cameras(written(tmp_path, text))
    assert [camera.name for camera in cameras] == ["a-2", "a"]


def test_a_password_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_PASSWORD", SECRET)
    (camera,) = cameras_from_urls(["rtsp://admin:${GATE_PASSWORD}@10.0.0.7/stream"])
    assert camera.address.target == URL
    with pytest.raises(ConfigError, match="YARD_PASSWORD, which is not set"):
        cameras_from_urls(["rtsp://admin:${YARD_PASSWORD}@10.0.0.7/stream"])


def test_settings_do_not_show_their_url() -> None:
    camera = CameraSettings.model_validate({"url": URL})
    assert SECRET not in repr(camera)
    assert SECRET not in camera.model_dump_json()
    assert SECRET not in camera.address.shown
