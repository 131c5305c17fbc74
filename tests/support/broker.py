"""A real MQTT broker on loopback, which a test may kill and start again, and a subscriber that keeps what it hears."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from support.ports import free_port
from support.system_programs import require_program
from support.waiting import until

__all__ = ["Broker", "Subscriber", "broker", "subscribed"]


class Broker:
    """mosquitto with its own configuration."""

    def __init__(self, folder: Path, lines: tuple[str, ...]) -> None:
        self._program = require_program("mosquitto")
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        own = (f"listener {self.port} 127.0.0.1", "persistence false", "user root")
        self._config.write_text("\n".join((*own, *(lines or ("allow_anonymous true",)))), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it accepts connections."""
        self._process = subprocess.Popen([self._program, "-c", str(self._config)], stderr=subprocess.DEVNULL)
        until(self._accepts, "the broker accepts connections")

    def kill(self) -> None:
        """End it without a word to anyone; what it knew is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the broker has ended: is its configuration right?"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
        except OSError:
            return False
        return True


@contextmanager
def broker(folder: Path, *lines: str) -> Iterator[Broker]:
    """Run one until the block ends; `lines` go into its configuration, and take the place of open access."""
    server = Broker(folder, lines)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Subscriber:
    """Hears every topic, with QoS 1, and subscribes again after each connection."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        """Topic, payload and whether the broker had it in store."""
        self.ready = threading.Event()
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: self.ready.set()
        self.client.on_disconnect = lambda *_: self.ready.clear()
        self.client.on_message = self._hear
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _hear(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self.heard.append((message.topic, bytes(message.payload), bool(message.retain)))

    def sequences(self, topic: str) -> list[int]:
        """The results heard on a topic."""
        return [json.loads(payload)["sequence"] for heard, payload, _ in list(self.heard) if heard == topic]

    def said(self, topic: str) -> list[str]:
        """Other texts heard on a topic."""
        return [payload.decode() for heard, payload, _ in list(self.heard) if heard == topic]


@contextmanager
def subscribed(port: int) -> Iterator[Subscriber]:
    """Listen until the block ends."""
    subscriber = Subscriber(port)
    try:
        assert subscriber.ready.wait(40.0)
        yield subscriber
    finally:
        subscriber.client.disconnect()
        subscriber.client.loop_stop()
