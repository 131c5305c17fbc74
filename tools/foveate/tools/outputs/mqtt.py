"""Results to an MQTT broker, one message each."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foveate.engines.errors import ConfigError
from foveate.tools.outputs.address import Address
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.destination import Unavailable, Undeliverable
from foveate.tools.outputs.naming import name_part
from foveate.tools.outputs.record import json_bytes, record_from_camera_result
from foveate.tools.outputs.trust import tls_context

try:
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
    from paho.mqtt.reasoncodes import ReasonCode
except ImportError as error:
    raise ConfigError("MQTT needs paho-mqtt: install foveate[camera]") from error

__all__ = ["Mqtt", "TopicTemplate"]

_LOOK_UP_S = 0.5
"""How long a delivery waits before it looks up and says why it takes so long."""
_SLOW_BROKER_S = 5.0
_UNACKNOWLEDGED = 20
"""Most messages that a broker has not acknowledged yet. mosquitto expects no more of QoS 2: it acknowledges and loses
them."""
_FAREWELL_S = 1.0
_WILDCARDS = re.compile(r"[+#\x00]")
_Message = tuple[str, bytes, int, bool]
"""Topic, payload, QoS, retained."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Messages on their way."""

    results: Sequence[CameraResult]
    ids: frozenset[int]
    losses: int
    """Connections that had been lost when it was begun."""
    begun_at: float


class TopicTemplate:
    """Where a camera's results go."""

    def __init__(self, text: str) -> None:
        """Raises: ConfigError if it is no topic, or has another field than ``{camera}``."""
        rest = text.replace("{camera}", "")
        if not text or "{" in rest or "}" in rest or _WILDCARDS.search(text):
            raise ConfigError(f"topic {text!r}: expected one like foveate/cameras/{{camera}}, without + and #")
        self._text = text

    def topic(self, camera: str) -> str:
        """The camera's own topic."""
        return self._text.replace("{camera}", name_part(camera))


class Mqtt:
    """A connection that comes back by itself; what is on its way then is sent again by paho, as its QoS demands.

    So a batch waits here until the broker has it, however long that takes: a second copy would be a second message.
    What comes meanwhile waits in the queue, where the oldest makes room.
    """

    def __init__(
        self,
        address: Address,
        topic: TopicTemplate,
        *,
        status_topic: str = "",
        qos: int = 1,
        retain: bool = False,
        client_id: str = "",
        keepalive_s: int = 30,
        ca_file: Path | None = None,
    ) -> None:
        """Raises: ConfigError for a topic that is none, or certificates that cannot be read."""
        self._address = address
        self._topic, self._status_topic = topic, status_topic
        self._qos, self._retain = qos, retain
        self._connected = threading.Event()
        self._why_not = "not connected yet"
        self._changed = threading.Condition()
        self._acknowledged: set[int] = set()
        """Ids of messages that are published, since the batch was begun."""
        self._losses = 0
        """Connections that were lost."""
        self._batch: _Batch | None = None
        self._client = self._made(client_id, ca_file)
        self._client.connect_async(address.host, address.port or 1883, keepalive_s)
        self._client.loop_start()

    def deliver(self, results: Sequence[CameraResult]) -> None:
        if not self._connected.wait(_LOOK_UP_S):
            raise Unavailable(f"{self._address}: {self._why_not}", 0.0)
        if self._batch is None or self._batch.results is not results:
            self._batch = self._begun(results)
        if not self._arrived(self._batch, _LOOK_UP_S):
            self._explain(self._batch)

    def close(self) -> None:
        healthy = self._connected.is_set()
        if healthy and self._status_topic:
            healthy = self._arrived(self._sent([(self._status_topic, b"offline", 1, True)]), _FAREWELL_S)
        self._client.disconnect()
        if healthy:  # else paho's thread, a daemon, ends when the broker's silence has lasted long enough
            self._client.loop_stop()

    def _begun(self, results: Sequence[CameraResult]) -> _Batch:
        messages = [
            (self._topic.topic(result.camera), json_bytes(record_from_camera_result(result)), self._qos, self._retain)
            for result in results
        ]
        return self._sent(messages, results)

    def _sent(self, messages: Sequence[_Message], results: Sequence[CameraResult] = ()) -> _Batch:
        """Hand messages to paho, which sends them again after a lost connection, but for those of QoS 0."""
        with self._changed:
            self._acknowledged.clear()
            losses = self._losses
        sent = [self._client.publish(topic, payload, qos, retain) for topic, payload, qos, retain in messages]
        if results and self._qos == 0 and any(message.rc == MQTTErrorCode.MQTT_ERR_NO_CONN for message in sent):
            raise Unavailable(f"{self._address}: {self._why_not}", 0.0)  # paho keeps none of these
        return _Batch(results, frozenset(message.mid for message in sent), losses, time.monotonic())

    def _arrived(self, batch: _Batch, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: batch.ids <= self._acknowledged or self._lost(batch), timeout_s) and (
                batch.ids <= self._acknowledged
            )

    def _lost(self, batch: _Batch) -> bool:
        return self._qos == 0 and self._losses != batch.losses

    def _explain(self, batch: _Batch) -> None:
        if self._lost(batch):
            raise Undeliverable(f"{self._address}: the connection was lost on the way, and QoS 0 sends nothing twice")
        if not self._connected.is_set():
            raise Unavailable(f"{self._address}: {self._why_not}", 0.0)
        patient = time.monotonic() - batch.begun_at < _SLOW_BROKER_S
        raise Unavailable("" if patient else f"{self._address}: the broker does not acknowledge", 0.0)

    def _made(self, client_id: str, ca_file: Path | None) -> paho.Client:
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        if self._address.user:
            client.username_pw_set(self._address.user, self._address.password or None)
        if self._address.scheme == "mqtts":
            client.tls_set_context(tls_context(ca_file))
        if self._status_topic:
            if _WILDCARDS.search(self._status_topic):
                raise ConfigError(f"status topic {self._status_topic!r}: expected one without + and #")
            client.will_set(self._status_topic, "offline", qos=1, retain=True)
        client.reconnect_delay_set(min_delay=1, max_delay=15)
        client.max_inflight_messages_set(_UNACKNOWLEDGED)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        return client

    def _on_connect(self, client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _more: Any) -> None:
        if reason.is_failure:
            self._why_not = f"the broker refuses: {reason}"
            return
        if self._status_topic:
            client.publish(self._status_topic, "online", qos=1, retain=True)
        self._connected.set()

    def _on_connect_fail(self, _client: paho.Client, _data: Any) -> None:
        error = sys.exc_info()[1]  # paho calls this while it handles it, and has no other way to say
        words = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or "no answer in time"
        self._why_not = f"no connection: {words}"

    def _on_disconnect(self, _client: paho.Client, _data: Any, _flags: Any, reason: ReasonCode, _more: Any) -> None:
        if self._connected.is_set():
            self._why_not = f"the connection was lost ({reason})"
        self._connected.clear()
        with self._changed:
            self._losses += 1
            self._changed.notify_all()

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, _reason: ReasonCode, _more: Any) -> None:
        with self._changed:
            self._acknowledged.add(mid)
            self._changed.notify_all()
