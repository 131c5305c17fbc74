"""Where a model file comes from: the ``source`` of a manifest, parsed."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

from foveate.engines.errors import ConfigError

__all__ = [
    "ExportSource",
    "FileSource",
    "HttpsSource",
    "HuggingFaceSource",
    "PypiSource",
    "Source",
    "TorchvisionSource",
    "parse_source",
]

_FORMS = (
    "file:PATH, https://..., pypi:PACKAGE==VERSION!PATH/IN/WHEEL, torchvision:NAME/WEIGHTS, "
    "hf:REPO/FILE@REVISION or export:SOURCE"
)


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file on this machine. ``file:PATH``, from the manifest's folder on."""

    kind: ClassVar[str] = "file"
    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class HttpsSource:
    """A file on the web. ``https://...``."""

    kind: ClassVar[str] = "https"
    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class PypiSource:
    """One file inside a wheel. ``pypi:PACKAGE==VERSION!PATH/IN/WHEEL``."""

    kind: ClassVar[str] = "pypi"
    package: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"{self.member} in the wheel of {self.package} {self.version}"


@dataclass(frozen=True, slots=True)
class TorchvisionSource:
    """Weights that torchvision names. ``torchvision:NAME/WEIGHTS``."""

    kind: ClassVar[str] = "torchvision"
    model: str
    weights: str

    def __str__(self) -> str:
        return f"torchvision's {self.model} with {self.weights}"


@dataclass(frozen=True, slots=True)
class HuggingFaceSource:
    """A file of a Hugging Face repository. ``hf:OWNER/REPO/FILE@REVISION``."""

    kind: ClassVar[str] = "hf"
    repo: str
    file: str
    revision: str

    def __str__(self) -> str:
        return f"https://huggingface.co/{self.repo}/resolve/{self.revision}/{self.file}"


@dataclass(frozen=True, slots=True)
class ExportSource:
    """A checkpoint that still has to be converted to ONNX. ``export:`` and then one of the other sources."""

    kind: ClassVar[str] = "export"
    checkpoint: FileSource | HttpsSource | PypiSource | HuggingFaceSource

    def __str__(self) -> str:
        return f"an ONNX export of {self.checkpoint}"


Source = FileSource | HttpsSource | PypiSource | TorchvisionSource | HuggingFaceSource | ExportSource


_PYPI = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.+_-]*)!(.+)")
_TORCHVISION = re.compile(r"([a-z0-9_]+)/([A-Za-z0-9_]+)")
_HUGGING_FACE = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)/([^@]+)@([A-Za-z0-9][\w./-]*)", re.ASCII)


def parse_source(text: str, folder: Path) -> Source:
    """The typed form of a manifest's ``source``; `folder` is the manifest's own, where ``file:`` paths start.

    Raises: ConfigError naming the forms that are understood.
    """
    scheme, colon, rest = text.partition(":")
    source: Source | None = None
    if scheme == "file" and rest:
        source = FileSource(folder / rest)
    elif scheme == "https" and urllib.parse.urlsplit(text).hostname:
        source = HttpsSource(text)
    elif scheme == "pypi" and (match := _PYPI.fullmatch(rest)):
        source = PypiSource(match[1], match[2], _inner_path(match[3], text))
    elif scheme == "torchvision" and (match := _TORCHVISION.fullmatch(rest)):
        source = TorchvisionSource(match[1], match[2])
    elif scheme == "hf" and (match := _HUGGING_FACE.fullmatch(rest)):
        source = HuggingFaceSource(match[1], _inner_path(match[2], text), match[3])
    elif scheme == "export" and colon:
        source = _export_source(parse_source(rest, folder), text)
    if source is None:
        raise ConfigError(f"source {text!r} is not understood: expected {_FORMS}")
    return source


def _inner_path(path: str, text: str) -> str:
    parts = PurePosixPath(path).parts
    if path.startswith("/") or "\\" in path or ".." in parts:
        raise ConfigError(f"source {text!r}: {path!r} must be a path inside the package, without '..'")
    return path


def _export_source(checkpoint: Source, text: str) -> ExportSource:
    if isinstance(checkpoint, TorchvisionSource | ExportSource):
        raise ConfigError(f"source {text!r}: {checkpoint.kind}: is an export already; leave export: out")
    return ExportSource(checkpoint)
