"""What may be said about cameras: in a TOML file with one `[[camera]]` each, or on the command line for all of them."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from foveate.engines.errors import ConfigError
from foveate.tools.outputs import OutputSpec, specs_from_tables
from foveate.tools.outputs.address import with_variables
from foveate.tools.watch.address import Address, Kind
from foveate.tools.watch.region import Region

__all__ = ["CameraSettings", "MotionSettings", "cameras_from_urls", "load_cameras"]

_Roi = tuple[float, float, float, float] | None
_Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, hide_input_in_errors=True
    )


class MotionSettings(_Section):
    """When a scene counts as still, so that its pictures need not be sent."""

    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.002
    """Share of the picture that has to differ from the one sent last. Raise it where leaves or noise keep it busy."""
    min_fps: Annotated[float, Field(ge=0.0, le=60.0)] = 0.2
    """Pictures per second that are sent of a still scene; 0 for none at all."""


class CameraSettings(_Section):
    """One camera, and what becomes of its pictures."""

    url: SecretStr
    """rtsp://, rtsps://, http:// or https://, the path of a video, a picture or a folder of pictures, /dev/video0 or 0.
    ${NAME} stands for a variable of the environment. It is kept out of everything that is shown or written."""
    name: Annotated[str, Field(max_length=128)] = ""
    """What it is called, on the server too: printable ASCII without spaces. Default: the host or the file, with a
    number where that is taken."""
    pipeline: str = ""
    """Which pipeline answers. Default: the server's first."""
    budget_ms: Annotated[int, Field(ge=1, le=86_400_000)] | None = None
    """Milliseconds from capture to answer. Default: the server's."""
    fps: Annotated[float, Field(gt=0.0, le=1000.0)] | None = None
    """Most pictures per second that are sent. Default: all that the server advises; a folder of pictures: 1."""
    roi: _Roi = None
    """The region that is sent, as [x, y, width, height] of the upright picture: shares of it if all are at most 1, else
    whole pixels. Results stay in pixels of the whole upright picture."""
    rotate: Literal[0, 90, 180, 270] = 0
    """Degrees clockwise by which the camera's picture is turned upright."""
    motion: MotionSettings | None = None
    """Send pictures of a scene that moves. Default: whether it moves or not."""
    transport: Literal["tcp", "udp"] = "tcp"
    """How RTSP brings its packets. UDP loses some where the network is bad, TCP makes them late."""
    passthrough: bool = False
    """Send the camera's own H.264 or H.265 without decoding it here: fewer bytes by far, work for the server."""
    loop: bool = False
    """Start a file or folder again when it ends."""
    weight: Annotated[float, Field(ge=0.001, le=1000.0)] = 1.0
    """Share of the server among the cameras of one priority."""
    priority: Annotated[int, Field(ge=0, le=15)] = 0
    """Class of the camera on the server; 0 is served first."""
    min_score: _Share | None = None
    """Leave out what scores less. Default: the pipeline's."""
    quality: Annotated[int, Field(ge=1, le=100)] = 90
    """Of the JPEGs that are made here."""
    timeout_s: Annotated[float, Field(ge=0.1, le=3600.0)] = 5.0
    """Seconds without a picture after which the camera counts as frozen and is connected anew. More than the time
    between two key frames, where pictures can be lost."""

    @field_validator("url")
    @classmethod
    def _url_can_be_read(cls, url: SecretStr) -> SecretStr:
        try:
            text = with_variables(url.get_secret_value(), "it")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        Address.parse(text)
        return SecretStr(text)

    @field_validator("name")
    @classmethod
    def _name_is_one_word(cls, name: str) -> str:
        if any(not "!" <= char <= "~" for char in name):
            raise ValueError("expected printable ASCII characters without a space, as in front-door")
        return name

    @field_validator("roi")
    @classmethod
    def _roi_is_a_region(
        cls, roi: tuple[float, float, float, float] | None
    ) -> tuple[float, float, float, float] | None:
        Region(roi)
        return roi

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.passthrough:
            set_too = [name for name in ("roi", "rotate", "motion", "fps") if getattr(self, name)]
            if set_too:
                raise ValueError(f"passthrough sends the camera's video as it is: leave out {', '.join(set_too)}")
            if self.address.kind is Kind.FOLDER:
                raise ValueError("passthrough sends video, and a folder holds pictures: leave it out")
        if self.loop and not self.address.kind.has_end:
            raise ValueError("loop is for files and folders: a camera has no end")
        return self

    @property
    def address(self) -> Address:
        """The URL, taken apart."""
        return Address.parse(self.url.get_secret_value())


class _CamerasFile(_Section):
    camera: Annotated[tuple[CameraSettings, ...], Field(min_length=1)]
    output: tuple[dict[str, Any], ...] = ()


def load_cameras(file: Path) -> tuple[tuple[CameraSettings, ...], tuple[OutputSpec, ...]]:
    """The cameras of a TOML file, each with a name of its own, and its `[[output]]` tables.

    Raises: ConfigError naming each camera and field that is wrong, without any URL.
    """
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"no cameras at {file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}") from error
    cameras = _validated(written, str(file))
    try:
        return cameras, specs_from_tables(written.get("output", ()))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None


def cameras_from_urls(urls: Sequence[str], **common: Any) -> tuple[CameraSettings, ...]:
    """The cameras of a command line with what was said about all of them; what is None was not said.

    `loop` is said of those that have an end, since a command line cannot say it of one alone.
    Raises: ConfigError naming each field that is wrong, without any URL.
    """
    given = {name: value for name, value in common.items() if value is not None}
    loop = given.pop("loop", False)
    cameras = _validated({"camera": [{"url": url, **given} for url in urls]}, "the command line")
    if loop and not any(camera.address.kind.has_end for camera in cameras):
        raise ConfigError("the command line: loop is for files and folders, and cameras have no end: leave it out")
    return tuple(camera.model_copy(update={"loop": loop and camera.address.kind.has_end}) for camera in cameras)


def _validated(written: dict[str, Any], origin: str) -> tuple[CameraSettings, ...]:
    try:
        cameras = _CamerasFile.model_validate(written).camera
    except ValidationError as error:
        faults = dict.fromkeys(
            f"{_place(fault['loc'], written)}: {fault['msg'].removeprefix('Value error, ')}" for fault in error.errors()
        )
        raise ConfigError(f"{origin}: {'; '.join(faults)}") from None
    return _named(cameras, origin)


def _place(path: tuple[int | str, ...], written: dict[str, Any]) -> str:
    """The way to a field, with a camera's number and name: `camera 2 (gate) roi`."""
    if len(path) < 2 or path[0] != "camera" or not isinstance(path[1], int):
        return ".".join(str(part) for part in path) or "cameras"
    camera = written["camera"][path[1]]
    name = camera.get("name", "") if isinstance(camera, dict) else ""
    field = ".".join(str(part) for part in path[2:])
    return " ".join(part for part in (f"camera {path[1] + 1}", f"({name})" if name else "", field) if part)


def _named(cameras: Sequence[CameraSettings], origin: str) -> tuple[CameraSettings, ...]:
    taken = Counter(camera.name for camera in cameras if camera.name)
    if twice := [name for name, times in taken.items() if times > 1]:
        raise ConfigError(f"{origin}: several cameras are called {', '.join(twice)}: give each a name of its own")
    named = []
    for camera in cameras:
        name = camera.name or _free_name(camera.address.host, taken)
        taken[name] += 1
        named.append(camera.model_copy(update={"name": name}))
    return tuple(named)


def _free_name(wanted: str, taken: Counter[str]) -> str:
    wanted = "".join(char if "!" <= char <= "~" else "_" for char in wanted)[:100] or "camera"
    number = 1
    name = wanted
    while name in taken:
        number += 1
        name = f"{wanted}-{number}"
    return name
