"""However `foveate stream` ends, it ends at once, says why in one line, and leaves nothing running."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from typer.testing import CliRunner

from foveate.client import Client, Result
from foveate.engines.errors import ConfigError, FoveateError
from foveate.proto import vision_pb2
from foveate.tools.cli import app
from foveate.tools.stream_session import run_session
from foveate.tools.streaming import StreamPlan
from foveate.tools.video_source import open_source
from support.scripted_server import ScriptedCall, answer_all, server_in_thread
from support.videos import grey_video

# Ctrl-C reaches it as in a terminal, also where the tests themselves run with SIGINT ignored.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from foveate.tools.cli import main
main()
"""
FULL = Path("/dev/full")
full_disk = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return grey_video(tmp_path / "six.avi")


@contextmanager
def command(*arguments: str, stdout: int | IO[bytes]) -> Iterator[subprocess.Popen[str]]:
    """`foveate` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def assert_said_in_words(stderr: str) -> None:
    for noise in ("Traceback", "Exception ignored", "terminate called"):
        assert noise not in stderr, stderr


@full_disk
def test_a_full_disk_is_one_line(video: Path) -> None:
    with server_in_thread(answer_all) as server:
        done = CliRunner().invoke(app, ["stream", str(video), "--server", server.target, "--json", str(FULL)])
    assert done.exit_code == 1
    assert "error: cannot write /dev/full: No space left on device" in done.stderr


@full_disk
@pytest.mark.parametrize("options", [["--json", "-"], []])
def test_a_full_disk_below_standard_output_is_one_line(video: Path, options: list[str]) -> None:
    with (
        server_in_thread(answer_all) as server,
        FULL.open("wb") as full,
        command("stream", str(video), "--server", server.target, *options, stdout=full) as process,
    ):
        _, stderr = process.communicate()
        assert process.returncode == 1
    assert "error: cannot write standard output: No space left on device" in stderr
    assert_said_in_words(stderr)


@pytest.mark.parametrize("options", [["--json", "-", "--loop"], []])
def test_a_reader_who_has_seen_enough_ends_it_quietly(video: Path, options: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with (
        server_in_thread(answer_all) as server,
        os.fdopen(write_end, "wb") as nobody_reads,
        command("stream", str(video), "--server", server.target, *options, stdout=nobody_reads) as process,
    ):
        _, stderr = process.communicate()
        assert process.returncode == 141
    assert "error" not in stderr
    assert_said_in_words(stderr)


def test_a_sink_that_fails_ends_the_source_before_the_command_ends(video: Path) -> None:
    def fails(_result: Result, _data: bytes) -> None:
        raise ConfigError("no room")

    with server_in_thread(answer_all) as server:
        a_frame_in_a_minute = StreamPlan(fps=1 / 60)
        with pytest.raises(ConfigError, match="no room"):
            run_session(open_source(str(video)), a_frame_in_a_minute, server.target, [fails])
        assert [thread for thread in threading.enumerate() if thread.name == "foveate-frames"] == []


def test_an_interrupt_before_the_server_answers_ends_it_at_once(video: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        command("stream", str(video), "--server", f"127.0.0.1:{mute.getsockname()[1]}", stdout=subprocess.PIPE) as run,
    ):
        connection, _ = mute.accept()
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate()
        connection.close()
        assert run.returncode == 130
    assert "error" not in stderr
    assert_said_in_words(stderr)


def test_an_interrupt_while_its_own_server_starts_ends_it_at_once(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def never_ready(*_: object) -> Iterator[Client]:
        signal.raise_signal(signal.SIGINT)
        raise FoveateError("the interrupt was put off")
        yield

    monkeypatch.setattr("foveate.tools.stream_session.connected", never_ready)
    done = CliRunner().invoke(app, ["stream", str(video)])
    assert (done.exit_code, done.stderr) == (130, "")


def test_an_interrupt_before_the_first_good_answer_is_no_error_of_the_stream(video: Path) -> None:
    async def expires_all(call: ScriptedCall) -> None:
        await call.accept()
        while (frame := await call.frame()) is not None:
            await call.answer(frame.sequence, verdict=vision_pb2.VERDICT_EXPIRED)

    def interrupts(result: Result, _data: bytes) -> None:
        if result.sequence == 1:
            signal.raise_signal(signal.SIGINT)

    with server_in_thread(expires_all) as server, pytest.raises(KeyboardInterrupt):
        run_session(open_source(str(video)), StreamPlan(loop=True), server.target, [interrupts])
