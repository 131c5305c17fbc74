"""`foveate stream` and the session below it, against a real server that plays scripts."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from foveate.client import Client, Delivery, Reconnect, Verdict
from foveate.engines.errors import FoveateError
from foveate.proto import vision_pb2
from foveate.service.config import ServiceConfig
from foveate.tools.cli import app
from foveate.tools.streaming import StreamPlan, StreamRun, interrupts_set
from foveate.tools.video_source import PictureFiles, open_source
from support.scripted_server import ScriptedCall, server_in_thread
from support.videos import grey_video

FACE = vision_pb2.Detection(box=vision_pb2.Box(x=10, y=10, width=20, height=20), label="face", score=0.5, class_id=1)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return grey_video(tmp_path / "six.avi")


async def sees_faces(call: ScriptedCall) -> None:
    await call.accept(window=8, budget_ms=60_000)
    while (frame := await call.frame()) is not None:
        assert frame.data[:2] == b"\xff\xd8"
        times = vision_pb2.StageTimes(infer=5000, total=6000)
        size = {"frame_width": 64, "frame_height": 48}
        await call.answer(frame.sequence, detections=[FACE], times=times, batch_size=2, engine="e", **size)


async def expires_all(call: ScriptedCall) -> None:
    await call.accept(window=8)
    while (frame := await call.frame()) is not None:
        await call.answer(frame.sequence, verdict=vision_pb2.VERDICT_EXPIRED, message="too late")


def test_a_video_is_streamed_summed_up_and_written(video: Path, tmp_path: Path) -> None:
    lines, drawn = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    with server_in_thread(sees_faces) as server:
        arguments = ["stream", str(video), "--server", server.target, "--pipeline", "faces", "--budget-ms", "900"]
        arguments += ["--delivery", "queue", "--json", str(lines), "--output", str(drawn), "--min-score", "0.25"]
        done = CliRunner().invoke(app, arguments)
        asked = server.calls[0].open
    assert done.exit_code == 0, done.output
    assert "100.0%" in done.stdout
    assert (asked.pipeline, asked.budget_ms, asked.fps, asked.min_score) == ("faces", 900, 200.0, 0.25)
    assert asked.delivery == vision_pb2.DELIVERY_QUEUE
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["sequence"] for record in records] == [1, 2, 3, 4, 5, 6]
    assert records[0]["detections"][0]["label"] == "face"
    assert records[0]["batch_size"] == 2
    assert len(list(open_source(str(drawn)))) == 6


def test_nothing_answered_is_a_failure_after_the_summary(video: Path) -> None:
    with server_in_thread(expires_all) as server:
        done = CliRunner().invoke(app, ["stream", str(video), "--server", server.target])
    assert done.exit_code == 1
    assert "expired" in done.stdout
    assert "error: no frame was answered OK" in done.stderr


def test_mistakes_are_one_line(tmp_path: Path, video: Path) -> None:
    done = CliRunner().invoke(app, ["stream", str(tmp_path / "none.mp4")])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "error: no source" in done.stderr
    done = CliRunner().invoke(app, ["stream", str(video), "--json", str(tmp_path / "no/where.jsonl")])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "cannot write" in done.stderr


def run_of(client: Client, source: object, plan: StreamPlan, stop: threading.Event | None = None) -> StreamRun:
    return StreamRun(client, source, plan, stop or threading.Event())  # type: ignore[arg-type]


def test_each_result_comes_with_the_bytes_of_its_own_frame(tmp_path: Path) -> None:
    paths = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), np.full((8, 8, 3), number * 50, np.uint8))
        paths.append(path)

    async def echoes(call: ScriptedCall) -> None:
        await call.accept(window=3)
        while (frame := await call.frame()) is not None:
            await call.answer(frame.sequence, message=str(hash(frame.data)), verdict=vision_pb2.VERDICT_FAILED)

    with server_in_thread(echoes) as server, Client(server.target) as client:
        pairs = list(run_of(client, PictureFiles("pictures", tuple(paths)), StreamPlan()))
        asked = server.calls[0].open
    assert [data for _, data in pairs] == [path.read_bytes() for path in paths]
    assert [result.message for result, _ in pairs] == [str(hash(data)) for _, data in pairs]
    assert asked.delivery == vision_pb2.DELIVERY_QUEUE
    assert asked.budget_ms == 10_000


def test_looping_starts_again_until_enough(video: Path) -> None:
    with server_in_thread(sees_faces) as server, Client(server.target) as client:
        plan = StreamPlan(loop=True, max_frames=14, delivery=Delivery.QUEUE)
        assert len(list(run_of(client, open_source(str(video)), plan))) == 14


def test_stopping_ends_the_source_and_still_takes_the_answers(video: Path) -> None:
    stop = threading.Event()
    with server_in_thread(sees_faces) as server, Client(server.target) as client:
        results = []
        for result, _ in run_of(client, open_source(str(video)), StreamPlan(loop=True), stop):
            results.append(result)
            stop.set()
        assert results
        assert all(result.verdict in (Verdict.OK, Verdict.DROPPED) for result in results)


def test_errors_of_the_client_are_errors_of_the_command(video: Path) -> None:
    with server_in_thread(sees_faces) as server:
        target = server.target
    with Client(target, reconnect=Reconnect(max_reconnect_s=0.0)) as client:
        run = run_of(client, open_source(str(video)), StreamPlan())
        with pytest.raises(FoveateError, match="gave up on"):
            run.opened_on()


def test_the_first_interrupt_is_a_request_and_the_second_an_interrupt() -> None:
    stop = threading.Event()
    former = signal.getsignal(signal.SIGINT)
    with interrupts_set(stop):
        signal.raise_signal(signal.SIGINT)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is former


class OwnServer:
    """Stands in for the server that a command starts for itself, and keeps what that was asked for."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.pipelines: tuple[str, ...] = ()
        self.config: ServiceConfig | None = None

    @contextmanager
    def start(self, pipelines: Sequence[str] = (), config: ServiceConfig | None = None) -> Iterator[str]:
        self.pipelines, self.config = tuple(pipelines), config
        yield self.target


@pytest.fixture
def own_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnServer]:
    with server_in_thread(sees_faces) as server:
        own = OwnServer(server.target)
        monkeypatch.setattr("foveate.service.embedded.embedded_server", own.start)
        yield own


@pytest.fixture
def own_settings(tmp_path: Path) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text('default_pipeline = "mine"\n[pipelines.other]\nmodel = "o"\n[pipelines.mine]\nmodel = "./mine"\n')
    return file


def test_a_server_of_its_own_takes_its_settings_from_a_file(
    video: Path, own_server: OwnServer, own_settings: Path
) -> None:
    done = CliRunner().invoke(app, ["stream", str(video), "--config", str(own_settings)])
    assert done.exit_code == 0, done.output
    assert own_server.pipelines == ("mine",)
    assert own_server.config is not None
    assert own_server.config.pipelines["mine"].model == "./mine"
    CliRunner().invoke(app, ["stream", str(video), "--config", str(own_settings), "--pipeline", "other"])
    assert own_server.pipelines == ("other",)


def test_settings_cannot_hold_for_the_server_of_somebody_else(video: Path, own_settings: Path) -> None:
    done = CliRunner().invoke(app, ["stream", str(video), "--config", str(own_settings), "--server", "127.0.0.1:1"])
    assert done.exit_code == 1
    assert "--config or --server, not both" in done.stderr


def test_the_demo_writes_its_three_files(video: Path, tmp_path: Path, own_server: OwnServer) -> None:
    folder = tmp_path / "deep" / "demo"
    arguments = ["demo", "--output-dir", str(folder), "--video", str(video), "--seconds", "0.1"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert own_server.pipelines == ("faces",)
    assert sorted(path.name for path in folder.iterdir()) == ["annotated.webm", "report.html", "results.jsonl"]
    count = len((folder / "results.jsonl").read_text().splitlines())
    assert count == 20
    assert len(list(open_source(str(folder / "annotated.webm")))) == count
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "six.avi" in html
    assert 1 <= html.count("data:image/jpeg") <= 6


def test_the_demo_shows_the_pipeline_of_a_file(
    video: Path, tmp_path: Path, own_server: OwnServer, own_settings: Path
) -> None:
    arguments = ["demo", "--output-dir", str(tmp_path / "demo"), "--video", str(video), "--config", str(own_settings)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert own_server.pipelines == ("mine",)
