"""The README's commands and code, run as they are printed, in an empty folder with an empty model store."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from foveate.models.package import import_file, load_package
from foveate.models.store import ModelStore
from foveate.service.config import PipelineConfig, load_config
from foveate.tools.watch.settings import load_cameras
from support.ports import free_port
from support.shared_models import centerface, picture

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOVEATE = str(Path(sys.executable).with_name("foveate"))

pytestmark = [pytest.mark.network, pytest.mark.timeout(180)]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("cache")
    import_file(load_package("centerface"), ModelStore(cache / "foveate/models"), centerface())
    return {**os.environ, "XDG_CACHE_HOME": str(cache)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README speaks of: a video, and a folder of pictures."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "pictures").mkdir()
    astronaut = picture("astronaut")[:, :, ::-1]
    cv2.imwrite(str(folder / "pictures/astronaut.jpg"), astronaut)
    video = cv2.VideoWriter(str(folder / "video.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (512, 512))
    for _ in range(15):
        video.write(astronaut)
    video.release()
    return folder


@pytest.fixture(scope="module")
def server(folder: Path, environment: dict[str, str], port: int) -> Iterator[str]:
    """`foveate serve`, on a port that is free here."""
    assert "foveate serve\n" in "".join(_blocks("bash"))
    arguments = [FOVEATE, "serve", "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith(f"foveate is ready on 127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"
        process.terminate()
        assert process.wait(40) == 0


def _commands() -> list[str]:
    lines = [line for block in _blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("foveate ") and line != "foveate serve"]


@pytest.mark.parametrize("line", _commands())
def test_a_command_runs_as_printed(line: str, server: str, folder: Path, environment: dict[str, str]) -> None:
    line = line.replace("127.0.0.1:50051", server).replace("127.0.0.1:8080", "127.0.0.1:0")
    arguments = [FOVEATE, *shlex.split(line)[1:]]
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in re.findall(r"--(?:output|json) (\S+)", line):
        assert (folder / name).stat().st_size > 0


def test_the_python_code_runs_as_printed(server: str, folder: Path, environment: dict[str, str]) -> None:
    (code,) = _blocks("python")
    code = code.replace("127.0.0.1:50051", server)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"1 \[\[.*\]\] [\d.]+ ms", done.stdout), done.stdout


def test_the_settings_are_read_as_printed(tmp_path: Path) -> None:
    pipelines: dict[str, PipelineConfig] = {}
    for text in _blocks("toml"):
        if "[pipelines" in text:
            (tmp_path / "foveate.toml").write_text(text, encoding="utf-8")
            pipelines |= load_config(tmp_path / "foveate.toml").pipelines
    lobby, street = pipelines["lobby"], pipelines["street"]
    assert (lobby.min_score, lobby.engine.max_batch, lobby.engine.threads) == (0.4, 4, 2)
    assert street.track
    assert [stage.pipeline for stage in street.cascade] == ["imagenet"]


def test_the_cameras_are_read_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YARD_PASSWORD", "yard-secret")
    monkeypatch.setenv("MQTT_PASSWORD", "mqtt-secret")
    (text,) = [text for text in _blocks("toml") if "[[camera]]" in text]
    (tmp_path / "cameras.toml").write_text(text, encoding="utf-8")
    cameras, outputs = load_cameras(tmp_path / "cameras.toml")
    assert [camera.name for camera in cameras] == ["yard", "gate"]
    assert cameras[0].url.get_secret_value() == "rtsp://me:yard-secret@10.0.0.7/stream"
    assert [output.kind for output in outputs] == ["mqtt", "webhook"]


def test_what_make_is_asked_for_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`?\$? ?make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"the README speaks of `make {target}`"


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target
