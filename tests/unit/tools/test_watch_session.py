"""`foveate watch` whole, over files and false cameras, against a real server that plays scripts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import cv2
import grpc
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from foveate.proto import vision_pb2
from foveate.service.config import ServiceConfig
from foveate.service.embedded import ChildServer
from foveate.tools.cli import app
from foveate.tools.outputs import open_outputs, spec_from_text
from foveate.tools.watch import CameraStatus, Display, State, WatchSession, cameras_from_urls
from foveate.tools.watch import reader as reader_module
from foveate.tools.watch.display import camera_table, summary_line
from foveate.tools.watch.gates import RateGate
from foveate.tools.watch.source import open_source
from support.ports import free_port
from support.rtsp_cameras import silent_server
from support.scripted_server import ScriptedCall, ScriptedServer, server_in_thread
from support.waiting import until, until_in_loop

pytest.importorskip("av")

SECRET = "s3cretPassw0rd"
FACE = vision_pb2.Detection(box=vision_pb2.Box(x=4, y=2, width=8, height=6), label="face", score=0.5, class_id=1)
SERVED = vision_pb2.ListPipelinesReply(pipelines=[vision_pb2.Pipeline(name="faces", is_default=True)])


async def sees_faces(call: ScriptedCall) -> None:
    await call.accept(window=8, budget_ms=60_000)
    while (frame := await call.frame()) is not None:
        image = cv2.imdecode(np.frombuffer(frame.data, np.uint8), cv2.IMREAD_COLOR)
        height, width = image.shape[:2] if image is not None else (0, 0)
        times = vision_pb2.StageTimes(total=6000)
        await call.answer(
            frame.sequence, detections=[FACE], times=times, frame_width=width, frame_height=height, engine="e"
        )


async def refuses_the_budget(call: ScriptedCall) -> None:
    await call.refuse(grpc.StatusCode.INVALID_ARGUMENT, "the budget is too small")


async def has_no_room(call: ScriptedCall) -> None:
    await call.refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "256 streams are open")


@contextmanager
def serving(*scripts: Any) -> Iterator[ScriptedServer]:
    with server_in_thread(*scripts) as server:
        server.pipelines = SERVED
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures of 64x48."""
    pictures = tmp_path / "hall"
    pictures.mkdir()
    for number in range(10):
        cv2.imwrite(str(pictures / f"{number}.jpg"), np.full((48, 64, 3), 25 * number, np.uint8))
    return pictures


def watched(server: str, urls: list[str], **fields: Any) -> tuple[list[CameraStatus], str]:
    """How it ended, and what was said meanwhile."""
    said = StringIO()
    session = WatchSession(cameras_from_urls(urls, **fields), server, Display(Console(file=said, width=200)))
    return session.run(), said.getvalue()


def test_cameras_are_fed_to_the_end_and_the_book_adds_up(folder: Path) -> None:
    with serving(sees_faces) as server:
        statuses, said = watched(server.target, [str(folder)] * 3, fps=100, pipeline="faces", budget_ms=900, weight=2.5)
        asked = sorted((call.open for call in server.calls), key=lambda each: each.stream_id)
    for status in statuses:
        assert status.state is State.ENDED
        assert status.read == 10 == status.skipped_rate + status.dropped + status.sent
        assert sum(status.verdicts.values()) == status.sent
    assert [each.stream_id for each in asked] == ["hall", "hall-2", "hall-3"]
    assert {(each.pipeline, each.budget_ms, each.weight, each.fps) for each in asked} == {("faces", 900, 2.5, 100.0)}
    assert "hall: ended" in said
    assert "hall-3: ended" in said


def test_results_of_a_region_are_those_of_the_whole_picture(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "out at=noon.jsonl"  # a name, and no settings as after a URL
    with serving(sees_faces) as server:
        arguments = ["watch", str(folder), "--server", server.target, "--roi", "0.5,0.25,0.5,0.5", "--fps", "50"]
        arguments += ["--json", str(lines), "--state", str(tmp_path / "state.json")]
        done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert records
    assert {record["camera"] for record in records} == {"hall"}
    answered = [record for record in records if record["verdict"] == "ok"]
    assert answered
    for record in answered:
        assert (record["frame_width"], record["frame_height"]) == (64, 48)
        assert record["detections"][0]["box"] == [36, 14, 44, 20]
    state = json.loads((tmp_path / "state.json").read_text())
    (camera,) = state["cameras"]
    assert (camera["name"], camera["state"], camera["read"]) == ("hall", "ended", 10)
    assert state["outputs"]["jsonl"]["sent"] == len(records)


def test_one_that_the_server_refuses_for_good_fails_and_the_others_go_on(folder: Path) -> None:
    with serving(refuses_the_budget, sees_faces) as server:
        statuses, _ = watched(server.target, [str(folder)] * 2, fps=100)
    assert {status.state for status in statuses} == {State.FAILED, State.ENDED}
    (failed,) = (status for status in statuses if status.state is State.FAILED)
    assert "the budget is too small" in failed.error


def test_a_server_without_room_is_asked_again(folder: Path) -> None:
    with serving(has_no_room, sees_faces) as server:
        (status,), _ = watched(server.target, [str(folder)], fps=20)
        assert len(server.calls) >= 2
    assert status.state is State.ENDED
    assert status.verdicts.get("ok", 0) > 0
    assert "256 streams are open" in status.error


def test_a_server_that_is_gone_for_too_long_fails_its_cameras(folder: Path) -> None:
    with serving(sees_faces) as server:
        cameras = cameras_from_urls([str(folder)], fps=20, loop=True)
        display = Display(Console(file=StringIO(), width=200))
        session = WatchSession(cameras, server.target, display, gives_up_after_s=0.3)
        running = threading.Thread(target=session.run)
        running.start()
        until(lambda: session.statuses() and session.statuses()[0].on_time > 2, "answers")
    running.join(20)
    assert not running.is_alive()
    (status,) = session.statuses()
    assert status.state is State.FAILED
    assert "gave up on" in status.error


def test_a_server_that_is_not_there_yet_is_waited_for_until_stopped(folder: Path) -> None:
    said = StringIO()
    port = free_port()
    session = WatchSession(cameras_from_urls([str(folder)]), f"127.0.0.1:{port}", Display(Console(file=said)))
    running = threading.Thread(target=session.run)
    running.start()
    until(lambda: f"waiting for the server at 127.0.0.1:{port}" in said.getvalue(), "it waits")
    session.stop()
    running.join(20)
    assert not running.is_alive()
    assert session.statuses() == []


def test_an_unknown_pipeline_is_said_before_any_camera_is_opened(folder: Path) -> None:
    with serving(sees_faces) as server:
        done = CliRunner().invoke(app, ["watch", str(folder), "--server", server.target, "--pipeline", "cats"])
        assert server.calls == []
    assert done.exit_code == 1
    assert "camera hall: the server has no pipeline 'cats': expected one of faces" in done.stderr


def test_a_camera_that_fails_ends_the_command_with_1(tmp_path: Path, folder: Path) -> None:
    rubbish = tmp_path / "rubbish.mp4"
    rubbish.write_bytes(b"no video" * 1000)
    with serving(sees_faces) as server:
        done = CliRunner().invoke(app, ["watch", str(folder), str(rubbish), "--fps", "50", "--server", server.target])
    assert done.exit_code == 1
    assert "error: camera rubbish: cannot open" in done.stderr
    assert "hall: ended" in done.stderr


def test_the_live_page_is_said_to_be_where_the_server_has_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 0 is any free one, which the server alone knows."""
    with serving(sees_faces) as server:

        @contextmanager
        def child(names: list[str], settings: ServiceConfig) -> Iterator[ChildServer]:
            assert settings.http == "127.0.0.1:0"
            yield ChildServer(server.target, 0, "http://127.0.0.1:4711/")

        monkeypatch.setattr("foveate.service.embedded.embedded_child", child)
        done = CliRunner().invoke(app, ["watch", str(folder), "--fps", "50", "--http", "127.0.0.1:0"])
    assert done.exit_code == 0, done.stderr
    assert "live pictures at http://127.0.0.1:4711/" in done.stderr


def test_a_server_that_is_slow_gets_the_newest_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RateGate, "admits", lambda *_: True)  # however unevenly this machine reads them

    async def slow(call: ScriptedCall) -> None:
        await call.accept(window=1, budget_ms=60_000)
        while (frame := await call.frame()) is not None:
            await until_in_loop(lambda: session.statuses()[0].read == 10)
            await call.answer(frame.sequence)

    with serving(slow) as server:
        display = Display(Console(file=StringIO()))
        session = WatchSession(cameras_from_urls([str(folder)], fps=100), server.target, display)
        (status,) = session.run()
    assert status.dropped > 0
    assert status.dropped + status.sent == 10
    assert status.verdicts == {"ok": status.sent}


def test_a_stuck_camera_stops_neither_the_others_nor_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, real = threading.Event(), open_source

    @contextmanager
    def opens(settings: Any, **fields: Any) -> Iterator[Any]:
        if settings.name == "stuck":
            release.wait(30)
        with real(settings, **fields) as source:
            yield source

    monkeypatch.setattr(reader_module, "open_source", opens)
    healthy, *_ = cameras_from_urls([str(folder)], fps=100, timeout_s=600.0)
    stuck = healthy.model_copy(update={"name": "stuck"})
    with serving(sees_faces) as server:
        session = WatchSession([stuck, healthy], server.target, Display(Console(file=StringIO())))
        running = threading.Thread(target=session.run)
        running.start()
        until(lambda: session.statuses() and session.statuses()[1].state is State.ENDED, "the healthy one's end")
        assert session.statuses()[1].verdicts.get("ok", 0) > 0
        assert session.statuses()[0].state is State.CONNECTING
        session.stop()
        running.join(20)
        assert not running.is_alive()
        assert not release.is_set()
    release.set()


@contextmanager
def echoing_camera() -> Iterator[int]:
    """The port of a camera that answers every request with the request itself, password and all."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    client, _ = server.accept()
                    with client:
                        asked = client.recv(4096).replace(b"\r\n", b" ")
                        client.sendall(b"RTSP/1.0 454 " + asked + b"\r\nCSeq: 1\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)


def had_trouble_with_every_camera(state: Path) -> bool:
    if not state.exists():
        return False
    return all(camera["reconnects"] or camera["read"] for camera in json.loads(state.read_text())["cameras"])


@pytest.mark.timeout(120)
def test_no_secret_leaves_the_program(folder: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Through no file, no stream of text, no name on the server, and with a handler for every kind of URL."""
    state, lines = tmp_path / "state.json", tmp_path / "out.jsonl"
    errors = tmp_path_factory.mktemp("errors") / "stderr"
    wanted = ("reconnecting: cannot open rtsp://127.0.0.1", "hall: live")
    with serving(sees_faces) as server, echoing_camera() as echo:
        cameras = tmp_path / "cameras.toml"
        urls = [
            f"rtsp://admin:{SECRET}@127.0.0.1:{echo}/live?token={SECRET}",
            f"http://admin:{SECRET}@127.0.0.1:{echo}/video.mjpg",
            f"rtsp://admin:{SECRET}@127.0.0.1:{free_port()}/user=admin_password={SECRET}_channel=1",
            str(folder),
        ]
        text = "".join(f'[[camera]]\nurl = "{url}"\ntimeout_s = 1\n' for url in urls)
        cameras.write_text(text + "fps = 2\nloop = true\n")
        arguments = [sys.executable, "-X", "dev", "-m", "foveate.tools.cli", "watch", "--cameras", str(cameras)]
        arguments += ["--server", server.target, "--state", str(state), "--json", str(lines)]
        with (
            errors.open("w") as stderr,
            subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
        ):
            try:
                until(lambda: had_trouble_with_every_camera(state), "trouble with every camera", 45)
                until(lambda: all(words in errors.read_text() for words in wanted), "it was said")
                process.send_signal(signal.SIGINT)
                out, _ = process.communicate(timeout=30)
            finally:
                process.kill()
        said = errors.read_text()
        assert process.returncode == 0, said
        everything = out + said + state.read_text() + lines.read_text() + "".join(str(c.open) for c in server.calls)
    assert SECRET not in everything
    assert os.listdir(tmp_path).count("state.json") == 1
    assert len(list(tmp_path.iterdir())) == 4, "no half-written file stays behind"


def test_a_thread_that_is_stuck_in_ffmpeg_does_not_keep_the_program_from_ending(tmp_path: Path) -> None:
    with serving(sees_faces) as server, silent_server() as port:
        cameras = tmp_path / "cameras.toml"
        cameras.write_text(f'[[camera]]\nurl = "rtsp://127.0.0.1:{port}/live"\nname = "stuck"\ntimeout_s = 600\n')
        arguments = [sys.executable, "-m", "foveate.tools.cli", "watch", "--cameras", str(cameras)]
        with subprocess.Popen(
            [*arguments, "--server", server.target], stderr=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            assert process.stderr is not None
            try:
                assert "stuck: connecting" in process.stderr.readline()
                process.send_signal(signal.SIGINT)
                assert process.wait(40) == 0, process.stderr.read()
                assert "stuck: ended" in process.stderr.read()
            finally:
                process.kill()


def test_a_wrong_option_shows_no_url() -> None:
    url = f"rtsp://admin:{SECRET}@10.0.0.7/live"
    for more, said in (
        (["--rotate", "45"], "camera 1 rotate"),
        (["--roi", "1,2"], "camera 1 roi"),
        (["--roi", "a,b,c,d"], "camera 1 roi"),
        (["--server", "127.0.0.1:1", "--http", "127.0.0.1:8080"], "--http is for a server of its own"),
        (["--cameras", "cameras.toml"], "one of the two"),
    ):
        done = CliRunner().invoke(app, ["watch", url, *more])
        assert done.exit_code == 1
        assert said in done.stderr
        assert SECRET not in done.output
    assert "one of the two" in CliRunner().invoke(app, ["watch"]).stderr


def status_of(**fields: Any) -> CameraStatus:
    plain: dict[str, Any] = {
        "name": "gate",
        "source": "rtsp://10.0.0.7/…",
        "state": State.LIVE,
        "error": "",
        "error_age_s": None,
        "reconnects": 0,
        "read": 100,
        "damaged": 0,
        "skipped_rate": 0,
        "skipped_motion": 0,
        "dropped": 0,
        "sent": 100,
        "verdicts": {"ok": 90, "expired": 10},
        "on_time": 90,
        "p50_ms": 12.0,
        "pictures_per_s": 10.0,
    }
    return CameraStatus(**plain | fields)


def test_a_log_gets_a_line_for_each_change_and_a_summary_each_minute() -> None:
    said, now = StringIO(), [0.0]
    display = Display(Console(file=said, width=200), clock=lambda: now[0])
    frozen = status_of(state=State.FROZEN, error="no picture for 5 s", error_age_s=0.0)
    with display:
        for second, status in ((1, status_of()), (2, status_of()), (3, frozen), (4, frozen), (5, status_of())):
            now[0] = second
            display.show([status])
        assert [line[9:] for line in said.getvalue().splitlines()] == [
            "gate: live",
            "gate: frozen: no picture for 5 s",
            "gate: live",
        ]
        now[0] = 61.0
        display.show([status_of()])
    assert said.getvalue().splitlines()[-1][9:] == summary_line(status_of())
    assert "on time 90.0%, p50 12 ms, expired 10" in summary_line(status_of())


def test_a_terminal_gets_a_table_that_fits_it() -> None:
    error = "cannot open rtsp://10.0.0.9/…: Server returned 401 Unauthorized (authorization failed)"
    cameras = [status_of(), status_of(name="door", state=State.RECONNECTING, error=error, error_age_s=1.0)]
    console = Console(file=StringIO(), force_terminal=True, width=110, color_system=None)
    with console.capture() as captured:
        console.print(camera_table(cameras))
    lines = captured.get().splitlines()
    assert "on time" in lines[0]
    assert "90.0%" in lines[1]
    assert "…" not in lines[2]
    assert f"door: {error}" in captured.get()


def test_outputs_get_every_result_in_order(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "out.jsonl"
    with serving(sees_faces) as server, open_outputs([spec_from_text(str(lines))]) as outputs:
        display = Display(Console(file=StringIO()))
        session = WatchSession(cameras_from_urls([str(folder)] * 2, fps=50), server.target, display, outputs=outputs)
        statuses = session.run()
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    for status in statuses:
        numbers = [record["sequence"] for record in records if record["camera"] == status.name]
        assert numbers == sorted(numbers)
        assert len(numbers) == status.sent + sum(
            record["verdict"] == "dropped" for record in records if record["camera"] == status.name
        )
