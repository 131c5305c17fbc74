"""Real RTSP cameras of different codec, size and rate, fed to a real service: one is killed and comes back, one
freezes, one sends garbage, and the healthy ones never notice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from rich.console import Console

from foveate.models.package import import_file, load_package
from foveate.models.store import ModelStore
from foveate.tools.watch import CameraStatus, Display, State, WatchSession, cameras_from_urls
from foveate.tools.watch.settings import CameraSettings
from support.rtsp_cameras import garbled, rtsp_camera
from support.service import running_service
from support.shared_models import centerface
from support.waiting import until

pytest.importorskip("av")

_BUDGET_MS = 20_000
"""Far more than a busy machine needs, so that being late is never the machine's fault."""


class Watching:
    """A session in a thread of its own."""

    def __init__(self, cameras: list[CameraSettings], server: str) -> None:
        self.said = StringIO()
        self._session = WatchSession(cameras, server, Display(Console(file=self.said, width=200)))
        self._thread = threading.Thread(target=self._run, name="watch")
        self.ended: list[CameraStatus] = []
        self._thread.start()

    def __getitem__(self, name: str) -> CameraStatus:
        return next(status for status in self._session.statuses() if status.name == name)

    def wait(self, holds: Callable[[CameraStatus], object], what: str, *names: str) -> None:
        """Until it holds for all these cameras."""
        until(lambda: self._session.statuses() and all(holds(self[name]) for name in names), f"{names}: {what}")

    def wait_for_more(self, pictures: int, *names: str) -> None:
        """Until so many more were answered on time for each of these cameras."""
        before = {name: self[name].on_time for name in names}
        self.wait(lambda status: status.on_time >= before[status.name] + pictures, f"{pictures} more", *names)

    def close(self) -> None:
        self._session.stop()
        self._thread.join(40)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        self.ended = self._session.run()


@contextmanager
def watching(cameras: dict[str, str], server: str, patient: Collection[str] = (), **fields: Any) -> Iterator[Watching]:
    """Cameras by name and URL; those named `patient` are waited for longer than any machine is busy."""
    settings = [
        settings.model_copy(update={"name": name} | ({"timeout_s": 30.0} if name in patient else {}))
        for name, settings in zip(cameras, cameras_from_urls(list(cameras.values()), **fields), strict=True)
    ]
    watch = Watching(settings, server)
    try:
        yield watch
    finally:
        watch.close()


def superseded_share(status: CameraStatus) -> float:
    return status.verdicts.get("superseded", 0) / status.sent


def on_time_share(status: CameraStatus) -> float:
    """Of the pictures in whose place the server took no newer one, as it does when a busy machine lets two wait."""
    return status.on_time / (sum(status.verdicts.values()) - status.verdicts.get("superseded", 0))


def test_a_dead_a_frozen_and_a_lying_camera_harm_nobody_else() -> None:
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        h264, h265, mjpeg, liar = (
            stack.enter_context(rtsp_camera(codec=codec, size=size, fps=fps))
            for codec, size, fps in (
                ("h264", "320x240", 10),
                ("h265", "176x144", 8),
                ("mjpeg", "160x120", 12),
                ("h264", "320x180", 10),
            )
        )
        steady = stack.enter_context(rtsp_camera(codec="h264", size="352x288", fps=15))
        garbler = stack.enter_context(garbled(liar))
        urls = {
            "killed": h264.url,
            "frozen": h265.url,
            "mjpeg": mjpeg.url,
            "garbled": garbler.url,
            "steady": steady.url,
        }
        healthy = ("mjpeg", "steady")
        watch = stack.enter_context(watching(urls, service.address, healthy, budget_ms=_BUDGET_MS, timeout_s=1.5))
        watch.wait(lambda status: status.state is State.LIVE and status.on_time >= 5, "live", *urls)
        pictures_before = watch["killed"].read

        h264.kill()
        h265.freeze()
        garbler.is_on = True
        watch.wait(lambda status: status.state is State.RECONNECTING, "seen to be gone", "killed")
        until(lambda: "frozen: frozen: " in watch.said.getvalue(), "seen to be frozen")
        watch.wait(lambda status: status.reconnects > 0 or status.damaged > 0, "seen to be garbled", "garbled")
        h264.start()
        watch.wait(lambda status: status.read > pictures_before + 10, "back", "killed")
        h265.thaw()
        garbler.is_on = False
        watch.wait(lambda status: status.state is State.LIVE, "live again", *urls)
        watch.wait_for_more(10, *healthy)
        watch.wait(lambda status: superseded_share(status) <= 0.1, "hardly any superseded", *healthy)

    for status in watch.ended:
        assert status.state is State.ENDED
        assert on_time_share(status) >= 0.99, status
    for name in healthy:
        (status,) = (each for each in watch.ended if each.name == name)
        assert (status.reconnects, status.error, status.damaged) == (0, "", 0), "it never noticed"
    assert "killed: reconnecting" in watch.said.getvalue()


def test_a_password_opens_a_camera_and_is_never_shown() -> None:
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        camera = stack.enter_context(rtsp_camera(user="admin:s3cretPassw0rd"))
        urls = {"right": camera.url_of("admin:s3cretPassw0rd"), "wrong": camera.url_of("admin:wr0ngPassw0rd")}
        watch = stack.enter_context(watching(urls, service.address, budget_ms=_BUDGET_MS))
        watch.wait(lambda status: status.on_time >= 3, "seen", "right")
        watch.wait(lambda status: "401" in status.error, "refused", "wrong")
        streams = str(service.status().streams)
    assert "right" in streams
    everything = watch.said.getvalue() + streams + repr(watch.ended)
    assert "Passw0rd" not in everything


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_jpegs_of_a_camera_are_sent_as_they_are(transport: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        camera = stack.enter_context(rtsp_camera(codec="mjpeg", size="160x120", fps=20))
        watch = stack.enter_context(
            watching({"camera": camera.url}, service.address, transport=transport, budget_ms=_BUDGET_MS)
        )
        watch.wait(lambda status: status.on_time >= 10, "seen", "camera")
    (status,) = watch.ended
    assert set(status.verdicts) <= {"ok", "superseded"}, "each was a whole picture"


@pytest.mark.parametrize(("codec", "later"), [("h264", "h265"), ("h265", "h264")])
def test_video_is_passed_through_and_goes_on_after_a_loss(codec: str, later: str) -> None:
    """With the camera's codec and size changed meanwhile."""
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        camera = stack.enter_context(rtsp_camera(codec=codec, size="160x120", fps=20))
        watch = stack.enter_context(
            watching({"camera": camera.url}, service.address, passthrough=True, budget_ms=_BUDGET_MS)
        )
        watch.wait(lambda status: status.on_time >= 20, "seen", "camera")
        camera.kill()
        watch.wait(lambda status: status.state is State.RECONNECTING, "seen to be gone", "camera")
        camera.start(codec=later, size="176x144")
        watch.wait_for_more(20, "camera")
    (status,) = watch.ended
    assert set(status.verdicts) <= {"ok", "superseded"}, "no unit was broken on its way"
    assert status.on_time == status.verdicts["ok"]


def test_a_camera_that_sends_another_codec_size_and_rate_than_before_is_taken_as_it_is() -> None:
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        camera = stack.enter_context(rtsp_camera(codec="h264", size="320x240", fps=10))
        watch = stack.enter_context(
            watching({"camera": camera.url}, service.address, roi=(0.5, 0, 0.5, 1), rotate=90, budget_ms=_BUDGET_MS)
        )
        watch.wait(lambda status: status.state is State.LIVE, "live", "camera")
        for options in ({}, {"codec": "mjpeg", "size": "160x120", "fps": 20}, {"codec": "h265", "size": "128x96"}):
            if options:
                camera.kill()
                camera.start(**options)
            watch.wait_for_more(8, "camera")
    (status,) = watch.ended
    assert set(status.verdicts) <= {"ok", "superseded"}


def test_a_still_scene_is_hardly_sent() -> None:
    with ExitStack() as stack:
        service = stack.enter_context(running_service())
        still = stack.enter_context(rtsp_camera(codec="h264", fps=20, pattern="blue"))
        moving = stack.enter_context(rtsp_camera(codec="h264", fps=20, pattern="ball"))
        watch = stack.enter_context(
            watching(
                {"still": still.url, "moving": moving.url},
                service.address,
                motion={"threshold": 0.002, "min_fps": 0.5},
                budget_ms=_BUDGET_MS,
            )
        )
        watch.wait(lambda status: status.state is State.STILL and status.skipped_motion >= 20, "still", "still")
        watch.wait(lambda status: 2 <= status.sent <= status.read / 10, "hardly sent", "still")
        watch.wait(lambda status: status.state is State.LIVE and status.sent >= 20, "moving", "moving")
    by_name = {status.name: status for status in watch.ended}
    assert by_name["moving"].skipped_motion <= by_name["moving"].read / 10


@pytest.mark.network
def test_one_command_leads_from_a_url_to_the_live_page(tmp_path: Path) -> None:
    """With a server of its own, a real model, and the state file as a witness."""
    pytest.importorskip("aiohttp")
    import_file(load_package("centerface"), ModelStore(tmp_path / "models"), centerface())
    settings, state = tmp_path / "service.toml", tmp_path / "state.json"
    settings.write_text(f'model_store = "{tmp_path}/models"\nengine_store = "{tmp_path}/engines"\nfetch = false\n')
    with rtsp_camera(codec="h264", size="320x240", fps=5) as camera:
        arguments = [sys.executable, "-m", "foveate.tools.cli", "watch", camera.url, "--pipeline", "faces"]
        arguments += ["--budget-ms", str(_BUDGET_MS), "--http", "127.0.0.1:0"]
        arguments += ["--config", str(settings), "--state", str(state)]
        with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                lead = "live pictures at "
                said = next(line for line in process.stderr if lead in line)
                until(lambda: state.exists() and one_camera(state)["on_time"] >= 3, "pictures are answered", 45)
                with urlopen(said.partition(lead)[2].strip(), timeout=10) as page:
                    assert page.status == 200
                    assert b"<html" in page.read().lower()
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=30)
            finally:
                process.kill()
    assert process.returncode == 0, said
    assert one_camera(state)["state"] == "ended"


def one_camera(state: Path) -> dict[str, Any]:
    """What a state file says of its only camera."""
    (camera,) = json.loads(state.read_text())["cameras"]
    assert isinstance(camera, dict)
    return camera
