"""All outputs of a program, opened from what it was told."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self, assert_never

from foveate.client import Reconnect
from foveate.engines.errors import ConfigError
from foveate.tools.outputs.address import address_from_url, with_variables
from foveate.tools.outputs.camera_result import CameraResult
from foveate.tools.outputs.closing import close_side_by_side
from foveate.tools.outputs.json_lines import JsonLines
from foveate.tools.outputs.output import Output, OutputCounts
from foveate.tools.outputs.per_camera_output import PerCameraOutput
from foveate.tools.outputs.queued_output import QueuedOutput, Queueing
from foveate.tools.outputs.selection import Selection
from foveate.tools.outputs.specs import JsonLinesSpec, MqttSpec, OutputSpec, VideoSpec, WebhookSpec

__all__ = ["Outputs", "open_outputs"]

_CLOSE_S = 5.0
_DISK_RETRIES = Reconnect(max_reconnect_s=60.0, first_delay_s=1.0, longest_delay_s=10.0)
_FOR_EVER = Reconnect(max_reconnect_s=math.inf)
_LINES = 256
"""Most lines in one write."""
_MESSAGES = 256
"""Most messages that are handed to the broker's client at once. After the last of them comes a pause of up to 40 ms, as
broker and system put off acknowledging each other's last packet."""


class Outputs:
    """Several outputs as one. Also a ``with`` block, which closes them with a few seconds to deliver what waits."""

    def __init__(self, outputs: Iterable[Output]) -> None:
        self._outputs = tuple(outputs)

    def put(self, result: CameraResult) -> None:
        """Give a result to each of them. Returns at once and never raises."""
        for output in self._outputs:
            output.put(result)

    @property
    def counts(self) -> dict[str, OutputCounts]:
        """What became of the results, by the output's name."""
        return {output.name: output.counts for output in self._outputs}

    @property
    def troubles(self) -> dict[str, str]:
        """Why outputs cannot deliver at the moment, by name; those that can are not in it."""
        return {output.name: trouble for output in self._outputs if (trouble := output.trouble)}

    def close(self, timeout_s: float) -> None:
        """Deliver what waits, all at the same time and for so long at most, and count the rest. Idempotent."""
        close_side_by_side(self._outputs, timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(_CLOSE_S)


def open_outputs(specs: Sequence[OutputSpec]) -> Outputs:
    """Open every output that is told of. A server that is not there now is no error: it may come.

    Raises: ConfigError for a setting that cannot work, a file that cannot be written, a library that is missing.
    """
    outputs: list[Output] = []
    try:
        for name, spec in zip(_names(specs), specs, strict=True):
            outputs.append(_opened(name, spec))
    except BaseException:
        close_side_by_side(outputs, 0.0)
        raise
    return Outputs(outputs)


def _names(specs: Sequence[OutputSpec]) -> list[str]:
    """Their own names, or their kinds, with a number where one is taken."""
    given = [spec.name for spec in specs if spec.name]
    if twice := {name for name in given if given.count(name) > 1}:
        raise ConfigError(f"two outputs are called {', '.join(sorted(twice))}: give each a name of its own")
    names: list[str] = []
    for spec in specs:
        name, number = spec.name or spec.kind, 1
        while not spec.name and (name in names or name in given):
            number += 1
            name = f"{spec.kind}-{number}"
        names.append(name)
    return names


def _opened(name: str, spec: OutputSpec) -> Output:
    match spec:
        case JsonLinesSpec():
            queueing = Queueing(spec.queue, _DISK_RETRIES, _LINES)
            return QueuedOutput(name, JsonLines(spec.path), Selection(spec.wanted), queueing)
        case VideoSpec():
            return _video(name, spec)
        case WebhookSpec():
            return _webhook(name, spec)
        case MqttSpec():
            return _mqtt(name, spec)
        case _:
            assert_never(spec)


def _video(name: str, spec: VideoSpec) -> Output:
    from foveate.tools.outputs.video import CameraVideo

    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the folder {spec.folder}: {error.strerror}") from error
    if not os.access(spec.folder, os.W_OK):
        raise ConfigError(f"cannot write in the folder {spec.folder}")
    queueing = Queueing(spec.queue, _DISK_RETRIES, pictures=True)
    selection = Selection(spec.wanted)
    keep_bytes = round(spec.keep_gb * 1e9)

    def output_for(camera: str) -> Output:
        video = CameraVideo(spec.folder, camera, spec.segment_minutes * 60.0, spec.quality, keep_bytes)
        return QueuedOutput(f"{name}-{camera}", video, selection, queueing)

    return PerCameraOutput(name, output_for)


def _webhook(name: str, spec: WebhookSpec) -> Output:
    from foveate.tools.outputs.webhook import Webhook

    address = address_from_url(spec.url.get_secret_value(), {"http": None, "https": None}, f"output {name}: url")
    headers = {
        key: with_variables(value.get_secret_value(), f"output {name}: headers.{key}")
        for key, value in spec.headers.items()
    }
    webhook = Webhook(address, headers, spec.timeout_s, spec.ca_file)
    retries = Reconnect(max_reconnect_s=spec.retry_s, first_delay_s=0.5, longest_delay_s=15.0)
    queueing = Queueing(spec.queue, retries, spec.batch, spec.batch_wait_ms / 1000)
    return QueuedOutput(name, webhook, Selection(spec.wanted), queueing)


def _mqtt(name: str, spec: MqttSpec) -> Output:
    from foveate.tools.outputs.mqtt import Mqtt, TopicTemplate

    where = f"output {name}: url"
    address = address_from_url(spec.url.get_secret_value(), {"mqtt": 1883, "mqtts": 8883}, where)
    if address.path not in ("", "/"):
        raise ConfigError(f"{where}: has a path; say in `topic` where results go")
    broker = Mqtt(
        address,
        TopicTemplate(spec.topic),
        status_topic=spec.status_topic,
        qos=spec.qos,
        retain=spec.retain,
        client_id=spec.client_id,
        keepalive_s=spec.keepalive_s,
        ca_file=spec.ca_file,
    )
    # A message of QoS 0 is lost with its connection, so only what was on its way may be counted as failed.
    queueing = Queueing(spec.queue, _FOR_EVER, _MESSAGES if spec.qos else 1)
    return QueuedOutput(name, broker, Selection(spec.wanted), queueing)
