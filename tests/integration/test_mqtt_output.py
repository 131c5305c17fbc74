"""MQTT against a real broker, which refuses, vanishes while messages flow, and comes back."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from foveate.tools.outputs import Outputs, open_outputs
from foveate.tools.outputs.output import OutputCounts
from foveate.tools.outputs.specs import MqttSpec
from support.broker import broker, subscribed
from support.camera_results import camera_result
from support.certificates import own_certificate
from support.system_programs import require_program
from support.waiting import until

SECRET = "hunter2"
DOOR, YARD, STATUS = "foveate/cameras/door", "foveate/cameras/yard%2Fnorth", "foveate/status"


@contextmanager
def publishing(url: str, **settings: Any) -> Iterator[Outputs]:
    outputs = open_outputs([MqttSpec(url=SecretStr(url), **settings)])
    try:
        yield outputs
    finally:
        outputs.close(0.0)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_camera_has_a_topic_and_its_results_come_in_order(qos: int, tmp_path: Path) -> None:
    with broker(tmp_path) as server, subscribed(server.port) as subscriber:
        with publishing(f"mqtt://127.0.0.1:{server.port}", qos=qos) as outputs:
            for sequence in range(200):
                outputs.put(camera_result(sequence))
                outputs.put(camera_result(sequence, "yard/north", seen=False))
            outputs.close(40.0)
            assert outputs.counts == {"mqtt": OutputCounts(sent=400)}
        until(lambda: len(subscriber.heard) >= 402)
        assert subscriber.sequences(DOOR) == list(range(200))
        assert subscriber.sequences(YARD) == list(range(200))
        assert subscriber.said(STATUS) == ["online", "offline"]
    record = json.loads(next(payload for topic, payload, _ in subscriber.heard if topic == YARD))
    assert (record["camera"], record["detections"]) == ("yard/north", [])


def test_those_who_come_later_hear_the_status_and_retained_results(tmp_path: Path) -> None:
    with broker(tmp_path) as server:
        url = f"mqtt://127.0.0.1:{server.port}"
        with publishing(url, retain=True, topic="home/{camera}", status_topic="home/status") as outputs:
            outputs.put(camera_result(1))
            outputs.put(camera_result(2))
            until(lambda: outputs.counts["mqtt"].sent == 2)
            with subscribed(server.port) as subscriber:
                until(lambda: len(subscriber.heard) == 2)
                assert all(retained for _, _, retained in subscriber.heard)
                assert (subscriber.sequences("home/door"), subscriber.said("home/status")) == ([2], ["online"])


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_broker_that_is_killed_and_started_again_while_messages_flow(qos: int, tmp_path: Path) -> None:
    with broker(tmp_path) as server, subscribed(server.port) as subscriber:
        with publishing(f"mqtt://127.0.0.1:{server.port}", qos=qos) as outputs:
            stop, given = threading.Event(), 0

            def flow() -> None:
                nonlocal given
                while not stop.wait(0.002):
                    outputs.put(camera_result(given))
                    given += 1

            camera = threading.Thread(target=flow)
            camera.start()
            until(lambda: len(subscriber.sequences(DOOR)) > 50)
            server.kill()
            until(lambda: outputs.troubles, "the loss is noticed")
            assert "127.0.0.1" in outputs.troubles["mqtt"]
            server.start()
            until(lambda: subscriber.ready.is_set() and not outputs.troubles, "both are back")
            before = len(subscriber.sequences(DOOR))
            until(lambda: len(subscriber.sequences(DOOR)) > before + 50)
            stop.set()
            camera.join()
            outputs.close(40.0)
            counts = outputs.counts["mqtt"]
            assert counts.given == given
            assert counts.waiting == 0
            assert counts.failed <= (1 if qos == 0 else 0), "QoS 0 may lose what was on its way, and says so"
        until(lambda: subscriber.said(STATUS)[-1:] == ["offline"])
        heard = subscriber.sequences(DOOR)
        assert sorted(heard[before:]) == heard[before:], "in order again"
        assert heard[-1] == given - 1
        assert "online" in subscriber.said(STATUS)[1:], "and it says that it is back"


def test_an_outage_keeps_the_newest_and_sends_them_once(tmp_path: Path) -> None:
    with broker(tmp_path) as server:
        server.kill()
        with publishing(f"mqtt://127.0.0.1:{server.port}", queue=10) as outputs:
            for sequence in range(100):
                outputs.put(camera_result(sequence))
            until(lambda: "no connection: Connection refused" in outputs.troubles.get("mqtt", ""))
            counts = outputs.counts["mqtt"]
            assert counts.given == 100
            assert counts.waiting <= 10 + 256, "what was taken from the queue waits too"
            server.start()
            with subscribed(server.port) as subscriber:
                until(lambda: outputs.counts["mqtt"].waiting == 0)
                outputs.put(camera_result(100))
                until(lambda: 100 in subscriber.sequences(DOOR))
            assert outputs.counts["mqtt"] == OutputCounts(sent=counts.waiting + 1, dropped=counts.dropped)


_PUBLISHES_AND_HANGS = """
import sys, threading
from pydantic import SecretStr
from foveate.tools.outputs import open_outputs
from foveate.tools.outputs.specs import MqttSpec
from support.camera_results import camera_result
from support.waiting import until
outputs = open_outputs([MqttSpec(url=SecretStr(sys.argv[1]))])
outputs.put(camera_result())
until(lambda: outputs.counts["mqtt"].sent == 1)
print("sent", flush=True)
threading.Event().wait()
"""


def test_the_broker_says_that_we_are_gone_when_we_cannot(tmp_path: Path) -> None:
    with broker(tmp_path) as server, subscribed(server.port) as subscriber:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, "-c", _PUBLISHES_AND_HANGS, f"mqtt://127.0.0.1:{server.port}"]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as publisher:
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == "sent\n"
            until(lambda: subscriber.said(STATUS) == ["online"])
            publisher.kill()
        until(lambda: subscriber.said(STATUS) == ["online", "offline"])


def test_a_broker_that_is_never_there_does_not_hold_up_the_end() -> None:
    with publishing("mqtt://127.0.0.1:1") as outputs:
        outputs.put(camera_result(1))
        outputs.put(camera_result(2))
        until(lambda: outputs.troubles)
        outputs.close(0.05)
        assert outputs.counts["mqtt"].given == 2
        assert outputs.counts["mqtt"].waiting == 0
        assert outputs.counts["mqtt"].sent == 0


def password_file(folder: Path) -> Path:
    path = folder / "passwords"
    program = require_program("mosquitto_passwd")
    subprocess.run([program, "-b", "-c", str(path), "me", SECRET], check=True, capture_output=True)
    return path


def test_user_and_password_from_the_environment_and_neither_is_ever_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    lines = ("allow_anonymous false", f"password_file {password_file(tmp_path)}")
    said: list[str] = []
    with caplog.at_level(logging.DEBUG), broker(tmp_path, *lines) as server:
        host = f"127.0.0.1:{server.port}"
        with publishing(f"mqtt://me:wrong-{SECRET}@{host}") as outputs:
            outputs.put(camera_result())
            until(lambda: "the broker refuses: Not authorized" in outputs.troubles.get("mqtt", ""))
            said.append(f"{outputs.counts} {outputs.troubles}")
        monkeypatch.setenv("BROKER_PASSWORD", SECRET)
        with publishing(f"mqtt://me:${{BROKER_PASSWORD}}@{host}") as outputs:
            outputs.put(camera_result())
            until(lambda: outputs.counts["mqtt"].sent == 1)
            server.kill()
            outputs.put(camera_result())
            until(lambda: outputs.troubles)
            said.append(f"{outputs.counts} {outputs.troubles}")
    said += [thread.name for thread in threading.enumerate()]
    assert caplog.records, "something was said"
    assert SECRET not in "".join([caplog.text, *capfd.readouterr(), *said])


@pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")  # paho's, where the handshake fails
def test_tls_to_a_broker_that_is_trusted_and_to_one_that_is_not(tmp_path: Path) -> None:
    path, key = own_certificate(tmp_path)
    with broker(tmp_path, "allow_anonymous true", f"certfile {path}", f"keyfile {key}") as server:
        url = f"mqtts://127.0.0.1:{server.port}"
        with publishing(url, ca_file=path) as outputs:
            outputs.put(camera_result())
            until(lambda: outputs.counts["mqtt"].sent == 1)
        with publishing(url) as outputs:
            outputs.put(camera_result())
            until(lambda: "self-signed" in outputs.troubles.get("mqtt", "").replace(" ", "-"))
            assert outputs.counts["mqtt"].sent == 0
        until(lambda: not any("paho" in thread.name for thread in threading.enumerate()), "its thread has ended")
        gc.collect()
