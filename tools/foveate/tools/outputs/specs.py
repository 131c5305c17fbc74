"""What outputs a program is told to have: tables of a TOML file, or words of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError

from foveate.engines.errors import ConfigError
from foveate.tools.outputs.selection import Wanted, When

__all__ = [
    "JsonLinesSpec",
    "MqttSpec",
    "OutputSpec",
    "VideoSpec",
    "WebhookSpec",
    "spec_from_text",
    "specs_from_tables",
]


class _Spec(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, hide_input_in_errors=True
    )

    name: Annotated[str, Field(pattern=r"^[\w.-]*$")] = ""
    """What it is called in counts and logs. Default: its kind, with a number from the second one on."""
    when: When = "all"
    """`detections`: frames in which something was detected; `ok`: frames that were inferred; `all`: every frame."""
    cameras: tuple[str, ...] = ("*",)
    """Which cameras' results, as patterns: ["yard-*", "door"]."""
    labels: frozenset[str] = frozenset()
    """Only frames in which one of these was detected, such as ["person"]. Default: whatever it is."""
    every: Annotated[int, Field(ge=1)] = 1
    """One of so many frames of each camera, counted among those that the conditions above leave."""
    min_interval_s: Annotated[float, Field(ge=0.0)] = 0.0
    """Seconds between two results of a camera: 60 with `labels` makes an alarm that does not chatter."""
    queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Results that may wait; when it is full, the oldest is dropped and counted."""

    @property
    def wanted(self) -> Wanted:
        """The part of it that chooses results."""
        return Wanted(self.when, self.cameras, self.labels, self.every, self.min_interval_s)


class JsonLinesSpec(_Spec):
    """A file with one JSON object per frame."""

    kind: Literal["jsonl"] = "jsonl"
    path: Path
    """Appended to; `-` is standard output. It may be moved away while it is written: a new one is begun."""


class VideoSpec(_Spec):
    """Annotated videos, a folder for each camera."""

    kind: Literal["video"] = "video"
    folder: Path
    """Made if it is not there. Files are called CAMERA/2026-01-31T12-00-00Z.mp4, by the time of their first frame."""
    segment_minutes: Annotated[float, Field(ge=0.0, le=1440.0)] = 10.0
    """A new file after so many minutes; 0: one file for as long as the camera keeps its size."""
    keep_gb: Annotated[float, Field(ge=0.0)] = 0.0
    """Gigabytes (10^9 bytes) of finished files that each camera keeps, the newest; 0: all of them, until the disk is
    full. Only files that are called like ours are deleted."""
    quality: Annotated[int, Field(ge=0, le=51)] = 26
    """H.264's constant rate factor: lower is better and larger; 6 more halve the file."""
    queue: Annotated[int, Field(ge=1, le=10_000)] = 50
    """Frames of each camera that may wait for its encoder, with their pictures: 50 take about 10 MB at 1080p."""


class WebhookSpec(_Spec):
    """Batches of results by HTTP POST."""

    kind: Literal["webhook"] = "webhook"
    url: SecretStr
    """http or https; user and password in it become a basic authorisation. ${NAME} stands for a variable of the
    environment, here and in `headers`."""
    headers: dict[str, SecretStr] = {}
    """Sent along, such as {Authorization = "Bearer ${TOKEN}"}."""
    when: When = "detections"
    """As above; a webhook mostly wants to know that something was seen."""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 32
    """Most results in one request."""
    batch_wait_ms: Annotated[int, Field(ge=0, le=60_000)] = 250
    """Milliseconds that the first result of a batch waits for others; 0 sends at once."""
    timeout_s: Annotated[float, Field(gt=0.0, le=300.0)] = 10.0
    """Seconds to connect, and seconds until the answer."""
    retry_s: Annotated[float, Field(ge=0.0)] = 60.0
    """Seconds that a request which met no server, or a server in trouble, is sent again; then it has failed."""
    ca_file: Path | None = None
    """Certificates to trust, PEM. Default: the system's."""


class MqttSpec(_Spec):
    """Each result as one message to a broker."""

    kind: Literal["mqtt"] = "mqtt"
    url: SecretStr
    """mqtt://HOST or mqtts://HOST for TLS, with a port if it is not 1883 or 8883, and mqtts://USER:${PASSWORD}@HOST
    with a variable of the environment."""
    topic: str = "foveate/cameras/{camera}"
    """Where results go."""
    status_topic: str = "foveate/status"
    """Holds `online` while we are, else `offline`, which the broker says for us should we vanish. Empty: neither."""
    qos: Annotated[int, Field(ge=0, le=2)] = 1
    """0: at most once, 1: at least once, 2: exactly once."""
    retain: bool = False
    """Whether the broker keeps the last result of each topic for those who come later."""
    when: When = "ok"
    """As above; subscribers mostly want to know also that nothing is there any more."""
    client_id: str = ""
    """How the broker knows us. Default: it chooses."""
    keepalive_s: Annotated[int, Field(ge=1, le=3600)] = 30
    """A connection that is silent for half as long again is given up, by both sides."""
    ca_file: Path | None = None
    """Certificates to trust, PEM. Default: the system's."""


OutputSpec = Annotated[JsonLinesSpec | VideoSpec | WebhookSpec | MqttSpec, Field(discriminator="kind")]
"""A table ``[[output]]`` with its `kind`: ``jsonl``, ``video``, ``webhook`` or ``mqtt``."""

_ONE: TypeAdapter[JsonLinesSpec | VideoSpec | WebhookSpec | MqttSpec] = TypeAdapter(OutputSpec)
_OPTION = re.compile(r"\s+([a-z_]+)=(\S+)\s*$")
_LISTS = ("cameras", "labels")


def specs_from_tables(
    tables: Sequence[Mapping[str, Any]],
) -> tuple[JsonLinesSpec | VideoSpec | WebhookSpec | MqttSpec, ...]:
    """The specs in the ``[[output]]`` tables of a TOML file.

    Raises: ConfigError that names the table and the key, and never quotes a value.
    """
    return tuple(_spec(table, f"output {number}") for number, table in enumerate(tables, 1))


def spec_from_text(text: str) -> JsonLinesSpec | VideoSpec | WebhookSpec | MqttSpec:
    """The spec in a word of the command line.

    ``https://HOST/PATH``, ``mqtt://HOST/TOPIC/{camera}``, ``video:FOLDER``, ``jsonl:FILE``, ``FILE.jsonl`` or ``-``,
    and after it, apart by spaces, settings: ``"https://HOST/PATH when=ok every=5 labels=person,dog"``.
    Raises: ConfigError, without quoting the text.
    """
    options: dict[str, Any] = {}
    while found := _OPTION.search(text):
        options[found[1]] = found[2].split(",") if found[1] in _LISTS else found[2]
        text = text[: found.start()]
    return _spec({**_target(text.strip()), **options}, "output")


def _target(text: str) -> dict[str, Any]:
    scheme, colon, rest = text.partition(":")
    if scheme in ("http", "https"):
        return {"kind": "webhook", "url": text}
    if scheme in ("mqtt", "mqtts"):
        return _mqtt_target(text)
    if colon and scheme == "video":
        return {"kind": "video", "folder": rest}
    if colon and scheme == "jsonl":
        return {"kind": "jsonl", "path": rest}
    if text == "-" or Path(text).suffix in (".jsonl", ".ndjson"):
        return {"kind": "jsonl", "path": text}
    raise ConfigError(
        "cannot tell what kind of output is meant: expected https://HOST/PATH, mqtt://HOST/TOPIC, video:FOLDER, "
        "FILE.jsonl, or - for standard output"
    )


def _mqtt_target(text: str) -> dict[str, Any]:
    """The path of the URL, if there is one, is the topic."""
    try:
        path = urlsplit(text).path
    except ValueError:
        return {"kind": "mqtt", "url": text}  # refused where it is opened
    topic = path.strip("/")
    url = text.removesuffix(path)
    return {"kind": "mqtt", "url": url} | ({"topic": topic} if topic else {})


def _spec(table: Mapping[str, Any], where: str) -> JsonLinesSpec | VideoSpec | WebhookSpec | MqttSpec:
    try:
        return _ONE.validate_python(table)
    except ValidationError as error:
        said = error.errors(include_url=False, include_context=False, include_input=False)
        lines = (f"{where}: {'.'.join(str(part) for part in line['loc'])}: {line['msg']}" for line in said)
        raise ConfigError("\n".join(lines)) from None
